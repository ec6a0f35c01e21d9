// The atoms of NEON with BF16 (Armv8.6).
#pragma once

#include "mla/simd/arm/neon.hpp"

#if MLA_HAS_NEON_BF16
namespace mla::inline MLA_ISA::simd {

template <class Target>
struct NeonBf16Atoms : NeonAtoms<Target> {
    /// BFDOT adds the two products first and then their sum, and rounds both sums to odd: each errs by less than a unit in the
    /// last place, where a rounding to nearest errs by half of one, but a running sum of n products is rounded n/2 times and not
    /// n times, so that the bound of the whole is the same. Subnormals are 0, as on every target. FPCR.EBF would change the
    /// rounding; FloatEnvironment clears it.
    static MLA_ALWAYS_INLINE Batch<Target, float> dot_bf16(const Batch<Target, float>& sum, const PackedBatch<Target>& a,
                                                           const PackedBatch<Target>& b) {
        return Batch<Target, float>(vbfdotq_f32(sum, vreinterpretq_bf16_u32(a), vreinterpretq_bf16_u32(b)));
    }

    static MLA_ALWAYS_INLINE Batch<Target, float> round_operand(const Batch<Target, float>& values) {
        const bfloat16x4_t rounded = vget_low_bf16(vcvtq_low_bf16_f32(values));
        const uint32x4_t wide = vshll_n_u16(vreinterpret_u16_bf16(rounded), 16);
        const uint32x4_t is_subnormal = vcaltq_f32(values, vdupq_n_f32(0x1p-126F));
        return Batch<Target, float>(vreinterpretq_f32_u32(vbicq_u32(wide, is_subnormal)));
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
