// The compressed KV cache of one request: a latent and a rope key a token, for all heads together.
#pragma once

#include <algorithm>
#include <utility>

#include "mla/cache/latent_view.hpp"
#include "mla/cache/rows.hpp"

namespace mla::inline MLA_ISA {

/// Owns up to `capacity` tokens of Dc + Dr values each, stored as C (see RowFormat), contiguous.
/// Nothing but the constructor and `fork` allocates. One writer at a time; readers may share.
template <CacheElement C>
class LatentCache {
  public:
    /// @throws std::invalid_argument for an invalid config or a negative capacity
    LatentCache(const Config& config, Index capacity) : layout_(config), capacity_(capacity) {
        require_in_range("capacity", capacity, Index{0}, detail::max_cached_tokens);
        data_ = detail::allocate_aligned<C>(capacity_ * layout_.stride());
    }

    LatentCache(LatentCache&& other) noexcept
        : layout_(other.layout_),
          capacity_(std::exchange(other.capacity_, 0)),
          size_(std::exchange(other.size_, 0)),
          data_(std::move(other.data_)) {}
    LatentCache& operator=(LatentCache&& other) noexcept {
        layout_ = other.layout_;
        capacity_ = std::exchange(other.capacity_, 0);
        size_ = std::exchange(other.size_, 0);
        data_ = std::move(other.data_);
        return *this;
    }

    [[nodiscard]] Index size() const noexcept { return size_; }
    [[nodiscard]] Index capacity() const noexcept { return capacity_; }
    [[nodiscard]] Index latent_dim() const noexcept { return layout_.latent_dim; }
    [[nodiscard]] Index rope_dim() const noexcept { return layout_.rope_dim; }
    /// The convention that the cached rope keys are rotated in.
    [[nodiscard]] RopePairing pairing() const noexcept { return layout_.pairing; }
    /// Bytes a token takes, padding included.
    [[nodiscard]] Index bytes_per_token() const noexcept { return layout_.bytes(); }

    [[nodiscard]] LatentView<C> view() const noexcept { return {data_.get(), size_, latent_dim(), rope_dim(), layout_.stride()}; }

    /// Appends tokens [T, Dc + Dr] (latent, then rope key), rounded to C.
    /// @throws std::length_error when they do not fit, std::invalid_argument for a wrong width; the cache is then unchanged
    template <Compute A>
    void append(MatrixView<const A> tokens) {
        layout_.require_tokens(tokens);
        require_room(tokens.rows);
        layout_.write(tokens, data_.get() + size_ * layout_.stride());
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
        LatentCache copy(layout_, capacity);
        std::copy_n(data_.get(), length * layout_.stride(), copy.data_.get());
        copy.size_ = length;
        return copy;
    }

  private:
    LatentCache(const detail::RowLayout<C>& layout, Index capacity)
        : layout_(layout), capacity_(capacity), data_(detail::allocate_aligned<C>(capacity * layout.stride())) {}

    detail::RowLayout<C> layout_;
    Index capacity_;
    Index size_ = 0;
    detail::AlignedArray<C> data_;
};

}  // namespace mla::inline MLA_ISA
