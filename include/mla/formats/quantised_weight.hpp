// What the formats of quantised weights have in common: panels of codes, whose scales lie beside them.
#pragma once

#include "mla/formats/format.hpp"

namespace mla::inline MLA_ISA::detail {

/// Element: what the products load of panels of W, numbers that are `loaded_unit` times too small. Stored: how a checkpoint holds
/// the codes. Largest: the largest number that a code stands for; integers are even about 0. Made: rows k that share a scale
/// where codes are made of wider values.
template <class W, class Element, DType Stored, int Largest, Index Made>
struct QuantisedWeightFormat {
    using PanelElement = Element;
    static constexpr DType stored_dtype = Stored;
    static constexpr float largest_code = Largest;
    static constexpr Index made_scale_step = Made;
    static constexpr int panel_interleave = 1;
    static constexpr Index panel_values = 1;
    static constexpr bool has_nan = false;

    /// Stores the code nearest to a number as row k of one column of a panel, whose rows lie `stride` apart.
    static void set_code(W* column, Index stride, Index k, float number) noexcept {
        column[k * stride] = Format<W>::nearest(number);
    }
};

}  // namespace mla::inline MLA_ISA::detail
