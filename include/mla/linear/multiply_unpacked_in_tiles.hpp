// Products of activations with packed weights that have scales, in tile registers.
//
// Codes are exact in bf16. Strips of two panels are unpacked to what registers load, each while the one before is multiplied by
// 64 rows, so that products hide it. Sums over the k of a scale leave their registers and are multiplied by it on the way to y.
#pragma once

#include <algorithm>

#include "mla/linear/pieces.hpp"
#include "mla/linear/tile_rows_of_x.hpp"
#include "mla/linear/unpack_panels.hpp"
#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// k of a register. Scales are for a multiple of it.
inline constexpr Index linear_tile_step = 2 * simd::tile_rows;
/// Panels of a strip: what a square of registers takes.
inline constexpr Index linear_strip_panels = 2;
/// Rows that a strip is unpacked for.
inline constexpr Index linear_strip_rows = 64;

/// Codes of a piece's panels that lie side by side.
template <Weight S>
struct Strip {
    const S* codes = nullptr;
    Index panel_elements = 0;
    Index panels = 0;
    Index depth = 0;

    /// From `panel` on, or none after the last.
    [[nodiscard]] static Strip of(const WeightPiece<S, true>& piece, Index panel) noexcept {
        return {piece.panel(panel), piece.panel_elements, std::clamp(piece.panel_end - panel, Index{0}, linear_strip_panels),
                piece.depth()};
    }
};

/// A strip that is multiplied, and the next one, which is unpacked meanwhile.
template <class Target, Weight S>
class UnpackedStrips {
    static constexpr Index columns = panel_columns<S>;
    static_assert(columns == simd::tile_groups, "a panel is a register of columns");
    static constexpr Index row_step = panel_row_step<S>;

  public:
    /// Pairs from panel to panel.
    static constexpr Index panel_pairs = linear_tile_k / 2 * columns;

    explicit UnpackedStrips(const Strip<S>& first) noexcept { advance(first, 1, none_); }
    UnpackedStrips(const UnpackedStrips&) = delete;
    UnpackedStrips& operator=(const UnpackedStrips&) = delete;

    /// Unpacks what is left of the strip that was the next, which becomes the one to multiply; `next` is unpacked in about
    /// `steps` steps, each of which fetches too.
    void advance(const Strip<S>& next, Index steps, simd::Prefetch& fetch) noexcept {
        unpack(left_);
        now_ = 1 - now_;
        next_ = next;
        panel_ = row_ = 0;
        left_ = next.panels * divide_up(next.depth, row_step);
        each_ = divide_up(left_, steps);
        fetch_ = &fetch;
    }

    /// [panel][k / 2][columns][2], zeros after the last k up to a whole register.
    [[nodiscard]] const simd::Bf16Pair* pairs() const noexcept { return pairs_[now_]; }

    MLA_ALWAYS_INLINE void step() noexcept {
        fetch_->step();
        if (left_ > 0) unpack(std::min(each_, left_));
    }

  private:
    /// `count` steps of rows.
    MLA_NEVER_INLINE void unpack(Index count) noexcept {
        for (left_ -= count; count > 0; --count) {
            simd::Bf16Pair* const to = pairs_[1 - now_] + panel_ * panel_pairs + row_ / 2 * columns;
            unpack_row_step<Target, false>(next_.codes + panel_ * next_.panel_elements + row_ * columns / Format<S>::panel_values,
                                           to);
            row_ += row_step;
            if (row_ < next_.depth) continue;
            std::fill_n(to + row_step / 2 * columns, (round_up(row_, linear_tile_step) - row_) / 2 * columns, simd::Bf16Pair());
            row_ = 0;
            ++panel_;
        }
    }

    Strip<S> next_;
    Index panel_ = 0;  ///< of next_, where unpacking goes on
    Index row_ = 0;
    Index left_ = 0;  ///< steps of rows
    Index each_ = 0;  ///< of them at each step of a product
    Index now_ = 0;
    simd::Prefetch none_;
    simd::Prefetch* fetch_ = nullptr;
    alignas(64) simd::Bf16Pair pairs_[2][simd::extent<linear_strip_panels * panel_pairs>];
};

/// y [columns of a panel] (+)= scales · sums, of numbers loaded of elements.
template <class Target, class Element>
MLA_ALWAYS_INLINE void add_scaled(const float* sums, const simd::Batch<Target, float>& scales, bool accumulate,
                                  float* y) noexcept {
    using Batch = simd::Batch<Target, float>;
    Batch sum = Batch::load_unaligned(sums);
    if constexpr (loaded_unit<Element> != 1.0F) sum = sum * Batch(loaded_unit<Element>);
    (accumulate ? simd::fma<Target, float>(sum, scales, Batch::load_unaligned(y)) : sum * scales).store_unaligned(y);
}

/// y (+)= sums [M registers of rows, N panels], times the scales of their columns, from `scales` on.
template <class Target, class Element, int N>
void add_scaled_sums(const float* sums, const float* scales, Index scale_stride, bool accumulate,
                     const MatrixView<float>& y) noexcept {
    constexpr Index width = simd::tile_groups;
    static_assert(simd::lanes<Target, float> == width);
    for (Index n = 0; n < N; ++n) {
        const auto factors = simd::Batch<Target, float>::load_unaligned(scales + n * scale_stride);
        const Index columns = std::min(y.cols - n * width, width);
        for (Index m = 0; m < y.rows; ++m) {
            const float* const sum = sums + (m * N + n) * width;
            float* const cells = y.row(m) + n * width;
            if (columns == width) {
                add_scaled<Target, Element>(sum, factors, accumulate, cells);
            } else {
                alignas(64) float edge[simd::extent<width>] = {};
                if (accumulate) std::copy_n(cells, columns, edge);
                add_scaled<Target, Element>(sum, factors, accumulate, edge);
                std::copy_n(edge, columns, cells);
            }
        }
    }
}

/// y [M registers of rows or fewer, N panels] (+)= x · a strip over `steps` registers of k, a scale for each scales.step k.
template <class Target, int M, int N, Weight S>
MLA_NEVER_INLINE void multiply_scaled_in_registers(simd::TileRegisters<Target>& registers, const simd::TileRows* x,
                                                   UnpackedStrips<Target, S>& strips, Index steps,
                                                   const PanelScales<float>& scales, bool accumulate,
                                                   const MatrixView<float>& y) noexcept {
    constexpr Index width = N * simd::tile_groups;
    alignas(64) float sums[simd::extent<M * simd::tile_rows * width>];
    simd::TileRows rows[simd::extent<M>], columns[simd::extent<N>];
    std::copy_n(x, M, rows);
    for (Index n = 0; n < N; ++n)
        columns[n] = {strips.pairs() + n * strips.panel_pairs, simd::tile_row_bytes, simd::tile_rows * simd::tile_row_bytes};
    const float* factors = scales.data;
    const Index most = scales.step / linear_tile_step;
    for (; steps > 0; steps -= most) {
        const Index some = std::min(steps, most);
        simd::TileProduct<Target, M, N> product(registers);
        product.clear();
        product.multiply(some, rows, columns, strips);
        product.store(sums, width);
        for (simd::TileRows& row : rows) row.first = row.at(some);
        for (simd::TileRows& column : columns) column.first = column.at(some);
        add_scaled_sums<Target, typename Format<S>::PanelElement, N>(sums, factors, scales.panel_stride, accumulate, y);
        factors += simd::tile_groups;
        accumulate = true;
    }
}

/// y (+)= x · the strip at panel `panel` of a piece.
template <class Target, class Operand, int N, Weight S>
void multiply_strip(simd::TileRegisters<Target>& registers, const TileRowsOfX<Target, Operand, linear_strip_rows>& x,
                    const WeightPiece<S, true>& piece, Index panel, UnpackedStrips<Target, S>& strips,
                    const MatrixView<float>& y) noexcept {
    const Index column = panel * panel_columns<S>;
    const Index steps = divide_up(piece.depth(), linear_tile_step);
    const PanelScales<float> scales{piece.scales.at(column, piece.k_begin), piece.scales.step, piece.scales.panel_stride};
    const auto rows = [&]<int M>(std::integral_constant<int, M>, Index first) {
        simd::TileRows list[simd::extent<M>];
        x.template list<M>(first, list);
        const MatrixView<float> part(y.row(first) + column, std::min(y.rows - first, M * simd::tile_rows),
                                     std::min(y.cols - column, N * panel_columns<S>), y.stride);
        multiply_scaled_in_registers<Target, M, N>(registers, list, strips, steps, scales, piece.k_begin > 0, part);
    };
    for (Index first = 0; first < y.rows; first += 2 * simd::tile_rows)
        y.rows - first > simd::tile_rows ? rows(std::integral_constant<int, 2>{}, first)
                                         : rows(std::integral_constant<int, 1>{}, first);
}

/// Rows of y (+)= rows of x, up to linear_strip_rows, · a piece whose first strip is the next; `following` will be the next then.
template <class Target, class Operand, Weight S>
void multiply_strips(simd::TileRegisters<Target>& registers, const MatrixView<const float>& x, const WeightPiece<S, true>& piece,
                     const Strip<S>& following, UnpackedStrips<Target, S>& strips, simd::Prefetch& fetch,
                     const MatrixView<float>& y) noexcept {
    const TileRowsOfX<Target, Operand, linear_strip_rows> packed(x);
    const Index steps = divide_up(x.rows, 2 * simd::tile_rows) * divide_up(piece.depth(), linear_tile_step);
    for (Index panel = piece.panel_begin; panel < piece.panel_end; panel += linear_strip_panels) {
        const Index after = panel + linear_strip_panels;
        strips.advance(after < piece.panel_end ? Strip<S>::of(piece, after) : following, steps, fetch);
        piece.panel_end - panel > 1 ? multiply_strip<Target, Operand, 2>(registers, packed, piece, panel, strips, y)
                                    : multiply_strip<Target, Operand, 1>(registers, packed, piece, panel, strips, y);
    }
}

/// y = x · panels of weights that have scales for a multiple of linear_tile_step k.
template <class Target, class Operand, Weight S>
void multiply_unpacked_in_tiles(const abi::MultiplyPanels<float>& call, const MatrixView<const float>& x) noexcept {
    simd::TileRegisters<Target> registers;
    const MatrixView<float> y(call.y, call.rows, call.out, call.y_stride);
    const Pieces<S> pieces(call, linear_tile_panels, linear_tile_k, 0, x.cols);
    auto piece = pieces.first();
    UnpackedStrips<Target, S> strips(Strip<S>::of(piece, piece.panel_begin));
    while (piece.count() > 0) {
        const auto after = pieces.after(piece);
        const MatrixView<const float> columns = x.columns(piece.k_begin, piece.depth());
        NextPiece next(after, prefetch_steps_in_tiles<Operand>(x.rows, piece));
        for (Index row = 0; row < x.rows; row += linear_strip_rows) {
            const Index some = std::min(linear_strip_rows, x.rows - row);
            const auto& following = row + some < x.rows ? piece : after;
            multiply_strips<Target, Operand>(registers, columns.row_range(row, some), piece,
                                             Strip<S>::of(following, following.panel_begin), strips, next.prefetch(),
                                             y.row_range(row, some));
        }
        piece = after;
    }
}

}  // namespace mla::inline MLA_ISA::detail
