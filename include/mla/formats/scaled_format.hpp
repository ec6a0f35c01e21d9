// What the formats of eight bits have in common: a row is
//
//     latent   Dc bytes, filled up with zeros to a multiple of 4
//     scales   floats, one for each `values_per_scale` latent values; a latent value is its byte's value times its scale
//     rope key Dr bf16
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "mla/formats/format.hpp"

namespace mla::inline MLA_ISA::detail {

/// The largest magnitude of `count` values; NaN where one is no finite number.
template <Compute A>
[[nodiscard]] float largest_magnitude(const A* values, Index count) noexcept {
    A magnitude(0);
    bool finite = true;
    for (Index i = 0; i < count; ++i) {
        magnitude = std::max(magnitude, std::abs(values[i]));
        finite = finite && std::isfinite(values[i]);
    }
    return finite ? static_cast<float>(magnitude) : std::numeric_limits<float>::quiet_NaN();
}

/// Stores `count` values as multiples of a scale, of which C holds ±largest; zeros beside a scale of 0 or NaN.
template <Compute A, class C>
void store_multiples(const A* values, Index count, float scale, float largest, C* row) noexcept {
    const bool any = scale > 0.0F;
    for (Index i = 0; i < count; ++i)
        row[i] = Format<C>::nearest(any ? std::clamp(static_cast<float>(values[i]) / scale, -largest, largest) : 0.0F);
}

/// ValuesPerScale: latent values that share a scale; Largest: the largest value that C holds.
template <class C, Index ValuesPerScale, int Largest>
struct ScaledFormat {
    static constexpr Index row_alignment = 4;
    static constexpr Index values_per_scale = ValuesPerScale;

    [[nodiscard]] static constexpr Index scales(Index latent_dim) noexcept {
        return values_per_scale > latent_dim ? 1 : divide_up(latent_dim, values_per_scale);
    }
    [[nodiscard]] static constexpr Index scale_offset(Index latent_dim) noexcept { return round_up(latent_dim, Index{4}); }
    [[nodiscard]] static constexpr Index rope_offset(Index latent_dim) noexcept {
        return scale_offset(latent_dim) + scales(latent_dim) * static_cast<Index>(sizeof(float));
    }
    [[nodiscard]] static constexpr Index elements(Index latent_dim, Index rope_dim) noexcept {
        return rope_offset(latent_dim) + rope_dim * static_cast<Index>(sizeof(bf16));
    }
    /// What the values of group `index` are multiplied by.
    [[nodiscard]] static float scale(const RowFormat<C>& format, const C* row, Index index) noexcept {
        float value = 0.0F;
        std::memcpy(&value, row + scale_offset(format.latent_dim) + index * static_cast<Index>(sizeof value), sizeof value);
        return value;
    }
    [[nodiscard]] static const bf16* rope_key(const RowFormat<C>& format, const C* row) noexcept {
        return reinterpret_cast<const bf16*>(row + rope_offset(format.latent_dim));
    }

    template <class Target, Compute A>
    static void read(const RowFormat<C>& format, const C* row, A* token) noexcept {
        for (Index s = 0; s < scales(format.latent_dim); ++s) {
            const Index begin = s * values_per_scale;
            simd::scale_row<Target>(token + begin, row + begin, width(format, s), static_cast<A>(scale(format, row, s)));
        }
        simd::convert_row<Target>(token + format.latent_dim, rope_key(format, row), format.rope_dim);
    }
    template <class Target, Compute A>
    static void write(const RowFormat<C>& format, const A* token, C* row) noexcept {
        for (Index i = format.latent_dim; i < scale_offset(format.latent_dim); ++i) row[i] = C();
        for (Index s = 0; s < scales(format.latent_dim); ++s) {
            const Index begin = s * values_per_scale;
            const float scale = quantise(token + begin, width(format, s), row + begin);
            std::memcpy(static_cast<void*>(row + scale_offset(format.latent_dim) + s * static_cast<Index>(sizeof scale)), &scale,
                        sizeof scale);
        }
        simd::convert_row<Target>(reinterpret_cast<bf16*>(row + rope_offset(format.latent_dim)), token + format.latent_dim,
                                  format.rope_dim);
    }

    /// A key as units: the numbers of its latent without their scales, then the rope key.
    template <class Target, class Operand>
    static void stage_row(const RowFormat<C>& format, const C* row, typename Operand::Unit* units) noexcept {
        if constexpr (Operand::values_per_unit == 1) {
            simd::scale_row<Target>(units, row, format.latent_dim, 1.0F);
            simd::convert_row<Target>(units + format.latent_dim, rope_key(format, row), format.rope_dim);
        } else {
            auto* const latent = reinterpret_cast<bf16*>(units);
            auto* const rope = reinterpret_cast<bf16*>(units + operands::units_of<Operand>(format.latent_dim));
            simd::widen<Target>(row, format.latent_dim, 1.0F, latent);
            std::fill(latent + format.latent_dim, rope, bf16());
            std::fill(std::copy_n(rope_key(format, row), format.rope_dim, rope),
                      rope + 2 * operands::units_of<Operand>(format.rope_dim), bf16());
        }
    }

    template <class Target, Compute A, Precision P>
    using Decompressed = operands::RoundedWhereNarrow<Target, A, P>;
    /// Scaled values are dear to convert: once for keys and values.
    template <class Operand>
    static constexpr bool in_place = false;
    template <class Target, class Operand>
    static constexpr bool whole_blocks = !Operand::integers;

  private:
    static constexpr float largest = Largest;

    [[nodiscard]] static constexpr Index width(const RowFormat<C>& format, Index index) noexcept {
        return std::min(values_per_scale, format.latent_dim - index * values_per_scale);
    }

    /// Stores `count` values and returns their scale.
    template <Compute A>
    static float quantise(const A* values, Index count, C* row) noexcept {
        const float scale = largest_magnitude(values, count) / largest;
        store_multiples(values, count, scale, largest, row);
        return scale;
    }
};

}  // namespace mla::inline MLA_ISA::detail
