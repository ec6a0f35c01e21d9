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

/// Rows that wait for memory rather than for arithmetic: their products are taken one by one on every target. In pairs of bf16
/// one token took 1.2 times as long (Zen 5).
inline constexpr int linear_few_rows = 4;

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

/// Values of few rows that are rounded at a time: 32 KiB of float, all that one row of most layers has.
inline constexpr Index linear_few_values = 16 * linear_piece_k;

/// Columns of a piece: 256 KiB of weights, read from L2 by all tiles of rows but the first.
template <Storage S>
inline constexpr Index linear_piece_columns = (256 << 10) / (linear_piece_k * static_cast<Index>(sizeof(S)));

/// Products for k in [k_begin, k_end) and panels [panel_begin, panel_end) of one matrix.
template <Storage S>
struct WeightPiece {
    const S* panels;       ///< panel 0
    Index panel_elements;  ///< from panel to panel
    Index first_k;         ///< of the columns of x
    Index last_k;          ///< behind them
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

/// The same of x [M, columns] as it lies, its values rounded where the operand is.
template <class Target, class Operand, int M, Compute A, Storage S>
void multiply_rows(const MatrixView<const A>& x, const WeightPiece<S>& piece, const MatrixView<A>& y, simd::Prefetch& next) {
    const Index begin = piece.k_begin - piece.first_k;
    if constexpr (std::is_same_v<Operand, operands::Plain<A>>) {
        multiply_tiles<Target, Operand, M>(x.data + begin, x.stride, piece, y, next);
    } else {
        constexpr Index stride = linear_piece_k / Operand::values_per_unit;
        alignas(64) typename Operand::Unit rounded[simd::extent<M * stride>];
        for (Index m = 0; m < M; ++m)
            Operand::template to_units<Target>(x.row(m) + begin, piece.depth(), A(1), rounded + m * stride);
        multiply_tiles<Target, Operand, M>(rounded, stride, piece, y, next);
    }
}

/// y (+)= x · a piece, rows in tiles of Widest, 8, 4, 2 and 1, so that no row is computed twice. Fetches `next` meanwhile.
template <class Target, class Operand, int Widest, Compute A, Storage S>
void multiply_piece(const MatrixView<const A>& x, const WeightPiece<S>& piece, const WeightPiece<S>& next,
                    const MatrixView<A>& y) {
    const void* panels[simd::extent<linear_piece_columns<S> / panel_columns<S>>];
    for (Index p = 0; p < next.count(); ++p) panels[p] = next.panel(next.panel_begin + p);
    const Index tiles_across = divide_up(piece.count() * panel_columns<S>, 2 * simd::lanes<Target, A>);
    const Index steps = divide_up(x.rows, Index{Widest}) * tiles_across *
                        divide_up(divide_up(piece.depth(), Operand::values_per_unit), linear_prefetch_step<Target>);
    simd::Prefetch fetch({panels, static_cast<std::size_t>(next.count())}, {}, next.panel_bytes(), std::max(steps, Index{1}));
    Index row = 0;
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; row + M <= x.rows; row += M)
            multiply_rows<Target, Operand, M>(MatrixView<const A>(x.row(row), M, x.cols, x.stride), piece,
                                              MatrixView<A>(y.row(row), M, y.cols, y.stride), fetch);
    };
    tiles(std::integral_constant<int, Widest>{});
    if constexpr (Widest > 8) tiles(std::integral_constant<int, 8>{});
    if constexpr (Widest > 4) tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

/// The piece after one: further down the same panels, then the top of the next `panels`; none after the last.
template <Storage S>
[[nodiscard]] WeightPiece<S> piece_after(const WeightPiece<S>& piece, Index panels, Index panel_end) noexcept {
    WeightPiece<S> next = piece;
    next.k_begin = piece.k_end;
    if (next.k_begin >= piece.last_k) {
        next.k_begin = piece.first_k;
        next.panel_begin = piece.panel_end;
        next.panel_end = std::min(next.panel_begin + panels, panel_end);
    }
    next.k_end = std::min(next.k_begin + linear_piece_k, piece.last_k);
    return next;
}

/// y (+)= x [rows, columns] · panels of a matrix from row first_k of it on, in pieces of `columns`. Every element is summed in
/// the same order, however the work is cut: over pieces of k, and k in a piece, ascending.
template <class Target, class Operand, int Widest, Storage S, Compute A>
void multiply_pieces(const abi::MultiplyPanels<A>& call, const MatrixView<const A>& x, Index first_k, Index columns) noexcept {
    const MatrixView<A> y(call.y, call.rows, call.out, call.y_stride);
    const Index panels = columns / panel_columns<S>;
    WeightPiece<S> piece{.panels = static_cast<const S*>(call.panels),
                         .panel_elements = panel_elements<S>(call.in),
                         .first_k = first_k,
                         .last_k = first_k + x.cols,
                         .panel_begin = call.panel_begin,
                         .panel_end = std::min(call.panel_begin + panels, call.panel_end),
                         .k_begin = first_k,
                         .k_end = first_k + std::min(linear_piece_k, x.cols)};
    while (piece.count() > 0) {
        const auto next = piece_after(piece, panels, call.panel_end);
        multiply_piece<Target, Operand, Widest>(x, piece, next, y);
        piece = next;
    }
}

/// The products of few rows, which read their panels front to back; where they are rounded all columns share that.
template <class Target, class Operand, Storage S, Compute A>
void multiply_few(const abi::MultiplyPanels<A>& call, const MatrixView<const A>& x) noexcept {
    using Plain = operands::Plain<A>;
    if constexpr (std::is_same_v<Operand, Plain>) {
        multiply_pieces<Target, Plain, linear_few_rows, S>(call, x, 0, linear_few_columns);
    } else {
        alignas(64) A rounded[simd::extent<linear_few_values>];
        const Index depth = linear_few_values / std::max(x.rows, Index{1}) / linear_piece_k * linear_piece_k;
        Index k = 0;
        do {
            const Index some = std::min(depth, call.in - k);
            for (Index m = 0; m < x.rows; ++m) Operand::template to_units<Target>(x.row(m) + k, some, A(1), rounded + m * depth);
            const MatrixView<const A> units(rounded, x.rows, some, depth);
            multiply_pieces<Target, Plain, linear_few_rows, S>(call, units, k, linear_few_columns);
            k += some;
        } while (k < call.in);
    }
}

/// y = x · panels of a matrix, its weights of S in an operand. A single tile of rows reads its panels front to back, unless it
/// would be rounded for each of them.
template <class Target, class Operand, Storage S, Compute A>
void multiply_panels(const abi::MultiplyPanels<A>* call) noexcept {
    const FloatEnvironment environment;
    const MatrixView<const A> x(call->x, call->rows, call->in, call->x_stride);
    if (x.rows <= linear_few_rows) return multiply_few<Target, operands::UnpairedOf<Operand, A>, S>(*call, x);
    constexpr int widest = linear_tile_rows<Target>;
    const bool front_to_back = std::is_same_v<Operand, operands::Plain<A>> && x.rows <= widest;
    multiply_pieces<Target, Operand, widest, S>(*call, x, 0, front_to_back ? linear_few_columns : linear_piece_columns<S>);
}

/// As a target's table has it.
template <class Target, Storage S, Precision P>
inline constexpr abi::LinearKernels<compute_t<S>> linear_of{
    multiply_panels<Target, operands::OperandOf<Target, compute_t<S>, S, P>, S, compute_t<S>>};

}  // namespace mla::inline MLA_ISA::detail
