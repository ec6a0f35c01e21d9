// A piece of a product with packed weights: tiles of rows and columns over some panels and some k.
#pragma once

#include <algorithm>

#include "mla/core/views.hpp"
#include "mla/formats/formats.hpp"
#include "mla/linear/panels.hpp"
#include "mla/simd/tile.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of the widest tile. With 32 registers 12×2 sums, 2 weights and 1 activation take 27; with 16, 6×2 take 15.
template <class Target>
inline constexpr int linear_tile_rows = Target::registers == 32 ? 12 : 6;

/// Columns that few rows take at a time: with 8 lanes 4 vectors, enough independent sums to hide the latency of an FMA. Codes
/// come from memory faster than 16 bits do, so that 16 lanes need as many sums.
template <Weight S>
inline constexpr Index linear_few_columns = QuantisedWeight<S> ? 64 : 32;

/// Vectors of a tile of M rows.
template <class Target, int M, Weight S>
inline constexpr int linear_tile_vectors =
    M <= 2 ? static_cast<int>(std::min<Index>(linear_few_columns<S> / simd::lanes<Target, compute_t<S>>, 4)) : 2;

/// Units of a tile's products between two steps of prefetching. With 32 registers 16 cost 512 rows 5 % and 8 cost 7 % (Emerald
/// Rapids); with 16 registers GCC 12 spills at 24.
template <class Target>
inline constexpr Index linear_prefetch_step = Target::registers == 32 ? 24 : 16;

/// k of a piece: a tile's 12 rows of activations (24 KiB of float) stay in L1 while the panels of a piece pass by.
inline constexpr Index linear_piece_k = 512;

/// Weights for k in [k_begin, k_end) and panels [panel_begin, panel_end) of one matrix. Scaled: they have scales.
template <Weight S, bool Scaled>
struct WeightPiece {
    const S* first;        ///< of panel_begin, at k_begin
    Index panel_elements;  ///< from panel to panel
    Index panel_begin;
    Index panel_end;
    Index k_begin;
    Index k_end;
    PanelScales<compute_t<S>> scales;

    [[nodiscard]] Index depth() const noexcept { return k_end - k_begin; }
    [[nodiscard]] Index count() const noexcept { return panel_end - panel_begin; }
    [[nodiscard]] const S* panel(Index p) const noexcept { return first + (p - panel_begin) * panel_elements; }
};

/// Rows k of panels that lie side by side in a matrix, from a column of the first panel on, as the B of a product: of elements W
/// of weights S, or of pairs of them, whose k are pairs too.
template <Weight S, class W>
struct PanelRows {
    static constexpr int interleave = std::is_same_v<S, W> ? Format<S>::panel_interleave : 1;
    using Element = W;
    const W* first;
    Index panel_elements;
    MLA_ALWAYS_INLINE const W* row(Index k) const { return first + k * panel_columns<S> / Format<S>::panel_values; }
    [[nodiscard]] MLA_ALWAYS_INLINE Index offset(Index column) const {
        return column / panel_columns<S> * panel_elements + column % panel_columns<S> * (interleave / Format<S>::panel_values);
    }
    MLA_ALWAYS_INLINE void advance(Index k) { first += k * panel_columns<S> / Format<S>::panel_values; }
};

/// The same where two vectors fill a panel's row.
template <Weight S, class W>
struct PanelRowsInTwos : PanelRows<S, W> {
    static constexpr bool in_twos = true;
};

/// The scales of a tile's columns, for one step of k.
template <Compute A>
struct TileScales {
    const A* first;
    Index panel_stride;
    MLA_ALWAYS_INLINE const A* at(Index column) const {
        return first + column / panel_columns<A> * panel_stride + column % panel_columns<A>;
    }
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

/// The same of weights with scales, for each `step` units: sums of whole steps are multiplied by them, and added up.
template <class Target, int M, int N, Compute A, class U, class Rows>
MLA_NEVER_INLINE void multiply_scaled_tile(Index depth, Index step, const U* x, Index x_stride, Rows weights,
                                           TileScales<A> scales, MatrixView<A> y, bool accumulate, simd::Prefetch& next) {
    using Tile = simd::Tile<Target, A, M, N>;
    alignas(64) A edge[simd::extent<M * Tile::columns>];
    const bool whole = Tile::columns <= y.cols;
    A* const target = whole ? y.data : edge;
    const Index stride = whole ? y.stride : Tile::columns;
    if (!whole) std::fill_n(edge, M * Tile::columns, A(0));
    if (!whole && accumulate)
        for (Index m = 0; m < M; ++m) std::copy_n(y.row(m), y.cols, edge + m * Tile::columns);
    simd::RowsOperand<U, M> rows(x, x_stride);
    for (; depth > 0; depth -= step) {
        Tile tile;
        tile.clear();
        tile.template multiply_past<linear_prefetch_step<Target>>(std::min(depth, step), rows, weights, next);
        if constexpr (loaded_unit<typename Rows::Element> != 1.0F) tile.scale(loaded_unit<typename Rows::Element>);
        accumulate ? tile.add_by_column_to(target, stride, scales) : tile.store_by_column(target, stride, scales);
        accumulate = true;
        scales.first += panel_columns<A>;
    }
    if (!whole)
        for (Index m = 0; m < M; ++m) std::copy_n(edge + m * Tile::columns, y.cols, y.row(m));
}

/// All columns of a piece for M rows of x [M, units of the piece], into y [M, out]. The products for k = 0 overwrite y, later
/// ones add to it.
template <class Target, class Operand, int M, Compute A, Weight S, bool Scaled>
void multiply_tiles(const typename Operand::Unit* x, Index x_stride, const WeightPiece<S, Scaled>& piece, const MatrixView<A>& y,
                    simd::Prefetch& next) {
    constexpr Index each = Operand::values_per_unit;
    using Element = std::conditional_t<each == 1, typename Format<S>::PanelElement, typename Operand::Unit>;
    constexpr int widest = linear_tile_vectors<Target, M, S>;
    constexpr int narrow = static_cast<int>(std::min<Index>(panel_columns<S> / simd::lanes<Target, A>, widest));
    const Index depth = divide_up(piece.depth(), each);
    const Index end = piece.panel_end * panel_columns<S>;
    Index column = piece.panel_begin * panel_columns<S>;
    const auto tiles = [&]<int N>(std::integral_constant<int, N>) {
        constexpr Index width = N * simd::lanes<Target, A>;
        constexpr bool in_twos =
            std::is_same_v<Element, typename Format<S>::PanelElement> && simd::loads_in_twos<Target, Element> && N % 2 == 0;
        using Rows = std::conditional_t<in_twos, PanelRowsInTwos<S, Element>, PanelRows<S, Element>>;
        for (; column + width <= end && column < y.cols; column += width) {
            const S* const panel = piece.panel(column / panel_columns<S>);
            Rows weights{};
            weights.first = reinterpret_cast<const Element*>(panel);
            weights.panel_elements = piece.panel_elements / each;
            weights.first += weights.offset(column % panel_columns<S>);
            const MatrixView<A> part(y.data + column, M, std::min(y.cols - column, width), y.stride);
            if constexpr (Scaled) {
                const TileScales<A> scales{piece.scales.at(column, piece.k_begin), piece.scales.panel_stride};
                multiply_scaled_tile<Target, M, N>(depth, piece.scales.step / each, x, x_stride, weights, scales, part,
                                                   piece.k_begin > 0, next);
            } else {
                multiply_tile<Target, M, N>(depth, x, x_stride, weights, part, piece.k_begin > 0, next);
            }
        }
    };
    tiles(std::integral_constant<int, widest>{});
    if constexpr (narrow < 2 && widest > 2) tiles(std::integral_constant<int, 2>{});
    if constexpr (narrow < widest) tiles(std::integral_constant<int, narrow>{});
}

/// The same of x [M, k of the piece] as it lies, its values rounded where the operand is.
template <class Target, class Operand, int M, Compute A, Weight S, bool Scaled>
void multiply_rows(const MatrixView<const A>& x, const WeightPiece<S, Scaled>& piece, const MatrixView<A>& y,
                   simd::Prefetch& next) {
    if constexpr (std::is_same_v<Operand, operands::Plain<A>>) {
        multiply_tiles<Target, Operand, M>(x.data, x.stride, piece, y, next);
    } else {
        constexpr Index stride = linear_piece_k / Operand::values_per_unit;
        alignas(64) typename Operand::Unit rounded[simd::extent<M * stride>];
        for (Index m = 0; m < M; ++m) Operand::template to_units<Target>(x.row(m), piece.depth(), A(1), rounded + m * stride);
        multiply_tiles<Target, Operand, M>(rounded, stride, piece, y, next);
    }
}

/// How often a product of `rows` rows with a piece steps its prefetching.
template <class Target, class Operand, int Widest, Compute A, Weight S, bool Scaled>
[[nodiscard]] Index prefetch_steps(Index rows, const WeightPiece<S, Scaled>& piece) noexcept {
    const Index across = divide_up(piece.count() * panel_columns<S>, 2 * simd::lanes<Target, A>);
    const Index deep = divide_up(divide_up(piece.depth(), Operand::values_per_unit), linear_prefetch_step<Target>);
    return std::max(divide_up(rows, Index{Widest}) * across * deep, Index{1});
}

/// y (+)= x [rows, k of the piece] · a piece, rows in tiles of Widest, 8, 4, 2 and 1, so that no row is computed twice.
template <class Target, class Operand, int Widest, Compute A, Weight S, bool Scaled>
void multiply_piece(const MatrixView<const A>& x, const WeightPiece<S, Scaled>& piece, const MatrixView<A>& y,
                    simd::Prefetch& next) {
    Index row = 0;
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; row + M <= x.rows; row += M)
            multiply_rows<Target, Operand, M>(MatrixView<const A>(x.row(row), M, x.cols, x.stride), piece,
                                              MatrixView<A>(y.row(row), M, y.cols, y.stride), next);
    };
    tiles(std::integral_constant<int, Widest>{});
    if constexpr (Widest > 8) tiles(std::integral_constant<int, 8>{});
    if constexpr (Widest > 4) tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

}  // namespace mla::inline MLA_ISA::detail
