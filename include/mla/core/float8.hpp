// The eight-bit floats of fp8 checkpoints and caches: values in e4m3 as in "FP8 Formats for Deep Learning" (Micikevicius et al.
// 2022), scales in fp32 or as UE8M0 of the OCP Microscaling Formats.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

inline constexpr std::uint32_t fp8_largest = 0x7eU;  // 448; the only value above it is NaN, there is no infinity

/// float to e4m3, round to nearest even; what lies beyond ±448 becomes ±448, a NaN stays NaN.
[[nodiscard]] constexpr std::uint8_t fp8_bits(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 24U) & 0x80U;
    const std::uint32_t magnitude = bits & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return static_cast<std::uint8_t>(sign | 0x7fU);
    if (magnitude < 0x3c800000U) return static_cast<std::uint8_t>(sign | nearest_integer(magnitude, 9));  // below 2^-6: of 2^-9
    const std::uint32_t rounded = ((magnitude + 0x7ffffU + ((magnitude >> 20U) & 1U)) >> 20U) - (120U << 3U);
    return static_cast<std::uint8_t>(sign | (rounded < fp8_largest ? rounded : fp8_largest));
}

[[nodiscard]] constexpr float fp8_value(std::uint8_t bits) noexcept {
    const std::uint32_t sign = (bits & 0x80U) << 24U;
    const std::uint32_t magnitude = bits & 0x7fU;
    if (magnitude == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
    if (magnitude < 8U) return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled_integer(magnitude, -9)));
    return std::bit_cast<float>(sign | ((magnitude << 20U) + (120U << 23U)));
}

}  // namespace detail

/// Storage of an e4m3 float: 4 bits of exponent, 3 of mantissa, largest value 448, no infinities. Conversion from it is exact, to
/// it rounds to nearest even and saturates.
struct fp8 {
    std::uint8_t bits = 0;

    fp8() = default;
    constexpr explicit fp8(float value) noexcept : bits(detail::fp8_bits(value)) {}
    constexpr operator float() const noexcept { return detail::fp8_value(bits); }
};

static_assert(std::is_trivially_copyable_v<fp8> && sizeof(fp8) == 1);

/// Storage of a scale that is a power of two: 2^(bits − 127), or NaN (255). Neither 0 nor a sign.
struct ue8m0 {
    std::uint8_t bits = 0;

    ue8m0() = default;
    /// The least power of two that is not below `value`, within [2^-126, 2^127], those that are normal floats; 1 for 0.
    [[nodiscard]] static ue8m0 at_least(float value) noexcept {
        if (!std::isfinite(value)) return from_bits(nan_bits);
        int exponent = 0;
        const float mantissa = std::frexp(value, &exponent);  // in [0.5, 1), or 0
        if (mantissa <= 0.5F) exponent -= mantissa > 0.0F ? 1 : 0;
        return from_bits(static_cast<std::uint8_t>(std::clamp(exponent, -126, 127) + 127));
    }
    constexpr operator float() const noexcept {
        if (bits == nan_bits) return std::numeric_limits<float>::quiet_NaN();
        return std::bit_cast<float>(bits == 0 ? std::uint32_t{1} << 22U : std::uint32_t{bits} << 23U);
    }

  private:
    static constexpr std::uint8_t nan_bits = 255;
    [[nodiscard]] static ue8m0 from_bits(std::uint8_t value) noexcept {
        ue8m0 scale;
        scale.bits = value;
        return scale;
    }
};

static_assert(std::is_trivially_copyable_v<ue8m0> && sizeof(ue8m0) == 1);

}  // namespace mla::inline MLA_ISA
