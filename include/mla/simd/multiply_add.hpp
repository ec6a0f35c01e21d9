// a · b + sum as the product tile does it: where the sum lies.
//
// GCC 12 is free to put the result of an FMA where an operand was. Over a dozen sums and several k it then shuffles registers, by
// way of the stack; the instruction is therefore spelled out for it.
#pragma once

#include "mla/simd/fma.hpp"

#if defined(__FMA__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__) && defined(__FMA__)
#define MLA_SPELL_OUT_FMA 1
#endif

namespace mla::simd {

template <class Arch, Compute A>
MLA_ALWAYS_INLINE Batch<Arch, A> multiply_add(const Batch<Arch, A>& a, const Batch<Arch, A>& b, const Batch<Arch, A>& sum) {
#if defined(MLA_SPELL_OUT_FMA)
    if constexpr (sizeof(Batch<Arch, A>) >= 32) {
        typename Batch<Arch, A>::register_type result = sum;
        const typename Batch<Arch, A>::register_type left = a;
        const typename Batch<Arch, A>::register_type right = b;
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<A, float>) asm("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
        if constexpr (std::is_same_v<A, double>)
            asm("vfmadd231pd {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
#else
        if constexpr (std::is_same_v<A, float>) asm("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+x"(result) : "x"(left), "x"(right));
        if constexpr (std::is_same_v<A, double>)
            asm("vfmadd231pd {%2, %1, %0|%0, %1, %2}" : "+x"(result) : "x"(left), "x"(right));
#endif
        return Batch<Arch, A>(result);
    }
#endif
    return simd::fma(a, b, sum);
}

/// Whether a value in memory is broadcast by the instruction that multiplies it: where each is used once that saves one in two.
template <class Arch>
inline constexpr bool folds_broadcasts =
#if defined(MLA_SPELL_OUT_FMA) && defined(__AVX512F__)
    std::is_base_of_v<xsimd::avx512f, Arch>;
#else
    false;
#endif

#if defined(MLA_SPELL_OUT_FMA) && defined(__AVX512F__)
/// *a · b + sum. Defined where folds_broadcasts.
template <class Arch>
MLA_ALWAYS_INLINE Batch<Arch, float> multiply_add(const float* a, const Batch<Arch, float>& b, const Batch<Arch, float>& sum) {
    __m512 result = sum;
    const __m512 right = b;
    asm("vfmadd231ps {%2%{1to16%}, %1, %0|%0, %1, %2%{1to16%}}" : "+v"(result) : "v"(right), "m"(*a));
    return Batch<Arch, float>(result);
}

template <class Arch>
MLA_ALWAYS_INLINE Batch<Arch, double> multiply_add(const double* a, const Batch<Arch, double>& b,
                                                   const Batch<Arch, double>& sum) {
    __m512d result = sum;
    const __m512d right = b;
    asm("vfmadd231pd {%2%{1to8%}, %1, %0|%0, %1, %2%{1to8%}}" : "+v"(result) : "v"(right), "m"(*a));
    return Batch<Arch, double>(result);
}
#endif

}  // namespace mla::simd
