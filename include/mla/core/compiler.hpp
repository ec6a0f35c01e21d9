// What the compiler and its flags allow: the only header that reads their macros.
//
// Code that two files of a program compile with different -march must not share a symbol: the linker would keep one of the two,
// and a file could run instructions that its machine lacks. All of the library therefore lies in an inline namespace that is
// named after the instruction sets of the file that includes it. Such files link and each runs its own; handing a layer or a
// cache from one to the other is a link error.
#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ != 0) || defined(__ASSOCIATIVE_MATH__)
#error "mla: -ffast-math, -ffinite-math-only and -fassociative-math break the infinities of masking, compile without them"
#endif

#if defined(__GNUC__) || defined(__clang__)
#define MLA_ALWAYS_INLINE inline __attribute__((always_inline))
#define MLA_ALWAYS_INLINE_LAMBDA __attribute__((always_inline))
#define MLA_NEVER_INLINE __attribute__((noinline))
#define MLA_RESTRICT __restrict__
#else
#error "mla: needs GCC or Clang"
#endif

// GCC is told which instruction to use, and where, in places where it would choose badly; Clang chooses well.
#if defined(__clang__)
#define MLA_IS_GCC 0
#else
#define MLA_IS_GCC 1
#endif

// Which targets the flags allow. Each includes those before it.
#if defined(__x86_64__)
#define MLA_HAS_X86 1
#else
#define MLA_HAS_X86 0
#endif
#if MLA_HAS_X86 && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define MLA_HAS_AVX2 1
#else
#define MLA_HAS_AVX2 0
#endif
#if MLA_HAS_AVX2 && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define MLA_HAS_AVX512 1
#else
#define MLA_HAS_AVX512 0
#endif
#if MLA_HAS_AVX512 && defined(__AVX512VNNI__)
#define MLA_HAS_AVX512_VNNI 1
#else
#define MLA_HAS_AVX512_VNNI 0
#endif
#if MLA_HAS_AVX512_VNNI && defined(__AVX512BF16__)
#define MLA_HAS_AVX512_BF16 1
#else
#define MLA_HAS_AVX512_BF16 0
#endif
// Older Clangs leave out the second underscore.
#if MLA_HAS_AVX512_BF16 && (defined(__AMX_BF16__) || defined(__AMXBF16__)) && (defined(__AMX_INT8__) || defined(__AMXINT8__))
#define MLA_HAS_AMX 1
#else
#define MLA_HAS_AMX 0
#endif
#if defined(__linux__)
#define MLA_IS_LINUX 1
#else
#define MLA_IS_LINUX 0
#endif
// Cores that have AVX512-FP16 too are Intel's from Sapphire Rapids on. There a VDPBF16PS takes two cycles and an FMA half of one
// (measured on Emerald Rapids: 84 and 177 GFLOP/s), for half as many products.
#if defined(__AVX512FP16__)
#define MLA_HAS_AVX512_FP16 1
#else
#define MLA_HAS_AVX512_FP16 0
#endif

// Every AArch64 processor has NEON. BF16 is optional from Armv8.2 on.
#if defined(__aarch64__) && defined(__ARM_NEON)
#define MLA_HAS_NEON 1
#else
#define MLA_HAS_NEON 0
#endif
#if MLA_HAS_NEON && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define MLA_HAS_NEON_BF16 1
#else
#define MLA_HAS_NEON_BF16 0
#endif
// Whether Linux says what the processor has (getauxval).
#if MLA_HAS_NEON && defined(__linux__)
#define MLA_HAS_AUXILIARY_VECTOR 1
#else
#define MLA_HAS_AUXILIARY_VECTOR 0
#endif

// The name of the inline namespace: a word for each instruction set that the flags allow.
#define MLA_JOIN_(a, b, c, d, e, f, g, h) a##b##c##d##e##f##g##h
#define MLA_JOIN(a, b, c, d, e, f, g, h) MLA_JOIN_(a, b, c, d, e, f, g, h)
// Defined by mla_add_compiled_kernels: kernels are linked, one source a target, and the best is chosen at run time.
#if defined(MLA_COMPILED_KERNELS)
#define MLA_IS_COMPILED 1
#define MLA_WORD_BASE compiled
#else
#define MLA_IS_COMPILED 0
#define MLA_WORD_BASE isa
#endif
#if defined(__SSE4_2__)
#define MLA_WORD_SSE _sse42
#else
#define MLA_WORD_SSE
#endif
#if defined(__AVX__) && !defined(__AVX2__)
#define MLA_WORD_AVX _avx
#elif MLA_HAS_AVX2
#define MLA_WORD_AVX _avx2
#elif defined(__AVX2__)
#define MLA_WORD_AVX _avx2_alone
#else
#define MLA_WORD_AVX
#endif
#if defined(__BMI2__)
#define MLA_WORD_BMI _bmi
#else
#define MLA_WORD_BMI
#endif
#if MLA_HAS_AVX512_BF16
#define MLA_WORD_AVX512 _avx512_bf16
#elif MLA_HAS_AVX512_VNNI
#define MLA_WORD_AVX512 _avx512_vnni
#elif MLA_HAS_AVX512
#define MLA_WORD_AVX512 _avx512
#elif defined(__AVX512F__)
#define MLA_WORD_AVX512 _avx512f
#else
#define MLA_WORD_AVX512
#endif
#if defined(__AVX512VBMI2__)
#define MLA_WORD_VBMI _vbmi
#else
#define MLA_WORD_VBMI
#endif
#if MLA_HAS_AVX512_FP16
#define MLA_WORD_FP16 _fp16
#else
#define MLA_WORD_FP16
#endif
#if defined(__AMX_TILE__) || defined(__AMXTILE__)
#define MLA_WORD_AMX _amx
#else
#define MLA_WORD_AMX
#endif
#if MLA_HAS_NEON
#define MLA_WORD_NEON _neon
#else
#define MLA_WORD_NEON
#endif
#if MLA_HAS_NEON_BF16
#define MLA_WORD_BF16 _bf16
#else
#define MLA_WORD_BF16
#endif
#if defined(__ARM_FEATURE_ATOMICS)
#define MLA_WORD_LSE _lse
#else
#define MLA_WORD_LSE
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#define MLA_WORD_DOT _dot
#else
#define MLA_WORD_DOT
#endif
#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define MLA_WORD_HALF _half
#else
#define MLA_WORD_HALF
#endif
#if defined(__ARM_FEATURE_SVE)
#define MLA_WORD_SVE _sve
#else
#define MLA_WORD_SVE
#endif
#if MLA_HAS_NEON
#define MLA_ISA MLA_JOIN(MLA_WORD_BASE, MLA_WORD_NEON, MLA_WORD_BF16, MLA_WORD_LSE, MLA_WORD_DOT, MLA_WORD_HALF, MLA_WORD_SVE, )
#else
#define MLA_ISA \
    MLA_JOIN(MLA_WORD_BASE, MLA_WORD_SSE, MLA_WORD_AVX, MLA_WORD_BMI, MLA_WORD_AVX512, MLA_WORD_VBMI, MLA_WORD_FP16, MLA_WORD_AMX)
#endif

// Declared here, so that a program that opens one of them again by its plain name means ours.
namespace mla::inline MLA_ISA {
namespace baselines {}
namespace detail {}
namespace io {}
namespace operands {}
namespace presets {}
namespace reference {}
namespace simd {}
namespace targets {}
namespace testing {}
}  // namespace mla::inline MLA_ISA
