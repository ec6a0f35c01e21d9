// The KV cache of multi-head and grouped-query attention: a key and a value a token and key-value head.
#pragma once

#include <algorithm>
#include <utility>

#include "mla/baselines/grouped_query_config.hpp"
#include "mla/core/views.hpp"
#include "mla/core/workspace.hpp"
#include "mla/formats/row_kernels.hpp"

namespace mla::inline MLA_ISA::baselines {

/// Cached keys and values [kv_heads, length, head_dim] in foreign memory. Tokens of a head lie `token_stride` elements apart,
/// heads `head_stride`. Rows at `length` and beyond are never read.
template <Storage C>
struct KvView {
    const C* keys = nullptr;
    const C* values = nullptr;
    Index length = 0;
    Index kv_heads = 0;
    Index head_dim = 0;
    Index token_stride = 0;
    Index head_stride = 0;
};

/// Owns up to `capacity` tokens, stored as C: a head's keys are contiguous, and so are its values, so that a head streams
/// through memory in order.
template <Storage C>
class KvCache {
  public:
    /// @throws std::invalid_argument for an invalid config or a negative capacity
    KvCache(const GroupedQueryConfig& config, Index capacity)
        : kv_heads_(config.num_key_value_heads), head_dim_(config.head_dim), capacity_(capacity) {
        validate(config);
        require_in_range("capacity", capacity, Index{0}, Index{1} << 40);
        keys_ = mla::detail::allocate_aligned<C>(kv_heads_ * head_stride());
        values_ = mla::detail::allocate_aligned<C>(kv_heads_ * head_stride());
    }

    [[nodiscard]] Index size() const noexcept { return size_; }
    [[nodiscard]] Index capacity() const noexcept { return capacity_; }
    [[nodiscard]] Index kv_heads() const noexcept { return kv_heads_; }
    [[nodiscard]] Index head_dim() const noexcept { return head_dim_; }
    /// Bytes a token takes, keys and values of all heads, padding to whole cache lines included.
    [[nodiscard]] Index bytes_per_token() const noexcept {
        return 2 * kv_heads_ * token_stride() * static_cast<Index>(sizeof(C));
    }

    [[nodiscard]] KvView<C> view() const noexcept {
        return {keys_.get(), values_.get(), size_, kv_heads_, head_dim_, token_stride(), head_stride()};
    }

    /// Appends keys and values [T, kv_heads, head_dim], rounded to C.
    /// @throws std::length_error when they do not fit, std::invalid_argument for wrong sizes; the cache is then unchanged
    template <Compute A>
    void append(HeadsView<const A> keys, HeadsView<const A> values) {
        require_shape("keys", keys);
        require_shape("values", values);
        require_equal("values.tokens", values.tokens, "keys.tokens", keys.tokens);
        require_room(keys.tokens);
        for (Index g = 0; g < kv_heads_; ++g)
            for (Index t = 0; t < keys.tokens; ++t) {
                const Index offset = g * head_stride() + (size_ + t) * token_stride();
                write_row(RowFormat<C>{head_dim_, 0}, keys.at(t, g), keys_.get() + offset);
                write_row(RowFormat<C>{head_dim_, 0}, values.at(t, g), values_.get() + offset);
            }
        size_ += keys.tokens;
    }

    /// @throws std::length_error unless `count` more tokens fit
    void require_room(Index count) const { require_capacity("tokens to append", count, capacity_ - size_); }

    /// Drops all tokens from `length` on.
    void truncate(Index length) {
        require_in_range("length", length, Index{0}, size_);
        size_ = length;
    }

    void reset() noexcept { size_ = 0; }

  private:
    template <Compute A>
    void require_shape(const char* argument, const HeadsView<const A>& tokens) const {
        require_equal(argument, tokens.heads, "heads: num_key_value_heads", kv_heads_);
        require_equal(argument, tokens.dim, "dim: head_dim", head_dim_);
    }

    [[nodiscard]] Index token_stride() const noexcept {
        return round_up(head_dim_, static_cast<Index>(scratch_alignment / sizeof(C)));
    }
    [[nodiscard]] Index head_stride() const noexcept { return capacity_ * token_stride(); }

    Index kv_heads_;
    Index head_dim_;
    Index capacity_;
    Index size_ = 0;
    mla::detail::AlignedArray<C> keys_;
    mla::detail::AlignedArray<C> values_;
};

}  // namespace mla::inline MLA_ISA::baselines
