// Sums and maxima across the lanes of vectors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mla/simd/batch.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mla::simd {
namespace detail {

template <class A, class Arch>
MLA_ALWAYS_INLINE Batch<Arch, A> sum_lanes_of_each(const Batch<Arch, A>* vectors, Arch) {
    return xsimd::haddp(vectors);
}

#if defined(__AVX512F__)
// xsimd 8.1's haddp returns the sums of 16 floats in another order (0 1 4 5 2 3 …). Each step below adds two halves of two
// vectors at once, so that 16 vectors take 30 shuffles and 15 additions.
template <class A, class Arch>
    requires(std::is_same_v<A, float>&& std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> sum_lanes_of_each(const Batch<Arch, A>* vectors, Arch) {
    __m512 quad[4];  // lane 4j + i of quad[q]: part j of the sum of vector 4q + i
    unroll<4>([&](auto q) MLA_ALWAYS_INLINE_LAMBDA {
        const __m512 a = vectors[4 * q];
        const __m512 b = vectors[4 * q + 1];
        const __m512 c = vectors[4 * q + 2];
        const __m512 d = vectors[4 * q + 3];
        const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
        quad[q] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    });
    const auto fold = [](__m512 x, __m512 y) MLA_ALWAYS_INLINE_LAMBDA {
        return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
    };
    return Batch<Arch, A>(fold(fold(quad[0], quad[1]), fold(quad[2], quad[3])));
}
#endif

template <class Arch, class T>
MLA_ALWAYS_INLINE T largest_lane(const Batch<Arch, T>& vector, Arch) {
    alignas(64) T each[extent<lanes<Arch, T>>];
    vector.store_aligned(each);
    // Halves, which may stay in vectors.
    for (Index half = lanes<Arch, T> / 2; half > 0; half /= 2)
        for (Index i = 0; i < half; ++i) each[i] = std::max(each[i], each[i + half]);
    return each[0];
}

#if defined(__AVX512F__)
template <class Arch>
    requires(std::is_base_of_v<xsimd::avx512f, Arch>)
MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Arch, std::int32_t>& vector, Arch) {
    return _mm512_reduce_max_epi32(vector);
}
#endif

#if defined(__AVX2__)
template <class Arch>
    requires(std::is_base_of_v<xsimd::avx2, Arch>)
MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Arch, std::int32_t>& vector, Arch) {
    const __m256i all = vector;
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
#endif

}  // namespace detail

/// The largest of a vector's lanes; any of them where one is NaN.
template <class Arch, class T>
MLA_ALWAYS_INLINE T largest_lane(const Batch<Arch, T>& vector) {
    return detail::largest_lane(vector, Arch{});
}

/// Lane i of the result is the sum of all lanes of vectors[i], for `lanes` vectors.
template <class Arch, Compute A>
MLA_ALWAYS_INLINE Batch<Arch, A> sum_lanes_of_each(const Batch<Arch, A>* vectors) {
    return detail::sum_lanes_of_each<A>(vectors, Arch{});
}

}  // namespace mla::simd
