// The atoms of AVX512-VNNI.
#pragma once

#include "mla/simd/x86/avx512.hpp"

#if MLA_HAS_AVX512_VNNI
namespace mla::inline MLA_ISA::simd {

template <class Target>
struct Avx512VnniAtoms : Avx512Atoms<Target> {
    using Avx512Atoms<Target>::multiply_add_at;

    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        __m512i result = sum;
        const __m512i left = a;
        const __m512i right = b;
#if MLA_IS_GCC  // around the intrinsic GCC 12 copies each sum until a tile spills
        asm("vpdpwssd {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
#else
        result = _mm512_dpwssd_epi32(result, left, right);
#endif
        return Batch<Target, std::int32_t>(result);
    }

#if MLA_IS_GCC
    /// The same of a pair in memory.
    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> multiply_add_at(const Int16Pair* a, const PackedBatch<Target>& b,
                                                                         const Batch<Target, std::int32_t>& sum) {
        __m512i result = sum;
        const __m512i right = b;
        asm("vpdpwssd {%2%{1to16%}, %1, %0|%0, %1, %2%{1to16%}}" : "+v"(result) : "v"(right), "m"(*a));
        return Batch<Target, std::int32_t>(result);
    }
#endif
};

}  // namespace mla::inline MLA_ISA::simd
#endif
