// Two int16 that are multiplied and added into an int32, as the product tile's unit.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "mla/simd/convert.hpp"
#include "mla/simd/dot.hpp"
#include "mla/simd/reduce.hpp"

namespace mla::simd {

/// Two int16 that lie side by side, the first in the low half; a view of int16, hence the alignment and aliasing of those.
struct __attribute__((packed, aligned(2), may_alias)) Int16Pair {
    std::uint32_t bits;

    Int16Pair() = default;
    constexpr Int16Pair(std::int16_t first, std::int16_t second) noexcept
        : bits(static_cast<std::uint16_t>(first) | std::uint32_t{static_cast<std::uint16_t>(second)} << 16U) {}
};

template <class Arch, class A>
MLA_ALWAYS_INLINE PackedBatch<Arch> broadcast(Int16Pair pair) {
    return PackedBatch<Arch>(pair.bits);
}

/// What whole numbers stand for: `step` each. NaN where a value is no number.
struct Steps {
    float step = 1.0F;
    float per_step = 0.0F;  ///< 1 / step, or 0 where nothing is but zeros or step is NaN

    /// The smallest by which `count` values stay within ±range.
    template <class Arch, Storage S>
    [[nodiscard]] static Steps of(const S* values, Index count, float range) noexcept {
        // The bits of magnitudes are ordered as those are, and an infinity or a NaN is above all numbers.
        using Bits = Batch<Arch, std::int32_t>;
        constexpr Index width = lanes<Arch, float>;
        Bits magnitude(0);
        const Index whole = count / width * width;
        for (Index i = 0; i < whole; i += width)
            magnitude = xsimd::max(magnitude, xsimd::bitwise_cast<Bits>(xsimd::abs(load<Arch, float>(values + i))));
        std::int32_t largest = largest_lane<Arch>(magnitude);
        for (Index i = whole; i < count; ++i)
            largest = std::max(largest, std::bit_cast<std::int32_t>(std::abs(convert<float>(values[i]))));
        const auto all = std::bit_cast<float>(largest);
        const float per_step = range / all;
        if (!std::isfinite(all)) return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
        return std::isfinite(per_step) ? Steps{all / range, per_step} : Steps{};
    }

    [[nodiscard]] std::int16_t round(float value) const noexcept {
        return per_step == 0.0F ? std::int16_t{0} : static_cast<std::int16_t>(std::nearbyint(value * per_step));
    }
};

/// Pairs two vectors of whole numbers of at most ±32767 lane by lane.
template <class Arch>
MLA_ALWAYS_INLINE PackedBatch<Arch> pair_lanes(const Batch<Arch, float>& first, const Batch<Arch, float>& second) {
    const auto low = xsimd::nearbyint_as_int(first);
    const auto high = xsimd::nearbyint_as_int(second);
    return xsimd::bitwise_cast<PackedBatch<Arch>>((low & 0xffff) | (high << 16));
}

/// wide[i] = bytes[i] for i in [0, count). Defined where has_dot_int16<Arch>, as is all that follows.
template <class Arch>
void widen(const int8* bytes, Index count, std::int16_t* wide) noexcept;

/// pairs[i] = {first[i], second[i]} for i in [0, count).
template <class Arch>
void interleave(const int8* first, const int8* second, Index count, Int16Pair* pairs) noexcept;

/// numbers[i] = round(values[i] / step) for i in [0, count).
template <class Arch, Storage S>
void quantise(const S* values, Index count, const Steps& steps, std::int16_t* numbers) noexcept;

#if defined(__AVX2__)
template <class Arch, class A>
    requires(has_dot_int16<Arch>)
MLA_ALWAYS_INLINE PackedBatch<Arch> load_units(const Int16Pair* pairs) {
#if defined(__AVX512BW__)
    if constexpr (std::is_base_of_v<xsimd::avx512bw, Arch>) return PackedBatch<Arch>(_mm512_loadu_si512(pairs));
#endif
    if constexpr (std::is_base_of_v<xsimd::avx2, Arch>)
        return PackedBatch<Arch>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)));
}

template <class Arch, class A>
    requires(has_dot_int16<Arch>&& std::is_same_v<A, std::int32_t>)
MLA_ALWAYS_INLINE Batch<Arch, A> multiply_add(const PackedBatch<Arch>& a, const PackedBatch<Arch>& b, const Batch<Arch, A>& sum) {
    return dot_s16<Arch>(sum, a, b);
}

#if defined(__AVX512BW__)
/// The same of a pair in memory.
template <class Arch>
    requires(std::is_base_of_v<xsimd::avx512bw, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, std::int32_t> multiply_add(const Int16Pair* a, const PackedBatch<Arch>& b,
                                                         const Batch<Arch, std::int32_t>& sum) {
#if defined(__AVX512VNNI__) && defined(__GNUC__) && !defined(__clang__)
    __m512i result = sum;
    const __m512i right = b;
    asm("vpdpwssd {%2%{1to16%}, %1, %0|%0, %1, %2%{1to16%}}" : "+v"(result) : "v"(right), "m"(*a));
    return Batch<Arch, std::int32_t>(result);
#else
    return dot_s16<Arch>(sum, broadcast<Arch, std::int32_t>(*a), b);
#endif
}
#endif

/// Stores whole numbers of at most 16 bits.
template <class Arch>
    requires(has_dot_int16<Arch>)
MLA_ALWAYS_INLINE void store_narrow(std::int16_t* target, const Batch<Arch, std::int32_t>& values) {
#if defined(__AVX512BW__)
    if constexpr (std::is_base_of_v<xsimd::avx512bw, Arch>) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtepi32_epi16(values));
        return;
    }
#endif
    if constexpr (std::is_base_of_v<xsimd::avx2, Arch>) {
        const __m256i halves = _mm256_packs_epi32(values, values);  // 0…3 twice, 4…7 twice
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08)));
    }
}

template <class Arch, Storage S>
void quantise(const S* values, Index count, const Steps& steps, std::int16_t* numbers) noexcept {
    constexpr Index width = lanes<Arch, float>;
    const Index whole = count / width * width;
    for (Index i = 0; i < whole; i += width) {
        const auto scaled = load<Arch, float>(values + i) * Batch<Arch, float>(steps.per_step);
        store_narrow<Arch>(numbers + i, xsimd::nearbyint_as_int(scaled));
    }
    for (Index i = whole; i < count; ++i) numbers[i] = steps.round(convert<float>(values[i]));
}

template <class Arch>
void widen(const int8* bytes, Index count, std::int16_t* wide) noexcept {
    constexpr Index step = 2 * lanes<Arch, float>;
    const Index whole = count / step * step;
    for (Index i = 0; i < whole; i += step) {
#if defined(__AVX512BW__)
        if constexpr (std::is_base_of_v<xsimd::avx512bw, Arch>) {
            const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i));
            _mm512_storeu_si512(wide + i, _mm512_cvtepi8_epi16(values));
            continue;
        }
#endif
        const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(wide + i), _mm256_cvtepi8_epi16(values));
    }
    for (Index i = whole; i < count; ++i) wide[i] = bytes[i].bits;
}

template <class Arch>
void interleave(const int8* first, const int8* second, Index count, Int16Pair* pairs) noexcept {
    const Index whole = count / 16 * 16;
    for (Index i = 0; i < whole; i += 16) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + i));
        const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + i));
#if defined(__AVX512BW__)
        if constexpr (std::is_base_of_v<xsimd::avx512bw, Arch>) {
            const __m512i low = _mm512_and_si512(_mm512_cvtepi8_epi32(a), _mm512_set1_epi32(0xffff));
            _mm512_storeu_si512(pairs + i, _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepi8_epi32(b), 16)));
            continue;
        }
#endif
        const auto store = [](Int16Pair* target, __m128i bytes) MLA_ALWAYS_INLINE_LAMBDA {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_cvtepi8_epi16(bytes));
        };
        store(pairs + i, _mm_unpacklo_epi8(a, b));
        store(pairs + i + 8, _mm_unpackhi_epi8(a, b));
    }
    for (Index i = whole; i < count; ++i) pairs[i] = {first[i].bits, second[i].bits};
}
#endif

}  // namespace mla::simd
