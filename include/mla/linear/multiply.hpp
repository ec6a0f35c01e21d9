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
#include "mla/linear/panels.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows that wait for memory rather than for arithmetic: their products are taken one by one on every target. In pairs of bf16
/// one token took 1.2 times as long (Zen 5).
inline constexpr int linear_few_rows = 4;

/// Values of few rows that are rounded at a time: 32 KiB of float, all that one row of most layers has.
inline constexpr Index linear_few_values = 16 * linear_piece_k;

/// Columns of a piece: 256 KiB of weights, read from L2 by all tiles of rows but the first.
template <Storage S>
inline constexpr Index linear_piece_columns = (256 << 10) / (linear_piece_k * static_cast<Index>(sizeof(S)));

/// Panels and k of weights that many rows unpack at a time: 32 KiB when unpacked.
inline constexpr Index linear_unpacked_panels = 8;
inline constexpr Index linear_unpacked_k = most_scale_step;

/// A walk through the pieces of a call, `panels` wide and `most_k` deep: down the same panels, then on to the next.
template <Weight S>
class Pieces {
    using A = compute_t<S>;

  public:
    using Piece = WeightPiece<S, QuantisedWeight<S>>;

    /// k from `first_k` up to `last_k` of the matrix.
    Pieces(const abi::MultiplyPanels<A>& call, Index panels, Index most_k, Index first_k, Index last_k) noexcept
        : call_(call), panels_(panels), most_k_(most_k), first_k_(first_k), last_k_(last_k) {}

    [[nodiscard]] Piece first() const noexcept { return at(call_.panel_begin, first_k_); }
    /// The piece after one; none, which has no panels, after the last.
    [[nodiscard]] Piece after(const Piece& piece) const noexcept {
        return piece.k_end < last_k_ ? at(piece.panel_begin, piece.k_end) : at(piece.panel_end, first_k_);
    }

  private:
    [[nodiscard]] Piece at(Index panel, Index k) const noexcept {
        const Index elements = panel_elements<S>(call_.in);
        const S* const panels = static_cast<const S*>(call_.panels);
        const Index steps = divide_up(call_.in, std::max(call_.scale_step, Index{1}));
        return {.first = panels + panel * elements + k * panel_columns<S> / Format<S>::panel_values,
                .panel_elements = elements,
                .panel_begin = panel,
                .panel_end = std::min(panel + panels_, call_.panel_end),
                .k_begin = k,
                .k_end = std::min(k + most_k_, last_k_),
                .scales = {call_.scales, call_.scale_step, steps * panel_columns<S>}};
    }

    const abi::MultiplyPanels<A>& call_;
    Index panels_;
    Index most_k_;
    Index first_k_;
    Index last_k_;
};

/// What is to be fetched while a product runs: the panels of the piece after it.
template <class Piece>
class NextPiece {
  public:
    NextPiece(const Piece& next, Index steps) noexcept {
        const Index count = std::max(next.count(), Index{0});
        for (Index p = 0; p < count; ++p) panels_[p] = next.panel(next.panel_begin + p);
        prefetch_ = simd::Prefetch({panels_, static_cast<std::size_t>(count)}, {}, bytes(next, next.first), steps);
    }
    NextPiece(const NextPiece&) = delete;
    NextPiece& operator=(const NextPiece&) = delete;

    [[nodiscard]] simd::Prefetch& prefetch() noexcept { return prefetch_; }

  private:
    template <Weight S>
    [[nodiscard]] static Index bytes(const Piece& piece, const S*) noexcept {
        return piece.depth() * panel_columns<S> / Format<S>::panel_values * static_cast<Index>(sizeof(S));
    }

    static constexpr Index most = 16;
    const void* panels_[simd::extent<most>];
    simd::Prefetch prefetch_;
};

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

/// A vector of row K of eight rows of a panel, its codes as they are.
template <class Target, Weight S, int K>
[[nodiscard]] MLA_ALWAYS_INLINE simd::Batch<Target, float> load_codes(const S* rows, Index column) {
    using Element = typename Format<S>::PanelElement;
    if constexpr (Format<S>::panel_values > 1) {
        return simd::load_interleaved<Target, K>(rows + column);
    } else {
        const auto* const row = reinterpret_cast<const Element*>(rows + K * panel_columns<S> + column);
        const auto codes = simd::load<Target, float>(row);
        if constexpr (loaded_unit<Element> == 1.0F) return codes;
        return codes * simd::Batch<Target, float>(loaded_unit<Element>);
    }
}

/// Rows K and K + 1 as pairs.
template <class Target, Weight S, int K>
MLA_ALWAYS_INLINE void unpack_rows(const S* rows, simd::Bf16Pair* pairs) {
    for (Index n = 0; n < panel_columns<S>; n += simd::lanes<Target, float>)
        simd::pair_lanes_exactly<Target>(load_codes<Target, S, K>(rows, n), load_codes<Target, S, K + 1>(rows, n))
            .store_unaligned(simd::words(pairs + n));
}

/// A piece unpacked to panels [panel][k / 2][columns][2].
template <class Target, Weight S>
[[nodiscard]] WeightPiece<UnpackedWeight, true> unpack(const WeightPiece<S, true>& piece, simd::Bf16Pair* pairs) noexcept {
    constexpr Index columns = panel_columns<S>;
    constexpr Index pairs_per_panel = linear_unpacked_k / 2 * columns;
    for (Index p = 0; p < piece.count(); ++p)
        for (Index k = 0; k < piece.depth(); k += panel_row_step<S>) {
            const S* const rows = piece.panel(piece.panel_begin + p) + k * columns / Format<S>::panel_values;
            simd::Bf16Pair* const to = pairs + p * pairs_per_panel + k / 2 * columns;
            simd::unroll<panel_row_step<S> / 2>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
                constexpr int first = 2 * decltype(i)::value;
                unpack_rows<Target, S, first>(rows, to + i * columns);
            });
        }
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

/// The same in tile registers, which take weights as they lie.
template <class Target, class Operand, Weight S>
void multiply_in_tiles(const abi::MultiplyPanels<float>& call, const MatrixView<const float>& x) noexcept {
    simd::TileRegisters<Target> registers;
    const MatrixView<float> y(call.y, call.rows, call.out, call.y_stride);
    const Pieces<S> pieces(call, linear_piece_columns<S> / panel_columns<S>, linear_piece_k, 0, x.cols);
    for (auto piece = pieces.first(); piece.count() > 0;) {
        const auto after = pieces.after(piece);
        NextPiece next(after, prefetch_steps_in_tiles<Operand>(x.rows, piece));
        multiply_piece_in_tiles<Target, Operand>(registers, x.columns(piece.k_begin, piece.depth()), piece, y, next.prefetch());
        piece = after;
    }
}

/// y = x · panels of a matrix, its weights of S in an operand. A single tile of rows reads its panels front to back, unless it
/// would be rounded for each of them.
template <class Target, class Operand, Weight S, Compute A>
void multiply_panels(const abi::MultiplyPanels<A>* call) noexcept {
    const FloatEnvironment environment;
    const MatrixView<const A> x(call->x, call->rows, call->in, call->x_stride);
    if constexpr (Operand::in_tiles) {
        multiply_in_tiles<Target, Operand, S>(*call, x);
    } else if (x.rows <= linear_few_rows) {
        multiply_few<Target, operands::UnpairedOf<Operand, A>, S>(*call, x);
    } else if constexpr (QuantisedWeight<S>) {
        multiply_unpacked<Target, Operand, S>(*call, x);
    } else {
        constexpr int widest = linear_tile_rows<Target>;
        const bool front_to_back = std::is_same_v<Operand, operands::Plain<A>> && x.rows <= widest;
        multiply_pieces<Target, Operand, widest, S>(*call, x, 0, front_to_back ? linear_few_columns<S> : linear_piece_columns<S>);
    }
}

/// What weights of S are multiplied as: quantised ones as what holds their codes, in vectors, which unpack them.
template <class Target, Weight S, Precision P>
using HeldOperand = operands::OperandOf<Target, compute_t<S>, std::conditional_t<QuantisedWeight<S>, UnpackedWeight, S>, P>;
template <class Target, Weight S, Precision P>
using WeightOperand =
    std::conditional_t<QuantisedWeight<S>, operands::InVectors<Target, HeldOperand<Target, S, P>>, HeldOperand<Target, S, P>>;

/// As a target's table has it.
template <class Target, Weight S, Precision P>
inline constexpr abi::LinearKernels<compute_t<S>> linear_of{
    multiply_panels<Target, WeightOperand<Target, S, P>, S, compute_t<S>>};

}  // namespace mla::inline MLA_ISA::detail
