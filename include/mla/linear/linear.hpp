// Products of activations with packed weights: the down- and up-projections.
#pragma once

#include <algorithm>

#include "mla/core/executor.hpp"
#include "mla/linear/packed_matrix.hpp"
#include "mla/simd/tile.hpp"

namespace mla {
namespace detail {

/// Rows of the widest tile. With 32 registers 12×2 sums, 2 weights and 1 activation take 27; with 16, 6×2 take 15.
template <class Arch>
inline constexpr int linear_tile_rows = simd::vector_registers<Arch> == 32 ? 12 : 6;

/// k of a block: a tile's 12 rows of activations (24 KiB of float) stay in L1 while the panels of an item pass by.
inline constexpr Index linear_block_k = 512;

/// Panels of one matrix, and the range of k that a pass multiplies.
template <Storage S>
struct PanelRange {
    const PackedMatrix<S>& weight;
    Index index;
    Index panel_begin;
    Index panel_end;
    Index k_begin;
    Index k_end;
};

/// k between two bursts of fetching.
inline constexpr Index linear_fetch_k = 16;

/// Fetches columns [0, columns) of `count` rows of a panel, whose lines start at the first.
template <Storage S>
MLA_ALWAYS_INLINE void fetch_rows(const S* panel, Index columns, Index count) noexcept {
    constexpr Index line = 64 / static_cast<Index>(sizeof(S));
    for (Index k = 0; k < count; ++k)
        for (Index n = 0; n < columns; n += line) __builtin_prefetch(panel + k * panel_columns + n, 0, 2);
}

/// y [M, columns] (+)= x [M, depth] · panel [depth, panel_columns]; the products for k = 0 overwrite y, later ones add to it.
/// Fetches the same piece of the panel at `next` meanwhile, unless it is null.
template <class Arch, int M, Compute A, Storage S>
void multiply_panel(Index depth, simd::RowOperand<A> x, const S* panel, const S* next, MatrixView<A> y, bool accumulate) {
    // One or two rows read the panel a whole row at a time: enough independent sums to hide the latency of an FMA.
    constexpr int whole_row = static_cast<int>(std::min<Index>(panel_columns / simd::lanes<Arch, A>, 4));
    constexpr int N = M <= 2 ? whole_row : 2;
    using Tile = simd::Tile<Arch, A, M, N>;
    for (Index column = 0; column < y.cols; column += Tile::columns) {
        Tile tile;
        tile.clear();
        // The second half of a line comes with the first.
        const bool fetches = next != nullptr && column * static_cast<Index>(sizeof(S)) % 64 == 0;
        const Index step = fetches ? linear_fetch_k : depth;
        for (Index k = 0; k < depth; k += step) {
            const Index count = std::min(step, depth - k);
            if (fetches) fetch_rows(next + k * panel_columns + column, Tile::columns, count);
            tile.multiply(count, simd::RowOperand<A>{x.data + k, x.stride},
                          simd::StridedRows<S>{panel + k * panel_columns + column, panel_columns});
        }
        A* target = y.data + column;
        if (column + Tile::columns <= y.cols) {
            accumulate ? tile.add_to(target, y.stride) : tile.store(target, y.stride);
            continue;
        }
        alignas(64) A edge[simd::extent<M * Tile::columns>];
        tile.store(edge, Tile::columns);
        for (Index m = 0; m < M; ++m)
            for (Index n = 0; n < y.cols - column; ++n) {
                A& cell = target[m * y.stride + n];
                cell = accumulate ? cell + edge[m * Tile::columns + n] : edge[m * Tile::columns + n];
            }
    }
}

/// Rows in tiles of 12 (or 6), 8, 4, 2 and 1, so that no row is computed twice. Each tile of activations runs over all panels;
/// the first brings them in, each while it multiplies the one before.
template <class Arch, Compute A, Storage S>
void multiply_rows(MatrixView<const A> x, const PanelRange<S>& range, MatrixView<A> y) {
    Index row = 0;
    const auto piece = [&](Index p) { return range.weight.panel(range.index, p) + range.k_begin * panel_columns; };
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; row + M <= x.rows; row += M)
            for (Index p = range.panel_begin; p < range.panel_end; ++p) {
                const Index first = p * panel_columns;
                const Index columns = std::min(panel_columns, range.weight.out() - first);
                const S* const next = row == 0 && p + 1 < range.panel_end ? piece(p + 1) : nullptr;
                multiply_panel<Arch, M>(range.k_end - range.k_begin, simd::RowOperand<A>{x.row(row) + range.k_begin, x.stride},
                                        piece(p), next, MatrixView<A>(y.row(row) + first, M, columns, y.stride),
                                        range.k_begin > 0);
            }
    };
    tiles(std::integral_constant<int, linear_tile_rows<Arch>>{});
    if constexpr (linear_tile_rows < Arch >> 8) tiles(std::integral_constant<int, 8>{});
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

/// All k of panels [panel_begin, panel_end), a block of k at a time.
template <class Arch, Compute A, Storage S>
void multiply_blocks(MatrixView<const A> x, const PackedMatrix<S>& weight, Index index, Index panel_begin, Index panel_end,
                     MatrixView<A> y) {
    for (Index k = 0; k < weight.in(); k += linear_block_k) {
        const PanelRange<S> range{weight, index, panel_begin, panel_end, k, std::min(k + linear_block_k, weight.in())};
        multiply_rows<Arch, A>(x, range, y);
    }
}

}  // namespace detail

/// y [T, panels of W] = x [T, in] · W, on the calling thread, for panels [panel_begin, panel_end) of matrix `index`.
/// Every element is summed over blocks of k in ascending order, however the work is cut. y does not overlap x.
template <class Arch = simd::DefaultArch, Compute A, Storage S>
void linear_panels(MatrixView<const A> x, const PackedMatrix<S>& weight, Index index, Index panel_begin, Index panel_end,
                   MatrixView<A> y) noexcept {
    // A single tile of rows reads each panel front to back; more rows go through a block of all panels before the next.
    const Index step = x.rows <= detail::linear_tile_rows<Arch> ? 1 : std::max<Index>(panel_end - panel_begin, 1);
    for (Index panel = panel_begin; panel < panel_end; panel += step)
        detail::multiply_blocks<Arch, A>(x, weight, index, panel, std::min(panel + step, panel_end), y);
}

/// y [T, out] = x [T, in] · W (+ bias [out], when not null). y does not overlap x.
template <class Arch = simd::DefaultArch, Compute A, Storage S>
void linear(MatrixView<const A> x, const PackedMatrix<S>& weight, const A* bias, MatrixView<A> y, ExecutorRef executor) noexcept {
    // Up to 4 panels an item reuse a tile's activations, and a block of k of each (64 KiB of float) stays in L2 for the next
    // rows; at least 16 items keep several threads even.
    const Index group = std::clamp<Index>(weight.panels() / 16, 1, 4);
    for_each_item(executor, divide_up(weight.panels(), group), [&](Index item, Index) {
        const Index begin = item * group;
        const Index end = std::min(begin + group, weight.panels());
        linear_panels<Arch, A>(x, weight, 0, begin, end, y);
        if (bias == nullptr) return;
        const Index last = std::min(end * panel_columns, weight.out());
        for (Index t = 0; t < x.rows; ++t)
            for (Index n = begin * panel_columns; n < last; ++n) y(t, n) += bias[n];
    });
}

/// y[t, h] = x[t, h] · W_h for each head h: one small product a head. x [T, H, in], y [T, H, out], W holds H matrices.
template <class Arch = simd::DefaultArch, Compute A, Storage S>
void linear_heads(HeadsView<const A> x, const PackedMatrix<S>& weight, HeadsView<A> y, ExecutorRef executor) noexcept {
    for_each_item(executor, weight.count(), [&](Index head, Index) {
        linear_panels<Arch, A>(x.head(head), weight, head, 0, weight.panels(), y.head(head));
    });
}

}  // namespace mla
