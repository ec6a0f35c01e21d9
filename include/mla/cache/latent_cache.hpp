// The compressed KV cache of one request: a latent and a rope key a token, for all heads together.
#pragma once

#include <algorithm>
#include <utility>

#include "mla/cache/latent_view.hpp"
#include "mla/config.hpp"
#include "mla/core/workspace.hpp"
#include "mla/simd/convert.hpp"

namespace mla {

/// Writes tokens [T, Dc + Dr] of the type computed in to cache rows [T, Dc + Dr], rounded to the nearest even of C.
template <class Arch = simd::DefaultArch, Compute A, Storage C>
void append(MatrixView<const A> tokens, MatrixView<C> rows) {
    require_equal("rows.rows", rows.rows, "tokens.rows", tokens.rows);
    require_equal("rows.cols", rows.cols, "tokens.cols", tokens.cols);
    for (Index t = 0; t < tokens.rows; ++t) simd::convert_row<Arch>(rows.row(t), tokens.row(t), tokens.cols);
}

/// Owns up to `capacity` tokens of Dc + Dr values each, stored as C, contiguous, every row on a cache line.
/// Nothing but the constructor and `fork` allocates. One writer at a time; readers may share.
template <Storage C>
class LatentCache {
  public:
    /// @throws std::invalid_argument for an invalid config or a negative capacity
    LatentCache(const Config& config, Index capacity)
        : latent_dim_(config.kv_lora_rank), rope_dim_(config.qk_rope_head_dim), pairing_(config.rope.pairing), capacity_(capacity) {
        validate(config);
        require_in_range("capacity", capacity, Index{0}, max_capacity);
        data_ = detail::allocate_aligned<C>(capacity_ * stride());
    }

    LatentCache(LatentCache&& other) noexcept
        : latent_dim_(other.latent_dim_),
          rope_dim_(other.rope_dim_),
          pairing_(other.pairing_),
          capacity_(std::exchange(other.capacity_, 0)),
          size_(std::exchange(other.size_, 0)),
          data_(std::move(other.data_)) {}
    LatentCache& operator=(LatentCache&& other) noexcept {
        latent_dim_ = other.latent_dim_;
        rope_dim_ = other.rope_dim_;
        pairing_ = other.pairing_;
        capacity_ = std::exchange(other.capacity_, 0);
        size_ = std::exchange(other.size_, 0);
        data_ = std::move(other.data_);
        return *this;
    }

    [[nodiscard]] Index size() const noexcept { return size_; }
    [[nodiscard]] Index capacity() const noexcept { return capacity_; }
    [[nodiscard]] Index latent_dim() const noexcept { return latent_dim_; }
    [[nodiscard]] Index rope_dim() const noexcept { return rope_dim_; }
    /// The convention that the cached rope keys are rotated in.
    [[nodiscard]] RopePairing pairing() const noexcept { return pairing_; }
    /// Bytes a token takes, padding to whole cache lines included.
    [[nodiscard]] Index bytes_per_token() const noexcept { return stride() * static_cast<Index>(sizeof(C)); }

    [[nodiscard]] LatentView<C> view() const noexcept { return {data_.get(), size_, latent_dim_, rope_dim_, stride()}; }

    /// Appends tokens [T, Dc + Dr] (latent, then rope key), rounded to C.
    /// @throws std::length_error when they do not fit, std::invalid_argument for a wrong width; the cache is then unchanged
    template <Compute A>
    void append(MatrixView<const A> tokens) {
        require_equal("tokens.cols", tokens.cols, "kv_lora_rank + qk_rope_head_dim", latent_dim_ + rope_dim_);
        require_at_least("tokens.stride", tokens.stride, tokens.cols);
        require_room(tokens.rows);
        mla::append(tokens, MatrixView<C>(data_.get() + size_ * stride(), tokens.rows, tokens.cols, stride()));
        size_ += tokens.rows;
    }

    /// @throws std::length_error unless `count` more tokens fit, std::invalid_argument when `count` is negative
    void require_room(Index count) const {
        require_at_least("tokens to append", count, Index{0});
        require_capacity("tokens to append", count, capacity_ - size_);
    }

    /// Drops all tokens from `length` on: the rollback of speculative decoding.
    void truncate(Index length) {
        require_in_range("length", length, Index{0}, size_);
        size_ = length;
    }

    void reset() noexcept { size_ = 0; }

    /// A cache of its own, of `capacity` tokens, that starts with a copy of the first `length` tokens.
    [[nodiscard]] LatentCache fork(Index length, Index capacity) const {
        require_in_range("length", length, Index{0}, size_);
        require_in_range("capacity", capacity, length, max_capacity);
        LatentCache copy(*this, capacity);
        std::copy_n(data_.get(), length * stride(), copy.data_.get());
        copy.size_ = length;
        return copy;
    }

  private:
    /// Far above every use, and low enough that the bytes of so many of the widest rows (2^25 doubles) stay below 2^63.
    static constexpr Index max_capacity = Index{1} << 34;

    LatentCache(const LatentCache& other, Index capacity)
        : latent_dim_(other.latent_dim_),
          rope_dim_(other.rope_dim_),
          pairing_(other.pairing_),
          capacity_(capacity),
          data_(detail::allocate_aligned<C>(capacity * other.stride())) {}

    [[nodiscard]] Index stride() const noexcept {
        return round_up(latent_dim_ + rope_dim_, static_cast<Index>(scratch_alignment / sizeof(C)));
    }

    Index latent_dim_;
    Index rope_dim_;
    RopePairing pairing_;
    Index capacity_;
    Index size_ = 0;
    detail::AlignedArray<C> data_;
};

}  // namespace mla
