// Targets: what a machine can do. All vector code is a template on one; nothing else says which machine it is for.
//
// A target names its vectors, its registers, and which narrow products it has as instructions. How it does them stands in the
// header of its instruction set in x86/ or arm/; what that leaves out, in portable.hpp. A new target is one header and one line
// here.
#pragma once

#include "mla/core/type_list.hpp"
#include "mla/core/types.hpp"
#include "mla/simd/emulated_batch.hpp"

#if MLA_HAS_X86 || MLA_HAS_NEON
#if MLA_IS_GCC
// GCC 12's AVX-512 intrinsics pass undefined vectors that no instruction reads, and -Wall warns of each (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if MLA_IS_GCC
#pragma GCC diagnostic pop
#endif
#endif

namespace mla::inline MLA_ISA::targets {

/// What every machine has: SSE2 on x86-64, elsewhere what the compiler makes of arrays.
struct generic {
    static constexpr const char* name = "generic";
#if MLA_HAS_X86
    template <class A>
    using batch = xsimd::batch<A, xsimd::sse2>;
#else
    template <class A>
    using batch = simd::EmulatedBatch<A, 16 / sizeof(A)>;
#endif
    static constexpr Index vector_bytes = 16;
    static constexpr int registers = 16;
    static constexpr bool fuses = false;               ///< products and sums are one instruction
    static constexpr bool dots_bf16 = false;           ///< pairs of bf16 are multiplied and added in one instruction
    static constexpr bool tiles = false;               ///< matrices of bf16 and of bytes are multiplied in tile registers
    static constexpr bool broadcasts_operand = false;  ///< an instruction that multiplies broadcasts a value in memory for itself
};

/// Haswell, Zen: AVX2, FMA and F16C.
struct avx2 : generic {
    static constexpr const char* name = "avx2";
#if MLA_HAS_AVX2
    template <class A>
    using batch = xsimd::batch<A, xsimd::fma3<xsimd::avx2>>;
#endif
    static constexpr Index vector_bytes = 32;
    static constexpr bool fuses = true;
};

/// Skylake-X: AVX-512 F, BW, DQ and VL.
struct avx512 : avx2 {
    static constexpr const char* name = "avx512";
#if MLA_HAS_AVX512
    template <class A>
    using batch = xsimd::batch<A, xsimd::avx512bw>;
#endif
    static constexpr Index vector_bytes = 64;
    static constexpr int registers = 32;
    static constexpr bool broadcasts_operand = MLA_IS_GCC != 0;
};

/// Ice Lake; Sapphire and Emerald Rapids, whose bf16 products are slower than their FMA: pairs of int16 in one instruction.
struct avx512_vnni : avx512 {
    static constexpr const char* name = "avx512_vnni";
};

/// Zen 4, Zen 5: pairs of bf16 too.
struct avx512_bf16 : avx512_vnni {
    static constexpr const char* name = "avx512_bf16";
    static constexpr bool dots_bf16 = true;
};

/// Sapphire and Emerald Rapids with AMX: tile registers, and the conversions of bf16, which are quick there.
struct amx : avx512_vnni {
    static constexpr const char* name = "amx";
    static constexpr bool tiles = true;
};

/// AArch64: NEON, with FMA.
struct neon : generic {
    static constexpr const char* name = "neon";
#if MLA_HAS_NEON
    template <class A>
    using batch = xsimd::batch<A, xsimd::neon64>;
#endif
    static constexpr int registers = 32;
    static constexpr bool fuses = true;
};

/// Neoverse V1, N2 and later: pairs of bf16 too.
struct neon_bf16 : neon {
    static constexpr const char* name = "neon_bf16";
    static constexpr bool dots_bf16 = true;
};

/// The registers, tiles, packing and rounding of a target with its instructions written out, for any machine: what no machine at
/// hand has is tested all the same.
template <class Target>
struct emulated {
    using model = Target;
    static constexpr const char* name = Target::name;
    template <class A>
    using batch = simd::EmulatedBatch<A, static_cast<std::size_t>(Target::vector_bytes) / sizeof(A)>;
    static constexpr Index vector_bytes = Target::vector_bytes;
    static constexpr int registers = Target::registers;
    static constexpr bool fuses = Target::fuses;
    static constexpr bool dots_bf16 = Target::dots_bf16;
    static constexpr bool tiles = Target::tiles;
    static constexpr bool broadcasts_operand = false;
};

/// All targets.
using All = TypeList<generic, avx2, avx512, avx512_vnni, avx512_bf16, amx, neon, neon_bf16>;

/// The best that the flags allow and that needs no permission: Linux lets a process use tile registers only once it has asked,
/// which the choice at run time does (core/chosen_target.hpp).
#if MLA_HAS_AVX512_BF16 && !MLA_HAS_AVX512_FP16
using native = avx512_bf16;
#elif MLA_HAS_AVX512_VNNI
using native = avx512_vnni;
#elif MLA_HAS_AVX512
using native = avx512;
#elif MLA_HAS_AVX2
using native = avx2;
#elif MLA_HAS_NEON_BF16
using native = neon_bf16;
#elif MLA_HAS_NEON
using native = neon;
#else
using native = generic;
#endif

}  // namespace mla::inline MLA_ISA::targets
