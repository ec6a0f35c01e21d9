// The atoms of AVX2, FMA and F16C.
#pragma once

#include "mla/simd/x86/sse2.hpp"

#if MLA_HAS_AVX2
namespace mla::inline MLA_ISA::simd {

/// Sixteen e4m3 as halves 2^8 times too small, so that no number becomes a subnormal float: a vector with one took 63 cycles to
/// multiply and store on Emerald Rapids, without 5.
MLA_ALWAYS_INLINE __m256i fp8_as_halves(__m128i bytes) {
    const __m256i magnitude = _mm256_set1_epi16(0x3f80);
    const __m256i placed = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16(-0x4001));
    const __m256i is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(placed, magnitude), magnitude);
    return _mm256_or_si256(placed, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00)));
}

/// Sixteen that are no NaN, likewise.
MLA_ALWAYS_INLINE __m256i fp8_codes_as_halves(__m128i bytes) {
    return _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16(-0x4001));
}

template <class Target>
struct Avx2Atoms : PortableAtoms<Target> {
    using Portable = PortableAtoms<Target>;
    using Portable::interleave;
    using Portable::widen;

    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> fma(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                  const Batch<Target, A>& c) {
        if constexpr (std::is_same_v<A, float>) return _mm256_fmadd_ps(a, b, c);
        if constexpr (std::is_same_v<A, double>) return _mm256_fmadd_pd(a, b, c);
    }

#if MLA_IS_GCC
    // GCC 12 is free to put the result of an FMA where an operand was. Over a dozen sums and several k it then shuffles
    // registers, by way of the stack; the instruction is therefore spelled out for it. So is the sum of integer products, several
    // of which GCC would add up first, more than it has registers for.
    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> multiply_add(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                           const Batch<Target, A>& sum) {
        using Register = typename Batch<Target, A>::register_type;
        Register result = sum;
        const Register left = a;
        const Register right = b;
        if constexpr (std::is_same_v<A, float>) asm("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+x"(result) : "x"(left), "x"(right));
        if constexpr (std::is_same_v<A, double>)
            asm("vfmadd231pd {%2, %1, %0|%0, %1, %2}" : "+x"(result) : "x"(left), "x"(right));
        return Batch<Target, A>(result);
    }
#endif

    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        __m256i result = sum;
        const __m256i products = _mm256_madd_epi16(a, b);
#if MLA_IS_GCC
        asm("vpaddd {%1, %0, %0|%0, %0, %1}" : "+x"(result) : "x"(products));
#else
        result = _mm256_add_epi32(result, products);
#endif
        return Batch<Target, std::int32_t>(result);
    }

    // Loads and stores that convert -------------------------------------------------------------------------------------

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE Batch<Target, A> load_converted(const S* source) {
        if constexpr (!std::is_same_v<A, float> || std::is_same_v<S, double>) {
            return Portable::template load_converted<A>(source);
        } else if constexpr (std::is_same_v<S, bf16>) {
            const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
            return Batch<Target, A>(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
        } else if constexpr (std::is_same_v<S, fp16>) {
            return Batch<Target, A>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
        } else if constexpr (std::is_same_v<S, int8>) {
            const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source));
            return Batch<Target, A>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
        } else if constexpr (std::is_same_v<S, Fp8Code>) {
            const __m256i halves = fp8_codes_as_halves(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
            return Batch<Target, A>(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
        } else {
            const __m256i halves = fp8_as_halves(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
            return Batch<Target, A>(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_set1_ps(256.0F)));
        }
    }

    static MLA_ALWAYS_INLINE void load_two(const Fp8Code* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        const __m256i halves = fp8_codes_as_halves(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
        first = Batch<Target, float>(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
        second = Batch<Target, float>(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
    }
    static MLA_ALWAYS_INLINE void load_two(const fp8* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        const __m256i halves = fp8_as_halves(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
        const __m256 unit = _mm256_set1_ps(256.0F);
        first = Batch<Target, float>(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), unit));
        second = Batch<Target, float>(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), unit));
    }

    /// A vector rounded to bf16, subnormals too; a NaN keeps its highest bits and becomes quiet.
    static MLA_ALWAYS_INLINE __m128i as_bf16(__m256 values) {
        const __m256i bits = _mm256_castps_si256(values);
        const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i raised = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet_nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256 is_nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
        const __m256i rounded =
            _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(raised), _mm256_castsi256_ps(quiet_nan), is_nan));
        return as_halves(_mm256_srai_epi32(rounded, 16));
    }

    /// Integers that int16 holds, in order.
    static MLA_ALWAYS_INLINE __m128i as_halves(__m256i values) {
        const __m256i halves = _mm256_packs_epi32(values, values);  // 0…3 twice, 4…7 twice
        return _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08));
    }

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE void store_converted(S* target, const Batch<Target, A>& value) {
        if constexpr (std::is_same_v<A, float> && std::is_same_v<S, bf16>) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(target), as_bf16(value));
        } else if constexpr (std::is_same_v<A, float> && std::is_same_v<S, fp16>) {
            const __m128i bits = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(target), bits);
        } else {
            Portable::template store_converted<A>(target, value);
        }
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const bf16* source) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
        if constexpr (Part == 0) return Batch<Target, float>(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
        // A mask would take a register that a tile lacks.
        return Batch<Target, float>(_mm256_castsi256_ps(_mm256_blend_epi16(_mm256_setzero_si256(), pairs, 0xaa)));
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const int4x8* source) {
        const __m256i groups = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
        return Batch<Target, float>(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(groups, 28 - 4 * Part), 28)));
    }

    static MLA_ALWAYS_INLINE void store_narrow(std::int16_t* target, const Batch<Target, std::int32_t>& values) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target), as_halves(values));
    }

    // Shuffles ----------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE void transpose_bytes(const std::byte* rows, Index row_stride, std::byte* columns, Index stride) {
        transpose_bytes_sse2(rows, row_stride, columns, stride);
    }

    static MLA_ALWAYS_INLINE void interleave_lanes(Batch<Target, float>& first, Batch<Target, float>& second) {
        const __m256 low = _mm256_unpacklo_ps(first, second);  // 0 and 1 of either, 4 and 5 of either
        const __m256 high = _mm256_unpackhi_ps(first, second);
        first = Batch<Target, float>(_mm256_permute2f128_ps(low, high, 0x20));
        second = Batch<Target, float>(_mm256_permute2f128_ps(low, high, 0x31));
    }

    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> sum_lanes_of_each(const Batch<Target, A>* vectors) {
        // Each step adds two halves of two vectors at once.
        if constexpr (std::is_same_v<A, float>) {
            const auto four = [](const Batch<Target, A>* v) MLA_ALWAYS_INLINE_LAMBDA {
                return _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
            };
            const __m256 low = four(vectors), high = four(vectors + 4);
            return Batch<Target, A>(
                _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)));
        } else {
            const __m256d low = _mm256_hadd_pd(vectors[0], vectors[1]), high = _mm256_hadd_pd(vectors[2], vectors[3]);
            return Batch<Target, A>(
                _mm256_add_pd(_mm256_permute2f128_pd(low, high, 0x20), _mm256_permute2f128_pd(low, high, 0x31)));
        }
    }

    static MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Target, std::int32_t>& vector) {
        const __m256i all = vector;
        const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
    }

    // Rows --------------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE Index widen(const int8* bytes, Index count, std::int16_t* wide) {
        const Index whole = count / 16 * 16;
        for (Index i = 0; i < whole; i += 16) {
            const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(wide + i), _mm256_cvtepi8_epi16(values));
        }
        return whole;
    }

    static MLA_ALWAYS_INLINE Index interleave(const int8* first, const int8* second, Index count, Int16Pair* pairs) {
        const Index whole = count / 16 * 16;
        for (Index i = 0; i < whole; i += 16) {
            const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + i));
            const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + i));
            const auto store = [](Int16Pair* target, __m128i bytes) MLA_ALWAYS_INLINE_LAMBDA {
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_cvtepi8_epi16(bytes));
            };
            store(pairs + i, _mm_unpacklo_epi8(a, b));
            store(pairs + i + 8, _mm_unpackhi_epi8(a, b));
        }
        return whole;
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
