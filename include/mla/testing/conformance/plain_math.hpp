// What the plain steps share: sums in float, a term after the other.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "mla/config.hpp"
#include "mla/reference/rope.hpp"

namespace mla::inline MLA_ISA::testing::detail {

/// √(mean of squares + eps).
[[nodiscard]] inline float root_of_squares(const float* x, Index count, double eps) {
    float square = 0.0F;
    for (Index i = 0; i < count; ++i) square += x[i] * x[i] / static_cast<float>(count);
    return std::sqrt(square + static_cast<float>(eps));
}

inline void turn_pair(double cos, double sin, float& a, float& b) {
    const auto c = static_cast<float>(cos), s = static_cast<float>(sin);
    const float turned = a * c - b * s;
    b = b * c + a * s;
    a = turned;
}

/// Turns the pairs of x [dim], neighbours or halves, by a position.
inline void turn(const Rope& rope, std::int64_t position, bool neighbours, Index dim, float* x) {
    const std::vector<double> frequencies = reference::inverse_frequencies(rope, dim);
    const double magnitude = reference::rope_magnitude(rope);
    for (Index i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<double>(position) * frequencies[static_cast<std::size_t>(i)];
        turn_pair(std::cos(angle) * magnitude, std::sin(angle) * magnitude, neighbours ? x[2 * i] : x[i],
                  neighbours ? x[2 * i + 1] : x[i + dim / 2]);
    }
}

}  // namespace mla::inline MLA_ISA::testing::detail
