// The atoms by their names: what vector code is made of, each as its target does it best.
#pragma once

#include "mla/simd/arm/neon.hpp"
#include "mla/simd/arm/neon_bf16.hpp"
#include "mla/simd/portable.hpp"
#include "mla/simd/x86/avx2.hpp"
#include "mla/simd/x86/avx512.hpp"
#include "mla/simd/x86/avx512_bf16.hpp"
#include "mla/simd/x86/avx512_vnni.hpp"
#include "mla/simd/x86/sse2.hpp"

namespace mla::inline MLA_ISA::simd {

/// Functions of their own, so that unrolled tiles stay quick to compile.
template <class Target>
struct EmulatedAtoms : PortableAtoms<Target> {
    using Portable = PortableAtoms<Target>;

    template <Compute A>
    static MLA_NEVER_INLINE Batch<Target, A> fma(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                 const Batch<Target, A>& c) {
        return Portable::template fma<A>(a, b, c);
    }
    template <Compute A>
    static MLA_NEVER_INLINE Batch<Target, A> multiply_add(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                          const Batch<Target, A>& sum) {
        return Portable::template multiply_add<A>(a, b, sum);
    }
    static MLA_NEVER_INLINE Batch<Target, float> dot_bf16(const Batch<Target, float>& sum, const PackedBatch<Target>& a,
                                                          const PackedBatch<Target>& b) {
        return Portable::dot_bf16(sum, a, b);
    }
    static MLA_NEVER_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        return Portable::dot_s16(sum, a, b);
    }
    static MLA_NEVER_INLINE Batch<Target, float> round_operand(const Batch<Target, float>& values) {
        return Portable::round_operand(values);
    }
    static MLA_NEVER_INLINE void interleave_lanes(Batch<Target, float>& first, Batch<Target, float>& second) {
        Portable::interleave_lanes(first, second);
    }
};

template <class Model>
struct AtomsOf<targets::emulated<Model>> {
    using type = EmulatedAtoms<targets::emulated<Model>>;
};
template <>
struct AtomsOf<targets::generic> {
#if MLA_HAS_X86
    using type = Sse2Atoms<targets::generic>;
#else
    using type = PortableAtoms<targets::generic>;
#endif
};
#if MLA_HAS_AVX2
template <>
struct AtomsOf<targets::avx2> {
    using type = Avx2Atoms<targets::avx2>;
};
#endif
#if MLA_HAS_AVX512
template <>
struct AtomsOf<targets::avx512> {
    using type = Avx512Atoms<targets::avx512>;
};
#endif
#if MLA_HAS_AVX512_VNNI
template <>
struct AtomsOf<targets::avx512_vnni> {
    using type = Avx512VnniAtoms<targets::avx512_vnni>;
};
#endif
#if MLA_HAS_AVX512_BF16
template <>
struct AtomsOf<targets::avx512_bf16> {
    using type = Avx512Bf16Atoms<targets::avx512_bf16>;
};
#endif
#if MLA_HAS_AMX
template <>
struct AtomsOf<targets::amx> {
    using type = Avx512Bf16Atoms<targets::amx>;
};
#endif
#if MLA_HAS_NEON
template <>
struct AtomsOf<targets::neon> {
    using type = NeonAtoms<targets::neon>;
};
#endif
#if MLA_HAS_NEON_BF16
template <>
struct AtomsOf<targets::neon_bf16> {
    using type = NeonBf16Atoms<targets::neon_bf16>;
};
#endif

// Arithmetic --------------------------------------------------------------------------------------------------------

/// a · b + c, rounded once on every target.
template <class Target, Compute A>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, A> fma(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                     const Batch<Target, A>& c) {
    return Atoms<Target>::template fma<A>(a, b, c);
}

/// a · b + c, rounded twice on every target.
template <class Target>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, float> multiply_then_add(const Batch<Target, float>& a,
                                                                       const Batch<Target, float>& b,
                                                                       const Batch<Target, float>& c) {
    return rounded(a * b) + c;
}

/// The largest of a vector's lanes.
template <class Target>
[[nodiscard]] MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Target, std::int32_t>& vector) {
    return Atoms<Target>::largest_lane(vector);
}

/// Lane i of the result is the sum of all lanes of vectors[i], for `lanes` vectors.
template <class Target, Compute A>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, A> sum_lanes_of_each(const Batch<Target, A>* vectors) {
    return Atoms<Target>::template sum_lanes_of_each<A>(vectors);
}

/// Puts two vectors that were split by parity in order.
template <class Target>
MLA_ALWAYS_INLINE void interleave_lanes(Batch<Target, float>& first, Batch<Target, float>& second) {
    Atoms<Target>::interleave_lanes(first, second);
}

// Loads and stores --------------------------------------------------------------------------------------------------
// To a wider type they are exact; to a narrower one they round to nearest even.

/// `lanes` elements at any address, in the type computed in.
template <class Target, Compute A, Loadable S>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, A> load(const S* source) {
    if constexpr (std::is_same_v<S, A>) {
        return Batch<Target, A>::load_unaligned(source);
    } else {
        return Atoms<Target>::template load_converted<A>(source);
    }
}

/// The first (Part 0) or the second (Part 1) of each of `lanes` pairs of bf16 at any address.
template <class Target, int Part>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const bf16* source) {
    return Atoms<Target>::template load_interleaved<Part>(source);
}

/// The value of place Part of each of `lanes` groups of eight at any address.
template <class Target, int Part>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const int4x8* source) {
    return Atoms<Target>::template load_interleaved<Part>(source);
}

/// Two vectors of numbers that bf16 holds exactly, paired lane by lane.
template <class Target>
[[nodiscard]] MLA_ALWAYS_INLINE PackedBatch<Target> pair_lanes_exactly(const Batch<Target, float>& first,
                                                                       const Batch<Target, float>& second) {
    return Atoms<Target>::pair_lanes_exactly(first, second);
}

/// Whether a target loads two vectors of S at less than twice the cost of one, in order.
template <class Target, class S>
inline constexpr bool loads_in_twos = requires(const S* source, Batch<Target, float>& vector) {
    Atoms<Target>::load_two(source, vector, vector);
};

/// Whether a target loads four rows of S, a vector of floats each, as pairs of rows, lane by lane:
/// load_rows_in_pairs(source, first, second).
template <class Target, class S>
inline constexpr bool loads_rows_in_pairs = requires(const S* source, PackedBatch<Target>& pairs) {
    Atoms<Target>::load_rows_in_pairs(source, pairs, pairs);
};

/// Loads two vectors of neighbouring elements at any address, in order or split by parity.
template <class Target, Compute A, Loadable S>
MLA_ALWAYS_INLINE void load_two(const S* source, Batch<Target, A>& first, Batch<Target, A>& second) {
    if constexpr (loads_by_parity<A, S>) {
        Atoms<Target>::load_by_parity(source, first, second);
    } else if constexpr (loads_in_twos<Target, S>) {
        Atoms<Target>::load_two(source, first, second);
    } else {
        first = load<Target, A>(source);
        second = load<Target, A>(source + lanes<Target, A>);
    }
}

/// Stores `lanes` elements to any address.
template <class Target, Compute A, Storage S>
MLA_ALWAYS_INLINE void store(S* target, const Batch<Target, A>& value) {
    if constexpr (std::is_same_v<S, A>) {
        value.store_unaligned(target);
    } else {
        Atoms<Target>::template store_converted<A>(target, value);
    }
}

}  // namespace mla::inline MLA_ISA::simd
