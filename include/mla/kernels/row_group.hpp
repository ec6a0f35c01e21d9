// Rows that attend to the same keys: their queries, packed for the score tile, and their running softmax and output.
#pragma once

#include <algorithm>
#include <limits>

#include "mla/core/errors.hpp"
#include "mla/core/views.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/block.hpp"
#include "mla/simd/tile.hpp"

namespace mla::detail {

/// Tile shapes of the attention kernels on one instruction set; U: the unit of the products.
/// Score tile: tokens × rows, rows in vectors. 32 registers: 12×2 sums, 2 queries, 1 broadcast key = 27; 16: 6×2, 15 in all.
/// A single vector of rows takes 12 tokens on either, enough sums to hide the latency of an FMA.
/// Value tile: rows × values, values in vectors. 32 registers: 8×3 sums, 3 values, 1 broadcast = 28; 16: 4×3 = 12, 16 in all.
/// Values that the tile converts come two vectors at a time: 8×2.
/// Where a product and its addition are two instructions the product takes a register more: 6×2 still fit 16, of 4×3 only 4×2.
template <class Arch, Compute A>
struct AttentionTile {
    static constexpr Index lanes = simd::lanes<Arch, A>;
    static constexpr Index panel_rows = 2 * lanes;
    static constexpr bool many_registers = simd::vector_registers<Arch> == 32;
    static constexpr int score_tokens_pair = many_registers ? 12 : 6;
    static constexpr int score_tokens_single = 12;
    static constexpr int value_rows = static_cast<int>(std::min<Index>(lanes, many_registers ? 8 : 4));
    template <class U>
    static constexpr int value_vectors = is_quantised<U> && !many_registers ? 2 : 3;
    /// Units of a score that are summed in registers before they join it: as many as keep a panel's piece of the queries in 18
    /// KiB of L1, 144 of AVX-512 and 288 of AVX2. More would carry more rounding errors: one sum over all 576 values of a
    /// DeepSeek row twice as much as four of 144.
    static constexpr Index score_depth = std::min<Index>(18 * 1024 / (panel_rows * static_cast<Index>(sizeof(A))), 288);
    /// Units between two steps of prefetching: with a single panel 96 products of vectors in either tile of AVX-512.
    static constexpr Index score_step = 8;
    static constexpr Index value_step = 4;
};

/// Rows up to which a group is computed with vectors along the values of a key: 4 rows would leave 12 of 16 AVX-512 lanes
/// empty, 8 would make the loads of queries the bottleneck.
inline constexpr Index few_rows = 4;

/// Rows that a group's arrays have room for: whole vectors, and no fewer than `few_rows`.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index padded_rows(Index rows) noexcept {
    return round_up(std::max(rows, few_rows), simd::lanes<Arch, A>);
}

/// Which of the last keys a query may see, instead of the causal rule: queries of a tree of drafted tokens see their ancestors.
struct KeyTree {
    MatrixView<const bool> visible;  ///< [queries, drafted tokens]; empty: the causal rule
    Index begin = 0;                 ///< position of the first drafted token among the keys

    [[nodiscard]] bool empty() const noexcept { return visible.data == nullptr; }
};

/// `rows` consecutive rows of [tokens × heads], row = token·heads + head. A panel holds two vectors of rows (the last perhaps
/// one); unused lanes hold zero queries.
template <Compute A>
struct RowGroup {
    Index rows = 0;
    Index depth = 0;               ///< values of a query: K of the score product
    Index out_stride = 0;          ///< values of an output, rounded up to whole vectors
    std::byte* queries = nullptr;  ///< panels [units of depth, panel rows] of units, or, of few rows, rows [few_rows, depth] of A
    A* factors = nullptr;          ///< [padded rows] what scores must still be multiplied by, positive
    A* max = nullptr;              ///< [padded rows]
    A* sum = nullptr;              ///< [padded rows]
    A* out = nullptr;              ///< [padded rows, out_stride], not yet divided by sum
    Index* visible = nullptr;      ///< [padded rows] keys a row may see; never descending
    KeyTree tree;
    Index first_row = 0;  ///< of the group among all rows of the tree's queries
    Index heads = 1;      ///< rows of a query

    [[nodiscard]] bool few() const noexcept { return rows <= few_rows; }
};

/// Rows whose panels pass over a block together.
inline constexpr Index batch_rows = 128;

/// Two vectors of a group's rows, or, the last, one.
struct Panel {
    Index row;     ///< first of its rows in the group
    Index offset;  ///< and in the batch
    Index tokens;  ///< of the block that any of its rows may see
};

/// Up to batch_rows rows of a group from one on, and what they may see of `count` tokens from `begin` on.
template <class Arch, Compute A>
class PanelBatch {
    static constexpr Index lanes = AttentionTile<Arch, A>::lanes;

  public:
    PanelBatch(const RowGroup<A>& group, Index first, Index begin, Index count) noexcept
        : visible_(group.visible),
          begin_(begin),
          count_(count),
          first_(first),
          end_(std::min(first + batch_rows, round_up(group.rows, lanes))) {}

    /// Whether all its rows are one vector.
    [[nodiscard]] bool single() const noexcept { return end_ - first_ <= lanes; }

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

/// The state before any key: no maximum, no sum, zero output.
template <class Arch, Compute A>
void clear(const RowGroup<A>& group) noexcept {
    const Index padded = padded_rows<Arch, A>(group.rows);
    std::fill_n(group.max, padded, -std::numeric_limits<A>::infinity());
    std::fill_n(group.sum, padded, A(0));
    std::fill_n(group.out, padded * group.out_stride, A(0));
}

/// Sets how many keys each row may see: its query q, counted from the first of all rows, sees `first + step·q`.
template <class Arch, Compute A>
void set_visible(const RowGroup<A>& group, Index first, Index step) noexcept {
    for (Index r = 0; r < padded_rows<Arch, A>(group.rows); ++r) {
        const Index query = (group.first_row + std::min(r, group.rows - 1)) / group.heads;
        group.visible[r] = std::max<Index>(first + step * query, 0);
    }
}

/// Sets scores of drafted tokens that the tree hides from rows [first, first + rows) to −inf. `score(row, t)`: the score of row
/// first + row and token t of a block of `tokens` from key `begin` on.
template <Compute A, class Score>
void mask_tree(const RowGroup<A>& group, Index first, Index rows, Index begin, Index tokens, Score score) noexcept {
    for (Index t = std::max<Index>(group.tree.begin - begin, 0); t < tokens; ++t)
        for (Index r = 0; r < rows; ++r) {
            const Index query = (group.first_row + std::min(first + r, group.rows - 1)) / group.heads;
            if (!group.tree.visible(query, begin + t - group.tree.begin)) score(r, t) = -std::numeric_limits<A>::infinity();
        }
}

/// The arguments that every attention kernel shares.
template <Compute A>
void check_attention(const HeadsView<const A>& q, A scale, const HeadsView<A>& out, const MatrixView<A>& lse) {
    require_at_least("q.heads", q.heads, Index{1});
    require_at_least("q.tokens", q.tokens, Index{0});
    require_equal("out.heads", out.heads, "q.heads", q.heads);
    require_equal("out.tokens", out.tokens, "q.tokens", q.tokens);
    require(q.data != nullptr || q.tokens == 0, "q.data", "null", "not null when q.tokens > 0");
    require(out.data != nullptr || q.tokens == 0, "out.data", "null", "not null when q.tokens > 0");
    require(std::isfinite(scale), "scale", scale, "finite");
    if (lse.data == nullptr) return;
    require_equal("lse.rows", lse.rows, "q.tokens", q.tokens);
    require_equal("lse.cols", lse.cols, "q.heads", q.heads);
    require_at_least("lse.stride", lse.stride, lse.cols);
}

}  // namespace mla::detail
