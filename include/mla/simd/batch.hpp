// Vectors of a target, and loops over them that are unrolled from the start.
#pragma once

#include <utility>

#include "mla/simd/targets.hpp"

namespace mla::inline MLA_ISA::simd {

template <class Target, class A>
using Batch = typename Target::template batch<A>;

/// Lanes that each hold two bf16, two int16 or four bytes, the first in the lowest bits. Setting all lanes to one value
/// broadcasts a group of neighbours.
template <class Target>
using PackedBatch = Batch<Target, std::uint32_t>;

/// Elements of type A in one vector.
template <class Target, class A>
inline constexpr Index lanes = Target::vector_bytes / static_cast<Index>(sizeof(A));

/// A count as the bound of an array.
template <auto Count>
inline constexpr std::size_t extent = static_cast<std::size_t>(Count);

/// A target that has the instructions of Base.
template <class Target, class Base>
concept Has = std::is_base_of_v<Base, Target>;

// One name for the operations of either kind of vector.
#if MLA_HAS_X86 || MLA_HAS_NEON
using xsimd::abs;
using xsimd::max;
using xsimd::min;
using xsimd::nearbyint;
using xsimd::nearbyint_as_int;
using xsimd::select;
using xsimd::to_float;
#endif

/// Calls `f(std::integral_constant<int, i>)` for i in [0, N), unrolled from the start: a loop left to the optimiser
/// would keep its accumulators in memory at -O2.
template <int N, class F>
MLA_ALWAYS_INLINE void unroll(F&& f) {
    [&]<int... I>(std::integer_sequence<int, I...>) MLA_ALWAYS_INLINE_LAMBDA { (f(std::integral_constant<int, I>{}), ...); }
    (std::make_integer_sequence<int, N>{});
}

/// Hides from the compiler where a vector came from, so that it stays in its register. GCC would rather load it anew for each
/// use, as an operand in memory: a tile of 4×3 sums then does 16 loads for its 12 products where 7 suffice. Nor is it made once
/// before a loop, where it would take a register for good.
template <class Vector>
MLA_ALWAYS_INLINE void keep_in_register([[maybe_unused]] Vector& vector) {
#if MLA_IS_GCC && MLA_HAS_AVX2
    if constexpr (requires { typename Vector::register_type; }) {
        typename Vector::register_type bits = vector;
#if MLA_HAS_AVX512
        asm volatile("" : "+v"(bits));
#else
        asm volatile("" : "+x"(bits));
#endif
        vector = Vector(bits);
    }
#endif
}

/// The same for a pointer, whose offsets then stay parts of the loads: GCC would rather keep a sum of each in a register.
template <class T>
MLA_ALWAYS_INLINE void keep_in_register([[maybe_unused]] const T*& pointer) {
#if MLA_IS_GCC
    asm volatile("" : "+r"(pointer));
#endif
}

/// Keeps the compiler from fusing what made `vector` with what follows: a product that is rounded before it is added to.
template <class Vector>
MLA_ALWAYS_INLINE Vector rounded([[maybe_unused]] Vector vector) {
    if constexpr (requires { typename Vector::register_type; }) {
        typename Vector::register_type bits = vector;
#if MLA_HAS_NEON
        asm("" : "+w"(bits));
#elif MLA_HAS_AVX512
        asm("" : "+v"(bits));
#else
        asm("" : "+x"(bits));
#endif
        return Vector(bits);
    } else {
        asm("" : "+m"(vector));
        return vector;
    }
}

}  // namespace mla::inline MLA_ISA::simd
