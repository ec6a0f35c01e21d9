// The atoms of AVX512-BF16.
#pragma once

#include "mla/simd/x86/avx512_vnni.hpp"

#if MLA_HAS_AVX512_BF16
namespace mla::inline MLA_ISA::simd {

template <class Target>
struct Avx512Bf16Atoms : Avx512VnniAtoms<Target> {
    using Avx512VnniAtoms<Target>::multiply_add_at;

    static MLA_ALWAYS_INLINE Batch<Target, float> dot_bf16(const Batch<Target, float>& sum, const PackedBatch<Target>& a,
                                                           const PackedBatch<Target>& b) {
        __m512 result = sum;
        const __m512i left = a;
        const __m512i right = b;
#if MLA_IS_GCC
        asm("vdpbf16ps {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
#else
        result = _mm512_dpbf16_ps(result, std::bit_cast<__m512bh>(left), std::bit_cast<__m512bh>(right));
#endif
        return Batch<Target, float>(result);
    }

#if MLA_IS_GCC
    static MLA_ALWAYS_INLINE Batch<Target, float> multiply_add_at(const Bf16Pair* a, const PackedBatch<Target>& b,
                                                                  const Batch<Target, float>& sum) {
        __m512 result = sum;
        const __m512i right = b;
        asm("vdpbf16ps {%2%{1to16%}, %1, %0|%0, %1, %2%{1to16%}}" : "+v"(result) : "v"(right), "m"(*a));
        return Batch<Target, float>(result);
    }
#endif

    static MLA_ALWAYS_INLINE Batch<Target, float> round_operand(const Batch<Target, float>& values) {
        const __m512i bits = _mm512_cvtepu16_epi32(std::bit_cast<__m256i>(_mm512_cvtneps_pbh(values)));
        return Batch<Target, float>(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
    }

    static MLA_ALWAYS_INLINE PackedBatch<Target> round_to_pairs(Batch<Target, float>& first, Batch<Target, float>& second) {
        const auto widen = [](__m512 values) MLA_ALWAYS_INLINE_LAMBDA {
            return _mm512_slli_epi32(_mm512_cvtepu16_epi32(std::bit_cast<__m256i>(_mm512_cvtneps_pbh(values))), 16);
        };
        const __m512i low = widen(first);
        const __m512i high = widen(second);
        first = Batch<Target, float>(_mm512_castsi512_ps(low));
        second = Batch<Target, float>(_mm512_castsi512_ps(high));
        return PackedBatch<Target>(_mm512_or_si512(_mm512_srli_epi32(low, 16), high));
    }

    static MLA_ALWAYS_INLINE Index round_row(const float* values, Index count, bf16* rounded) {
        const Index whole = count / 32 * 32;
        for (Index i = 0; i < whole; i += 32) {
            const auto first = std::bit_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(values + i)));
            const auto second = std::bit_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(values + i + 16)));
            _mm512_storeu_si512(rounded + i, _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
        }
        return whole;
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
