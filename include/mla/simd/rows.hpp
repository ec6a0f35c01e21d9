// Rows of any length, converted.
#pragma once

#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::simd {

/// target[i] = source[i] for i in [0, count), converted. Each array is a storage type; they do not overlap.
template <class Target, Storage To, Storage From>
void convert_row(To* MLA_RESTRICT target, const From* MLA_RESTRICT source, Index count) noexcept {
    // The narrower side is reached through the type that the wider side computes in.
    using A = compute_t<std::conditional_t<(sizeof(To) > sizeof(From)), To, From>>;
    constexpr Index width = lanes<Target, A>;
    const Index whole = count / width * width;
    for (Index i = 0; i < whole; i += width) simd::store<Target, A>(target + i, simd::load<Target, A>(source + i));
    for (Index i = whole; i < count; ++i) target[i] = convert<To>(source[i]);
}

/// target[i] = factor · source[i] for i in [0, count). The arrays do not overlap.
template <class Target, Compute A, Loadable S>
void scale_row(A* MLA_RESTRICT target, const S* MLA_RESTRICT source, Index count, A factor) noexcept {
    constexpr Index width = lanes<Target, A>;
    const Batch<Target, A> factors(factor);
    Index i = 0;
    if constexpr (std::is_same_v<A, float> && loads_in_twos<Target, S>) {
        for (; i + 2 * width <= count; i += 2 * width) {
            Batch<Target, A> first, second;
            simd::load_two<Target, A>(source + i, first, second);
            (first * factors).store_unaligned(target + i);
            (second * factors).store_unaligned(target + i + width);
        }
    }
    for (; i + width <= count; i += width) (simd::load<Target, A>(source + i) * factors).store_unaligned(target + i);
    for (; i < count; ++i) target[i] = static_cast<A>(source[i]) * factor;
}

/// rounded[i] = values[i] as products take it, for i in [0, count): bf16 to nearest even, subnormals 0.
template <class Target>
void round_row(const float* values, Index count, bf16* rounded) noexcept {
    for (Index i = Atoms<Target>::round_row(values, count, rounded); i < count; ++i) rounded[i].bits = operand_bits(values[i]);
}

/// The same where they stay floats; the arrays may be one.
template <class Target>
void round_row(const float* values, Index count, float* rounded) noexcept {
    using Floats = Batch<Target, float>;
    constexpr Index width = lanes<Target, float>;
    const Index whole = count / width * width;
    for (Index i = 0; i < whole; i += width)
        Atoms<Target>::round_operand(Floats::load_unaligned(values + i)).store_unaligned(rounded + i);
    for (Index i = whole; i < count; ++i) rounded[i] = rounded_operand(values[i]);
}

/// pairs[i] = {first[i], second[i]} for i in [0, count).
template <class Target>
void interleave(const bf16* first, const bf16* second, Index count, Bf16Pair* pairs) noexcept {
    for (Index i = Atoms<Target>::interleave(first, second, count, pairs); i < count; ++i)
        pairs[i].bits = first[i].bits | std::uint32_t{second[i].bits} << 16U;
}
template <class Target>
void interleave(const int8* first, const int8* second, Index count, Int16Pair* pairs) noexcept {
    for (Index i = Atoms<Target>::interleave(first, second, count, pairs); i < count; ++i)
        pairs[i] = {first[i].bits, second[i].bits};
}

/// quads[i] = {rows[0][i], …, rows[3][i]} for i in [0, count).
template <class Target>
void interleave(const int8* const (&rows)[4], Index count, ByteQuad* quads) noexcept {
    for (Index i = Atoms<Target>::interleave(rows, count, quads); i < count; ++i) {
        std::uint32_t bits = 0;
        for (unsigned r = 0; r < 4; ++r) bits |= std::uint32_t{static_cast<std::uint8_t>(rows[r][i].bits)} << 8 * r;
        quads[i].bits = bits;
    }
}

/// upper[i] and lower[i] are the bytes of numbers[i] = 256 · upper, signed, + lower, for i in [0, count).
template <class Target>
void split(const std::int16_t* numbers, Index count, std::byte* upper, std::byte* lower) noexcept {
    for (Index i = Atoms<Target>::split(numbers, count, upper, lower); i < count; ++i) {
        const auto bits = static_cast<std::uint16_t>(numbers[i]);
        upper[i] = static_cast<std::byte>(bits >> 8U);
        lower[i] = static_cast<std::byte>(bits & 0xffU);
    }
}

/// values[i] = codes[i] · power for i in [0, count), as products take it. Of a power of two every such value is one of bf16, or
/// beyond its range.
template <class Target>
void widen(const fp8* codes, Index count, float power, bf16* values) noexcept {
    for (Index i = Atoms<Target>::widen(codes, count, power, values); i < count; ++i)
        values[i].bits = operand_bits(static_cast<float>(codes[i]) * power);
}

/// wide[i] = bytes[i] for i in [0, count).
template <class Target>
void widen(const int8* bytes, Index count, std::int16_t* wide) noexcept {
    for (Index i = Atoms<Target>::widen(bytes, count, wide); i < count; ++i) wide[i] = bytes[i].bits;
}

}  // namespace mla::inline MLA_ISA::simd
