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

}  // namespace detail

/// Outputs [rows, dim], then LSEs [rows].
[[nodiscard]] inline StepAnswer merge_answer(const MergeProblem& p) {
    const auto share = [](double lse, double all) { return std::isinf(lse) ? 0.0 : std::exp(lse - all); };
    const auto right = [&](double a, double b) {
        const double all = detail::joint_lse(a, b);
        return std::pair{share(a, all), share(b, all)};
    };
    StepAnswer answer{detail::merged(p, right, detail::joint_lse), {}, {}};
    for (Index r = 0; r < p.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        const auto [first, second] = right(static_cast<double>(p.first_lse[row]), static_cast<double>(p.second_lse[row]));
        // The difference of two LSEs is rounded once, and is the exponent of a weight.
        const double apart =
            first == 0.0 || second == 0.0 ? 0.0 : std::abs(static_cast<double>(p.first_lse[row] - p.second_lse[row]));
        for (Index c = 0; c < p.dim; ++c) {
            const auto at = static_cast<std::size_t>(r * p.dim + c);
            const double terms = (first == 0.0 ? 0.0 : first * std::abs(static_cast<double>(p.first_out[at]))) +
                                 (second == 0.0 ? 0.0 : second * std::abs(static_cast<double>(p.second_out[at])));
            answer.bounds.push_back(detail::float_roundoff * (8.0 + apart) * terms + detail::smallest_normal);
        }
    }
    for (std::size_t r = 0; r < static_cast<std::size_t>(p.rows); ++r) {
        const double lse = detail::joint_lse(static_cast<double>(p.first_lse[r]), static_cast<double>(p.second_lse[r]));
        answer.bounds.push_back(detail::float_roundoff * (8.0 + 2.0 * (std::isfinite(lse) ? std::abs(lse) : 0.0)));
    }
    const auto add = [&](const char* name, auto&& weights, auto&& lse) {
        answer.mistakes.push_back({name, detail::merged(p, weights, lse)});
    };
    add(
        "parts are merged by their mean",
        [](double, double) {
            return std::pair{0.5, 0.5};
        },
        detail::joint_lse);
    add(
        "parts' weights are swapped",
        [&](double a, double b) {
            return std::pair{right(a, b).second, right(a, b).first};
        },
        detail::joint_lse);
    add(
        "natural LSEs are read as base 2",
        [&](double a, double b) { return right(a * std::numbers::ln2, b * std::numbers::ln2); },
        [](double a, double b) { return detail::joint_lse(a * std::numbers::ln2, b * std::numbers::ln2) * std::numbers::log2e; });
    add("LSE is the larger of both", right, [](double a, double b) { return std::max(a, b); });
    add(
        "an empty part gives NaN",
        [&](double a, double b) {
            const double nan = std::numeric_limits<double>::quiet_NaN();
            return std::isinf(a) || std::isinf(b) ? std::pair{nan, nan} : right(a, b);
        },
        [](double a, double b) {
            return std::isinf(a) || std::isinf(b) ? std::numeric_limits<double>::quiet_NaN() : detail::joint_lse(a, b);
        });
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
