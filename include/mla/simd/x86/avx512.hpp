// The atoms of AVX-512 F, BW, DQ and VL.
#pragma once

#include "mla/simd/x86/avx2.hpp"

#if MLA_HAS_AVX512
namespace mla::inline MLA_ISA::simd {

template <class Target>
struct Avx512Atoms : PortableAtoms<Target> {
    using Portable = PortableAtoms<Target>;
    using Portable::multiply_add_at;

    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> fma(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                  const Batch<Target, A>& c) {
        if constexpr (std::is_same_v<A, float>) return _mm512_fmadd_ps(a, b, c);
        if constexpr (std::is_same_v<A, double>) return _mm512_fmadd_pd(a, b, c);
    }

#if MLA_IS_GCC  // as in avx2.hpp
    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> multiply_add(const Batch<Target, A>& a, const Batch<Target, A>& b,
                                                           const Batch<Target, A>& sum) {
        using Register = typename Batch<Target, A>::register_type;
        Register result = sum;
        const Register left = a;
        const Register right = b;
        if constexpr (std::is_same_v<A, float>) asm("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
        if constexpr (std::is_same_v<A, double>)
            asm("vfmadd231pd {%2, %1, %0|%0, %1, %2}" : "+v"(result) : "v"(left), "v"(right));
        return Batch<Target, A>(result);
    }

    /// The same of a value in memory, which the instruction broadcasts: where each is used once that saves one in two.
    static MLA_ALWAYS_INLINE Batch<Target, float> multiply_add_at(const float* a, const Batch<Target, float>& b,
                                                                  const Batch<Target, float>& sum) {
        __m512 result = sum;
        const __m512 right = b;
        asm("vfmadd231ps {%2%{1to16%}, %1, %0|%0, %1, %2%{1to16%}}" : "+v"(result) : "v"(right), "m"(*a));
        return Batch<Target, float>(result);
    }
    static MLA_ALWAYS_INLINE Batch<Target, double> multiply_add_at(const double* a, const Batch<Target, double>& b,
                                                                   const Batch<Target, double>& sum) {
        __m512d result = sum;
        const __m512d right = b;
        asm("vfmadd231pd {%2%{1to8%}, %1, %0|%0, %1, %2%{1to8%}}" : "+v"(result) : "v"(right), "m"(*a));
        return Batch<Target, double>(result);
    }
#endif

    static MLA_ALWAYS_INLINE Batch<Target, std::int32_t> dot_s16(const Batch<Target, std::int32_t>& sum,
                                                                 const PackedBatch<Target>& a, const PackedBatch<Target>& b) {
        __m512i result = sum;
        const __m512i products = _mm512_madd_epi16(a, b);
#if MLA_IS_GCC
        asm("vpaddd {%1, %0, %0|%0, %0, %1}" : "+v"(result) : "v"(products));
#else
        result = _mm512_add_epi32(result, products);
#endif
        return Batch<Target, std::int32_t>(result);
    }

    // Loads and stores that convert -------------------------------------------------------------------------------------

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE Batch<Target, A> load_converted(const S* source) {
        if constexpr (!std::is_same_v<A, float> || std::is_same_v<S, double>) {
            return Portable::template load_converted<A>(source);
        } else if constexpr (std::is_same_v<S, bf16>) {
            const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
            return Batch<Target, A>(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
        } else if constexpr (std::is_same_v<S, fp16>) {
            return Batch<Target, A>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
        } else if constexpr (std::is_same_v<S, int8>) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
            return Batch<Target, A>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
        } else if constexpr (std::is_same_v<S, Fp8Code>) {
            const __m256i halves = fp8_codes_as_halves(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
            return Batch<Target, A>(_mm512_cvtph_ps(halves));
        } else {
            const __m256i halves = fp8_as_halves(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
            return Batch<Target, A>(_mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0F)));
        }
    }

    /// A vector rounded to bf16, subnormals too; a NaN keeps its highest bits and becomes quiet.
    static MLA_ALWAYS_INLINE __m256i as_bf16(__m512 values) {
        const __m512i bits = _mm512_castps_si512(values);
        const __m512i high = _mm512_srli_epi32(bits, 16);
        const __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
        const __m512i raised = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        const __m512i quiet_nan = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
        return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, _mm512_srli_epi32(raised, 16), quiet_nan));
    }

    template <Compute A, class S>
    static MLA_ALWAYS_INLINE void store_converted(S* target, const Batch<Target, A>& value) {
        if constexpr (std::is_same_v<A, float> && std::is_same_v<S, bf16>) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), as_bf16(value));
        } else if constexpr (std::is_same_v<A, float> && std::is_same_v<S, fp16>) {
            const __m256i bits = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), bits);
        } else {
            Portable::template store_converted<A>(target, value);
        }
    }

    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const bf16* source) {
        if constexpr (Part == 0)
            return Batch<Target, float>(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(source), 16)));
        return Batch<Target, float>(_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(0xaaaaaaaaU, source)));
    }

    /// A permutation takes the lowest four bits of each lane, so that a table of sixteen floats decodes them.
    template <int Part>
    static MLA_ALWAYS_INLINE Batch<Target, float> load_interleaved(const int4x8* source) {
        const __m512 table = _mm512_setr_ps(0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F, -8.0F, -7.0F, -6.0F, -5.0F, -4.0F,
                                            -3.0F, -2.0F, -1.0F);
        const __m512i groups = _mm512_loadu_si512(source);
        return Batch<Target, float>(_mm512_permutexvar_ps(_mm512_srli_epi32(groups, 4 * Part), table));
    }

    static MLA_ALWAYS_INLINE PackedBatch<Target> pair_lanes_exactly(const Batch<Target, float>& first,
                                                                    const Batch<Target, float>& second) {
        const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
        return PackedBatch<Target>(_mm512_mask_mov_epi16(low, 0xaaaaaaaaU, _mm512_castps_si512(second)));
    }

    /// Of each code the low and the high byte of a bf16 are made, where it is no subnormal by shifts, and then woven: thirteen
    /// instructions for 64, where two vectors of floats and their pairing take twelve for 32.
    static MLA_ALWAYS_INLINE void load_rows_in_pairs(const Fp8Code* rows, PackedBatch<Target>& first,
                                                     PackedBatch<Target>& second) {
        // A lane gets four columns of all rows, and then the codes of a pair side by side.
        const __m512i columns = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const __m512i woven = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
        const __m512i codes = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(columns, _mm512_loadu_si512(rows)), woven);
        // 1 to 7, bytes of multiples of 2^-17.
        const __m512i low_of_subnormal =
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, -128, -64, 0, 32, 64, 96, 0, 0, 0, 0, 0, 0, 0, 0));
        const __m512i high_of_subnormal =
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 55, 55, 55, 56, 56, 56, 56, 0, 0, 0, 0, 0, 0, 0, 0));
        const __m512i magnitudes = _mm512_and_si512(codes, _mm512_set1_epi8(0x7f));
        const __mmask64 subnormal = _mm512_cmplt_epi8_mask(magnitudes, _mm512_set1_epi8(8));
        const __m512i shifted = _mm512_and_si512(_mm512_slli_epi16(codes, 4), _mm512_set1_epi8(-16));
        const __m512i low = _mm512_mask_shuffle_epi8(shifted, subnormal, low_of_subnormal, magnitudes);
        // Three bits of the exponent below those of 2^-15, then the sign of the code.
        constexpr int and_or = 0xea, select = 0xca;
        const __m512i exponents =
            _mm512_ternarylogic_epi32(_mm512_srli_epi16(codes, 4), _mm512_set1_epi8(7), _mm512_set1_epi8(0x38), and_or);
        const __m512i unsigned_high = _mm512_mask_shuffle_epi8(exponents, subnormal, high_of_subnormal, magnitudes);
        const __m512i high = _mm512_ternarylogic_epi32(_mm512_set1_epi8(-128), codes, unsigned_high, select);
        first = PackedBatch<Target>(_mm512_unpacklo_epi8(low, high));
        second = PackedBatch<Target>(_mm512_unpackhi_epi8(low, high));
    }

    static MLA_ALWAYS_INLINE void load_by_parity(const bf16* source, Batch<Target, float>& first, Batch<Target, float>& second) {
        Batch<Target, std::int32_t> pairs(_mm512_loadu_si512(source));
        keep_in_register(pairs);  // which GCC would store for the shift to load
        first = Batch<Target, float>(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
        second = Batch<Target, float>(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000))));
    }

    static MLA_ALWAYS_INLINE void store_narrow(std::int16_t* target, const Batch<Target, std::int32_t>& values) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtepi32_epi16(values));
    }

    // Shuffles ----------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE void transpose_bytes(const std::byte* rows, Index row_stride, std::byte* columns, Index stride) {
        transpose_bytes_sse2(rows, row_stride, columns, stride);
    }

    static MLA_ALWAYS_INLINE void interleave_lanes(Batch<Target, float>& first, Batch<Target, float>& second) {
        alignas(64) static constexpr std::int32_t low_order[16] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
        const __m512i low = _mm512_load_si512(low_order);
        const __m512 woven = _mm512_permutex2var_ps(first, low, second);
        second = Batch<Target, float>(_mm512_permutex2var_ps(first, _mm512_add_epi32(low, _mm512_set1_epi32(8)), second));
        first = Batch<Target, float>(woven);
    }

    // Each step adds two halves of two vectors at once, so that 16 vectors take 30 shuffles and 15 additions.
    template <Compute A>
    static MLA_ALWAYS_INLINE Batch<Target, A> sum_lanes_of_each(const Batch<Target, A>* vectors) {
        if constexpr (std::is_same_v<A, float>) {
            __m512 quad[4];  // lane 4j + i of quad[q]: part j of the sum of vector 4q + i
            unroll<4>([&](auto q) MLA_ALWAYS_INLINE_LAMBDA {
                const __m512 a = vectors[4 * q];
                const __m512 b = vectors[4 * q + 1];
                const __m512 c = vectors[4 * q + 2];
                const __m512 d = vectors[4 * q + 3];
                const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
                const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
                quad[q] =
                    _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
            });
            const auto fold = [](__m512 x, __m512 y) MLA_ALWAYS_INLINE_LAMBDA {
                return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
            };
            return Batch<Target, A>(fold(fold(quad[0], quad[1]), fold(quad[2], quad[3])));
        } else {
            __m512d pair[4];  // lane 2j + i of pair[p]: part j of the sum of vector 2p + i
            unroll<4>([&](auto p) MLA_ALWAYS_INLINE_LAMBDA {
                const __m512d a = vectors[2 * p];
                const __m512d b = vectors[2 * p + 1];
                pair[p] = _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
            });
            const auto fold = [](__m512d x, __m512d y) MLA_ALWAYS_INLINE_LAMBDA {
                return _mm512_add_pd(_mm512_shuffle_f64x2(x, y, 0x88), _mm512_shuffle_f64x2(x, y, 0xdd));
            };
            return Batch<Target, A>(fold(fold(pair[0], pair[1]), fold(pair[2], pair[3])));
        }
    }

    static MLA_ALWAYS_INLINE std::int32_t largest_lane(const Batch<Target, std::int32_t>& vector) {
        return _mm512_reduce_max_epi32(vector);
    }

    // Rows --------------------------------------------------------------------------------------------------------------

    static MLA_ALWAYS_INLINE Index interleave(const bf16* first, const bf16* second, Index count, Bf16Pair* pairs) {
        alignas(64) static constexpr std::uint16_t low_order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
        const __m512i low = _mm512_load_si512(low_order);
        const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        Index i = 0;
        for (; i + 32 <= count; i += 32) {
            const __m512i a = _mm512_loadu_si512(first + i);
            const __m512i b = _mm512_loadu_si512(second + i);
            _mm512_storeu_si512(pairs + i, _mm512_permutex2var_epi16(a, low, b));
            _mm512_storeu_si512(pairs + i + 16, _mm512_permutex2var_epi16(a, high, b));
        }
        if (i + 16 <= count) {  // the last of a strip of three vectors
            const auto widen = [i](const bf16* values) MLA_ALWAYS_INLINE_LAMBDA {
                return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i)));
            };
            _mm512_storeu_si512(pairs + i, _mm512_or_si512(widen(first), _mm512_slli_epi32(widen(second), 16)));
            i += 16;
        }
        return i;
    }

    static MLA_ALWAYS_INLINE Index interleave(const int8* first, const int8* second, Index count, Int16Pair* pairs) {
        const Index whole = count / 16 * 16;
        for (Index i = 0; i < whole; i += 16) {
            const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + i));
            const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(second + i));
            const __m512i low = _mm512_and_si512(_mm512_cvtepi8_epi32(a), _mm512_set1_epi32(0xffff));
            _mm512_storeu_si512(pairs + i, _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepi8_epi32(b), 16)));
        }
        return whole;
    }

    /// A lane of the result has four quads, so that lanes of the rows are exchanged first: fours of bytes j of lanes i become
    /// those i of lanes j.
    static MLA_ALWAYS_INLINE Index interleave(const int8* const* rows, Index count, ByteQuad* quads) {
        const __m512i exchanged = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const Index whole = count / 64 * 64;
        for (Index i = 0; i < whole; i += 64) {
            const auto row = [&](Index r) MLA_ALWAYS_INLINE_LAMBDA {
                return _mm512_permutexvar_epi32(exchanged, _mm512_loadu_si512(rows[r] + i));
            };
            const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
            const __m512i low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
            const __m512i low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
            _mm512_storeu_si512(quads + i, _mm512_unpacklo_epi16(low_ab, low_cd));
            _mm512_storeu_si512(quads + i + 16, _mm512_unpackhi_epi16(low_ab, low_cd));
            _mm512_storeu_si512(quads + i + 32, _mm512_unpacklo_epi16(high_ab, high_cd));
            _mm512_storeu_si512(quads + i + 48, _mm512_unpackhi_epi16(high_ab, high_cd));
        }
        return whole;
    }

    static MLA_ALWAYS_INLINE Index split(const std::int16_t* numbers, Index count, std::byte* upper, std::byte* lower) {
        const Index whole = count / 32 * 32;
        for (Index i = 0; i < whole; i += 32) {
            const __m512i both = _mm512_loadu_si512(numbers + i);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(upper + i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(both, 8)));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(lower + i), _mm512_cvtepi16_epi8(both));
        }
        return whole;
    }

    /// Exponents move by a sum; the eight smallest magnitudes, which are subnormal in e4m3, are looked up. What the power takes
    /// beyond the range of bf16 is left to others.
    static MLA_ALWAYS_INLINE Index widen(const fp8* codes, Index count, float power, bf16* values) {
        const int exponent = static_cast<int>(std::bit_cast<std::uint32_t>(power) >> 23U) - 127;
        if (exponent < -117 || exponent > 119) return 0;
        alignas(64) static constexpr std::uint16_t smallest[32] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
        const __m512i moved = _mm512_set1_epi16(static_cast<short>(exponent * 128));
        const __m512i table = _mm512_mask_add_epi16(_mm512_load_si512(smallest), 0xfe, _mm512_load_si512(smallest), moved);
        const __m512i bias = _mm512_add_epi16(moved, _mm512_set1_epi16(120 * 128));
        const Index whole = count / 32 * 32;
        for (Index i = 0; i < whole; i += 32) {
            const __m512i bytes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)));
            const __m512i magnitude = _mm512_and_si512(_mm512_slli_epi16(bytes, 4), _mm512_set1_epi16(0x7f0));
            const __mmask32 is_small = _mm512_testn_epi16_mask(bytes, _mm512_set1_epi16(0x78));
            const __mmask32 is_nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f0));
            __m512i value = _mm512_add_epi16(magnitude, bias);
            value = _mm512_mask_permutexvar_epi16(value, is_small, bytes, table);
            value = _mm512_mask_mov_epi16(value, is_nan, _mm512_set1_epi16(0x7fc0));
            _mm512_storeu_si512(values + i, _mm512_ternarylogic_epi32(value, bytes, _mm512_set1_epi16(-0x8000), 0xf8));
        }
        return whole;
    }

    static MLA_ALWAYS_INLINE Index widen(const int8* bytes, Index count, std::int16_t* wide) {
        const Index whole = count / 32 * 32;
        for (Index i = 0; i < whole; i += 32) {
            const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i));
            _mm512_storeu_si512(wide + i, _mm512_cvtepi8_epi16(values));
        }
        return whole;
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
