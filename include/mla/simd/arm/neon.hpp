// The atoms of NEON as AArch64 has it: FMA, conversions of halves, sums of neighbouring lanes.
#pragma once

#include "mla/simd/portable.hpp"

#if MLA_HAS_NEON
#include <arm_neon.h>

#include <cstring>

namespace mla::inline MLA_ISA::simd {

/// Eight e4m3 that are no NaN as halves 2^8 times too small, so that no number becomes a subnormal float.
MLA_ALWAYS_INLINE uint16x8_t fp8_codes_as_halves(uint8x8_t bytes) {
    const int16x8_t placed = vshlq_n_s16(vmovl_s8(vreinterpret_s8_u8(bytes)), 7);
    return vandq_u16(vreinterpretq_u16_s16(placed), vdupq_n_u16(0xbfff));
}

/// Eight of any, likewise.
MLA_ALWAYS_INLINE uint16x8_t fp8_as_halves(uint8x8_t bytes) {
    const uint16x8_t magnitude = vdupq_n_u16(0x3f80);
    const uint16x8_t placed = fp8_codes_as_halves(bytes);
    const uint16x8_t is_nan = vceqq_u16(vandq_u16(placed, magnitude), magnitude);
    return vorrq_u16(placed, vandq_u16(is_nan, vdupq_n_u16(0x7e00)));
}

/// Four bytes at any address, and four zeros.
MLA_ALWAYS_INLINE uint8x8_t load_four_bytes(const void* source) {
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, source, sizeof bytes);
    return vreinterpret_u8_u32(vset_lane_u32(bytes, vdup_n_u32(0), 0));
}

template <class Target>
struct NeonAtoms : PortableAtoms<Target> {
    using Portable = PortableAtoms<Target>;
    using Portable::interleave;

    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> fma(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                  const Batch<Target, A>& c) {
        if constexpr (std::is_same_v<A, float>) return vfmaq_f32(c, a, b);
        if constexpr (std::is_same_v<A, double>) return vfmaq_f64(c, a, b);
    }

    /// No instruction adds products of neighbouring int16; those that add products of int8 have no use, queries are wider.
    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        const int16x8_t left = vreinterpretq_s16_u32(a);
        const int16x8_t right = vreinterpretq_s16_u32(b);
        const int32x4_t low = vmull_s16(vget_low_s16(left), vget_low_s16(right));
        return Batch<Target, std::int32_t>(vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(left, right))));
    }

    // Loads and stores that convert -------------------------------------------------------------------------------------

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE Batch<Target, A> load_converted(const S* source) {
        if constexpr (!std::is_same_v<A, float> || std::is_same_v<S, double>) {
            return Portable::template load_converted<A>(source);
        } else if constexpr (std::is_same_v<S, bf16>) {
            return Batch<Target, A>(widen_bf16(vld1_u16(&source->bits)));
        } else if constexpr (std::is_same_v<S, fp16>) {
            return Batch<Target, A>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&source->bits))));
        } else if constexpr (std::is_same_v<S, int8>) {
            const int16x8_t values = vmovl_s8(vreinterpret_s8_u8(load_four_bytes(source)));
            return Batch<Target, A>(vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))));
        } else if constexpr (std::is_same_v<S, Fp8Code>) {
            return Batch<Target, A>(low_as_floats(fp8_codes_as_halves(load_four_bytes(source))));
        } else {
            return Batch<Target, A>(vmulq_n_f32(low_as_floats(fp8_as_halves(load_four_bytes(source))), 256.0F));
        }
    }

    static MLA_ALWAYS_INLINE void load_two(const Fp8Code* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        const uint16x8_t halves = fp8_codes_as_halves(vld1_u8(&source->bits));
        first = Batch<Target, float>(low_as_floats(halves));
        second = Batch<Target, float>(vcvt_high_f32_f16(vreinterpretq_f16_u16(halves)));
    }
    static MLA_ALWAYS_INLINE void load_two(const fp8* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        const uint16x8_t halves = fp8_as_halves(vld1_u8(&source->bits));
        first = Batch<Target, float>(vmulq_n_f32(low_as_floats(halves), 256.0F));
        second = Batch<Target, float>(vmulq_n_f32(vcvt_high_f32_f16(vreinterpretq_f16_u16(halves)), 256.0F));
    }
    static MLA_ALWAYS_INLINE void load_two(const int8* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        const int16x8_t values = vmovl_s8(vld1_s8(&source->bits));
        first = Batch<Target, float>(vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))));
        second = Batch<Target, float>(vcvtq_f32_s32(vmovl_high_s16(values)));
    }

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE void store_converted(S* target, const Batch<Target, A>& value) {
        if constexpr (std::is_same_v<A, float> && std::is_same_v<S, bf16>) {
            vst1_u16(&target->bits, as_bf16(value));
        } else if constexpr (std::is_same_v<A, float> && std::is_same_v<S, fp16>) {
            vst1_u16(&target->bits, vreinterpret_u16_f16(vcvt_f16_f32(value)));
        } else {
            Portable::template store_converted<A>(target, value);
        }
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const bf16* source) {
        const uint32x4_t pairs = load_words(source);
        const uint32x4_t placed = Part == 0 ? vshlq_n_u32(pairs, 16) : vandq_u32(pairs, vdupq_n_u32(0xffff0000U));
        return Batch<Target, float>(vreinterpretq_f32_u32(placed));
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const int4x8* source) {
        const uint32x4_t placed = vshlq_n_u32(vld1q_u32(&source->bits), 28 - 4 * Part);
        return Batch<Target, float>(vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(placed), 28)));
    }

    static MLA_ALWAYS_INLINE void store_narrow(std::int16_t* target, const Batch<Target, std::int32_t>& values) {
        vst1_s16(target, vmovn_s32(values));
    }

    // Shuffles ----------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE void interleave_lanes(Batch<Target, float>& first, Batch<Target, float>& second) {
        const float32x4_t woven = vzip1q_f32(first, second);
        second = Batch<Target, float>(vzip2q_f32(first, second));
        first = Batch<Target, float>(woven);
    }

    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> sum_lanes_of_each(const Batch<Target, A>* vectors) {
        if constexpr (std::is_same_v<A, float>) {
            return Batch<Target, A>(vpaddq_f32(vpaddq_f32(vectors[0], vectors[1]), vpaddq_f32(vectors[2], vectors[3])));
        } else {
            return Batch<Target, A>(vpaddq_f64(vectors[0], vectors[1]));
        }
    }

    static MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Target, std::int32_t>& vector) { return vmaxvq_s32(vector); }

    // Rows --------------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE Index interleave(const bf16* first, const bf16* second, Index count, Bf16Pair* pairs) {
        const Index whole = count / 8 * 8;
        for (Index i = 0; i < whole; i += 8) store_woven(pairs + i, vld1q_u16(&first[i].bits), vld1q_u16(&second[i].bits));
        return whole;
    }

    static MLA_ALWAYS_INLINE Index interleave(const int8* first, const int8* second, Index count, Int16Pair* pairs) {
        const Index whole = count / 8 * 8;
        for (Index i = 0; i < whole; i += 8) {
            const uint16x8_t a = vreinterpretq_u16_s16(vmovl_s8(vld1_s8(&first[i].bits)));
            const uint16x8_t b = vreinterpretq_u16_s16(vmovl_s8(vld1_s8(&second[i].bits)));
            store_woven(pairs + i, a, b);
        }
        return whole;
    }

    static MLA_ALWAYS_INLINE Index widen(const fp8* codes, Index count, float power, bf16* values) {
        const Index whole = count / 8 * 8;
        for (Index i = 0; i < whole; i += 8) {
            Batch<Target, float> first, second;
            load_two(codes + i, first, second);
            const auto upper = [=](float32x4_t numbers)
                                   MLA_ALWAYS_INLINE_LAMBDA { return vreinterpretq_u32_f32(vmulq_n_f32(numbers, power)); };
            vst1q_u16(&values[i].bits, vshrn_high_n_u32(vshrn_n_u32(upper(first), 16), upper(second), 16));
        }
        return whole;
    }

    static MLA_ALWAYS_INLINE Index widen(const int8* bytes, Index count, std::int16_t* wide) {
        const Index whole = count / 8 * 8;
        for (Index i = 0; i < whole; i += 8) vst1q_s16(wide + i, vmovl_s8(vld1_s8(&bytes[i].bits)));
        return whole;
    }

    static MLA_ALWAYS_INLINE Index round_row(const float* values, Index count, bf16* rounded) {
        const Index whole = count / 4 * 4;
        for (Index i = 0; i < whole; i += 4) {
            const Batch<Target, float> kept = Atoms<Target>::round_operand(Batch<Target, float>::load_unaligned(values + i));
            vst1_u16(&rounded[i].bits, vshrn_n_u32(vreinterpretq_u32_f32(kept), 16));
        }
        return whole;
    }

  private:
    static MLA_ALWAYS_INLINE float32x4_t widen_bf16(uint16x4_t bits) { return vreinterpretq_f32_u32(vshll_n_u16(bits, 16)); }

    static MLA_ALWAYS_INLINE float32x4_t low_as_floats(uint16x8_t halves) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves)));
    }

    static MLA_ALWAYS_INLINE uint32x4_t load_words(const bf16* source) { return vreinterpretq_u32_u16(vld1q_u16(&source->bits)); }

    template <class Pair>
    static MLA_ALWAYS_INLINE void store_woven(Pair* pairs, uint16x8_t first, uint16x8_t second) {
        void* const memory = pairs;
        const uint16x8x2_t both = {{first, second}};
        vst2q_u16(static_cast<std::uint16_t*>(memory), both);
    }

    /// A vector rounded to bf16, subnormals too; a NaN keeps its highest bits and becomes quiet.
    static MLA_ALWAYS_INLINE uint16x4_t as_bf16(float32x4_t values) {
        const uint32x4_t bits = vreinterpretq_u32_f32(values);
        const uint32x4_t even = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t raised = vaddq_u32(bits, vaddq_u32(even, vdupq_n_u32(0x7fff)));
        const uint32x4_t quiet_nan = vorrq_u32(bits, vdupq_n_u32(0x400000));
        return vshrn_n_u32(vbslq_u32(vceqq_f32(values, values), raised, quiet_nan), 16);
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
