// Rotary embedding.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/reference/rope.hpp"
#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// Vectors x [T, Dr] at positions [T], to be rotated as `rope` says, each value left in its place.
struct RopeProblem {
    std::string name;
    Rope rope;
    Index dim = 0;
    std::vector<std::int64_t> positions;
    std::vector<float> x;
};

[[nodiscard]] inline std::vector<RopeProblem> rope_problems() {
    std::vector<RopeProblem> problems;
    for (const RopePairing pairing : {RopePairing::interleaved, RopePairing::half_split}) {
        const std::string layout = pairing == RopePairing::interleaved ? "_in_pairs" : "_in_halves";
        const auto add = [&](const std::string& name, Index dim, double base, std::int64_t first, auto scaling) {
            Rope rope;
            rope.pairing = pairing;
            rope.base = base;
            rope.scaling = scaling;
            RopeProblem problem{name + layout, rope, dim, consecutive(first, 9), {}};
            Generator generator = detail::step_generator("rope_" + problem.name);
            problem.x = gaussian_values<float>(generator, 9 * dim);
            problems.push_back(std::move(problem));
        };
        Yarn yarn;
        yarn.factor = 40.0;
        yarn.original_max_position = 4096;
        yarn.mscale = 1.0;
        yarn.mscale_all_dim = 0.7;
        add("first_positions", 16, 1e4, 0, decltype(Rope{}.scaling){});
        add("one_pair", 2, 1e4, 5, decltype(Rope{}.scaling){});
        add("deepseek", 64, 1e4, 4090, decltype(Rope{}.scaling){yarn});
        add("a_million", 64, 5e4, 1'000'000, decltype(Rope{}.scaling){});
    }
    return problems;
}

namespace detail {

[[nodiscard]] inline std::vector<double> rotated(const RopeProblem& p, const Rope& rope, std::int64_t shift = 0,
                                                 double sign = 1.0) {
    std::vector<double> values(p.x.begin(), p.x.end());
    for (std::size_t t = 0; t < p.positions.size(); ++t)
        reference::rotate(rope, p.dim, static_cast<std::int64_t>(sign) * (p.positions[t] + shift),
                          values.data() + static_cast<Index>(t) * p.dim);
    return values;
}

/// Angles rounded to float, and what they are made of.
[[nodiscard]] inline std::vector<double> rotated_in_float(const RopeProblem& p) {
    std::vector<double> values(p.x.begin(), p.x.end());
    const std::vector<double> frequencies = reference::inverse_frequencies(p.rope, p.dim);
    const double magnitude = reference::rope_magnitude(p.rope);
    for (std::size_t t = 0; t < p.positions.size(); ++t)
        for (Index i = 0; i < p.dim / 2; ++i) {
            const float angle = static_cast<float>(p.positions[t]) * static_cast<float>(frequencies[static_cast<std::size_t>(i)]);
            const double cos = std::cos(static_cast<double>(angle)) * magnitude,
                         sin = std::sin(static_cast<double>(angle)) * magnitude;
            const bool pairs = p.rope.pairing == RopePairing::interleaved;
            double* const row = values.data() + static_cast<Index>(t) * p.dim;
            double& a = pairs ? row[2 * i] : row[i];
            double& b = pairs ? row[2 * i + 1] : row[i + p.dim / 2];
            const double turned = a * cos - b * sin;
            b = b * cos + a * sin;
            a = turned;
        }
    return values;
}

}  // namespace detail

/// x [T, Dr] rotated. Angles are exact: at position 1,000,000 float would be off by 0.06 radians.
[[nodiscard]] inline StepAnswer rope_answer(const RopeProblem& p) {
    StepAnswer answer{detail::rotated(p, p.rope), {}, {}};
    const double magnitude = reference::rope_magnitude(p.rope);
    for (std::size_t t = 0; t < p.positions.size(); ++t) {
        const float* const row = p.x.data() + static_cast<Index>(t) * p.dim;
        for (Index i = 0; i < p.dim; ++i) {
            const Index half = p.dim / 2;
            const Index other = p.rope.pairing == RopePairing::interleaved ? i ^ 1 : (i + half) % p.dim;
            answer.bounds.push_back(4.0 * detail::float_roundoff * magnitude *
                                    (std::abs(static_cast<double>(row[i])) + std::abs(static_cast<double>(row[other]))));
        }
    }
    const auto add = [&](const char* name, std::vector<double> values) { answer.mistakes.push_back({name, std::move(values)}); };
    Rope other = p.rope;
    other.pairing = p.rope.pairing == RopePairing::interleaved ? RopePairing::half_split : RopePairing::interleaved;
    add("values are paired the other way", detail::rotated(p, other));
    add("positions are one too high", detail::rotated(p, p.rope, 1));
    add("the rotation turns the other way", detail::rotated(p, p.rope, 0, -1.0));
    other = p.rope;
    other.scaling = {};
    add("YaRN is not looked at", detail::rotated(p, other));
    add("nothing is rotated", {p.x.begin(), p.x.end()});
    add("angles are computed in float", detail::rotated_in_float(p));
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
