// Scalar types: what a cache or a weight may be stored as, and what is computed in.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "mla/core/compiler.hpp"
#include "mla/core/type_list.hpp"

namespace mla::inline MLA_ISA {

/// Sizes, offsets and strides, in elements unless a name says bytes. 64 bits on every supported platform.
using Index = std::ptrdiff_t;
static_assert(sizeof(Index) == 8, "mla needs 64-bit offsets");

/// A template dimension that is known at run time only.
inline constexpr int Dynamic = -1;

namespace detail {

/// float to bfloat16, round to nearest even; a NaN stays a (quiet) NaN.
[[nodiscard]] constexpr std::uint16_t bf16_bits(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);
    return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U);
}

// The conversions below meet no subnormal float: a thread may have set its CPU to take those for 0.

/// A number of `exponent` and up from integers: m · 2^exponent, m below 2^11.
[[nodiscard]] constexpr float scaled_integer(std::uint32_t m, int exponent) noexcept {
    return static_cast<float>(m) * std::bit_cast<float>(static_cast<std::uint32_t>(127 + exponent) << 23U);
}

/// The nearest integer to magnitude · 2^scale, ties to even, of a float's magnitude bits below 2^(23 − scale) and of at least
/// 2^-60.
[[nodiscard]] constexpr std::uint32_t nearest_integer(std::uint32_t magnitude, int scale) noexcept {
    const std::uint32_t mantissa = (magnitude & 0x7fffffU) | 0x800000U;
    const int shift = 150 - static_cast<int>(magnitude >> 23U) - scale;  // value = mantissa · 2^(exponent − 150)
    if (shift > 25) return 0;
    const std::uint64_t wide = mantissa;
    const std::uint64_t half = std::uint64_t{1} << static_cast<unsigned>(shift) >> 1U;
    const std::uint64_t even = (wide >> static_cast<unsigned>(shift)) & 1U;
    return static_cast<std::uint32_t>((wide + (half == 0 ? 0 : half - 1 + even)) >> static_cast<unsigned>(shift));
}

/// float to IEEE binary16, round to nearest even, overflow to infinity.
[[nodiscard]] constexpr std::uint16_t fp16_bits(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 16U) & 0x8000U;
    const std::uint32_t magnitude = bits & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U | ((magnitude >> 13U) & 0x1ffU));
    if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 rounds to infinity
    if (magnitude < 0x38800000U)
        return static_cast<std::uint16_t>(sign | nearest_integer(magnitude, 24));  // below 2^-14: of 2^-24
    const std::uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13U) & 1U);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13U));
}

[[nodiscard]] constexpr float fp16_value(std::uint16_t bits) noexcept {
    const std::uint32_t sign = (bits & 0x8000U) << 16U;
    const std::uint32_t magnitude = bits & 0x7fffU;
    if (magnitude >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13U));
    if (magnitude < 0x400U) return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled_integer(magnitude, -24)));
    return std::bit_cast<float>(sign | ((magnitude << 13U) + (112U << 23U)));
}

}  // namespace detail

/// Storage of a bfloat16. Arithmetic happens in float; conversion to it is exact, from it rounds to nearest even.
struct bf16 {
    std::uint16_t bits = 0;

    bf16() = default;
    constexpr explicit bf16(float value) noexcept : bits(detail::bf16_bits(value)) {}
    constexpr operator float() const noexcept { return std::bit_cast<float>(std::uint32_t{bits} << 16U); }
};

/// Storage of an IEEE binary16. Arithmetic happens in float; conversion to it is exact, from it rounds to nearest even.
struct fp16 {
    std::uint16_t bits = 0;

    fp16() = default;
    constexpr explicit fp16(float value) noexcept : bits(detail::fp16_bits(value)) {}
    constexpr operator float() const noexcept { return detail::fp16_value(bits); }
};

/// Storage of a signed byte that stands for a multiple of a scale kept elsewhere.
struct int8 {
    std::int8_t bits = 0;

    int8() = default;
    constexpr explicit int8(std::int8_t value) noexcept : bits(value) {}
    constexpr operator float() const noexcept { return static_cast<float>(bits); }
};

/// Storage of eight signed numbers of four bits, the first in the lowest, that stand for multiples of a scale kept elsewhere.
struct int4x8 {
    std::uint32_t bits = 0;

    [[nodiscard]] constexpr std::int32_t operator[](Index i) const noexcept {
        return static_cast<std::int32_t>(bits << static_cast<unsigned>(28 - 4 * i)) >> 28U;
    }
    /// All as bytes, the first in the lowest.
    [[nodiscard]] constexpr std::uint64_t as_bytes() const noexcept {
        std::uint64_t bytes = bits;
        bytes = (bytes | bytes << 16U) & 0x0000ffff0000ffffU;
        bytes = (bytes | bytes << 8U) & 0x00ff00ff00ff00ffU;
        bytes = (bytes | bytes << 4U) & 0x0f0f0f0f0f0f0f0fU;
        return bytes | (bytes & 0x0808080808080808U) * 0x1eU;  // a sign fills the upper half
    }
    constexpr void set(Index i, std::int32_t value) noexcept {
        const auto shift = static_cast<unsigned>(4 * i);
        bits = (bits & ~(15U << shift)) | (static_cast<std::uint32_t>(value) & 15U) << shift;
    }
};

static_assert(std::is_trivially_copyable_v<bf16> && sizeof(bf16) == 2);
static_assert(std::is_trivially_copyable_v<fp16> && sizeof(fp16) == 2);
static_assert(std::is_trivially_copyable_v<int8> && sizeof(int8) == 1);

/// The types that weights and caches can be stored in. Tests and benchmarks go over this list, so that no type exists without
/// them.
using StorageTypes = TypeList<double, float, bf16, fp16>;

template <class S>
concept Storage = is_listed<S, StorageTypes>;

/// A type that is computed in: every storage type but double computes in float.
template <class A>
concept Compute = std::is_same_v<A, double> || std::is_same_v<A, float>;

template <class S>
using compute_t = std::conditional_t<std::is_same_v<S, double>, double, float>;

/// What a product rounds of its operands, where weights or cache are bf16 or narrower. The caller's choice, the same on every
/// machine: one without bf16 instructions rounds the same values and multiplies them as floats.
enum class Precision : std::uint8_t {
    operand,  ///< activations, queries and probabilities are rounded to bf16 (over int8 caches: to integers), as GPUs do
    full,     ///< they stay float
};

[[nodiscard]] constexpr const char* name(Precision precision) noexcept {
    return precision == Precision::operand ? "operand" : "full";
}

/// The run-time name of a type in which numbers come: a storage type, or of a quantised weight or its scales.
enum class DType : std::uint8_t {
    f64,
    f32,
    bf16,
    f16,
    f8_e4m3,
    i8,
    i4,       ///< two in a byte, the first in its lower half, each 8 more than what it stands for
    f8_e8m0,  ///< powers of two: of scales only
};

template <Storage S>
inline constexpr DType dtype_of = std::is_same_v<S, double>  ? DType::f64
                                  : std::is_same_v<S, float> ? DType::f32
                                  : std::is_same_v<S, bf16>  ? DType::bf16
                                                             : DType::f16;

[[nodiscard]] constexpr const char* name(DType type) noexcept {
    switch (type) {
        case DType::f64: return "fp64";
        case DType::f32: return "fp32";
        case DType::bf16: return "bf16";
        case DType::f16: return "fp16";
        case DType::f8_e4m3: return "fp8";
        case DType::i8: return "int8";
        case DType::i4: return "int4";
        case DType::f8_e8m0: return "ue8m0";
    }
    return "unknown";
}

[[nodiscard]] constexpr Index bits_of(DType type) noexcept {
    switch (type) {
        case DType::f64: return 64;
        case DType::f32: return 32;
        case DType::bf16:
        case DType::f16: return 16;
        case DType::f8_e4m3:
        case DType::i8:
        case DType::f8_e8m0: return 8;
        case DType::i4: return 4;
    }
    return 0;
}

/// Whether numbers of a type are nothing without scales.
[[nodiscard]] constexpr bool is_quantised(DType type) noexcept {
    return type == DType::f8_e4m3 || type == DType::i8 || type == DType::i4;
}

/// Least multiple of `step` that is not below `value`.
[[nodiscard]] constexpr Index round_up(Index value, Index step) noexcept { return (value + step - 1) / step * step; }
[[nodiscard]] constexpr Index divide_up(Index value, Index step) noexcept { return (value + step - 1) / step; }

}  // namespace mla::inline MLA_ISA
