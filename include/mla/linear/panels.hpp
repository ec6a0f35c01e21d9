// How packed weights lie: the layout that packing and products share.
#pragma once

#include "mla/formats/formats.hpp"

namespace mla::inline MLA_ISA {

/// Columns of a panel: a tile's, with AVX2 (two vectors of the type computed in), which reads it front to back: of rows twice as
/// long it would read each half for itself, in steps that use half of the sets of L1. AVX-512 tiles take two panels. One width
/// for every instruction set, so that packed weights do not depend on the one that packed them.
template <Storage S>
inline constexpr Index panel_columns = 64 / static_cast<Index>(sizeof(compute_t<S>));

/// Elements of a panel of a matrix [in, …].
template <Storage S>
[[nodiscard]] constexpr Index panel_elements(Index in) noexcept {
    return round_up(in, Index{Format<S>::panel_interleave}) * panel_columns<S>;
}

}  // namespace mla::inline MLA_ISA
