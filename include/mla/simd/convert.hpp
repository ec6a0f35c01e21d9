// Loads and stores that convert between a storage type and the type computed in.
// Conversions to a wider type are exact; to a narrower one they round to nearest even.
#pragma once

#include <limits>
#include <type_traits>

#include "mla/core/float8.hpp"
#include "mla/simd/batch.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mla::simd {
namespace detail {

// What no instruction set below covers goes through an array, element by element.
template <class A, class Arch, class S>
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const S* source, Arch) {
    alignas(64) A values[extent<lanes<Arch, A>>];
    for (Index i = 0; i < lanes<Arch, A>; ++i) values[i] = static_cast<A>(source[i]);
    return Batch<Arch, A>::load_aligned(values);
}

template <int Part, class Arch>
MLA_ALWAYS_INLINE Batch<Arch, float> load_interleaved(const bf16* source, Arch) {
    alignas(64) float values[extent<lanes<Arch, float>>];
    for (Index i = 0; i < lanes<Arch, float>; ++i) values[i] = static_cast<float>(source[2 * i + Part]);
    return Batch<Arch, float>::load_aligned(values);
}

template <class Arch>
MLA_ALWAYS_INLINE void load_by_parity(const bf16* source, Batch<Arch, float>& first, Batch<Arch, float>& second, Arch) {
    first = load_interleaved<0>(source, Arch{});
    second = load_interleaved<1>(source, Arch{});
}

template <class Arch>
MLA_ALWAYS_INLINE void interleave_lanes(Batch<Arch, float>& first, Batch<Arch, float>& second, Arch) {
    constexpr Index width = lanes<Arch, float>;
    alignas(64) float values[extent<4 * width>];
    first.store_aligned(values);
    second.store_aligned(values + width);
    float* const woven = values + 2 * width;
    for (Index i = 0; i < width; ++i) {
        woven[2 * i] = values[i];
        woven[2 * i + 1] = values[width + i];
    }
    first = Batch<Arch, float>::load_aligned(woven);
    second = Batch<Arch, float>::load_aligned(woven + width);
}

template <class A, class Arch, class S>
MLA_ALWAYS_INLINE void store_converted(S* target, const Batch<Arch, A>& value, Arch) {
    alignas(64) A values[extent<lanes<Arch, A>>];
    value.store_aligned(values);
    for (Index i = 0; i < lanes<Arch, A>; ++i) {
        if constexpr (sizeof(S) == 2) {
            target[i] = S(static_cast<float>(values[i]));
        } else {
            target[i] = static_cast<S>(values[i]);
        }
    }
}

#if defined(__AVX2__) && defined(__F16C__)
/// Sixteen e4m3 as halves 2^8 times too small, so that no number becomes a subnormal float: a vector with one took 63 cycles to
/// multiply and store on Emerald Rapids, without 5.
MLA_ALWAYS_INLINE __m256i fp8_as_halves(__m128i bytes) {
    const __m256i magnitude = _mm256_set1_epi16(0x3f80);
    const __m256i placed = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16(-0x4001));
    const __m256i is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(placed, magnitude), magnitude);
    return _mm256_or_si256(placed, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00)));
}
#endif

#if defined(__AVX512F__)
template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const bf16* source, Arch) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    return Batch<Arch, A>(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const fp16* source, Arch) {
    return Batch<Arch, A>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const int8* source, Arch) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    return Batch<Arch, A>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const fp8* source, Arch) {
    const __m256i halves = fp8_as_halves(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
    return Batch<Arch, A>(_mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0F)));
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE void store_converted(bf16* target, const Batch<Arch, A>& value, Arch) {
    const __m512 values = value;
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i raised = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    const __m512i rounded = _mm512_srli_epi32(raised, 16);
    const __m512i quiet_nan = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    const __m512i selected = _mm512_mask_blend_epi32(is_nan, rounded, quiet_nan);
    const __m256i packed = _mm512_cvtepi32_epi16(selected);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), packed);
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE void store_converted(fp16* target, const Batch<Arch, A>& value, Arch) {
    const __m256i bits = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), bits);
}
#endif

#if defined(__AVX512BW__)
template <int Part, class Arch>
    requires(std::is_base_of_v<xsimd::avx512bw, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, float> load_interleaved(const bf16* source, Arch) {
    if constexpr (Part == 0) return Batch<Arch, float>(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(source), 16)));
    return Batch<Arch, float>(_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(0xaaaaaaaaU, source)));
}

template <class Arch>
    requires(std::is_base_of_v<xsimd::avx512bw, Arch>)
MLA_ALWAYS_INLINE void load_by_parity(const bf16* source, Batch<Arch, float>& first, Batch<Arch, float>& second, Arch) {
    Batch<Arch, std::int32_t> pairs(_mm512_loadu_si512(source));
    keep_in_register(pairs);  // which GCC would store for the shift to load
    first = Batch<Arch, float>(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
    second = Batch<Arch, float>(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000))));
}

template <class Arch>
    requires(std::is_base_of_v<xsimd::avx512bw, Arch>)
MLA_ALWAYS_INLINE void interleave_lanes(Batch<Arch, float>& first, Batch<Arch, float>& second, Arch) {
    alignas(64) static constexpr std::int32_t low_order[16] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const __m512i low = _mm512_load_si512(low_order);
    const __m512 woven = _mm512_permutex2var_ps(first, low, second);
    second = Batch<Arch, float>(_mm512_permutex2var_ps(first, _mm512_add_epi32(low, _mm512_set1_epi32(8)), second));
    first = Batch<Arch, float>(woven);
}
#endif

#if defined(__AVX2__)
template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const bf16* source, Arch) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    return Batch<Arch, A>(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
}

template <int Part, class Arch>
    requires(std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, float> load_interleaved(const bf16* source, Arch) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    if constexpr (Part == 0) return Batch<Arch, float>(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
    // A mask would take a register that a tile lacks.
    return Batch<Arch, float>(_mm256_castsi256_ps(_mm256_blend_epi16(_mm256_setzero_si256(), pairs, 0xaa)));
}

template <class Arch>
    requires(std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE void interleave_lanes(Batch<Arch, float>& first, Batch<Arch, float>& second, Arch) {
    const __m256 low = _mm256_unpacklo_ps(first, second);  // 0 and 1 of either, 4 and 5 of either
    const __m256 high = _mm256_unpackhi_ps(first, second);
    first = Batch<Arch, float>(_mm256_permute2f128_ps(low, high, 0x20));
    second = Batch<Arch, float>(_mm256_permute2f128_ps(low, high, 0x31));
}
#endif

#if defined(__AVX2__)
template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const int8* source, Arch) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source));
    return Batch<Arch, A>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
}
#endif

#if defined(__AVX2__) && defined(__F16C__)
template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const fp16* source, Arch) {
    return Batch<Arch, A>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> load_converted(const fp8* source, Arch) {
    const __m256i halves = fp8_as_halves(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
    return Batch<Arch, A>(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_set1_ps(256.0F)));
}

template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE void store_converted(fp16* target, const Batch<Arch, A>& value, Arch) {
    const __m128i bits = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), bits);
}
#endif

}  // namespace detail

/// What a vector can be loaded of: the storage types, and those that stand for multiples of a scale.
template <class S>
concept Loadable = Storage<S> || std::is_same_v<S, int8> || std::is_same_v<S, fp8>;

/// `lanes` elements at any address, in the type computed in.
template <class Arch, Compute A, Loadable S>
MLA_ALWAYS_INLINE Batch<Arch, A> load(const S* source) {
    if constexpr (std::is_same_v<S, A>) {
        return Batch<Arch, A>::load_unaligned(source);
    } else {
        return detail::load_converted<A>(source, Arch{});
    }
}

/// The first (Part 0) or the second (Part 1) of each of `lanes` pairs of bf16 at any address.
template <class Arch, int Part>
MLA_ALWAYS_INLINE Batch<Arch, float> load_interleaved(const bf16* source) {
    return detail::load_interleaved<Part>(source, Arch{});
}

/// Where it pays, two vectors of neighbouring elements are loaded as those at even places and those at odd ones: bf16 then widen
/// by a shift or a mask instead of a shuffle and a shift.
template <Compute A, class S>
inline constexpr bool loads_by_parity = std::is_same_v<A, float>&& std::is_same_v<S, bf16>;

/// Loads two vectors of neighbouring elements at any address, in order or split by parity.
template <class Arch, Compute A, Loadable S>
MLA_ALWAYS_INLINE void load_two(const S* source, Batch<Arch, A>& first, Batch<Arch, A>& second) {
    if constexpr (loads_by_parity<A, S>) {
        detail::load_by_parity(source, first, second, Arch{});
    } else {
        first = load<Arch, A>(source);
        second = load<Arch, A>(source + lanes<Arch, A>);
    }
}

/// Puts two vectors that were split by parity in order.
template <class Arch>
MLA_ALWAYS_INLINE void interleave_lanes(Batch<Arch, float>& first, Batch<Arch, float>& second) {
    detail::interleave_lanes(first, second, Arch{});
}

/// Stores `lanes` elements to any address.
template <class Arch, Compute A, Storage S>
MLA_ALWAYS_INLINE void store(S* target, const Batch<Arch, A>& value) {
    if constexpr (std::is_same_v<S, A>) {
        value.store_unaligned(target);
    } else {
        detail::store_converted<A>(target, value, Arch{});
    }
}

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

/// target[i] = source[i] for i in [0, count), converted. Each array is a storage type; they do not overlap.
template <class Arch, Storage To, Storage From>
void convert_row(To* MLA_RESTRICT target, const From* MLA_RESTRICT source, Index count) {
    // The narrower side is reached through the type that the wider side computes in.
    using A = compute_t<std::conditional_t<(sizeof(To) > sizeof(From)), To, From>>;
    constexpr Index width = lanes<Arch, A>;
    const Index whole = count / width * width;
    // Qualified: a plain store would also find xsimd's own, which asks for aligned addresses.
    for (Index i = 0; i < whole; i += width) simd::store<Arch, A>(target + i, simd::load<Arch, A>(source + i));
    for (Index i = whole; i < count; ++i) target[i] = convert<To>(source[i]);
}

/// target[i] = factor · source[i] for i in [0, count). The arrays do not overlap.
template <class Arch, Compute A, Loadable S>
void scale_row(A* MLA_RESTRICT target, const S* MLA_RESTRICT source, Index count, A factor) {
    constexpr Index width = lanes<Arch, A>;
    const Index whole = count / width * width;
    for (Index i = 0; i < whole; i += width)
        simd::store<Arch, A>(target + i, simd::load<Arch, A>(source + i) * Batch<Arch, A>(factor));
    for (Index i = whole; i < count; ++i) target[i] = static_cast<A>(source[i]) * factor;
}

}  // namespace mla::simd
