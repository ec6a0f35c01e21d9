// Two bf16 values that are multiplied and added in one instruction, as the product tile's unit.
#pragma once

#include <cstdint>

#include "mla/simd/convert.hpp"
#include "mla/simd/dot.hpp"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace mla::simd {

/// Two bf16 that lie side by side, the first in the low half; a view of stored bf16, hence the alignment and aliasing of those.
struct __attribute__((packed, aligned(2), may_alias)) Bf16Pair {
    std::uint32_t bits;
};

template <class Arch, class A>
MLA_ALWAYS_INLINE PackedBatch<Arch> broadcast(Bf16Pair pair) {
    return PackedBatch<Arch>(pair.bits);
}

/// Rounds two vectors to bf16, to nearest even, and pairs them lane by lane; they become what they were rounded to.
/// Defined where has_dot_bf16<Arch>, as is all that follows.
template <class Arch>
PackedBatch<Arch> round_to_pairs(Batch<Arch, float>& first, Batch<Arch, float>& second);

/// pairs[i] = {first[i], second[i]} for i in [0, count).
template <class Arch>
void interleave(const bf16* first, const bf16* second, Index count, Bf16Pair* pairs) noexcept;

/// Rounds values [count] to nearest even and pairs neighbours; what an odd last one lacks is 0. Subnormals become 0.
template <class Arch>
void round_row(const float* values, Index count, Bf16Pair* pairs) noexcept;

#if defined(__AVX512BF16__)
template <class Arch, Compute A>
    requires(has_dot_bf16<Arch>)
MLA_ALWAYS_INLINE PackedBatch<Arch> load_units(const Bf16Pair* pairs) { return PackedBatch<Arch>(_mm512_loadu_si512(pairs)); }

template <class Arch, Compute A>
    requires(has_dot_bf16<Arch>)
MLA_ALWAYS_INLINE Batch<Arch, A> multiply_add(const PackedBatch<Arch>& a, const PackedBatch<Arch>& b, const Batch<Arch, A>& sum) {
    return dot_bf16<Arch>(sum, a, b);
}

template <class Arch>
    requires(has_dot_bf16<Arch>)
MLA_ALWAYS_INLINE Batch<Arch, float> multiply_add(const Bf16Pair* a, const PackedBatch<Arch>& b, const Batch<Arch, float>& sum) {
    return dot_bf16<Arch>(sum, broadcast<Arch, float>(*a), b);
}

template <class Arch>
MLA_ALWAYS_INLINE PackedBatch<Arch> round_to_pairs(Batch<Arch, float>& first, Batch<Arch, float>& second) {
    const auto widen = [](__m512 values) MLA_ALWAYS_INLINE_LAMBDA {
        return _mm512_slli_epi32(_mm512_cvtepu16_epi32(std::bit_cast<__m256i>(_mm512_cvtneps_pbh(values))), 16);
    };
    const __m512i low = widen(first);
    const __m512i high = widen(second);
    first = Batch<Arch, float>(_mm512_castsi512_ps(low));
    second = Batch<Arch, float>(_mm512_castsi512_ps(high));
    return PackedBatch<Arch>(_mm512_or_si512(_mm512_srli_epi32(low, 16), high));
}

template <class Arch>
void interleave(const bf16* first, const bf16* second, Index count, Bf16Pair* pairs) noexcept {
    alignas(64) static constexpr std::uint16_t low_order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(low_order);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const Index whole = count / 32 * 32;
    for (Index i = 0; i < whole; i += 32) {
        const __m512i a = _mm512_loadu_si512(first + i);
        const __m512i b = _mm512_loadu_si512(second + i);
        _mm512_storeu_si512(pairs + i, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(pairs + i + 16, _mm512_permutex2var_epi16(a, high, b));
    }
    for (Index i = whole; i < count; ++i) pairs[i].bits = first[i].bits | std::uint32_t{second[i].bits} << 16U;
}

template <class Arch>
void round_row(const float* values, Index count, Bf16Pair* pairs) noexcept {
    for (Index i = 0; i < count; i += 32, pairs += 16) {
        const auto left = static_cast<std::uint32_t>(std::min<Index>(count - i, 32));
        const std::uint32_t mask = left == 32 ? ~0U : (1U << left) - 1U;
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), values + i);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16U), values + i + 16);
        const auto first = std::bit_cast<__m256i>(_mm512_cvtneps_pbh(low));
        const auto second = std::bit_cast<__m256i>(_mm512_cvtneps_pbh(high));
        const __m512i rounded = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        _mm512_mask_storeu_epi32(pairs, static_cast<__mmask16>((1U << (left + 1) / 2) - 1U), rounded);
    }
}
#endif

}  // namespace mla::simd
