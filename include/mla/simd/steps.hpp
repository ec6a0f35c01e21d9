// Values as integers of 16 bits: multiples of a step.
#pragma once

#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::simd {

/// What integers stand for: `step` each. NaN where a value is no number.
struct Steps {
    float step = 1.0F;
    float per_step = 0.0F;  ///< 1 / step, or 0 where nothing is but zeros or step is NaN

    /// The smallest by which `count` values stay within ±range.
    template <class Target, Storage S>
    [[nodiscard]] static Steps of(const S* values, Index count, float range) noexcept {
        // The bits of magnitudes are ordered as those are, and an infinity or a NaN is above all numbers.
        using Bits = Batch<Target, std::int32_t>;
        constexpr Index width = lanes<Target, float>;
        Bits magnitude(0);
        const Index whole = count / width * width;
        for (Index i = 0; i < whole; i += width)
            magnitude = max(magnitude, std::bit_cast<Bits>(simd::abs(load<Target, float>(values + i))));
        std::int32_t largest = largest_lane<Target>(magnitude);
        for (Index i = whole; i < count; ++i)
            largest = std::max(largest, std::bit_cast<std::int32_t>(std::abs(convert<float>(values[i]))));
        const auto all = std::bit_cast<float>(largest);
        const float per_step = range / all;
        if (!std::isfinite(all)) return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
        return std::isfinite(per_step) ? Steps{all / range, per_step} : Steps{};
    }

    [[nodiscard]] std::int16_t round(float value) const noexcept {
        return per_step == 0.0F ? std::int16_t{0} : static_cast<std::int16_t>(std::nearbyint(value * per_step));
    }
};

/// Pairs two vectors of integers of at most ±32767 lane by lane.
template <class Target>
[[nodiscard]] MLA_ALWAYS_INLINE PackedBatch<Target> pair_lanes(const Batch<Target, float>& first,
                                                               const Batch<Target, float>& second) {
    using Bits = PackedBatch<Target>;
    const auto low = std::bit_cast<Bits>(nearbyint_as_int(first));
    const auto high = std::bit_cast<Bits>(nearbyint_as_int(second));
    return (low & Bits(0xffffU)) | (high << 16);
}

/// numbers[i] = round(values[i] / step) for i in [0, count).
template <class Target, Storage S>
void quantise(const S* values, Index count, const Steps& steps, std::int16_t* numbers) noexcept {
    constexpr Index width = lanes<Target, float>;
    const Index whole = count / width * width;
    for (Index i = 0; i < whole; i += width) {
        const auto scaled = load<Target, float>(values + i) * Batch<Target, float>(steps.per_step);
        Atoms<Target>::store_narrow(numbers + i, nearbyint_as_int(scaled));
    }
    for (Index i = whole; i < count; ++i) numbers[i] = steps.round(convert<float>(values[i]));
}

}  // namespace mla::inline MLA_ISA::simd
