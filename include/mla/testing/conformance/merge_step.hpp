// Merging partial results over disjoint keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// Two partial results over disjoint keys: outputs [rows, dim] and natural logarithms [rows]; −inf for a part that saw no key,
/// whose output then is NaN.
struct MergeProblem {
    std::string name;
    Index rows = 0;
    Index dim = 0;
    std::vector<float> first_out, first_lse, second_out, second_lse;
};

/// The same with what two parts are asked for: how far their LSEs lie apart, about `level`.
[[nodiscard]] inline std::vector<MergeProblem> merge_problems() {
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    std::vector<MergeProblem> problems;
    for (const auto& [name, level, apart] :
         {std::tuple{"even", 0.0, 0.0}, std::tuple{"near", 3.0, 1.0}, std::tuple{"far_apart", 0.0, 70.0},
          std::tuple{"large", 1000.0, 5.0}, std::tuple{"far_below_zero", -1000.0, 5.0}}) {
        MergeProblem problem{name, 12, 24, {}, {}, {}, {}};
        Generator generator = detail::step_generator(std::string("merge_") + name);
        for (Index r = 0; r < problem.rows; ++r) {
            const auto lse = static_cast<float>(level + gaussian(generator));
            const double difference = apart * (r % 2 == 0 ? 1.0 : -1.0);
            problem.first_lse.push_back(lse);
            problem.second_lse.push_back(lse + static_cast<float>(difference));
        }
        problem.first_out = gaussian_values<float>(generator, problem.rows * problem.dim);
        problem.second_out = gaussian_values<float>(generator, problem.rows * problem.dim);
        problems.push_back(problem);
        problem.name += "_and_empty";
        for (Index r = 0; r < problem.rows; ++r) {
            const auto empty = [&](std::vector<float>& out, std::vector<float>& lse) {
                lse[static_cast<std::size_t>(r)] = nothing;
                std::fill_n(out.begin() + r * problem.dim, problem.dim, std::numeric_limits<float>::quiet_NaN());
            };
            if (r % 4 == 1 || r % 4 == 3) empty(problem.first_out, problem.first_lse);
            if (r % 4 == 2 || r % 4 == 3) empty(problem.second_out, problem.second_lse);
        }
        problems.push_back(std::move(problem));
    }
    return problems;
}

namespace detail {

/// Outputs of a merge, then LSEs, where the parts of row r weigh what weights(first lse, second lse) says and its LSE is lse(…).
template <class Weights, class Lse>
[[nodiscard]] std::vector<double> merged(const MergeProblem& p, Weights&& weights, Lse&& lse) {
    std::vector<double> values;
    std::vector<double> logarithms;
    for (Index r = 0; r < p.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        const auto a = static_cast<double>(p.first_lse[row]), b = static_cast<double>(p.second_lse[row]);
        const auto [first, second] = weights(a, b);
        for (Index c = 0; c < p.dim; ++c) {
            const auto at = static_cast<std::size_t>(r * p.dim + c);
            values.push_back((first == 0.0 ? 0.0 : first * static_cast<double>(p.first_out[at])) +
                             (second == 0.0 ? 0.0 : second * static_cast<double>(p.second_out[at])));
        }
        logarithms.push_back(lse(a, b));
    }
    values.insert(values.end(), logarithms.begin(), logarithms.end());
    return values;
}

[[nodiscard]] inline double joint_lse(double a, double b) {
    const double larger = std::max(a, b);
    return std::isinf(larger) ? larger : larger + std::log(std::exp(a - larger) + std::exp(b - larger));
}

/// What the parts of a row weigh; 0 where they saw no key.
[[nodiscard]] inline std::pair<double, double> merge_weights(double a, double b) {
    const double all = joint_lse(a, b);
    const auto share = [&](double lse) { return std::isinf(lse) ? 0.0 : std::exp(lse - all); };
    return {share(a), share(b)};
}

/// Each output errs in proportion to its terms, and by the difference of two LSEs, which is rounded once and is the exponent of a
/// weight.
[[nodiscard]] inline std::vector<double> merge_bounds(const MergeProblem& p) {
    std::vector<double> bounds, of_lse;
    for (Index r = 0; r < p.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        const auto a = static_cast<double>(p.first_lse[row]), b = static_cast<double>(p.second_lse[row]);
        const auto [first, second] = merge_weights(a, b);
        const double apart = first == 0.0 || second == 0.0 ? 0.0 : std::abs(a - b);
        for (Index c = 0; c < p.dim; ++c) {
            const auto at = static_cast<std::size_t>(r * p.dim + c);
            const double terms = (first == 0.0 ? 0.0 : first * std::abs(static_cast<double>(p.first_out[at]))) +
                                 (second == 0.0 ? 0.0 : second * std::abs(static_cast<double>(p.second_out[at])));
            bounds.push_back(float_roundoff * (8.0 + apart) * terms + smallest_normal);
        }
        const double lse = joint_lse(a, b);
        of_lse.push_back(float_roundoff * (8.0 + 2.0 * (std::isfinite(lse) ? std::abs(lse) : 0.0)));
    }
    bounds.insert(bounds.end(), of_lse.begin(), of_lse.end());
    return bounds;
}

}  // namespace detail

/// Outputs [rows, dim], then LSEs [rows].
[[nodiscard]] inline StepAnswer merge_answer(const MergeProblem& p) {
    using detail::joint_lse, detail::merge_weights;
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(), ln2 = std::numbers::ln2;
    StepAnswer answer{detail::merged(p, merge_weights, joint_lse), detail::merge_bounds(p), {}};
    const auto add = [&](const char* name, auto&& weights, auto&& lse) {
        answer.mistakes.push_back({name, detail::merged(p, weights, lse)});
    };
    const auto mean = [](double, double) { return std::pair{0.5, 0.5}; };
    add("parts are merged by their mean", mean, joint_lse);
    const auto swapped = [](double a, double b) { return merge_weights(b, a); };
    add("parts' weights are swapped", swapped, joint_lse);
    add(
        "natural LSEs are read as base 2", [](double a, double b) { return merge_weights(a * ln2, b * ln2); },
        [](double a, double b) { return joint_lse(a * ln2, b * ln2) / ln2; });
    add("LSE is the larger of both", merge_weights, [](double a, double b) { return std::max(a, b); });
    const auto empty = [](double a, double b) { return std::isinf(a) || std::isinf(b); };
    add(
        "an empty part gives NaN",
        [&](double a, double b) {
            return empty(a, b) ? std::pair{nan, nan} : merge_weights(a, b);
        },
        [&](double a, double b) { return empty(a, b) ? nan : joint_lse(a, b); });
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
