// One request's cache of one layer, whatever the layer keeps.
#pragma once

#include <utility>
#include <variant>

#include "mla/cache/latent_cache.hpp"

namespace generate {

/// Latents stored as C, with index keys of the same type where the layer selects its keys.
template <class C>
class LayerCache {
  public:
    LayerCache(const mla::Config& config, mla::Index capacity) : cache_(make(config, capacity)) {}

    [[nodiscard]] mla::Index size() const {
        return visit([](const auto& cache) { return cache.size(); });
    }
    [[nodiscard]] mla::Index bytes_per_token() const {
        return visit([](const auto& cache) { return cache.bytes_per_token(); });
    }
    void reset() {
        visit([](auto& cache) { cache.reset(); });
    }

    /// Calls `f` with the LatentCache.
    template <class F>
    decltype(auto) visit(F&& f) {
        return std::visit(std::forward<F>(f), cache_);
    }
    template <class F>
    decltype(auto) visit(F&& f) const {
        return std::visit(std::forward<F>(f), cache_);
    }

  private:
    using Cache = std::variant<mla::LatentCache<C>, mla::LatentCache<C, C>>;

    static Cache make(const mla::Config& config, mla::Index capacity) {
        if (config.indexer.heads > 0) return mla::LatentCache<C, C>(config, capacity);
        return mla::LatentCache<C>(config, capacity);
    }

    Cache cache_;
};

}  // namespace generate
