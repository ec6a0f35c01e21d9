// Signed bytes with one scale a token: RMSNorm leaves the values of a latent alike, so that a scale for each 128 would lower the
// error by an eighth only, from 0.74 % to 0.65 % of N(0, 1) values. Multiplied as integers of 16 bits, whose sums are exact: the
// bytes as they are, rope keys, queries and probabilities as multiples of a step.
#pragma once

#include "mla/formats/quantised_weight.hpp"
#include "mla/formats/scaled_format.hpp"

namespace mla::inline MLA_ISA {

template <>
struct Format<int8> : detail::ScaledFormat<int8, std::numeric_limits<Index>::max(), 127>,
                      detail::QuantisedWeightFormat<int8, int8, DType::i8, 127, 128> {
    static constexpr const char* name = "int8";

    template <class Target, Compute A, Precision P>
    using Operand =
        std::conditional_t<std::is_same_v<A, float> && P == Precision::operand, operands::IntegersOn<Target>, operands::Plain<A>>;

    [[nodiscard]] static int8 nearest(float value) noexcept { return int8(static_cast<std::int8_t>(std::nearbyint(value))); }

    /// What the bytes of a token's latent stand for.
    [[nodiscard]] static float latent_step(const RowFormat<int8>& format, const int8* row) noexcept {
        return scale(format, row, 0);
    }

    /// Values [first, first + count) of a key, where the latent and the rope key begin with a unit each, and the step of the
    /// latter.
    template <class Target, class Operand, class Unit>
    static void stage_key(const RowFormat<int8>& format, const int8* row, Index first, Index count, Unit* units,
                          float* rope_step) noexcept {
        auto* const target = reinterpret_cast<std::int16_t*>(units);
        const Index rope = round_up(format.latent_dim, Operand::values_per_unit);
        // What is beside an odd last value meets a query's 0.
        if (first < rope) return simd::widen<Target>(row + first, std::min(count, format.latent_dim - first), target);
        const bf16* const key = rope_key(format, row);
        const auto steps = simd::Steps::of<Target>(key, format.rope_dim, Operand::rope_key_range);
        *rope_step = steps.step;
        simd::quantise<Target>(key + first - rope, std::min(count, format.rope_dim - (first - rope)), steps, target);
    }
    template <class Target, class Operand, class Unit>
    static void stage_values(const int8* first, const int8* second, Index column, Index count, Unit* units) noexcept {
        simd::interleave<Target>(first + column, (second == nullptr ? first : second) + column, count, units);
        if (second == nullptr)
            for (Index i = 0; i < count; ++i) units[i].bits &= 0xffffU;
    }
};

}  // namespace mla::inline MLA_ISA
