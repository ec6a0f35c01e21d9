// Products of activations with packed weights in tile registers (simd/tile_config.hpp).
//
//     y [row, column] (+)= x [row, k], rounded and packed a piece at a time, · weights [pair of k][column][2] as their panels lie
//
// Any number of rows goes this way, so that a row gets the same bits in every batch: of few the registers wait for memory.
#pragma once

#include <algorithm>

#include "mla/core/views.hpp"
#include "mla/linear/multiply_piece.hpp"
#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of x in units, `registers` of them high: zeros fill the last register of rows and of k.
template <class Target, class Operand>
class TileRowsOfX {
    using Unit = typename Operand::Unit;
    static constexpr Index each = Operand::values_per_unit;
    /// An odd number of cache lines.
    static constexpr Index stride = linear_piece_k / each + simd::tile_groups;

  public:
    static constexpr Index most = 2 * simd::tile_rows;

    /// Up to `most` rows, of up to linear_piece_k values.
    explicit TileRowsOfX(const MatrixView<const float>& x) noexcept {
        const Index units = divide_up(x.cols, each);
        const Index filled = round_up(units, simd::tile_groups);
        const Index high = round_up(x.rows, simd::tile_rows);
        for (Index m = 0; m < high; ++m) {
            Unit* const row = units_ + m * stride;
            if (m < x.rows) Operand::template to_units<Target>(x.row(m), x.cols, 1.0F, row);
            std::fill(row + (m < x.rows ? units : 0), row + filled, Unit());
        }
    }

    template <int M>
    void list(simd::TileRows (&rows)[simd::extent<M>]) const noexcept {
        for (Index m = 0; m < M; ++m)
            rows[m] = {units_ + m * simd::tile_rows * stride, stride * static_cast<Index>(sizeof(Unit)), simd::tile_row_bytes};
    }

  private:
    alignas(64) Unit units_[simd::extent<most * stride>];
};

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
void multiply_piece_columns(simd::TileRegisters<Target>& registers, const TileRowsOfX<Target, Operand>& x,
                            const WeightPiece<S, false>& piece, const MatrixView<float>& y, simd::Prefetch& next) noexcept {
    using Unit = typename Operand::Unit;
    static_assert(panel_columns<S> == simd::tile_groups, "a panel is a register of columns");
    simd::TileRows rows[simd::extent<M>];
    x.template list<M>(rows);
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
    constexpr Index most = TileRowsOfX<Target, Operand>::most;
    for (Index row = 0; row < x.rows; row += most) {
        const Index some = std::min(most, x.rows - row);
        const TileRowsOfX<Target, Operand> packed(MatrixView<const float>(x.row(row), some, x.cols, x.stride));
        const MatrixView<float> part(y.row(row), some, y.cols, y.stride);
        some > simd::tile_rows ? multiply_piece_columns<Target, Operand, 2>(registers, packed, piece, part, next)
                               : multiply_piece_columns<Target, Operand, 1>(registers, packed, piece, part, next);
    }
}

/// How often a product of `rows` rows with a piece steps its prefetching.
template <class Operand, Weight S>
[[nodiscard]] Index prefetch_steps_in_tiles(Index rows, const WeightPiece<S, false>& piece) noexcept {
    const Index deep = divide_up(divide_up(piece.depth(), Operand::values_per_unit), simd::tile_groups);
    const Index across = rows <= simd::tile_rows ? divide_up(piece.count(), Index{3}) : divide_up(piece.count(), Index{2});
    return std::max(divide_up(rows, 2 * simd::tile_rows) * across * deep, Index{1});
}

}  // namespace mla::inline MLA_ISA::detail
