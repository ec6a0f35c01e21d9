// The fused multiply-add. xsimd 8.1 has none for AVX-512 and writes a product and a sum there. GCC fuses the two; Clang does not,
// and kernels ran at half their speed.
#pragma once

#include "mla/simd/batch.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mla::simd {

/// a · b + c, rounded once where the CPU can.
template <Compute A, class Arch>
MLA_ALWAYS_INLINE xsimd::batch<A, Arch> fma(const xsimd::batch<A, Arch>& a, const xsimd::batch<A, Arch>& b,
                                            const xsimd::batch<A, Arch>& c) {
#if defined(__AVX512F__)
    if constexpr (std::is_base_of_v<xsimd::avx512f, Arch> && std::is_same_v<A, float>) return _mm512_fmadd_ps(a, b, c);
    if constexpr (std::is_base_of_v<xsimd::avx512f, Arch> && std::is_same_v<A, double>) return _mm512_fmadd_pd(a, b, c);
#endif
    return xsimd::fma(a, b, c);
}

}  // namespace mla::simd
