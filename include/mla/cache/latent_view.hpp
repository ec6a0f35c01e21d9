// How a kernel sees cached tokens that lie one after another, whoever owns them.
#pragma once

#include "mla/core/errors.hpp"
#include "mla/core/views.hpp"

namespace mla {

/// Cached tokens [length, latent_dim + rope_dim] in foreign memory: a row is [normalised latent | rotated rope key], rows lie
/// `stride` elements apart. Rows at `length` and beyond are never read.
template <Storage C>
struct LatentView {
    const C* data = nullptr;
    Index length = 0;      ///< L, tokens
    Index latent_dim = 0;  ///< Dc
    Index rope_dim = 0;    ///< Dr
    Index stride = 0;      ///< elements from token to token, at least Dc + Dr

    [[nodiscard]] constexpr Index row_dim() const noexcept { return latent_dim + rope_dim; }
    [[nodiscard]] constexpr const C* row(Index token) const noexcept { return data + token * stride; }
    /// How many tokens, `most` at the most, lie one after another from `token` on: all, here.
    [[nodiscard]] constexpr Index run(Index /*token*/, Index most) const noexcept { return most; }
    /// The first `count` tokens.
    [[nodiscard]] constexpr LatentView prefix(Index count) const noexcept { return {data, count, latent_dim, rope_dim, stride}; }
};

/// @throws std::invalid_argument when the view's sizes contradict each other
template <Storage C>
void validate(const LatentView<C>& cache) {
    require_at_least("cache.length", cache.length, Index{0});
    require_at_least("cache.latent_dim", cache.latent_dim, Index{1});
    require_at_least("cache.rope_dim", cache.rope_dim, Index{0});
    require_at_least("cache.stride", cache.stride, cache.row_dim());
    require(cache.data != nullptr || cache.length == 0, "cache.data", "null", "not null when cache.length > 0");
}

}  // namespace mla
