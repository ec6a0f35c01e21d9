// Vectors of the instruction set that a kernel is compiled for, named by an xsimd architecture tag.
#pragma once

#include <cmath>
#include <utility>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's AVX-512 intrinsics pass undefined vectors that no instruction reads, and -Wall warns of each (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "mla/core/types.hpp"

#if defined(__GNUC__) || defined(__clang__)
#define MLA_ALWAYS_INLINE inline __attribute__((always_inline))
#define MLA_ALWAYS_INLINE_LAMBDA __attribute__((always_inline))
#define MLA_NEVER_INLINE __attribute__((noinline))
#define MLA_RESTRICT __restrict__
#else
#define MLA_ALWAYS_INLINE inline
#define MLA_ALWAYS_INLINE_LAMBDA
#define MLA_NEVER_INLINE
#define MLA_RESTRICT
#endif

namespace mla::simd {

/// The best architecture that the compiler's flags allow.
using DefaultArch = xsimd::default_arch;

template <class Arch, class A>
using Batch = xsimd::batch<A, Arch>;

/// Elements of type A in one vector.
template <class Arch, class A>
inline constexpr Index lanes = static_cast<Index>(Batch<Arch, A>::size);

/// A count as the bound of an array.
template <auto Count>
inline constexpr std::size_t extent = static_cast<std::size_t>(Count);

/// Hides from the compiler where a vector came from, so that it stays in its register. GCC would rather load it anew for each
/// use, as an operand in memory: a tile of 4×3 sums then does 16 loads for its 12 products where 7 suffice. Nor is it made once
/// before a loop, where it would take a register for good.
template <class Vector>
MLA_ALWAYS_INLINE void keep_in_register([[maybe_unused]] Vector& vector) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__AVX__)
    typename Vector::register_type bits = vector;
#if defined(__AVX512F__)
    asm volatile("" : "+v"(bits));
#else
    asm volatile("" : "+x"(bits));
#endif
    vector = Vector(bits);
#endif
}

/// The same for a pointer, whose offsets then stay parts of the loads: GCC would rather keep a sum of each in a register.
template <class T>
MLA_ALWAYS_INLINE void keep_in_register([[maybe_unused]] const T*& pointer) {
#if defined(__GNUC__) && !defined(__clang__)
    asm volatile("" : "+r"(pointer));
#endif
}

/// Vector registers: an AVX-512 or AArch64 tile may keep twice as many accumulators.
template <class Arch>
inline constexpr int vector_registers =
    std::is_base_of_v<xsimd::avx512f, Arch> || std::is_base_of_v<xsimd::neon64, Arch> ? 32 : 16;

/// a·b + sum, fused where the machine can. Left to itself a compiler may fuse it in one instance of a template and not in the
/// next, and the same numbers would differ in their last bit.
template <Compute A>
[[nodiscard]] MLA_ALWAYS_INLINE A multiply_add(A a, A b, A sum) noexcept {
#if defined(__FMA__) || defined(__aarch64__)
    return std::fma(a, b, sum);
#else
    return a * b + sum;
#endif
}

/// Calls `f(std::integral_constant<int, i>)` for i in [0, N), unrolled from the start: a loop left to the optimiser
/// would keep its accumulators in memory at -O2.
template <int N, class F>
MLA_ALWAYS_INLINE void unroll(F&& f) {
    [&]<int... I>(std::integer_sequence<int, I...>) MLA_ALWAYS_INLINE_LAMBDA { (f(std::integral_constant<int, I>{}), ...); }
    (std::make_integer_sequence<int, N>{});
}

}  // namespace mla::simd
