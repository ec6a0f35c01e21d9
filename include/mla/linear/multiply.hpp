// Products of activations with packed weights on a target, piece by piece: of weights multiplied as they lie, and of those with
// scales, which many rows share the unpacking of.
#pragma once

#include <algorithm>

#include "mla/core/float_environment.hpp"
#include "mla/core/kernel_table.hpp"
#include "mla/core/views.hpp"
#include "mla/formats/formats.hpp"
#include "mla/linear/multiply_in_tiles.hpp"
#include "mla/linear/multiply_piece.hpp"
#include "mla/linear/multiply_unpacked_in_tiles.hpp"
#include "mla/linear/panels.hpp"
#include "mla/linear/pieces.hpp"
#include "mla/linear/unpack_panels.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows that wait for memory rather than for arithmetic: their products are taken one by one on every target. In pairs of bf16
/// one token took 1.2 times as long (Zen 5).
inline constexpr int linear_few_rows = 4;

/// Values of few rows that are rounded at a time: 32 KiB of float, all that one row of most layers has.
inline constexpr Index linear_few_values = 16 * linear_piece_k;

/// Panels and k of weights that many rows unpack at a time: 32 KiB when unpacked.
inline constexpr Index linear_unpacked_panels = 8;
inline constexpr Index linear_unpacked_k = most_scale_step;

/// y (+)= x [rows, columns] · panels of a matrix from row first_k of it on, in pieces of `columns`. Every element is summed in
/// the same order, however the work is cut: over pieces of k, and k in a piece, ascending.
template <class Target, class Operand, int Widest, Weight S, Compute A>
void multiply_pieces(const abi::MultiplyPanels<A>& call, const MatrixView<const A>& x, Index first_k, Index columns) noexcept {
    const MatrixView<A> y(call.y, call.rows, call.out, call.y_stride);
    const Pieces<S> pieces(call, columns / panel_columns<S>, linear_piece_k, first_k, first_k + x.cols);
    for (auto piece = pieces.first(); piece.count() > 0;) {
        const auto after = pieces.after(piece);
        NextPiece next(after, prefetch_steps<Target, Operand, Widest, A>(x.rows, piece));
        multiply_piece<Target, Operand, Widest>(x.columns(piece.k_begin - first_k, piece.depth()), piece, y, next.prefetch());
        piece = after;
    }
}

/// The products of few rows, which read their panels front to back; where they are rounded all columns share that.
template <class Target, class Operand, Weight S, Compute A>
void multiply_few(const abi::MultiplyPanels<A>& call, const MatrixView<const A>& x) noexcept {
    using Plain = operands::Plain<A>;
    if constexpr (std::is_same_v<Operand, Plain>) {
        multiply_pieces<Target, Plain, linear_few_rows, S>(call, x, 0, linear_few_columns<S>);
    } else {
        alignas(64) A rounded[simd::extent<linear_few_values>];
        const Index depth = linear_few_values / std::max(x.rows, Index{1}) / linear_piece_k * linear_piece_k;
        Index k = 0;
        do {
            const Index some = std::min(depth, call.in - k);
            for (Index m = 0; m < x.rows; ++m) Operand::template to_units<Target>(x.row(m) + k, some, A(1), rounded + m * depth);
            const MatrixView<const A> units(rounded, x.rows, some, depth);
            multiply_pieces<Target, Plain, linear_few_rows, S>(call, units, k, linear_few_columns<S>);
            k += some;
        } while (k < call.in);
    }
}

/// A piece unpacked to panels [panel][k / 2][columns][2].
template <class Target, Weight S>
[[nodiscard]] WeightPiece<UnpackedWeight, true> unpack(const WeightPiece<S, true>& piece, simd::Bf16Pair* pairs) noexcept {
    constexpr Index columns = panel_columns<S>;
    constexpr Index pairs_per_panel = linear_unpacked_k / 2 * columns;
    for (Index p = 0; p < piece.count(); ++p)
        for (Index k = 0; k < piece.depth(); k += panel_row_step<S>)
            unpack_row_step<Target, true>(piece.panel(piece.panel_begin + p) + k * columns / Format<S>::panel_values,
                                          pairs + p * pairs_per_panel + k / 2 * columns);
    return {.first = reinterpret_cast<const UnpackedWeight*>(pairs),
            .panel_elements = 2 * pairs_per_panel,
            .panel_begin = piece.panel_begin,
            .panel_end = piece.panel_end,
            .k_begin = piece.k_begin,
            .k_end = piece.k_end,
            .scales = piece.scales};
}

/// The products of many rows with weights that have scales: each piece is unpacked once for all of them.
template <class Target, class Operand, Weight S, Compute A>
void multiply_unpacked(const abi::MultiplyPanels<A>& call, const MatrixView<const A>& x) noexcept {
    constexpr int widest = linear_tile_rows<Target>;
    alignas(64) simd::Bf16Pair pairs[simd::extent<linear_unpacked_panels * linear_unpacked_k / 2 * panel_columns<S>>];
    const MatrixView<A> y(call.y, call.rows, call.out, call.y_stride);
    const Pieces<S> pieces(call, linear_unpacked_panels, linear_unpacked_k, 0, x.cols);
    for (auto piece = pieces.first(); piece.count() > 0;) {
        const auto after = pieces.after(piece);
        const auto unpacked = unpack<Target>(piece, pairs);
        NextPiece next(after, prefetch_steps<Target, Operand, widest, A>(x.rows, unpacked));
        multiply_piece<Target, Operand, widest>(x.columns(piece.k_begin, piece.depth()), unpacked, y, next.prefetch());
        piece = after;
    }
}

/// A single tile of rows reads its panels front to back, unless it would be rounded for each of them.
template <class Target, class Operand, Weight S, Compute A>
void multiply_in_vectors(const abi::MultiplyPanels<A>& call, const MatrixView<const A>& x) noexcept {
    if (x.rows <= linear_few_rows) {
        multiply_few<Target, operands::UnpairedOf<Operand, A>, S>(call, x);
    } else if constexpr (QuantisedWeight<S>) {
        multiply_unpacked<Target, Operand, S>(call, x);
    } else {
        constexpr int widest = linear_tile_rows<Target>;
        const bool front_to_back = std::is_same_v<Operand, operands::Plain<A>> && x.rows <= widest;
        multiply_pieces<Target, Operand, widest, S>(call, x, 0, front_to_back ? linear_few_columns<S> : linear_piece_columns<S>);
    }
}

/// y = x · panels of a matrix, its weights of S in an operand. Scales for so few k that they fill no register stay in vectors.
template <class Target, class Operand, Weight S, Compute A>
void multiply_panels(const abi::MultiplyPanels<A>* call) noexcept {
    const FloatEnvironment environment;
    const MatrixView<const A> x(call->x, call->rows, call->in, call->x_stride);
    if constexpr (!Operand::in_tiles) {
        multiply_in_vectors<Target, Operand, S>(*call, x);
    } else if constexpr (!QuantisedWeight<S>) {
        multiply_in_tiles<Target, Operand, S>(*call, x);
    } else if (call->scale_step % linear_tile_step == 0) {
        multiply_unpacked_in_tiles<Target, Operand, S>(*call, x);
    } else {
        multiply_in_vectors<Target, operands::InVectors<Target, Operand>, S>(*call, x);
    }
}

/// What weights of S are multiplied as: quantised ones as what holds their codes.
template <class Target, Weight S, Precision P>
using WeightOperand = operands::OperandOf<Target, compute_t<S>, std::conditional_t<QuantisedWeight<S>, UnpackedWeight, S>, P>;

/// As a target's table has it.
template <class Target, Weight S, Precision P>
inline constexpr abi::LinearKernels<compute_t<S>> linear_of{
    multiply_panels<Target, WeightOperand<Target, S, P>, S, compute_t<S>>};

}  // namespace mla::inline MLA_ISA::detail
