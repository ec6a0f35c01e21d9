// The cache row of DeepSeek-V4, where the last of a token's values are the rotated ones and are kept wider: a row is
//
//     narrow   Dc − 64 bytes of e4m3, filled up to whole bf16
//     wide     bf16: the last 64 latent values, then a rope key of Dr values where there is one
//     scales   UE8M0, one for each 64 narrow values; zeros up to a multiple of 8 bytes
//
// With Dc 512 and Dr 0 that is FlashMLA's of 584 bytes, which its pages hold apart: cache/flashmla_pages.hpp.
#pragma once

#include "mla/formats/fp8.hpp"

namespace mla::inline MLA_ISA {

/// A byte of such a row.
struct fp8_v4 {
    std::uint8_t bits = 0;
};

template <>
struct Format<fp8_v4> {
    static constexpr const char* name = "fp8_v4";
    static constexpr Index row_alignment = sizeof(bf16);
    static constexpr Index values_per_scale = 64;
    static constexpr Index most_wide_values = 64;

    [[nodiscard]] static constexpr Index narrow_values(Index latent_dim) noexcept {
        return std::max<Index>(latent_dim - most_wide_values, 0);
    }
    [[nodiscard]] static constexpr Index scales(Index latent_dim) noexcept {
        return divide_up(narrow_values(latent_dim), values_per_scale);
    }
    [[nodiscard]] static constexpr Index wide_offset(Index latent_dim) noexcept {
        return round_up(narrow_values(latent_dim), static_cast<Index>(sizeof(bf16)));
    }
    [[nodiscard]] static constexpr Index scale_offset(Index latent_dim, Index rope_dim) noexcept {
        return wide_offset(latent_dim) + (latent_dim - narrow_values(latent_dim) + rope_dim) * static_cast<Index>(sizeof(bf16));
    }
    [[nodiscard]] static constexpr Index elements(Index latent_dim, Index rope_dim) noexcept {
        return round_up(scale_offset(latent_dim, rope_dim) + scales(latent_dim), Index{8});
    }

    template <class Target, Compute A>
    static void read(const RowFormat<fp8_v4>& format, const fp8_v4* row, A* token) noexcept {
        const auto* const narrow = reinterpret_cast<const fp8*>(row);
        const auto* const scale = reinterpret_cast<const ue8m0*>(row + scale_offset(format.latent_dim, format.rope_dim));
        const Index wide = narrow_values(format.latent_dim);
        for (Index begin = 0, s = 0; begin < wide; begin += values_per_scale, ++s)
            simd::scale_row<Target>(token + begin, narrow + begin, std::min(values_per_scale, wide - begin),
                                    static_cast<A>(scale[s]));
        simd::convert_row<Target>(token + wide, reinterpret_cast<const bf16*>(row + wide_offset(format.latent_dim)),
                                  format.values() - wide);
    }
    template <class Target, Compute A>
    static void write(const RowFormat<fp8_v4>& format, const A* token, fp8_v4* row) noexcept {
        constexpr float largest = 448.0F;
        auto* const narrow = reinterpret_cast<fp8*>(row);
        auto* const scale = reinterpret_cast<ue8m0*>(row + scale_offset(format.latent_dim, format.rope_dim));
        const Index wide = narrow_values(format.latent_dim);
        std::fill(row + wide, row + wide_offset(format.latent_dim), fp8_v4());
        for (Index begin = 0, s = 0; begin < wide; begin += values_per_scale, ++s) {
            const Index count = std::min(values_per_scale, wide - begin);
            scale[s] = ue8m0::at_least(detail::largest_magnitude(token + begin, count) / largest);
            detail::store_multiples(token + begin, count, scale[s], largest, narrow + begin);
        }
        simd::convert_row<Target>(reinterpret_cast<bf16*>(row + wide_offset(format.latent_dim)), token + wide,
                                  format.values() - wide);
        std::fill(row + scale_offset(format.latent_dim, format.rope_dim) + scales(format.latent_dim),
                  row + elements(format.latent_dim, format.rope_dim), fp8_v4());
    }

    /// A row's values as units: times a power of two e4m3 is a bf16.
    template <class Target, class Operand>
    static void stage_row(const RowFormat<fp8_v4>& format, const fp8_v4* row, typename Operand::Unit* units) noexcept {
        const auto* const narrow = reinterpret_cast<const fp8*>(row);
        const auto* const scale = reinterpret_cast<const ue8m0*>(row + scale_offset(format.latent_dim, format.rope_dim));
        const Index wide = narrow_values(format.latent_dim);
        auto* const values = reinterpret_cast<bf16*>(units);
        for (Index begin = 0, s = 0; begin < wide; begin += values_per_scale, ++s)
            simd::widen<Target>(narrow + begin, std::min(values_per_scale, wide - begin), static_cast<float>(scale[s]),
                                values + begin);
        std::fill(std::copy_n(reinterpret_cast<const bf16*>(row + wide_offset(format.latent_dim)), format.values() - wide,
                              values + wide),
                  values + 2 * operands::units_of<Operand>(format.values()), bf16());
    }

    template <class Target, Compute A, Precision P>
    using Operand = operands::RoundedWhereNarrow<Target, A, P>;
    template <class Target, Compute A, Precision P>
    using Decompressed = Format<fp8>::Decompressed<Target, A, P>;
    template <class Target, class Operand>
    static constexpr bool whole_blocks = true;
};

}  // namespace mla::inline MLA_ISA
