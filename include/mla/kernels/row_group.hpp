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

/// Tile shapes of the attention kernels on one instruction set.
/// Score tile: tokens × rows, rows in vectors. 32 registers: 12×2 sums, 2 queries, 1 broadcast key = 27; 16: 6×2, 15 in all.
/// A single vector of rows takes 12 tokens on either, enough sums to hide the latency of an FMA.
/// Value tile: rows × values, values in vectors. 32 registers: 8×3 sums, 3 values, 1 broadcast = 28; 16: 4×3 = 12, 16 in all.
template <class Arch, Compute A>
struct AttentionTile {
    static constexpr Index lanes = simd::lanes<Arch, A>;
    static constexpr Index panel_rows = 2 * lanes;
    static constexpr bool many_registers = simd::vector_registers<Arch> == 32;
    static constexpr int score_tokens_pair = many_registers ? 12 : 6;
    static constexpr int score_tokens_single = 12;
    static constexpr int value_rows = static_cast<int>(std::min<Index>(lanes, many_registers ? 8 : 4));
    static constexpr int value_vectors = 3;
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
    Index depth = 0;       ///< values of a query: K of the score product
    Index out_stride = 0;  ///< values of an output, rounded up to whole vectors
    A scale = A(1);        ///< what is left to multiply scores by, positive
    std::byte* queries =
        nullptr;       ///< scaled; panels [depth in units, panel rows] of units, or, of few rows, rows [few_rows, depth] of A
    A* max = nullptr;  ///< [padded rows]
    A* sum = nullptr;  ///< [padded rows]
    A* out = nullptr;  ///< [padded rows, out_stride], not yet divided by sum
    Index* visible = nullptr;  ///< [padded rows] keys a row may see; never descending
    KeyTree tree;
    Index first_row = 0;  ///< of the group among all rows of the tree's queries
    Index heads = 1;      ///< rows of a query

    [[nodiscard]] bool few() const noexcept { return rows <= few_rows; }
};

/// The scale of scores, in the two places that it can go.
template <Compute A>
struct Scale {
    A of_queries;
    A of_scores;  ///< positive
};

/// Queries of the type computed in take the scale, which then costs nothing; those that are rounded do not, so that a query
/// that came as bf16 stays what it was.
template <class Arch, class U, Compute A>
[[nodiscard]] Scale<A> place_scale(Index rows, A scale) noexcept {
    const bool rounded = !std::is_same_v<U, A> && rows > few_rows;
    return rounded && scale > A(0) ? Scale<A>{A(1), scale} : Scale<A>{scale, A(1)};
}

/// Values [k, k + values_per_unit) of a row of `depth` values, scaled; 0 beyond its end.
template <class U, Compute A>
[[nodiscard]] U make_unit(const A* row, Index k, Index depth, A scale) noexcept {
    if constexpr (std::is_same_v<U, A>) {
        return row[k] * scale;
    } else {
        const bf16 second = k + 1 < depth ? bf16(row[k + 1] * scale) : bf16();
        return {bf16(row[k] * scale).bits | std::uint32_t{second.bits} << 16U};
    }
}

/// Packs rows [0, rows) of `query(row)` -> pointer to [depth], times `scale`, as `RowGroup::queries` wants them.
template <class Arch, class U, Compute A, class Query>
void pack_queries(Index rows, Index depth, A scale, Query query, std::byte* packed) noexcept {
    if (rows <= few_rows) {
        A* target = reinterpret_cast<A*>(packed);
        std::fill_n(target, few_rows * depth, A(0));
        for (Index r = 0; r < rows; ++r)
            for (Index k = 0; k < depth; ++k) target[r * depth + k] = query(r)[k] * scale;
        return;
    }
    using Shape = AttentionTile<Arch, A>;
    constexpr Index block = 64;  // a panel's block of lines stays in L1 while its rows are scattered over it
    const Index units = divide_up(depth, values_per_unit<U>);
    const Index padded = round_up(rows, Shape::lanes);
    for (Index first = 0; first < padded; first += Shape::panel_rows) {
        const Index width = std::min(Shape::panel_rows, padded - first);
        U* panel = reinterpret_cast<U*>(packed) + first * units;
        for (Index begin = 0; begin < units; begin += block) {
            const Index end = std::min(begin + block, units);
            for (Index r = 0; r < width; ++r) {
                const A* source = first + r < rows ? query(first + r) : nullptr;
                for (Index k = begin; k < end; ++k)
                    panel[k * width + r] = source == nullptr ? U{} : make_unit<U>(source, k * values_per_unit<U>, depth, scale);
            }
        }
    }
}

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

/// Sets scores of drafted tokens that the tree hides to −inf. Score of row `row` and token t of a block from key `begin` on:
/// scores[row·row_step + t·token_step].
template <Compute A>
void mask_tree(const RowGroup<A>& group, Index first, Index rows, Index begin, Index tokens, A* scores, Index row_step,
               Index token_step) noexcept {
    for (Index t = std::max<Index>(group.tree.begin - begin, 0); t < tokens; ++t)
        for (Index r = 0; r < rows; ++r) {
            const Index query = (group.first_row + std::min(first + r, group.rows - 1)) / group.heads;
            if (!group.tree.visible(query, begin + t - group.tree.begin))
                scores[r * row_step + t * token_step] = -std::numeric_limits<A>::infinity();
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
