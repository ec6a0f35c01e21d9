// Activations as tile registers load them.
#pragma once

#include <algorithm>

#include "mla/core/views.hpp"
#include "mla/linear/multiply_piece.hpp"
#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// Panels and k of weights that products in tiles take at a time: with all panels of an item its rows are rounded once, with so
/// many k 32 of them stay in L1 beside two panels.
inline constexpr Index linear_tile_panels = 32;
inline constexpr Index linear_tile_k = 256;

/// Up to Most rows of x in units, of up to linear_tile_k values: zeros fill the last register of rows and of k.
template <class Target, class Operand, Index Most>
class TileRowsOfX {
    using Unit = typename Operand::Unit;
    static constexpr Index each = Operand::values_per_unit;
    /// An odd number of cache lines.
    static constexpr Index stride = linear_tile_k / each + simd::tile_groups;

  public:
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

    /// Lists M registers of rows from row `first` on.
    template <int M>
    void list(Index first, simd::TileRows (&rows)[simd::extent<M>]) const noexcept {
        for (Index m = 0; m < M; ++m)
            rows[m] = {units_ + (first + m * simd::tile_rows) * stride, stride * static_cast<Index>(sizeof(Unit)),
                       simd::tile_row_bytes};
    }

  private:
    alignas(64) Unit units_[simd::extent<Most * stride>];
};

/// How often a product of `rows` rows with a piece steps its prefetching.
template <class Operand, Weight S, bool Scaled>
[[nodiscard]] Index prefetch_steps_in_tiles(Index rows, const WeightPiece<S, Scaled>& piece) noexcept {
    const Index deep = divide_up(divide_up(piece.depth(), Operand::values_per_unit), simd::tile_groups);
    const Index across =
        !Scaled && rows <= simd::tile_rows ? divide_up(piece.count(), Index{3}) : divide_up(piece.count(), Index{2});
    return std::max(divide_up(rows, 2 * simd::tile_rows) * across * deep, Index{1});
}

}  // namespace mla::inline MLA_ISA::detail
