// Products of activations with packed weights in tile registers (simd/tile_config.hpp).
//
//     y [row, column] (+)= x [row, k], rounded and packed a piece at a time, · weights [pair of k][column][2] as their panels lie
//
// Any number of rows goes this way, so that a row gets the same bits in every batch: of few the registers wait for memory.
#pragma once

#include <algorithm>

#include "mla/core/views.hpp"
#include "mla/linear/pieces.hpp"
#include "mla/linear/tile_rows_of_x.hpp"
#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// y [M registers of rows, N panels] (+)= x · weights of `pairs` pairs of k.
template <class Target, int M, int N, class Unit>
MLA_NEVER_INLINE void multiply_in_registers(simd::TileRegisters<Target>& registers, const simd::TileRows* x, const Unit* panel,
                                            Index panel_units, Index pairs, bool accumulate, float* y, Index y_stride,
                                            simd::Prefetch& next) noexcept {
    constexpr Index cell = simd::tile_rows * simd::tile_groups;  // a register
    const Index whole = pairs / simd::tile_rows;
    const Index rest = pairs % simd::tile_rows;
    simd::TileRows rows[simd::extent<M>], columns[simd::extent<N>];
    std::copy_n(x, M, rows);
    for (Index n = 0; n < N; ++n)
        columns[n] = {panel + n * panel_units, simd::tile_row_bytes, cell * static_cast<Index>(sizeof(Unit))};
    simd::TileProduct<Target, M, N> product(registers);
    accumulate ? product.load(y, y_stride) : product.clear();
    product.multiply(whole, rows, columns, next);
    if (rest > 0) {
        alignas(64) Unit last[simd::extent<N * cell>];
        for (Index n = 0; n < N; ++n) {
            Unit* const end =
                std::copy_n(static_cast<const Unit*>(columns[n].at(whole)), rest * simd::tile_groups, last + n * cell);
            std::fill(end, last + (n + 1) * cell, Unit());
            columns[n].first = last + n * cell;
        }
        for (simd::TileRows& row : rows) row.first = row.at(whole);
        product.multiply(1, rows, columns, next);
    }
    product.store(y, y_stride);
}

/// The same into a y that may be smaller.
template <class Target, int M, int N, class Unit>
void multiply_into(simd::TileRegisters<Target>& registers, const simd::TileRows* x, const Unit* panel, Index panel_units,
                   Index pairs, bool accumulate, const MatrixView<float>& y, simd::Prefetch& next) noexcept {
    constexpr Index height = M * simd::tile_rows, width = N * simd::tile_groups;
    if (y.rows == height && y.cols == width)
        return multiply_in_registers<Target, M, N>(registers, x, panel, panel_units, pairs, accumulate, y.data, y.stride, next);
    alignas(64) float edge[simd::extent<height * width>] = {};
    if (accumulate)
        for (Index m = 0; m < y.rows; ++m) std::copy_n(y.row(m), y.cols, edge + m * width);
    multiply_in_registers<Target, M, N>(registers, x, panel, panel_units, pairs, accumulate, edge, width, next);
    for (Index m = 0; m < y.rows; ++m) std::copy_n(edge + m * width, y.cols, y.row(m));
}

/// All columns of a piece for up to M registers of rows of x, into y [rows, out].
template <class Target, class Operand, int M, Weight S>
void multiply_piece_columns(simd::TileRegisters<Target>& registers, const TileRowsOfX<Target, Operand, 2 * simd::tile_rows>& x,
                            const WeightPiece<S, false>& piece, const MatrixView<float>& y, simd::Prefetch& next) noexcept {
    using Unit = typename Operand::Unit;
    static_assert(panel_columns<S> == simd::tile_groups, "a panel is a register of columns");
    simd::TileRows rows[simd::extent<M>];
    x.template list<M>(0, rows);
    Index panel = piece.panel_begin;
    const auto columns = [&]<int N>(std::integral_constant<int, N>) {
        for (; panel + N <= piece.panel_end; panel += N) {
            const Index column = panel * panel_columns<S>;
            const MatrixView<float> part(y.data + column, y.rows, std::min(y.cols - column, N * panel_columns<S>), y.stride);
            multiply_into<Target, M, N>(registers, rows, reinterpret_cast<const Unit*>(piece.panel(panel)),
                                        piece.panel_elements / Operand::values_per_unit,
                                        divide_up(piece.depth(), Operand::values_per_unit), piece.k_begin > 0, part, next);
        }
    };
    columns(std::integral_constant < int, M == 1 ? 3 : 2 > {});
    if constexpr (M == 1) columns(std::integral_constant<int, 2>{});
    columns(std::integral_constant<int, 1>{});
}

/// y (+)= x [rows, k of the piece] · a piece.
template <class Target, class Operand, Weight S>
void multiply_piece_in_tiles(simd::TileRegisters<Target>& registers, const MatrixView<const float>& x,
                             const WeightPiece<S, false>& piece, const MatrixView<float>& y, simd::Prefetch& next) noexcept {
    constexpr Index most = 2 * simd::tile_rows;
    for (Index row = 0; row < x.rows; row += most) {
        const Index some = std::min(most, x.rows - row);
        const TileRowsOfX<Target, Operand, most> packed(MatrixView<const float>(x.row(row), some, x.cols, x.stride));
        const MatrixView<float> part(y.row(row), some, y.cols, y.stride);
        some > simd::tile_rows ? multiply_piece_columns<Target, Operand, 2>(registers, packed, piece, part, next)
                               : multiply_piece_columns<Target, Operand, 1>(registers, packed, piece, part, next);
    }
}

/// y = x · panels of weights that registers take as they lie.
template <class Target, class Operand, Weight S>
void multiply_in_tiles(const abi::MultiplyPanels<float>& call, const MatrixView<const float>& x) noexcept {
    simd::TileRegisters<Target> registers;
    const MatrixView<float> y(call.y, call.rows, call.out, call.y_stride);
    const Pieces<S> pieces(call, linear_tile_panels, linear_tile_k, 0, x.cols);
    for (auto piece = pieces.first(); piece.count() > 0;) {
        const auto after = pieces.after(piece);
        NextPiece next(after, prefetch_steps_in_tiles<Operand>(x.rows, piece));
        multiply_piece_in_tiles<Target, Operand>(registers, x.columns(piece.k_begin, piece.depth()), piece, y, next.prefetch());
        piece = after;
    }
}

}  // namespace mla::inline MLA_ISA::detail
