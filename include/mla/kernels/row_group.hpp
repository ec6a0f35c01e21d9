// Rows that attend to the same keys: their room, their running softmax and output, and which keys they see.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "mla/core/errors.hpp"
#include "mla/core/kernel_table.hpp"
#include "mla/core/views.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/row_list.hpp"

namespace mla::inline MLA_ISA::detail {

template <Compute A>
using RowGroup = abi::RowGroup<A>;

/// Rows up to which a group may be computed with vectors along the values of a key: 4 rows would leave 12 of 16 AVX-512 lanes
/// empty, 8 would make the loads of queries the bottleneck.
inline constexpr Index few_rows = 4;

/// Rows whose panels pass over a block together.
inline constexpr Index batch_rows = 128;

/// Rows that a group's arrays have room for: whole vectors, and no fewer than `few_rows`.
[[nodiscard]] constexpr Index padded_rows(Index rows, Index lanes) noexcept { return round_up(std::max(rows, few_rows), lanes); }

/// Elements of scratch for the scores of a block, and for as many probabilities as products take them.
[[nodiscard]] constexpr Index score_elements(Index rows, Index lanes) noexcept {
    return 2 * block_tokens * std::min(std::max(round_up(rows, lanes), few_rows), batch_rows);
}

/// Elements of a type computed in that a packed query of `depth` values may take: its values, of pairs one each beside an odd
/// latent and an odd rope key; few rows lie in pairs of vectors, below 8 values a row of the slot; in tile registers 16 pairs are
/// the least, or 16 fours of upper and of lower bytes, of the latent and of the rope key.
[[nodiscard]] constexpr Index query_elements(Index depth) noexcept { return std::max(depth + 16, depth / 2 + 64); }

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

/// Which of the last keys a query may see, instead of the causal rule: queries of a tree of drafted tokens see their ancestors.
struct KeyTree {
    MatrixView<const bool> visible;  ///< [queries, drafted tokens]; empty: the causal rule
    Index begin = 0;                 ///< position of the first drafted token among the keys

    [[nodiscard]] bool empty() const noexcept { return visible.data == nullptr; }
};

/// The state before any key: no maximum, no sum, zero output.
template <Compute A>
void clear(const RowGroup<A>& group, Index padded) noexcept {
    std::fill_n(group.max, padded, -std::numeric_limits<A>::infinity());
    std::fill_n(group.sum, padded, A(0));
    std::fill_n(group.out, padded * group.out_stride, A(0));
}

/// Sets how many keys each row may see: its query q, counted from the first of all rows, sees `first + step·q`.
template <Compute A>
void set_visible(const RowGroup<A>& group, Index padded, Index first, Index step) noexcept {
    for (Index r = 0; r < padded; ++r) {
        const Index query = (group.first_row + std::min(r, group.rows - 1)) / group.heads;
        group.visible[r] = std::max<Index>(first + step * query, 0);
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

}  // namespace mla::inline MLA_ISA::detail
