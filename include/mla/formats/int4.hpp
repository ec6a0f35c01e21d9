// Four bits, of weights only: eight rows k of a column make an element of a panel.
#pragma once

#include <cmath>

#include "mla/formats/quantised_weight.hpp"

namespace mla::inline MLA_ISA {

/// A scale for each 32 values is what int4 is published with.
template <>
struct Format<int4x8> : detail::QuantisedWeightFormat<int4x8, int4x8, DType::i4, 7, 32> {
    static constexpr const char* name = "int4";
    static constexpr int panel_interleave = 8;
    static constexpr Index panel_values = 8;

    /// Of eight that are each 8 more than what they stand for.
    [[nodiscard]] static constexpr int4x8 from_stored(int4x8 codes) noexcept { return {codes.bits ^ 0x88888888U}; }
    static void set_code(int4x8* column, Index stride, Index k, float number) noexcept {
        column[k / panel_values * stride].set(k % panel_values, static_cast<std::int32_t>(std::nearbyint(number)));
    }
};

}  // namespace mla::inline MLA_ISA
