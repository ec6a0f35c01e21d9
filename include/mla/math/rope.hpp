// Rotary position embedding, with the frequency scalings of YaRN and LongRoPE.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/views.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

/// The dimension whose frequency turns `rotations` times within the original context (YaRN, section 3.2).
[[nodiscard]] inline double yarn_correction_dim(const Yarn& yarn, double base, double dim, double rotations) {
    const double wavelength = static_cast<double>(yarn.original_max_position) / (rotations * 2.0 * std::numbers::pi);
    return dim * std::log(wavelength) / (2.0 * std::log(base));
}

/// Divides low frequencies by the factor, keeps high ones, and ramps linearly between.
inline void apply_yarn(const Yarn& yarn, double base, std::vector<double>& frequencies) {
    const double dim = 2.0 * static_cast<double>(frequencies.size());
    double low = yarn_correction_dim(yarn, base, dim, yarn.beta_fast);
    double high = yarn_correction_dim(yarn, base, dim, yarn.beta_slow);
    if (yarn.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1.0);
    if (low == high) high += 0.001;
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequencies[i] = frequencies[i] / yarn.factor * ramp + frequencies[i] * (1.0 - ramp);
    }
}

/// The multiplier of cos and sin.
[[nodiscard]] inline double rope_magnitude(const Rope& rope) {
    if (const auto* longrope = std::get_if<LongRope>(&rope.scaling)) return longrope->attention_factor;
    const auto* yarn = std::get_if<Yarn>(&rope.scaling);
    if (yarn == nullptr) return 1.0;
    if (yarn->attention_factor) return *yarn->attention_factor;
    if (yarn->mscale.value_or(0.0) != 0.0 && yarn->mscale_all_dim.value_or(0.0) != 0.0)
        return Yarn::magnitude(yarn->factor, *yarn->mscale) / Yarn::magnitude(yarn->factor, *yarn->mscale_all_dim);
    return Yarn::magnitude(yarn->factor, 1.0);
}

}  // namespace detail

/// The rotation of a rope vector of `dim` values, computed from its frequencies in double at any 64-bit position.
class RotaryEmbedding {
  public:
    RotaryEmbedding(const Rope& rope, Index dim)
        : pairing_(rope.pairing),
          rotates_(rope.rotates),
          magnitude_(detail::rope_magnitude(rope)),
          frequencies_(static_cast<std::size_t>(dim / 2)) {
        for (std::size_t i = 0; i < frequencies_.size(); ++i)
            frequencies_[i] = std::pow(rope.base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        if (const auto* yarn = std::get_if<Yarn>(&rope.scaling)) detail::apply_yarn(*yarn, rope.base, frequencies_);
        if (const auto* longrope = std::get_if<LongRope>(&rope.scaling))
            for (std::size_t i = 0; i < frequencies_.size(); ++i) frequencies_[i] /= longrope->factors[i];
        for (std::size_t i = 0; i < rope.log_factors.size(); ++i) frequencies_[i] *= std::exp(rope.log_factors[i]);
    }

    [[nodiscard]] Index dim() const noexcept { return 2 * static_cast<Index>(frequencies_.size()); }
    /// Radians a position, [dim / 2].
    [[nodiscard]] const std::vector<double>& frequencies() const noexcept { return frequencies_; }

    /// Writes the cosines, then the sines, of all pairs at `position`: table [dim].
    template <Compute A>
    void angles(std::int64_t position, A* table) const noexcept {
        const std::size_t pairs = frequencies_.size();
        for (std::size_t i = 0; i < pairs; ++i) {
            const double angle = static_cast<double>(position) * frequencies_[i];
            table[i] = static_cast<A>(std::cos(angle) * magnitude_);
            table[pairs + i] = static_cast<A>(std::sin(angle) * magnitude_);
        }
    }

    /// Rotates `vector` [dim] in place by the angles of `table` [dim], unless the rope does not rotate.
    template <Compute A>
    void rotate(const A* table, A* vector) const noexcept {
        if (!rotates_) return;
        const auto pairs = static_cast<Index>(frequencies_.size());
        const bool interleaved = pairing_ == RopePairing::interleaved;
        const Index first = interleaved ? 2 : 1;
        const Index second = interleaved ? 1 : pairs;
        for (Index i = 0; i < pairs; ++i) {
            A& x = vector[i * first];
            A& y = vector[i * first + second];
            const A turned = x * table[i] - y * table[pairs + i];
            y = y * table[i] + x * table[pairs + i];
            x = turned;
        }
    }

  private:
    RopePairing pairing_;
    bool rotates_;
    double magnitude_;
    std::vector<double> frequencies_;
};

}  // namespace mla::inline MLA_ISA
