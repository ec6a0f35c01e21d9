// e4m3 with a scale for each 128 latent values, multiplied as bf16, which holds them exactly, with the scale apart. With Dc 512
// and Dr 64 a row is FlashMLA's of 656 bytes (its README, "FP8 KV cache").
#pragma once

#include "mla/formats/quantised_weight.hpp"
#include "mla/formats/scaled_format.hpp"

namespace mla::inline MLA_ISA {

template <>
struct Format<fp8> : detail::ScaledFormat<fp8, 128, 448>,
                     detail::QuantisedWeightFormat<fp8, simd::Fp8Code, DType::f8_e4m3, 448, 128> {
    static constexpr const char* name = "fp8";

    template <class Target, Compute A, Precision P>
    using Operand = std::conditional_t<std::is_same_v<A, float> && P == Precision::operand,
                                       operands::Scaled<operands::RoundedOn<Target>>, operands::Plain<A>>;

    static constexpr bool has_nan = true;
    [[nodiscard]] static constexpr bool is_nan(fp8 code) noexcept { return (code.bits & 0x7fU) == 0x7fU; }
    /// Whether one of `count` codes is, a multiple of eight: 1 added to a magnitude sets the highest bit of NaN only.
    [[nodiscard]] static bool any_nan(const fp8* codes, Index count) noexcept {
        std::uint64_t carried = 0;
        for (Index i = 0; i < count; i += 8) {
            std::uint64_t eight = 0;
            std::memcpy(&eight, codes + i, sizeof eight);
            carried |= (eight & 0x7f7f7f7f7f7f7f7fU) + 0x0101010101010101U;
        }
        return (carried & 0x8080808080808080U) != 0;
    }
    [[nodiscard]] static fp8 nearest(float value) noexcept { return fp8(value); }
};

}  // namespace mla::inline MLA_ISA
