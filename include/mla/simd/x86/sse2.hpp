// The atoms of SSE2, which every x86-64 machine has.
#pragma once

#include "mla/simd/portable.hpp"

#if MLA_HAS_X86
#include <immintrin.h>

namespace mla::inline MLA_ISA::simd {

template <class Target>
struct Sse2Atoms : PortableAtoms<Target> {
    /// Pairs of int16 are as old as SSE2.
    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        const __m128i products = _mm_madd_epi16(a, b);
        return sum + Batch<Target, std::int32_t>(products);
    }

    using PortableAtoms<Target>::load_interleaved;
    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const int4x8* source) {
        const __m128i groups = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
        return Batch<Target, float>(_mm_cvtepi32_ps(_mm_srai_epi32(_mm_slli_epi32(groups, 28 - 4 * Part), 28)));
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
