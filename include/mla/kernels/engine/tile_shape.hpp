// The shapes of the attention tiles on a target, and the panels of rows that they work on.
#pragma once

#include "mla/formats/operands.hpp"
#include "mla/kernels/row_group.hpp"
#include "mla/simd/tile.hpp"

namespace mla::inline MLA_ISA::detail {

/// Tile shapes of the attention kernels on one instruction set; U: the unit of the products.
/// Score tile: tokens × rows, rows in vectors. 32 registers: 12×2 sums, 2 queries, 1 broadcast key = 27; 16: 6×2, 15 in all.
/// A single vector of rows takes 12 tokens on either, enough sums to hide the latency of an FMA.
/// Value tile: rows × values, values in vectors. 32 registers: 8×3 sums, 3 values, 1 broadcast = 28; 16: 4×3 = 12, 16 in all.
/// Values that the tile converts come two vectors at a time: 8×2.
/// Where a product and its addition are two instructions the product takes a register more: 6×2 still fit 16, of 4×3 only 4×2.
template <class Target, Compute A>
struct AttentionTile {
    static constexpr Index lanes = simd::lanes<Target, A>;
    static constexpr Index panel_rows = 2 * lanes;
    static constexpr bool many_registers = Target::registers == 32;
    static constexpr int score_tokens_pair = many_registers ? 12 : 6;
    static constexpr int score_tokens_single = 12;
    static constexpr int value_rows = static_cast<int>(std::min<Index>(lanes, many_registers ? 8 : 4));
    template <class Operand>
    static constexpr int value_vectors = Operand::integers && !many_registers ? 2 : 3;
    /// Units of a score that are summed in registers before they join it. Values that are not rounded: as many as keep a panel's
    /// piece of the queries in 18 KiB of L1, 144 of AVX-512 and 288 of AVX2. More would carry more rounding errors: one sum over
    /// all 576 values of a DeepSeek row twice as much as four of 144. Rounded values: 288 on every target, so that all make the
    /// same sums.
    static constexpr Index rounded_values = 288;
    template <class Operand>
    static constexpr Index score_depth = Operand::scales_queries
                                             ? std::min<Index>(Index{18} * 1024 / (panel_rows * static_cast<Index>(sizeof(A))),
                                                               rounded_values)
                                             : rounded_values / Operand::values_per_unit;
    /// Units between two steps of prefetching: with a single panel 96 products of vectors in either tile of AVX-512.
    static constexpr Index score_step = 8;
    static constexpr Index value_step = 4;
};

/// Two vectors of a group's rows, or, the last, one.
struct Panel {
    Index row;     ///< first of its rows in the group
    Index offset;  ///< and in the batch
    Index tokens;  ///< of the block that any of its rows may see
};

/// Up to batch_rows rows of a group from one on, and what they may see of `count` tokens from `begin` on.
template <class Target, Compute A>
class PanelBatch {
    static constexpr Index lanes = AttentionTile<Target, A>::lanes;

  public:
    PanelBatch(const RowGroup<A>& group, Index first, Index begin, Index count) noexcept
        : visible_(group.visible),
          begin_(begin),
          count_(count),
          first_(first),
          end_(std::min(first + batch_rows, round_up(group.rows, lanes))) {}

    /// Whether all its rows are one vector.
    [[nodiscard]] bool single() const noexcept { return end_ - first_ <= lanes; }

    /// Rows, whole vectors of them.
    [[nodiscard]] Index rows() const noexcept { return end_ - first_; }

    /// Tokens that some panel may see.
    [[nodiscard]] Index tokens() const noexcept { return tokens_before(end_); }

    /// Calls f(integral constant of its vectors, panel) for each panel that may see a token.
    template <class F>
    void each(F&& f) const {
        Index row = first_;
        for (; row + 2 * lanes <= end_; row += 2 * lanes) visit<2>(row, f);
        if (row < end_) visit<1>(row, f);
    }

  private:
    [[nodiscard]] Index tokens_before(Index row) const noexcept { return std::min(count_, visible_[row - 1] - begin_); }

    template <int Vectors, class F>
    void visit(Index row, F&& f) const {
        const Index tokens = tokens_before(row + Vectors * lanes);
        if (tokens > 0) f(std::integral_constant<int, Vectors>{}, Panel{row, row - first_, tokens});
    }

    const Index* visible_;
    Index begin_;
    Index count_;
    Index first_;
    Index end_;
};

/// What the outputs of a batch's rows so far must be multiplied by, and, of integers, what those of the next products stand
/// for.
template <Compute A>
struct RowFactors {
    alignas(64) A rescale[simd::extent<batch_rows>];
    alignas(64) A step[simd::extent<batch_rows>];
};

/// Sets scores of drafted tokens that the tree hides from rows [first, first + rows) to −inf. `score(row, t)`: the score of row
/// first + row and token t of a block of `tokens` from key `begin` on.
template <Compute A, class Score>
void mask_tree(const RowGroup<A>& group, Index first, Index rows, Index begin, Index tokens, Score score) noexcept {
    for (Index t = std::max<Index>(group.tree_begin - begin, 0); t < tokens; ++t)
        for (Index r = 0; r < rows; ++r) {
            const Index query = (group.first_row + std::min(first + r, group.rows - 1)) / group.heads;
            if (!group.tree[query * group.tree_stride + begin + t - group.tree_begin])
                score(r, t) = -std::numeric_limits<A>::infinity();
        }
}

}  // namespace mla::inline MLA_ISA::detail
