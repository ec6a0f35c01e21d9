// The first step of the kernel contract: a block's listed rows as the tiles want them.
//
// Rows that are units as they lie are used where they lie. Others are converted a piece of the keys or a strip of the values at a
// time, right before all rows of queries pass over it, into buffers that stay in L1: whole blocks of floats would be written to
// L2, which took 5 cycles a line on Emerald Rapids, 20 % of the time of 16 heads.
#pragma once

#include <algorithm>

#include "mla/formats/format.hpp"
#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/tile_shape.hpp"

namespace mla::inline MLA_ISA::detail {

/// `count` listed rows of C as rows of values of A, `stride` apart, with zeros up to the stride.
template <class Target, class C, Compute A>
void read_rows(const void* const* rows, Index count, const RowFormat<C>& format, A* values, Index stride) noexcept {
    for (Index i = 0; i < count; ++i, values += stride) {
        Format<C>::template read<Target>(format, static_cast<const C*>(rows[i]), values);
        std::fill(values + format.values(), values + stride, A());
    }
}

/// Whole rows of C copied to a worker's buffer, as rows of A.
template <class Target, Compute A, class C>
[[nodiscard]] RowList<A> copy_rows(const void* const* rows, Index count, const RowFormat<C>& format, A* buffer) noexcept {
    const Index stride = staged_stride<A>(format.values());
    read_rows<Target>(rows, count, format, buffer, stride);
    RowList<A> copies;
    copies.add(buffer, stride, count);
    return copies;
}

/// A worker's room for a piece of some keys and a strip of a block's values.
template <class Target, Compute A>
struct PieceBuffers {
    static constexpr Index key_stride = staged_stride<A>(AttentionTile<Target, A>::rounded_values);
    static constexpr Index value_stride = 3 * simd::lanes<Target, A>;
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

/// A block of cached tokens of C in units of an operand. Keys are rows of a format, [latent | rope key]; values are the first
/// latent_dim values of the same rows, or of others.
template <class Target, class Op, Compute A, class C>
class CachedBlock {
    using Buffers = PieceBuffers<Target, A>;
    static constexpr Index each = Op::values_per_unit;

  public:
    using Operand = Op;
    using Unit = typename Operand::Unit;
    /// Whether a tile can convert values as it loads them. For one vector of rows that is cheaper than to store them first: 2 of
    /// 18 arithmetic instructions, where staging took a quarter of the time of the values' products.
    static constexpr bool values_by_parity =
        std::is_same_v<Unit, A> && simd::loads_by_parity<A, C> && AttentionTile<Target, A>::many_registers;
    Index value_dim;
    Index begin;  ///< position of the block's first token among the keys
    [[no_unique_address]] StepsOf<Operand> steps;

    /// The buffers are this block's until the next one's.
    CachedBlock(const abi::AttendBlock<A>& call, const Buffers& buffers) noexcept
        : value_dim(call.latent_dim),
          begin(call.begin),
          keys_(call.keys),
          values_(call.values),
          count_(call.tokens),
          format_{call.latent_dim, call.rope_dim},
          buffers_(buffers) {
        if constexpr (Operand::integers)
            for (Index t = 0; t < count_; ++t) steps.latent[t] = Format<C>::latent_step(format_, key(t));
    }

    [[nodiscard]] Index count() const noexcept { return count_; }

    /// Whether keys are units where they lie.
    [[nodiscard]] bool keys_in_place() const noexcept {
        return Format<C>::template in_place<Operand> && format_.values() % each == 0;
    }

    /// Keys that `keys` takes.
    [[nodiscard]] Index keys_at_once() const noexcept { return keys_in_place() ? scored_tokens : staged_tokens; }

    /// All values of a latent share a step.
    static constexpr Index values_per_step = std::numeric_limits<Index>::max();
    [[nodiscard]] const float* latent_steps(Index, Index first, Index) const noexcept { return steps.latent + first; }
    /// What `keys` sets.
    [[nodiscard]] const float* rope_steps(Index first) const noexcept { return steps.rope + first; }

    /// Units [piece.begin, piece.end) of keys [first, first + count); of integers sets the steps of rope keys.
    [[nodiscard]] ListedRows<Unit> keys(Index first, Index count, const Piece& piece) noexcept {
        if (keys_in_place()) return {keys_ + first, piece.begin * static_cast<Index>(sizeof(Unit))};
        for (Index i = 0; i < count; ++i) stage_key(first + i, piece, buffers_.keys + i * Buffers::key_stride);
        return {buffers_.key_rows.data(), 0};
    }

    /// N vectors of values from `column` on of all tokens; past the last value 0, or what follows it.
    template <int N>
    [[nodiscard]] ListedRows<Unit> values(Index column) noexcept {
        if constexpr (std::is_same_v<C, Unit>) {
            if (value_dim % simd::lanes<Target, A> == 0) return {values_, column * static_cast<Index>(sizeof(Unit))};
        }
        constexpr Index width = N * simd::lanes<Target, A>;
        column + width <= value_dim ? stage_values<width>(column, std::integral_constant<Index, width>{})
                                    : stage_values<width>(column, value_dim - column);
        return {buffers_.value_rows.data(), 0};
    }

    /// The values of all tokens from `column` on where they lie.
    [[nodiscard]] ParityRows<C> parity_values(Index column) const noexcept requires(values_by_parity) {
        return {{values_, column * static_cast<Index>(sizeof(C))}};
    }

  private:
    [[nodiscard]] const C* key(Index t) const noexcept { return static_cast<const C*>(keys_[t]); }

    void stage_key(Index t, const Piece& piece, A* target) noexcept {
        float* step = nullptr;
        Index end = piece.end * each;
        if constexpr (Operand::integers) {
            step = &steps.rope[t];
        } else {
            end = std::min(end, format_.values());
        }
        Format<C>::template stage_key<Target, Operand>(format_, key(t), piece.begin * each, end - piece.begin * each,
                                                       reinterpret_cast<Unit*>(target), step);
    }

    /// `count` values, a constant where it is the width, of each token, or of two of them side by side.
    template <Index Width, class Count>
    void stage_values(Index column, Count count) noexcept {
        auto* target = reinterpret_cast<Unit*>(buffers_.values);
        for (Index t = 0; t < count_; t += each, target += Buffers::value_stride) {
            const auto* const first = static_cast<const C*>(values_[t]);
            const auto* const second = t + 1 < count_ ? static_cast<const C*>(values_[t + 1]) : nullptr;
            Format<C>::template stage_values<Target, Operand>(first, second, column, count, target);
            if (count < Width) std::fill(target + count, target + Width, Unit());
        }
    }

    const void* const* keys_;
    const void* const* values_;
    Index count_;
    RowFormat<C> format_;
    const Buffers& buffers_;
};

}  // namespace mla::inline MLA_ISA::detail
