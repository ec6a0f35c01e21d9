// The atoms of any target, over arrays: what the headers of instruction sets in x86/ and arm/ do not replace.
#pragma once

#include "mla/simd/operand.hpp"

namespace mla::inline MLA_ISA::simd {

/// The atoms of a target: PortableAtoms, or those of its instruction set (atoms.hpp).
template <class Target>
struct AtomsOf;
template <class Target>
using Atoms = typename AtomsOf<Target>::type;

template <class Target>
struct PortableAtoms {
    // Arithmetic --------------------------------------------------------------------------------------------------------

    /// a · b + c, rounded once.
    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> fma(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                  const Batch<Target, A>& c) {
        alignas(64) A left[extent<lanes<Target, A>>], right[extent<lanes<Target, A>>], sum[extent<lanes<Target, A>>];
        a.store_aligned(left);
        b.store_aligned(right);
        c.store_aligned(sum);
        for (std::size_t i = 0; i < extent<lanes<Target, A>>; ++i) sum[i] = std::fma(left[i], right[i], sum[i]);
        return Batch<Target, A>::load_aligned(sum);
    }

    /// The same as the product tile does it: where the sum lies, and rounded twice where the target has no FMA.
    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> multiply_add(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                           const Batch<Target, A>& sum) {
        if constexpr (Target::fuses) return Atoms<Target>::template fma<A>(a, b, sum);
        return a * b + sum;
    }

    /// The same of a unit in memory that all lanes meet.
    template <class U, class Operand, class Sum>
    static MLA_ALWAYS_INLINE Sum multiply_add_at(const U* a, const Operand& b, const Sum& sum) {
        if constexpr (std::is_same_v<U, Bf16Pair>) {
            return Atoms<Target>::dot_bf16(sum, PackedBatch<Target>(a->bits), b);
        } else if constexpr (std::is_same_v<U, Int16Pair>) {
            return Atoms<Target>::dot_s16(sum, PackedBatch<Target>(a->bits), b);
        } else {
            return Atoms<Target>::template multiply_add<U>(Batch<Target, U>(*a), b, sum);
        }
    }

    /// sum[lane] + a[2·lane+1]·b[2·lane+1] + a[2·lane]·b[2·lane] of bf16, in this order and
    /// rounded after each. Subnormal operands count as 0 (VDPBF16PS).
    static MLA_ALWAYS_INLINE Batch<Target, float> dot_bf16(const Batch<Target, float>& sum, const PackedBatch<Target>& a,
                                                           const PackedBatch<Target>& b) {
        alignas(64) std::uint32_t left[extent<lanes<Target, float>>], right[extent<lanes<Target, float>>];
        alignas(64) float sums[extent<lanes<Target, float>>];
        a.store_aligned(left);
        b.store_aligned(right);
        sum.store_aligned(sums);
        const auto value = [](std::uint32_t high)
                               MLA_ALWAYS_INLINE_LAMBDA { return std::bit_cast<float>((high & 0x7f800000U) == 0 ? 0U : high); };
        for (std::size_t i = 0; i < extent<lanes<Target, float>>; ++i) {
            sums[i] = std::fma(value(left[i] & 0xffff0000U), value(right[i] & 0xffff0000U), sums[i]);
            sums[i] = std::fma(value(left[i] << 16U), value(right[i] << 16U), sums[i]);
        }
        return Batch<Target, float>::load_aligned(sums);
    }

    /// sum[lane] + a[2·lane]·b[2·lane] + a[2·lane+1]·b[2·lane+1] of int16; wraps around (VPMADDWD and VPADDD, VPDPWSSD).
    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        alignas(64) std::uint32_t left[extent<lanes<Target, float>>], right[extent<lanes<Target, float>>];
        alignas(64) std::int32_t sums[extent<lanes<Target, float>>];
        a.store_aligned(left);
        b.store_aligned(right);
        sum.store_aligned(sums);
        const auto half = [](std::uint32_t bits)
                              MLA_ALWAYS_INLINE_LAMBDA { return std::int32_t{static_cast<std::int16_t>(bits & 0xffffU)}; };
        for (std::size_t i = 0; i < extent<lanes<Target, float>>; ++i) {
            const auto products = static_cast<std::uint32_t>(half(left[i]) * half(right[i])) +
                                  static_cast<std::uint32_t>(half(left[i] >> 16U) * half(right[i] >> 16U));
            sums[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[i]) + products);
        }
        return Batch<Target, std::int32_t>::load_aligned(sums);
    }

    // Loads and stores that convert -------------------------------------------------------------------------------------

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE Batch<Target, A> load_converted(const S* source) {
        alignas(64) A values[extent<lanes<Target, A>>];
        for (Index i = 0; i < lanes<Target, A>; ++i) values[i] = static_cast<A>(source[i]);
        return Batch<Target, A>::load_aligned(values);
    }

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE void store_converted(S* target, const Batch<Target, A>& value) {
        alignas(64) A values[extent<lanes<Target, A>>];
        value.store_aligned(values);
        for (Index i = 0; i < lanes<Target, A>; ++i) {
            if constexpr (sizeof(S) == 2) {
                target[i] = S(static_cast<float>(values[i]));
            } else {
                target[i] = static_cast<S>(values[i]);
            }
        }
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const bf16* source) {
        alignas(64) float values[extent<lanes<Target, float>>];
        for (Index i = 0; i < lanes<Target, float>; ++i) values[i] = static_cast<float>(source[2 * i + Part]);
        return Batch<Target, float>::load_aligned(values);
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const int4x8* source) {
        alignas(64) float values[extent<lanes<Target, float>>];
        for (Index i = 0; i < lanes<Target, float>; ++i) values[i] = static_cast<float>(source[i][Part]);
        return Batch<Target, float>::load_aligned(values);
    }

    static MLA_ALWAYS_INLINE void load_by_parity(const bf16* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        first = Atoms<Target>::template load_interleaved<0>(source);
        second = Atoms<Target>::template load_interleaved<1>(source);
    }

    /// Stores integers of at most 16 bits.
    static MLA_ALWAYS_INLINE void store_narrow(std::int16_t* target, const Batch<Target, std::int32_t>& values) {
        alignas(64) std::int32_t wide[extent<lanes<Target, float>>];
        values.store_aligned(wide);
        for (std::size_t i = 0; i < extent<lanes<Target, float>>; ++i) target[i] = static_cast<std::int16_t>(wide[i]);
    }

    static MLA_ALWAYS_INLINE PackedBatch<Target> pair_lanes_exactly(const Batch<Target, float>& first,
                                                                    const Batch<Target, float>& second) {
        using Bits = PackedBatch<Target>;
        return (std::bit_cast<Bits>(first) >> 16) | (std::bit_cast<Bits>(second) & Bits(0xffff0000U));
    }

    // Rounding to bf16 --------------------------------------------------------------------------------------------------

    /// Rounds a vector as products take it: see rounded_operand. Adding 0x7fff, and 1 more where the last kept bit is odd,
    /// carries into the kept bits just where nearest even goes up.
    static MLA_ALWAYS_INLINE Batch<Target, float> round_operand(const Batch<Target, float>& values) {
        using Floats = Batch<Target, float>;
        using Bits = PackedBatch<Target>;
        const auto bits = std::bit_cast<Bits>(values);
        const Bits raised = bits + Bits(0x7fffU) + ((bits >> 16) & Bits(1U));
        const auto kept = std::bit_cast<Floats>(raised & Bits(0xffff0000U));
        const Floats normal = select(simd::abs(values) < Floats(0x1p-126F), Floats(0.0F), kept);
        return select(values == values, normal, values);
    }

    /// Rounds two vectors to bf16, as products take them, and pairs them lane by lane; they become what they were rounded to.
    static MLA_ALWAYS_INLINE PackedBatch<Target> round_to_pairs(Batch<Target, float>& first, Batch<Target, float>& second) {
        using Bits = PackedBatch<Target>;
        first = Atoms<Target>::round_operand(first);
        second = Atoms<Target>::round_operand(second);
        return (std::bit_cast<Bits>(first) >> 16) | (std::bit_cast<Bits>(second) & Bits(0xffff0000U));
    }

    // Shuffles ----------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE void interleave_lanes(Batch<Target, float>& first, Batch<Target, float>& second) {
        constexpr Index width = lanes<Target, float>;
        alignas(64) float values[extent<4 * width>];
        first.store_aligned(values);
        second.store_aligned(values + width);
        float* const woven = values + 2 * width;
        for (Index i = 0; i < width; ++i) {
            woven[2 * i] = values[i];
            woven[2 * i + 1] = values[width + i];
        }
        first = Batch<Target, float>::load_aligned(woven);
        second = Batch<Target, float>::load_aligned(woven + width);
    }

    /// columns[k·stride + r] = rows[r·row_stride + k] of bytes, for eight rows r and sixteen k. Of each 8 × 8, a row a number,
    /// three rounds exchange halves, quarters and eighths of pairs of rows.
    static MLA_ALWAYS_INLINE void transpose_bytes(const std::byte* rows, Index row_stride, std::byte* columns, Index stride) {
        for (Index k = 0; k < 16; k += 8) {
            std::uint64_t row[8];
            const auto exchange = [&](std::size_t a, std::size_t b, unsigned shift, std::uint64_t mask) MLA_ALWAYS_INLINE_LAMBDA {
                const std::uint64_t both = ((row[a] >> shift) ^ row[b]) & mask;
                row[b] ^= both;
                row[a] ^= both << shift;
            };
            for (Index r = 0; r < 8; ++r) std::memcpy(&row[r], rows + r * row_stride + k, 8);
            for (std::size_t i = 0; i < 4; ++i) exchange(i, i + 4, 32, 0x00000000ffffffffU);
            for (std::size_t i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) exchange(i, i + 2, 16, 0x0000ffff0000ffffU);
            for (std::size_t i = 0; i < 8; i += 2) exchange(i, i + 1, 8, 0x00ff00ff00ff00ffU);
            for (Index r = 0; r < 8; ++r) std::memcpy(columns + (k + r) * stride, &row[r], 8);
        }
    }

    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> sum_lanes_of_each(const Batch<Target, A>* vectors) {
        constexpr Index width = lanes<Target, A>;
        alignas(64) A sums[extent<width>];
        for (Index v = 0; v < width; ++v) {
            alignas(64) A each[extent<width>];
            vectors[v].store_aligned(each);
            for (Index half = width / 2; half > 0; half /= 2)
                for (Index i = 0; i < half; ++i) each[i] += each[i + half];
            sums[v] = each[0];
        }
        return Batch<Target, A>::load_aligned(sums);
    }

    static MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Target, std::int32_t>& vector) {
        alignas(64) std::int32_t each[extent<lanes<Target, std::int32_t>>];
        vector.store_aligned(each);
        // Halves, which may stay in vectors.
        for (Index half = lanes<Target, std::int32_t> / 2; half > 0; half /= 2)
            for (Index i = 0; i < half; ++i) each[i] = std::max(each[i], each[i + half]);
        return each[0];
    }

    // Rows --------------------------------------------------------------------------------------------------------------
    // The first `count` elements of a row, as many as make whole vectors, are done by these; they return how many.

    /// pairs[i] = {first[i], second[i]}
    static MLA_ALWAYS_INLINE Index interleave(const bf16*, const bf16*, Index, Bf16Pair*) { return 0; }
    static MLA_ALWAYS_INLINE Index interleave(const int8*, const int8*, Index, Int16Pair*) { return 0; }

    /// quads[i] = {rows[0][i], …, rows[3][i]}
    static MLA_ALWAYS_INLINE Index interleave(const int8* const*, Index, ByteQuad*) { return 0; }

    /// upper[i], lower[i] = the bytes of numbers[i]
    static MLA_ALWAYS_INLINE Index split(const std::int16_t*, Index, std::byte*, std::byte*) { return 0; }

    /// wide[i] = bytes[i]
    static MLA_ALWAYS_INLINE Index widen(const int8*, Index, std::int16_t*) { return 0; }

    /// values[i] = codes[i] · power, as products take it
    static MLA_ALWAYS_INLINE Index widen(const fp8*, Index, float, bf16*) { return 0; }

    /// rounded[i] = bf16 of values[i] as products take it
    static MLA_ALWAYS_INLINE Index round_row(const float*, Index, bf16*) { return 0; }
};

}  // namespace mla::inline MLA_ISA::simd
