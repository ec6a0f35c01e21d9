// The atoms of SSE2, which every x86-64 machine has.
#pragma once

#include "mla/simd/portable.hpp"

#if MLA_HAS_X86
#include <immintrin.h>

namespace mla::inline MLA_ISA::simd {

/// Eight rows of sixteen bytes each, turned: three rounds interleave the first half of the vectors with the second, and leave two
/// columns in each.
MLA_ALWAYS_INLINE void transpose_bytes_sse2(const std::byte* rows, Index row_stride, std::byte* columns, Index stride) {
    __m128i square[8];
    unroll<8>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA {
        square[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + r * row_stride));
    });
    unroll<3>([&](auto) MLA_ALWAYS_INLINE_LAMBDA {
        __m128i woven[8];
        unroll<4>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            woven[2 * i] = _mm_unpacklo_epi8(square[i], square[i + 4]);
            woven[2 * i + 1] = _mm_unpackhi_epi8(square[i], square[i + 4]);
        });
        unroll<8>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { square[i] = woven[i]; });
    });
    unroll<8>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(columns + 2 * i * stride), square[i]);
        _mm_storeh_pi(reinterpret_cast<__m64*>(columns + (2 * i + 1) * stride), _mm_castsi128_ps(square[i]));
    });
}

template <class Target>
struct Sse2Atoms : PortableAtoms<Target> {
    /// Pairs of int16 are as old as SSE2.
    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        const __m128i products = _mm_madd_epi16(a, b);
        return sum + Batch<Target, std::int32_t>(products);
    }

    static MLA_ALWAYS_INLINE void transpose_bytes(const std::byte* rows, Index row_stride, std::byte* columns, Index stride) {
        transpose_bytes_sse2(rows, row_stride, columns, stride);
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
