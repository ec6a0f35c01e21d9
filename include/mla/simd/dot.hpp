// Dot products of narrow values that lie packed in 32-bit lanes: two bf16, two int16 or four bytes. A lane of one operand is
// multiplied with the same lane of the other, value by value, and the products are added to that lane's sum.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "mla/simd/batch.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mla::simd {

/// An operand: each lane holds two bf16, two int16 or four bytes, the first in the lowest bits. Setting all lanes to one value
/// broadcasts a group of neighbours.
template <class Arch>
using PackedBatch = xsimd::batch<std::uint32_t, Arch>;

/// Whether pairs of bf16 are multiplied and added in one instruction.
template <class Arch>
inline constexpr bool has_dot_bf16 =
#if defined(__AVX512BF16__)
    std::is_base_of_v<xsimd::avx512f, Arch>;
#else
    false;
#endif

// Cores that have AVX512-FP16 too are Intel's from Sapphire Rapids on. There a VDPBF16PS takes two cycles and an FMA half of one
// (measured on Emerald Rapids: 84 and 177 GFLOP/s), for half as many products.
#if !defined(MLA_PREFER_DOT_BF16)
#if defined(__AVX512FP16__)
#define MLA_PREFER_DOT_BF16 0
#else
#define MLA_PREFER_DOT_BF16 1
#endif
#endif

/// Whether bf16 are better multiplied in pairs than widened. Where the guess above is wrong, define MLA_PREFER_DOT_BF16 as 0 or
/// 1, in all files of a program alike.
template <class Arch>
inline constexpr bool prefers_dot_bf16 = has_dot_bf16<Arch>&& MLA_PREFER_DOT_BF16 != 0;

/// Whether pairs of int16 are multiplied and added within a lane.
template <class Arch>
inline constexpr bool has_dot_int16 =
#if defined(__AVX2__)
    std::is_base_of_v<xsimd::avx2, Arch> || std::is_base_of_v<xsimd::avx512bw, Arch>;
#else
    false;
#endif

/// Whether groups of four bytes are multiplied and added in one instruction.
template <class Arch>
inline constexpr bool has_dot_int8 =
#if defined(__AVX512VNNI__)
    std::is_base_of_v<xsimd::avx512f, Arch>;
#else
    false;
#endif

#if defined(__AVX512BF16__)
/// sum[lane] + a[2·lane]·b[2·lane] + a[2·lane+1]·b[2·lane+1]. Subnormal operands count as 0, results round to nearest even
/// whatever the rounding mode (VDPBF16PS).
template <class Arch>
    requires(has_dot_bf16<Arch>)
MLA_ALWAYS_INLINE Batch<Arch, float> dot_bf16(const Batch<Arch, float>& sum, const PackedBatch<Arch>& a,
                                              const PackedBatch<Arch>& b) {
    const __m512i left = a;
    const __m512i right = b;
#if defined(__GNUC__) && !defined(__clang__)  // as in multiply_add.hpp: where the sum lies
    __m512 result = sum;
    asm("vdpbf16ps {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
    return Batch<Arch, float>(result);
#else
    return Batch<Arch, float>(_mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(left), std::bit_cast<__m512bh>(right)));
#endif
}
#endif

#if defined(__AVX2__)
namespace detail {

#if defined(__AVX512VNNI__)
/// Around the intrinsic GCC 12 copies each sum until a tile spills.
MLA_ALWAYS_INLINE __m512i vpdpwssd(__m512i sum, __m512i a, __m512i b) {
#if defined(__GNUC__) && !defined(__clang__)
    asm("vpdpwssd {%2, %1, %0|%0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    return _mm512_dpwssd_epi32(sum, a, b);
#endif
}
#endif

/// sum + products, in the register of the sum. GCC would add up the products of several k first, more than it has registers for.
template <class Vector>
MLA_ALWAYS_INLINE Vector add_products(Vector sum, Vector products) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__AVX512F__)
    asm("vpaddd {%1, %0, %0|%0, %0, %1}" : "+v"(sum) : "v"(products));
#elif defined(__GNUC__) && !defined(__clang__)
    asm("vpaddd {%1, %0, %0|%0, %0, %1}" : "+x"(sum) : "x"(products));
#elif defined(__AVX512F__)
    if constexpr (sizeof(Vector) == 64) return _mm512_add_epi32(sum, products);
    if constexpr (sizeof(Vector) == 32) return _mm256_add_epi32(sum, products);
#else
    sum = _mm256_add_epi32(sum, products);
#endif
    return sum;
}

}  // namespace detail

/// sum[lane] + a[2·lane]·b[2·lane] + a[2·lane+1]·b[2·lane+1]; wraps around (VPMADDWD and VPADDD, with VNNI VPDPWSSD).
template <class Arch>
    requires(has_dot_int16<Arch>)
MLA_ALWAYS_INLINE Batch<Arch, std::int32_t> dot_s16(const Batch<Arch, std::int32_t>& sum, const PackedBatch<Arch>& a,
                                                    const PackedBatch<Arch>& b) {
    using Sum = Batch<Arch, std::int32_t>;
#if defined(__AVX512VNNI__)
    if constexpr (std::is_base_of_v<xsimd::avx512bw, Arch>) return Sum(detail::vpdpwssd(sum, a, b));
#elif defined(__AVX512BW__)
    if constexpr (std::is_base_of_v<xsimd::avx512bw, Arch>)
        return Sum(detail::add_products<__m512i>(sum, _mm512_madd_epi16(a, b)));
#endif
    if constexpr (std::is_base_of_v<xsimd::avx2, Arch>) return Sum(detail::add_products<__m256i>(sum, _mm256_madd_epi16(a, b)));
}
#endif

#if defined(__AVX512VNNI__)
/// sum[lane] + Σ a[4·lane+i]·b[4·lane+i] over i = 0…3, bytes of a unsigned, bytes of b signed; wraps around (VPDPBUSD).
template <class Arch>
    requires(has_dot_int8<Arch>)
MLA_ALWAYS_INLINE xsimd::batch<std::int32_t, Arch> dot_u8s8(const xsimd::batch<std::int32_t, Arch>& sum,
                                                            const PackedBatch<Arch>& a, const PackedBatch<Arch>& b) {
    return xsimd::batch<std::int32_t, Arch>(_mm512_dpbusd_epi32(sum, a, b));
}
#endif

}  // namespace mla::simd
