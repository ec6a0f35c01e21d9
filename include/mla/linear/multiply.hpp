// Products of activations with packed weights on a target: tiles of rows and columns over pieces of a matrix.
#pragma once

#include <algorithm>

#include "mla/core/float_environment.hpp"
#include "mla/core/kernel_table.hpp"
#include "mla/core/views.hpp"
#include "mla/formats/formats.hpp"
#include "mla/linear/panels.hpp"
#include "mla/simd/tile.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of the widest tile. With 32 registers 12×2 sums, 2 weights and 1 activation take 27; with 16, 6×2 take 15.
template <class Target>
inline constexpr int linear_tile_rows = Target::registers == 32 ? 12 : 6;

/// Columns of the tiles of one or two rows: with 8 lanes 4 vectors, enough independent sums to hide the latency of an FMA.
inline constexpr Index linear_few_columns = 32;

/// Vectors of a tile of M rows.
template <class Target, int M, Compute A>
inline constexpr int linear_tile_vectors = M <= 2
                                               ? static_cast<int>(std::min<Index>(linear_few_columns / simd::lanes<Target, A>, 4))
                                               : 2;

/// Units of a tile's products between two steps of prefetching. With 32 registers 16 cost 512 rows 5 % and 8 cost 7 % (Emerald
/// Rapids); with 16 registers GCC 12 spills at 24.
template <class Target>
inline constexpr Index linear_prefetch_step = Target::registers == 32 ? 24 : 16;

/// k of a piece: a tile's 12 rows of activations (24 KiB of float) stay in L1 while the panels of a piece pass by.
inline constexpr Index linear_piece_k = 512;

/// Columns of a piece of what is multiplied in an operand's units: 256 KiB of float or of pairs, read from L2 by all tiles of
/// rows but the first.
template <class Operand>
inline constexpr Index linear_piece_columns = 128 * Operand::values_per_unit;

/// Products for k in [k_begin, k_end) and panels [panel_begin, panel_end) of one matrix.
template <Storage S>
struct WeightPiece {
    const S* panels;       ///< panel 0
    Index panel_elements;  ///< from panel to panel
    Index in;
    Index panel_begin;
    Index panel_end;
    Index k_begin;
    Index k_end;

    [[nodiscard]] Index depth() const noexcept { return k_end - k_begin; }
    [[nodiscard]] Index count() const noexcept { return panel_end - panel_begin; }
    [[nodiscard]] const S* panel(Index p) const noexcept { return panels + p * panel_elements + k_begin * panel_columns<S>; }
    [[nodiscard]] Index panel_bytes() const noexcept { return depth() * panel_columns<S> * static_cast<Index>(sizeof(S)); }
};

/// Rows k of panels that lie side by side in a matrix, from a column of the first panel on, as the B of a product: of weights S,
/// or of pairs of them, whose k are pairs too.
template <Storage S, class W = S>
struct PanelRows {
    static constexpr int interleave = std::is_same_v<S, W> ? Format<S>::panel_interleave : 1;
    const W* first;
    Index panel_elements;
    MLA_ALWAYS_INLINE const W* row(Index k) const { return first + k * panel_columns<S>; }
    [[nodiscard]] MLA_ALWAYS_INLINE Index offset(Index column) const {
        return column / panel_columns<S> * panel_elements + column % panel_columns<S> * interleave;
    }
    MLA_ALWAYS_INLINE void advance(Index k) { first += k * panel_columns<S>; }
};

/// y [M, columns] (+)= x [M, depth] · N vectors of weights [depth, columns], depth in units U; of a tile wider than y the rest is
/// left out. Fetches `next` meanwhile.
template <class Target, int M, int N, Compute A, class U, class Rows>
MLA_NEVER_INLINE void multiply_tile(Index depth, const U* x, Index x_stride, const Rows& weights, MatrixView<A> y,
                                    bool accumulate, simd::Prefetch& next) {
    using Tile = simd::Tile<Target, A, M, N>;
    Tile tile;
    tile.clear();
    tile.template multiply<linear_prefetch_step<Target>>(depth, simd::RowsOperand<U, M>(x, x_stride), weights, next);
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
template <class Target, class Operand, int M, Compute A, Storage S>
void multiply_tiles(const typename Operand::Unit* x, Index x_stride, const WeightPiece<S>& piece, const MatrixView<A>& y,
                    simd::Prefetch& next) {
    constexpr Index each = Operand::values_per_unit;
    using Weight = std::conditional_t<each == 1, S, typename Operand::Unit>;
    constexpr int widest = linear_tile_vectors<Target, M, A>;
    constexpr int narrow = static_cast<int>(std::min<Index>(panel_columns<S> / simd::lanes<Target, A>, widest));
    const Index panel_elements = piece.panel_elements / each;
    const Index end = piece.panel_end * panel_columns<S>;
    Index column = piece.panel_begin * panel_columns<S>;
    const auto tiles = [&]<int N>(std::integral_constant<int, N>) {
        constexpr Index width = N * simd::lanes<Target, A>;
        for (; column + width <= end && column < y.cols; column += width) {
            const Index panel = column / panel_columns<S>;
            const S* const first = piece.panel(panel) + column % panel_columns<S> * Format<S>::panel_interleave;
            const PanelRows<S, Weight> weights{reinterpret_cast<const Weight*>(first), panel_elements};
            const Index columns = std::min(y.cols - column, width);
            multiply_tile<Target, M, N>(divide_up(piece.depth(), each), x, x_stride, weights,
                                        MatrixView<A>(y.data + column, M, columns, y.stride), piece.k_begin > 0, next);
        }
    };
    tiles(std::integral_constant<int, widest>{});
    if constexpr (narrow < widest) tiles(std::integral_constant<int, narrow>{});
}

/// The same of x [M, in] as it lies, its values rounded where the operand is.
template <class Target, class Operand, int M, Compute A, Storage S>
void multiply_rows(const MatrixView<const A>& x, const WeightPiece<S>& piece, const MatrixView<A>& y, simd::Prefetch& next) {
    if constexpr (std::is_same_v<Operand, operands::Plain<A>>) {
        multiply_tiles<Target, Operand, M>(x.data + piece.k_begin, x.stride, piece, y, next);
    } else {
        constexpr Index stride = linear_piece_k / Operand::values_per_unit;
        alignas(64) typename Operand::Unit rounded[simd::extent<M * stride>];
        for (Index m = 0; m < M; ++m)
            Operand::template to_units<Target>(x.row(m) + piece.k_begin, piece.depth(), A(1), rounded + m * stride);
        multiply_tiles<Target, Operand, M>(rounded, stride, piece, y, next);
    }
}

/// y (+)= x · a piece, rows in tiles of 12 (or 6), 8, 4, 2 and 1, so that no row is computed twice. Fetches `next` meanwhile.
template <class Target, class Operand, Compute A, Storage S>
void multiply_piece(const MatrixView<const A>& x, const WeightPiece<S>& piece, const WeightPiece<S>& next,
                    const MatrixView<A>& y) {
    constexpr int widest = linear_tile_rows<Target>;
    const void* panels[simd::extent<linear_piece_columns<Operand> / panel_columns<S>>];
    for (Index p = 0; p < next.count(); ++p) panels[p] = next.panel(next.panel_begin + p);
    const Index tiles_across = divide_up(piece.count() * panel_columns<S>, 2 * simd::lanes<Target, A>);
    const Index steps = divide_up(x.rows, Index{widest}) * tiles_across *
                        divide_up(divide_up(piece.depth(), Operand::values_per_unit), linear_prefetch_step<Target>);
    simd::Prefetch fetch({panels, static_cast<std::size_t>(next.count())}, {}, next.panel_bytes(), std::max(steps, Index{1}));
    Index row = 0;
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; row + M <= x.rows; row += M)
            multiply_rows<Target, Operand, M>(MatrixView<const A>(x.row(row), M, x.cols, x.stride), piece,
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
    if (next.k_begin >= piece.in) {
        next.k_begin = 0;
        next.panel_begin = piece.panel_end;
        next.panel_end = std::min(next.panel_begin + panels, panel_end);
    }
    next.k_end = std::min(next.k_begin + linear_piece_k, piece.in);
    return next;
}

/// y = x · panels of a matrix, its weights of S in an operand. Every element is summed in the same order, however the work is
/// cut: over pieces of k, and k in a piece, ascending.
template <class Target, class Operand, Storage S, Compute A>
void multiply_panels(const abi::MultiplyPanels<A>* call) noexcept {
    const FloatEnvironment environment;
    const MatrixView<const A> x(call->x, call->rows, call->in, call->x_stride);
    const MatrixView<A> y(call->y, call->rows, call->out, call->y_stride);
    // A single tile of rows reads its panels front to back, unless it would have to be rounded for each of them.
    const bool front_to_back = x.rows <= linear_tile_rows<Target> && std::is_same_v<Operand, operands::Plain<A>>;
    const Index columns = front_to_back ? linear_few_columns : linear_piece_columns<Operand>;
    const Index panels = columns / panel_columns<S>;
    WeightPiece<S> piece{static_cast<const S*>(call->panels),
                         panel_elements<S>(call->in),
                         call->in,
                         call->panel_begin,
                         std::min(call->panel_begin + panels, call->panel_end),
                         0,
                         std::min(linear_piece_k, call->in)};
    while (piece.count() > 0) {
        const auto next = piece_after(piece, panels, call->panel_end);
        multiply_piece<Target, Operand>(x, piece, next, y);
        piece = next;
    }
}

/// As a target's table has it.
template <class Target, Storage S, Precision P>
inline constexpr abi::LinearKernels<compute_t<S>> linear_of{
    multiply_panels<Target, operands::OperandOf<Target, compute_t<S>, S, P>, S, compute_t<S>>};

}  // namespace mla::inline MLA_ISA::detail
