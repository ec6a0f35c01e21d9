// What a layer attends to that shares the cache of a layer before it and still selects keys for itself (mistral_large4).
#pragma once

#include "mla/cache/latent_view.hpp"
#include "mla/config.hpp"
#include "mla/core/executor.hpp"

namespace mla::inline MLA_ISA {

/// A config whose latents are the index keys of a layer: for a cache that holds them alone, a LatentCache<K> or a PagedCache<K>.
/// @throws std::invalid_argument when the layer has no indexer
[[nodiscard]] inline Config index_key_config(const Config& config) {
    require_at_least("indexer.heads", config.indexer.heads, Index{1});
    Config keys;
    keys.hidden_size = config.hidden_size;
    keys.num_attention_heads = config.indexer.heads;
    keys.kv_lora_rank = config.indexer.head_dim;
    keys.qk_nope_head_dim = config.indexer.head_dim;
    keys.v_head_dim = config.indexer.head_dim;
    return keys;
}

/// The latents of another layer's cache, beside index keys in a cache of their own (index_key_config). Refers to both, which must
/// outlive it. Before a call the latents hold the call's tokens already, the index keys those before them; who truncates or forks
/// one does so with the other.
template <class Latents, class Keys>
class SharedLatents {
  public:
    SharedLatents(const Latents& latents, Keys& index_keys) noexcept : latents_(&latents), keys_(&index_keys) {}

    [[nodiscard]] Index size() const noexcept { return latents_->size(); }
    [[nodiscard]] Index latent_dim() const noexcept { return latents_->latent_dim(); }
    [[nodiscard]] Index rope_dim() const noexcept { return latents_->rope_dim(); }
    [[nodiscard]] RopePairing pairing() const noexcept { return latents_->pairing(); }
    [[nodiscard]] auto view() const noexcept { return latents_->view(); }

    [[nodiscard]] Keys& index_keys() const noexcept { return *keys_; }
    [[nodiscard]] Index index_dim() const noexcept { return keys_->latent_dim(); }
    [[nodiscard]] auto index_view() const noexcept { return keys_->view(); }
    [[nodiscard]] static constexpr Index pool() noexcept { return 1; }
    [[nodiscard]] auto pool_view() const noexcept { return index_view(); }

    /// Appends index keys [T, Di], written over the executor.
    /// @throws std::length_error when they do not fit, std::invalid_argument for a wrong width; the cache is then unchanged
    template <Compute A>
    void append_index_keys(MatrixView<const A> rows, ExecutorRef executor = SerialExecutor{}) const {
        keys_->append(rows, executor);
    }
    /// Room for index keys.
    void require_room(Index count) const { keys_->require_room(count); }
    void reserve(Index count) const requires requires(Keys& keys) { keys.reserve(count); }
    { keys_->reserve(count); }
    void release_reserved() const noexcept requires requires(Keys& keys) { keys.release_reserved(); }
    { keys_->release_reserved(); }

  private:
    const Latents* latents_;
    Keys* keys_;
};

}  // namespace mla::inline MLA_ISA
