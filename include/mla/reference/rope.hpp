// Everything that depends on the position: rotary frequencies, rotation, and the scales that come with them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <variant>
#include <vector>

#include "mla/config.hpp"

namespace mla::inline MLA_ISA::reference {

/// m(s, a) = s ≤ 1 ? 1 : 0.1·a·ln s + 1 (YaRN, section 3.4, with DeepSeek's coefficient a).
[[nodiscard]] inline double yarn_magnitude(double s, double a) { return s <= 1.0 ? 1.0 : 0.1 * a * std::log(s) + 1.0; }

/// YaRN, section 3.2: the (fractional) pair index whose frequency turns `rotations` times within the original context L0.
/// Solves base^(−2i/dim)·L0 = 2π·rotations for i.
[[nodiscard]] inline double yarn_correction(const Yarn& yarn, double base, Index dim, double rotations) {
    const double original_length = static_cast<double>(yarn.original_max_position);
    return static_cast<double>(dim) * std::log(original_length / (2.0 * std::numbers::pi * rotations)) / (2.0 * std::log(base));
}

/// YaRN's ramp over the pairs i: 0 keeps the frequency (it turns often), 1 divides it by the factor (it turns seldom).
[[nodiscard]] inline double yarn_ramp(const Yarn& yarn, double base, Index dim, Index i) {
    double low = yarn_correction(yarn, base, dim, yarn.beta_fast);
    double high = yarn_correction(yarn, base, dim, yarn.beta_slow);
    if (yarn.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(dim - 1));
    if (low == high) high += 0.001;
    return std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
}

/// Radians a position of each pair: f_i = base^(−2i/dim), scaled by YaRN or LongRoPE, times exp(log_factors_i) -> [dim/2]
[[nodiscard]] inline std::vector<double> inverse_frequencies(const Rope& rope, Index dim) {
    std::vector<double> frequencies;  // [dim/2]
    for (Index i = 0; i < dim / 2; ++i) {
        double f = std::pow(rope.base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        if (const auto* yarn = std::get_if<Yarn>(&rope.scaling)) {
            const double ramp = yarn_ramp(*yarn, rope.base, dim, i);
            f = f / yarn->factor * ramp + f * (1.0 - ramp);
        } else if (const auto* longrope = std::get_if<LongRope>(&rope.scaling)) {
            f /= longrope->factors.at(static_cast<std::size_t>(i));
        }
        if (!rope.log_factors.empty()) f *= std::exp(rope.log_factors.at(static_cast<std::size_t>(i)));
        frequencies.push_back(f);
    }
    return frequencies;
}

/// The multiplier of cos and sin: a checkpoint's attention_factor if it has one, else what YaRN's mscale fields give.
[[nodiscard]] inline double rope_magnitude(const Rope& rope) {
    if (const auto* longrope = std::get_if<LongRope>(&rope.scaling)) return longrope->attention_factor;
    if (const auto* yarn = std::get_if<Yarn>(&rope.scaling)) {
        const double mscale = yarn->mscale.value_or(0.0);                  // 0 means "not set",
        const double mscale_all_dim = yarn->mscale_all_dim.value_or(0.0);  // as in the checkpoints' own code
        if (yarn->attention_factor) return *yarn->attention_factor;
        if (mscale != 0.0 && mscale_all_dim != 0.0)
            return yarn_magnitude(yarn->factor, mscale) / yarn_magnitude(yarn->factor, mscale_all_dim);
        return yarn_magnitude(yarn->factor, 1.0);
    }
    return 1.0;
}

/// Turns each pair (a, b) of v [dim] by position·f_i, in place: (a·cos − b·sin, b·cos + a·sin). Values stay in their
/// places: interleaved leaves pairs, half_split leaves halves. A rope that does not rotate leaves all as it is.
inline void rotate(const Rope& rope, Index dim, std::int64_t position, double* v) {
    if (!rope.rotates) return;
    const std::vector<double> frequencies = inverse_frequencies(rope, dim);  // [dim/2]
    const double magnitude = rope_magnitude(rope);
    for (Index i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<double>(position) * frequencies[static_cast<std::size_t>(i)];
        const double cos = std::cos(angle) * magnitude;
        const double sin = std::sin(angle) * magnitude;
        const bool interleaved = rope.pairing == RopePairing::interleaved;
        double& first = interleaved ? v[2 * i] : v[i];
        double& second = interleaved ? v[2 * i + 1] : v[i + dim / 2];
        const double a = first;
        const double b = second;
        first = a * cos - b * sin;
        second = b * cos + a * sin;
    }
}

/// (Dn+Dr)^-½ · m(factor, mscale_all_dim)², the second factor only under YaRN with mscale_all_dim ≠ 0.
[[nodiscard]] inline double softmax_scale(const Config& config) {
    double scale = 1.0 / std::sqrt(static_cast<double>(config.qk_nope_head_dim + config.qk_rope_head_dim));
    const auto* yarn = std::get_if<Yarn>(&config.rope.scaling);
    if (yarn != nullptr && yarn->scales_softmax && yarn->mscale_all_dim.value_or(0.0) != 0.0)
        scale *= std::pow(yarn_magnitude(yarn->factor, *yarn->mscale_all_dim), 2);
    return scale;
}

/// Multiplier of the whole query at `position`: 1 + beta·ln(1 + ⌊position / period⌋).
[[nodiscard]] inline double position_scale(const Config& config, std::int64_t position) {
    const double periods = std::floor(static_cast<double>(position) / static_cast<double>(config.position_scale.period));
    return 1.0 + config.position_scale.beta * std::log(1.0 + periods);
}

}  // namespace mla::inline MLA_ISA::reference
