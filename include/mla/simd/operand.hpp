// What a product tile takes of either operand at a time: one value, or a pair that lies side by side and that one instruction
// multiplies and adds.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "mla/core/float8.hpp"
#include "mla/simd/batch.hpp"

namespace mla::inline MLA_ISA::simd {

/// Two bf16, the first in the low half; a view of stored bf16, hence the alignment and aliasing of those.
struct __attribute__((packed, aligned(2), may_alias)) Bf16Pair {
    std::uint32_t bits;
};

/// Two int16, the first in the low half; a view of int16.
struct __attribute__((packed, aligned(2), may_alias)) Int16Pair {
    std::uint32_t bits;

    Int16Pair() = default;
    constexpr Int16Pair(std::int16_t first, std::int16_t second) noexcept
        : bits(static_cast<std::uint16_t>(first) | std::uint32_t{static_cast<std::uint16_t>(second)} << 16U) {}
};

/// Four bytes, a view of bytes.
struct __attribute__((packed, aligned(1), may_alias)) ByteQuad {
    std::uint32_t bits;
};

/// The words that pairs are.
template <class Pair>
[[nodiscard]] inline std::uint32_t* words(Pair* pairs) noexcept {
    void* const memory = pairs;
    return static_cast<std::uint32_t*>(memory);
}
template <class Pair>
[[nodiscard]] inline const std::uint32_t* words(const Pair* pairs) noexcept {
    const void* const memory = pairs;
    return static_cast<const std::uint32_t*>(memory);
}

/// bf16 of a float as products take it: to nearest even, a subnormal float is 0 (as VCVTNEPS2BF16 has it).
[[nodiscard]] constexpr std::uint16_t operand_bits(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7f800000U) == 0) return static_cast<std::uint16_t>(bits >> 31U << 15U);
    return bf16(value).bits;
}
[[nodiscard]] constexpr float rounded_operand(float value) noexcept {
    return std::bit_cast<float>(std::uint32_t{operand_bits(value)} << 16U);
}

/// An e4m3 that is no NaN, as panels of weights keep them, loaded 2^8 too small: three instructions for sixteen, where all of
/// e4m3 takes nine.
struct Fp8Code {
    static constexpr float unit = 256.0F;
    std::uint8_t bits;

    constexpr operator float() const noexcept { return detail::fp8_value(bits) / unit; }
};

/// What a vector can be loaded of: the storage types, and those that stand for multiples of a scale.
template <class S>
concept Loadable = Storage<S> || std::is_same_v<S, int8> || std::is_same_v<S, fp8> || std::is_same_v<S, Fp8Code>;

/// Where it pays, two vectors of neighbouring elements are loaded as those at even places and those at odd ones: bf16 then widen
/// by a shift or a mask instead of a shuffle and a shift.
template <Compute A, class S>
inline constexpr bool loads_by_parity = std::is_same_v<A, float>&& std::is_same_v<S, bf16>;

/// One element in another type.
template <Storage To, Storage From>
[[nodiscard]] constexpr To convert(From value) noexcept {
    if constexpr (std::is_same_v<To, From>) {
        return value;
    } else if constexpr (sizeof(To) == 2) {
        return To(static_cast<float>(value));
    } else {
        return static_cast<To>(static_cast<compute_t<From>>(value));
    }
}

}  // namespace mla::inline MLA_ISA::simd
