// How packed weights lie: the layout that packing and products share.
#pragma once

#include "mla/formats/formats.hpp"

namespace mla::inline MLA_ISA {

/// Columns of a panel: a tile's, with AVX2 (two vectors of the type computed in), which reads it front to back: of rows twice as
/// long it would read each half for itself, in steps that use half of the sets of L1. AVX-512 tiles take two panels. One width
/// for every instruction set, so that packed weights do not depend on the one that packed them.
template <Weight S>
inline constexpr Index panel_columns = 64 / static_cast<Index>(sizeof(compute_t<S>));

/// Rows k that a panel is filled up to a multiple of.
template <Weight S>
inline constexpr Index panel_row_step = QuantisedWeight<S> ? Index{8} : Index{Format<S>::panel_interleave};

/// Elements of a panel of a matrix [in, …].
template <Weight S>
[[nodiscard]] constexpr Index panel_elements(Index in) noexcept {
    return round_up(in, panel_row_step<S>) * panel_columns<S> / Format<S>::panel_values;
}

/// What numbers that are loaded of elements W must be multiplied by.
template <class W>
inline constexpr float loaded_unit = 1.0F;
template <class W>
    requires(W::unit > 0.0F)
inline constexpr float loaded_unit<W> = W::unit;

/// Rows k that one scale of a panel of quantised weights is for, at most: those whose sum many rows and few alike multiply by it.
inline constexpr Index most_scale_step = 128;

/// The scales of a matrix's panels: of each, a vector of its columns for each `step` rows k.
template <Compute A>
struct PanelScales {
    const A* data = nullptr;
    Index step = most_scale_step;
    Index panel_stride = 0;

    [[nodiscard]] constexpr const A* at(Index column, Index k) const noexcept {
        constexpr Index columns = panel_columns<A>;
        return data + column / columns * panel_stride + k / step * columns + column % columns;
    }
};

}  // namespace mla::inline MLA_ISA
