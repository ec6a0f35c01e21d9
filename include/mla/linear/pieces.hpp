// The pieces of a matrix of packed weights that a product walks through.
#pragma once

#include <algorithm>

#include "mla/core/kernel_table.hpp"
#include "mla/linear/multiply_piece.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::inline MLA_ISA::detail {

/// Columns of a piece: 256 KiB of weights, read from L2 by all tiles of rows but the first.
template <Storage S>
inline constexpr Index linear_piece_columns = (256 << 10) / (linear_piece_k * static_cast<Index>(sizeof(S)));

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

    static constexpr Index most = 32;
    const void* panels_[simd::extent<most>];
    simd::Prefetch prefetch_;
};

}  // namespace mla::inline MLA_ISA::detail
