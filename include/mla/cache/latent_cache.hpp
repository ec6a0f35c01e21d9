// The compressed KV cache of one request: a latent and a rope key a token, for all heads together.
#pragma once

#include <type_traits>
#include <utility>

#include "mla/cache/latent_view.hpp"
#include "mla/cache/row_store.hpp"
#include "mla/core/executor.hpp"

namespace mla::inline MLA_ISA {

/// Owns up to `capacity` tokens of Dc + Dr values each, stored as C (see RowFormat), contiguous; for a layer that selects its
/// keys also their index keys, of Di values stored as K. Nothing but the constructor and `fork` allocates. One writer at a time;
/// readers may share.
template <CacheElement C, IndexElement K = NoIndexKeys>
class LatentCache {
    using Store = detail::TokenStore<C, K>;

  public:
    /// @throws std::invalid_argument for an invalid config, a negative capacity, or index keys without an indexer
    LatentCache(const Config& config, Index capacity) : store_(config, checked(capacity)), capacity_(capacity) {}

    LatentCache(LatentCache&& other) noexcept
        : store_(std::move(other.store_)), capacity_(std::exchange(other.capacity_, 0)), size_(std::exchange(other.size_, 0)) {}
    LatentCache& operator=(LatentCache&& other) noexcept {
        store_ = std::move(other.store_);
        capacity_ = std::exchange(other.capacity_, 0);
        size_ = std::exchange(other.size_, 0);
        return *this;
    }

    [[nodiscard]] Index size() const noexcept { return size_; }
    [[nodiscard]] Index capacity() const noexcept { return capacity_; }
    [[nodiscard]] Index latent_dim() const noexcept { return layout().latent_dim; }
    [[nodiscard]] Index rope_dim() const noexcept { return layout().rope_dim; }
    /// The convention that the cached rope keys are rotated in.
    [[nodiscard]] RopePairing pairing() const noexcept { return layout().pairing; }
    /// Values of an index row: Di, with pools 2·Di.
    [[nodiscard]] Index index_dim() const noexcept requires(Store::has_index_keys) {
        return store_.index_keys().layout().latent_dim;
    }
    /// Tokens of a pool; 1 without pools.
    [[nodiscard]] Index pool() const noexcept requires(Store::has_index_keys) { return store_.pool(); }
    /// Bytes a token takes, padding included.
    [[nodiscard]] Index bytes_per_token() const noexcept { return store_.bytes_per_token(); }

    [[nodiscard]] LatentView<C> view() const noexcept {
        return {store_.latents().row(0), size_, latent_dim(), rope_dim(), layout().stride()};
    }
    /// The index rows: keys [Di], with pools [2·Di].
    [[nodiscard]] auto index_view() const noexcept requires(Store::has_index_keys) {
        return LatentView<K>{store_.index_keys().row(0), size_, index_dim(), 0, store_.index_keys().layout().stride()};
    }

    /// The keys of whole pools, rows [Di].
    [[nodiscard]] auto pool_view() const noexcept requires(Store::has_index_keys) {
        const auto& rows = store_.pool_keys();
        return LatentView<K>{rows.row(0), size_ / pool(), rows.layout().latent_dim, 0, rows.layout().stride()};
    }
    /// Writes the key [Di] of a whole pool, of which its tokens' rows must be appended before.
    template <Compute A>
    void set_pool_key(Index index, const A* key) requires(Store::has_index_keys) {
        require_in_range("pool", index, Index{0}, size_ / pool() - 1);
        store_.pool_keys().write(MatrixView<const A>(key, 1, store_.pool_keys().layout().latent_dim), index);
    }

    /// Appends tokens [T, Dc + Dr] (latent, then rope key), rounded to C, written over the executor.
    /// @throws std::length_error when they do not fit, std::invalid_argument for a wrong width; the cache is then unchanged
    template <Compute A>
    void append(MatrixView<const A> tokens, ExecutorRef executor = SerialExecutor{}) requires(!Store::has_index_keys) {
        layout().require_tokens(tokens);
        require_room(tokens.rows);
        for_each_piece(executor, tokens.rows, tokens_a_piece,
                       [&](Index t, Index count) { store_.latents().write(tokens.row_range(t, count), size_ + t); });
        size_ += tokens.rows;
    }

    /// Appends tokens [T, Dc + Dr] with their index rows [T, index_dim()], rounded to C and K, written over the executor.
    /// @throws std::length_error when they do not fit, std::invalid_argument for a wrong width; the cache is then unchanged
    template <Compute A>
    void append(MatrixView<const A> tokens, MatrixView<const std::type_identity_t<A>> index_keys,
                ExecutorRef executor = SerialExecutor{}) requires(Store::has_index_keys) {
        layout().require_tokens(tokens);
        store_.index_keys().layout().require_tokens(index_keys);
        require_equal("index_keys.rows", index_keys.rows, "tokens.rows", tokens.rows);
        require_room(tokens.rows);
        for_each_piece(executor, tokens.rows, tokens_a_piece, [&](Index t, Index count) {
            store_.latents().write(tokens.row_range(t, count), size_ + t);
            store_.index_keys().write(index_keys.row_range(t, count), size_ + t);
        });
        size_ += tokens.rows;
    }

    /// @throws std::length_error unless `count` more tokens fit, std::invalid_argument when `count` is negative
    void require_room(Index count) const { detail::require_token_room(count, capacity_ - size_); }

    /// Drops all tokens from `length` on: the rollback of speculative decoding.
    void truncate(Index length) {
        require_in_range("length", length, Index{0}, size_);
        size_ = length;
    }

    void reset() noexcept { size_ = 0; }

    /// A cache of its own, of `capacity` tokens, that starts with a copy of the first `length` tokens.
    [[nodiscard]] LatentCache fork(Index length, Index capacity) const {
        require_in_range("length", length, Index{0}, size_);
        require_in_range("capacity", capacity, length, detail::max_cached_tokens);
        LatentCache copy(store_, capacity);
        copy.store_.copy(store_, 0, 0, length);
        copy.size_ = length;
        return copy;
    }

  private:
    LatentCache(const Store& like, Index capacity) : store_(like, capacity), capacity_(capacity) {}

    static Index checked(Index capacity) {
        require_in_range("capacity", capacity, Index{0}, detail::max_cached_tokens);
        return capacity;
    }
    [[nodiscard]] const detail::RowLayout<C>& layout() const noexcept { return store_.latents().layout(); }

    Store store_;
    Index capacity_;
    Index size_ = 0;
};

}  // namespace mla::inline MLA_ISA
