// Products of activations with packed weights: the down- and up-projections.
#pragma once

#include <algorithm>

#include "mla/core/executor.hpp"
#include "mla/linear/packed_matrix.hpp"
#include "mla/simd/bf16_pair.hpp"
#include "mla/simd/prefetch.hpp"
#include "mla/simd/tile.hpp"

namespace mla {
namespace detail {

/// Rows of the widest tile. With 32 registers 12×2 sums, 2 weights and 1 activation take 27; with 16, 6×2 take 15.
template <class Arch>
inline constexpr int linear_tile_rows = simd::vector_registers<Arch> == 32 ? 12 : 6;

/// Columns of the tiles of one or two rows: with 8 lanes 4 vectors, enough independent sums to hide the latency of an FMA.
inline constexpr Index linear_few_columns = 32;

/// Vectors of a tile of M rows.
template <class Arch, int M, Compute A>
inline constexpr int linear_tile_vectors = M <= 2
                                               ? static_cast<int>(std::min<Index>(linear_few_columns / simd::lanes<Arch, A>, 4))
                                               : 2;

/// Units of a tile's products between two steps of prefetching. With 32 registers 16 cost 512 rows 5 % and 8 cost 7 % (Emerald
/// Rapids); with 16 registers GCC 12 spills at 24.
template <class Arch>
inline constexpr Index linear_prefetch_step = simd::vector_registers<Arch> == 32 ? 24 : 16;

/// k of a piece: a tile's 12 rows of activations (24 KiB of float) stay in L1 while the panels of a piece pass by.
inline constexpr Index linear_piece_k = 512;

/// Columns of a piece of what is multiplied as U: 256 KiB of float or of pairs of bf16, read from L2 by all tiles of rows but the
/// first.
template <class U>
inline constexpr Index linear_piece_columns = std::is_same_v<U, simd::Bf16Pair> ? 256 : 128;

/// Rows of x up to which bf16 weights meet activations as they are: so few wait for the weights, more would wait for arithmetic
/// that pairs of bf16, with activations rounded, do in half the time.
inline constexpr Index linear_exact_rows = 4;

/// What more than `linear_exact_rows` rows and weights S are multiplied in.
template <class Arch, Compute A, Storage S>
using LinearUnit = std::conditional_t<std::is_same_v<S, bf16> && simd::prefers_dot_bf16<Arch>, simd::Bf16Pair, A>;

/// k of a unit U.
template <class U, Storage S>
inline constexpr Index unit_depth = std::is_same_v<U, simd::Bf16Pair> ? panel_interleave<S> : 1;

/// Products for k in [k_begin, k_end) and panels [panel_begin, panel_end) of one matrix.
template <Storage S>
struct WeightPiece {
    const PackedMatrix<S>* weight;
    Index index;
    Index panel_begin;
    Index panel_end;
    Index k_begin;
    Index k_end;

    [[nodiscard]] Index depth() const noexcept { return k_end - k_begin; }
    [[nodiscard]] Index panels() const noexcept { return panel_end - panel_begin; }
    [[nodiscard]] const S* panel(Index p) const noexcept { return weight->panel(index, p) + k_begin * panel_columns<S>; }
    [[nodiscard]] Index panel_bytes() const noexcept { return depth() * panel_columns<S> * static_cast<Index>(sizeof(S)); }
};

/// Rows k of panels that lie side by side in a matrix, from a column of the first panel on, as the B of a product: of weights S,
/// or of pairs of them, whose k are pairs too.
template <Storage S, class W = S>
struct PanelRows {
    static constexpr int interleave = std::is_same_v<S, W> ? panel_interleave<S> : 1;
    const W* first;
    Index panel_elements;
    MLA_ALWAYS_INLINE const W* row(Index k) const { return first + k * panel_columns<S>; }
    MLA_ALWAYS_INLINE Index offset(Index column) const {
        return column / panel_columns<S> * panel_elements + column % panel_columns<S> * interleave;
    }
    MLA_ALWAYS_INLINE void advance(Index k) { first += k * panel_columns<S>; }
};

/// y [M, columns] (+)= x [M, depth] · N vectors of weights [depth, columns], depth in units U; of a tile wider than y the rest is
/// left out. Fetches `next` meanwhile.
template <class Arch, int M, int N, Compute A, class U, class Rows>
MLA_NEVER_INLINE void multiply_tile(Index depth, const U* x, Index x_stride, const Rows& weights, MatrixView<A> y,
                                    bool accumulate, simd::Prefetch& next) {
    using Tile = simd::Tile<Arch, A, M, N>;
    Tile tile;
    tile.clear();
    tile.template multiply<linear_prefetch_step<Arch>>(depth, simd::RowsOperand<U, M>(x, x_stride), weights, next);
    if (Tile::columns <= y.cols) {
        accumulate ? tile.add_to(y.data, y.stride) : tile.store(y.data, y.stride);
        return;
    }
    alignas(64) A edge[simd::extent<M * Tile::columns>];
    tile.store(edge, Tile::columns);
    for (Index m = 0; m < M; ++m)
        for (Index n = 0; n < y.cols; ++n) {
            A& cell = y(m, n);
            cell = accumulate ? cell + edge[m * Tile::columns + n] : edge[m * Tile::columns + n];
        }
}

/// All columns of a piece for M rows of x [M, units of the piece], into y [M, out]. The products for k = 0 overwrite y, later
/// ones add to it.
template <class Arch, int M, class U, Compute A, Storage S>
void multiply_tiles(const U* x, Index x_stride, const WeightPiece<S>& piece, const MatrixView<A>& y, simd::Prefetch& next) {
    using Weight = std::conditional_t<std::is_same_v<U, A>, S, U>;
    constexpr int widest = linear_tile_vectors<Arch, M, A>;
    constexpr int narrow = static_cast<int>(std::min<Index>(panel_columns<S> / simd::lanes<Arch, A>, widest));
    const Index panel_elements = piece.weight->panel_elements() / unit_depth<U, S>;
    const Index end = piece.panel_end * panel_columns<S>;
    Index column = piece.panel_begin * panel_columns<S>;
    const auto tiles = [&]<int N>(std::integral_constant<int, N>) {
        constexpr Index width = N * simd::lanes<Arch, A>;
        for (; column + width <= end && column < y.cols; column += width) {
            const Index panel = column / panel_columns<S>;
            const S* const first = piece.panel(panel) + column % panel_columns<S> * panel_interleave<S>;
            const PanelRows<S, Weight> weights{reinterpret_cast<const Weight*>(first), panel_elements};
            const Index columns = std::min(y.cols - column, width);
            multiply_tile<Arch, M, N>(divide_up(piece.depth(), unit_depth<U, S>), x, x_stride, weights,
                                      MatrixView<A>(y.data + column, M, columns, y.stride), piece.k_begin > 0, next);
        }
    };
    tiles(std::integral_constant<int, widest>{});
    if constexpr (narrow < widest) tiles(std::integral_constant<int, narrow>{});
}

/// The same of x [M, in] as it lies, its values rounded where pairs are multiplied.
template <class Arch, int M, class U, Compute A, Storage S>
void multiply_rows(const MatrixView<const A>& x, const WeightPiece<S>& piece, const MatrixView<A>& y, simd::Prefetch& next) {
    if constexpr (std::is_same_v<U, A>) {
        multiply_tiles<Arch, M, U>(x.data + piece.k_begin, x.stride, piece, y, next);
    } else {
        constexpr Index stride = linear_piece_k / panel_interleave<S>;
        alignas(64) U rounded[simd::extent<M * stride>];
        for (Index m = 0; m < M; ++m) simd::round_row<Arch>(x.row(m) + piece.k_begin, piece.depth(), rounded + m * stride);
        multiply_tiles<Arch, M, U>(rounded, stride, piece, y, next);
    }
}

/// y (+)= x · a piece, rows in tiles of 12 (or 6), 8, 4, 2 and 1, so that no row is computed twice. Fetches `next` meanwhile.
template <class Arch, class U, Compute A, Storage S>
void multiply_piece(const MatrixView<const A>& x, const WeightPiece<S>& piece, const WeightPiece<S>& next,
                    const MatrixView<A>& y) {
    constexpr int widest = linear_tile_rows<Arch>;
    const void* panels[simd::extent<linear_piece_columns<U> / panel_columns<S>>];
    for (Index p = 0; p < next.panels(); ++p) panels[p] = next.panel(next.panel_begin + p);
    const Index tiles_across = divide_up(piece.panels() * panel_columns<S>, 2 * simd::lanes<Arch, A>);
    const Index steps = divide_up(x.rows, Index{widest}) * tiles_across *
                        divide_up(divide_up(piece.depth(), unit_depth<U, S>), linear_prefetch_step<Arch>);
    simd::Prefetch fetch({panels, static_cast<std::size_t>(next.panels())}, {}, next.panel_bytes(), std::max(steps, Index{1}));
    Index row = 0;
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; row + M <= x.rows; row += M)
            multiply_rows<Arch, M, U>(MatrixView<const A>(x.row(row), M, x.cols, x.stride), piece,
                                      MatrixView<A>(y.row(row), M, y.cols, y.stride), fetch);
    };
    tiles(std::integral_constant<int, widest>{});
    if constexpr (widest > 8) tiles(std::integral_constant<int, 8>{});
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

/// The piece after one: further down the same panels, then the top of the next `panels`; none after the last.
template <Storage S>
[[nodiscard]] WeightPiece<S> piece_after(const WeightPiece<S>& piece, Index panels, Index panel_end) noexcept {
    WeightPiece<S> next = piece;
    next.k_begin = piece.k_end;
    if (next.k_begin >= piece.weight->in()) {
        next.k_begin = 0;
        next.panel_begin = piece.panel_end;
        next.panel_end = std::min(next.panel_begin + panels, panel_end);
    }
    next.k_end = std::min(next.k_begin + linear_piece_k, piece.weight->in());
    return next;
}

/// The products of linear_panels in units U.
template <class Arch, class U, Compute A, Storage S>
void multiply_panels(const MatrixView<const A>& x, const PackedMatrix<S>& weight, Index index, Index panel_begin, Index panel_end,
                     const MatrixView<A>& y) noexcept {
    // A single tile of rows reads its panels front to back, unless it would have to be rounded for each of them.
    const bool front_to_back = x.rows <= linear_tile_rows<Arch> && unit_depth<U, S> == 1;
    const Index columns = front_to_back ? linear_few_columns : linear_piece_columns<U>;
    const Index panels = columns / panel_columns<S>;
    WeightPiece<S> piece{
        &weight, index, panel_begin, std::min(panel_begin + panels, panel_end), 0, std::min(linear_piece_k, weight.in())};
    while (piece.panels() > 0) {
        const auto next = piece_after(piece, panels, panel_end);
        multiply_piece<Arch, U, A>(x, piece, next, y);
        piece = next;
    }
}

}  // namespace detail

/// y [T, panels of W] = x [T, in] · W, on the calling thread, for panels [panel_begin, panel_end) of matrix `index`.
/// Every element is summed in the same order, however the work is cut: over pieces of k, and k in a piece, ascending. Where bf16
/// are multiplied in pairs (simd::prefers_dot_bf16), more than four rows are rounded to bf16 to meet weights of bf16. y does not
/// overlap x.
template <class Arch = simd::DefaultArch, Compute A, Storage S>
void linear_panels(MatrixView<const A> x, const PackedMatrix<S>& weight, Index index, Index panel_begin, Index panel_end,
                   MatrixView<A> y) noexcept {
    using Unit = detail::LinearUnit<Arch, A, S>;
    x.rows > detail::linear_exact_rows ? detail::multiply_panels<Arch, Unit>(x, weight, index, panel_begin, panel_end, y)
                                       : detail::multiply_panels<Arch, A>(x, weight, index, panel_begin, panel_end, y);
}

/// y [T, out] = x [T, in] · W (+ bias [out], when not null). y does not overlap x.
template <class Arch = simd::DefaultArch, Compute A, Storage S>
void linear(MatrixView<const A> x, const PackedMatrix<S>& weight, const A* bias, MatrixView<A> y, ExecutorRef executor) noexcept {
    // Items of two pieces side by side; at least 16 of them keep several threads even.
    constexpr Index widest = 2 * detail::linear_piece_columns<detail::LinearUnit<Arch, A, S>> / panel_columns<S>;
    const Index group = std::clamp<Index>(weight.panels() / 16, 1, widest);
    for_each_item(executor, divide_up(weight.panels(), group), [&](Index item, Index) {
        const Index begin = item * group;
        const Index end = std::min(begin + group, weight.panels());
        linear_panels<Arch, A>(x, weight, 0, begin, end, y);
        if (bias == nullptr) return;
        const Index last = std::min(end * panel_columns<S>, weight.out());
        for (Index t = 0; t < x.rows; ++t)
            for (Index n = begin * panel_columns<S>; n < last; ++n) y(t, n) += bias[n];
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
