// The first step of the kernel contract: a block's listed rows as the tiles want them. The only step that knows how a cache
// stores its tokens.
//
// Rows that are units as they lie are used where they lie. Others are converted a piece of the keys or a strip of the values at a
// time, right before all rows of queries pass over it, into buffers that stay in L1: whole blocks of floats would be written to
// L2, which took 5 cycles a line on Emerald Rapids, 20 % of the time of 16 heads.
#pragma once

#include <algorithm>

#include "mla/cache/row_format.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/block.hpp"
#include "mla/kernels/row_group.hpp"

namespace mla::detail {

/// Distance of staged rows of `dim` values: whole cache lines, and an odd number of them, so that the rows that a tile walks
/// side by side fall into different sets of L1.
template <Compute A>
[[nodiscard]] constexpr Index staged_stride(Index dim) noexcept {
    constexpr Index line = static_cast<Index>(scratch_alignment / sizeof(A));
    return (divide_up(dim, line) | 1) * line;
}

/// Elements of scratch for a block of whole rows of `dim` values.
template <Compute A>
[[nodiscard]] constexpr Index staged_elements(Index dim) noexcept {
    return block_tokens * staged_stride<A>(dim);
}

/// Listed rows copied by `read(row, target)` to rows of `dim` values, with zeros up to the staged stride.
template <Compute A, CacheElement C, class Read>
[[nodiscard]] RowList<A> copy_rows(const RowList<C>& rows, Index dim, A* buffer, Read read) noexcept {
    const Index stride = staged_stride<A>(dim);
    RowList<A> copies;
    for (Index i = 0; i < rows.size(); ++i, buffer += stride) {
        read(rows[i], buffer);
        std::fill(buffer + dim, buffer + stride, A());
        copies.add(buffer);
    }
    return copies;
}

/// A worker's room for a piece of some keys and a strip of a block's values.
template <class Arch, Compute A>
struct PieceBuffers {
    static constexpr Index key_stride = staged_stride<A>(AttentionTile<Arch, A>::score_depth);
    static constexpr Index value_stride = 3 * simd::lanes<Arch, A>;
    static constexpr Index elements = staged_tokens * key_stride + block_tokens * value_stride;

    A* keys;
    A* values;
    RowList<A> key_rows;    ///< [staged_tokens] rows [key_stride]
    RowList<A> value_rows;  ///< [block_tokens] rows [value_stride]

    explicit PieceBuffers(A* memory) noexcept : keys(memory), values(memory + staged_tokens * key_stride) {
        key_rows.add(keys, key_stride, staged_tokens);
        value_rows.add(values, value_stride, block_tokens);
    }
};

/// A block of cached tokens in units U, which are pairs where C is quantised. Keys are rows of a format, [latent | rope key];
/// values are the first latent_dim values of the same rows, or of others.
template <class Arch, class U, Compute A, CacheElement C>
class CachedBlock {
    using Buffers = PieceBuffers<Arch, A>;

  public:
    using Unit = U;
    /// Whether a tile can convert values as it loads them. For one vector of rows that is cheaper than to store them first: 2 of
    /// 18 arithmetic instructions, where staging took a quarter of the time of the values' products.
    static constexpr bool values_by_parity =
        std::is_same_v<U, A> && simd::loads_by_parity<A, C> && AttentionTile<Arch, A>::many_registers;
    Index value_dim;
    Index begin;  ///< position of the block's first token among the keys
    [[no_unique_address]] StepsOf<U> steps;

    /// The buffers are this block's until the next one's.
    CachedBlock(const RowList<C>& keys, const RowList<C>& values, const RowFormat<C>& format, Index first_token,
                const Buffers& buffers) noexcept
        : value_dim(format.latent_dim), begin(first_token), keys_(keys), values_(values), format_(format), buffers_(buffers) {
        if constexpr (is_quantised<U>)
            for (Index t = 0; t < keys.size(); ++t) steps.latent[t] = format.scale(keys[t], 0);
    }

    [[nodiscard]] Index count() const noexcept { return keys_.size(); }

    /// Keys that `keys` takes.
    [[nodiscard]] Index keys_at_once() const noexcept { return keys_in_place() ? scored_tokens : staged_tokens; }

    /// Units [piece.begin, piece.end) of keys [first, first + count); of whole numbers sets the steps of rope keys.
    [[nodiscard]] ListedRows<U> keys(Index first, Index count, const Piece& piece) noexcept {
        if (keys_in_place()) return {keys_.data() + first, piece.begin * static_cast<Index>(sizeof(U))};
        for (Index i = 0; i < count; ++i) read_key(first + i, piece, buffers_.keys + i * Buffers::key_stride);
        return {buffers_.key_rows.data(), 0};
    }

    /// N vectors of values from `column` on of all tokens; past the last value 0, or what follows it.
    template <int N>
    [[nodiscard]] ListedRows<U> values(Index column) noexcept {
        if constexpr (std::is_same_v<C, U>) {
            if (value_dim % simd::lanes<Arch, A> == 0) return {values_.data(), column * static_cast<Index>(sizeof(U))};
        }
        constexpr Index width = N * simd::lanes<Arch, A>;
        column + width <= value_dim ? read_values<width>(column, std::integral_constant<Index, width>{})
                                    : read_values<width>(column, value_dim - column);
        return {buffers_.value_rows.data(), 0};
    }

    /// The values of all tokens from `column` on where they lie.
    [[nodiscard]] ParityRows<C> parity_values(Index column) const noexcept requires(values_by_parity) {
        return {{values_.data(), column * static_cast<Index>(sizeof(C))}};
    }

  private:
    /// What units of a key are made of.
    using KeyValue = std::conditional_t<std::is_same_v<U, A>, A, bf16>;

    [[nodiscard]] bool keys_in_place() const noexcept {
        return std::is_same_v<C, KeyValue> && format_.values() % values_per_unit<U> == 0;
    }

    void read_key(Index t, const Piece& piece, A* target) noexcept {
        const Index from = piece.begin * values_per_unit<U>;
        if constexpr (is_quantised<U>) {
            read_whole_numbers(t, from, (piece.end - piece.begin) * values_per_unit<U>, reinterpret_cast<std::int16_t*>(target));
        } else if constexpr (std::is_same_v<U, A>) {
            simd::convert_row<Arch>(target, keys_[t] + from, piece.end - from);
        } else {
            auto* const values = reinterpret_cast<bf16*>(target);
            const Index end = std::min(piece.end * values_per_unit<U>, format_.values());
            *std::copy(keys_[t] + from, keys_[t] + end, values) = bf16();
        }
    }

    /// `count` values of a key from value `from` on, where the latent and the rope key begin with a unit each: of the latent its
    /// bytes, of the rope key as many steps as Int16Range allows. What is beside an odd last value meets a query's 0.
    void read_whole_numbers(Index t, Index from, Index count, std::int16_t* target) noexcept requires(is_quantised<U>) {
        const Index rope = round_up(format_.latent_dim, values_per_unit<U>);
        if (from < rope) return simd::widen<Arch>(keys_[t] + from, std::min(count, format_.latent_dim - from), target);
        const auto* const rope_key = reinterpret_cast<const bf16*>(keys_[t] + format_.rope_offset());
        const auto rope_steps = simd::Steps::of<Arch>(rope_key, format_.rope_dim, Int16Range::rope_key);
        steps.rope[t] = rope_steps.step;
        simd::quantise<Arch>(rope_key + from - rope, std::min(count, format_.rope_dim - (from - rope)), rope_steps, target);
    }

    /// `count` values, a constant where it is the width, of each token, or of two of them side by side; what the last lacks
    /// beside it is 0.
    template <Index Width, class Count>
    void read_values(Index column, Count count) noexcept {
        U* target = reinterpret_cast<U*>(buffers_.values);
        for (Index t = 0; t < values_.size(); t += values_per_unit<U>, target += Buffers::value_stride) {
            if constexpr (std::is_same_v<U, A>) {
                simd::convert_row<Arch>(target, values_[t] + column, count);
            } else {
                const bool alone = t + 1 == values_.size();
                simd::interleave<Arch>(values_[t] + column, values_[alone ? t : t + 1] + column, count, target);
                if (alone)
                    for (Index i = 0; i < count; ++i) target[i].bits &= 0xffffU;
            }
            if (count < Width) std::fill(target + count, target + Width, U());
        }
    }

    const RowList<C>& keys_;
    const RowList<C>& values_;
    RowFormat<C> format_;
    const Buffers& buffers_;
};

}  // namespace mla::detail
