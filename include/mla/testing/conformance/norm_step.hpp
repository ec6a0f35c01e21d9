// RMSNorm.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// Rows x [T, n] with weights [n].
struct NormProblem {
    std::string name;
    Index rows = 0;
    Index dim = 0;
    double eps = 1e-6;
    std::vector<float> x, weight;
};

[[nodiscard]] inline std::vector<NormProblem> norm_problems() {
    std::vector<NormProblem> problems;
    for (const auto& [name, dim, eps, size] :
         {std::tuple{"deepseek", Index{512}, 1e-6, 1.0}, std::tuple{"odd", Index{33}, 1e-5, 1.0},
          std::tuple{"small_values", Index{128}, 1e-5, 1e-3}, std::tuple{"one_value", Index{1}, 1e-6, 1.0},
          std::tuple{"large_values", Index{96}, 1e-6, 1e4}}) {
        Generator generator = detail::step_generator(std::string("norm_") + name);
        NormProblem problem{name,
                            5,
                            dim,
                            eps,
                            gaussian_values<float>(generator, 5 * dim, size, 0.3 * size),
                            gaussian_values<float>(generator, dim, 0.1, 1.0)};
        std::fill_n(problem.x.begin(), dim, 0.0F);
        problems.push_back(std::move(problem));
    }
    return problems;
}

[[nodiscard]] inline StepAnswer norm_answer(const NormProblem& p) {
    const auto weight = [&](Index i) { return static_cast<double>(p.weight[static_cast<std::size_t>(i)]); };
    /// Each value by f(its row's mean square, its row's mean, the value, its weight).
    const auto each = [&](auto&& f) {
        std::vector<double> values;
        for (Index r = 0; r < p.rows; ++r) {
            const float* const row = p.x.data() + r * p.dim;
            double square = 0.0, mean = 0.0;
            for (Index i = 0; i < p.dim; ++i) {
                square += static_cast<double>(row[i]) * static_cast<double>(row[i]) / static_cast<double>(p.dim);
                mean += static_cast<double>(row[i]) / static_cast<double>(p.dim);
            }
            for (Index i = 0; i < p.dim; ++i) values.push_back(f(square, mean, static_cast<double>(row[i]), weight(i)));
        }
        return values;
    };
    StepAnswer answer{each([&](double square, double, double x, double w) { return x / std::sqrt(square + p.eps) * w; }), {}, {}};
    for (const double value : answer.values)
        answer.bounds.push_back(detail::float_roundoff * (6.0 + std::sqrt(static_cast<double>(p.dim))) * std::abs(value));
    const auto add = [&](const char* name, auto&& f) { answer.mistakes.push_back({name, each(f)}); };
    add("eps is left out",
        [](double square, double, double x, double w) { return square == 0.0 ? 0.0 : x / std::sqrt(square) * w; });
    add("eps is added to the root",
        [&](double square, double, double x, double w) { return x / (std::sqrt(square) + p.eps) * w; });
    add("eps is 1e-6 whatever is asked",
        [](double square, double, double x, double w) { return x / std::sqrt(square + 1e-6) * w; });
    add("weights are left out", [&](double square, double, double x, double) { return x / std::sqrt(square + p.eps); });
    add("weights count from 1",
        [&](double square, double, double x, double w) { return x / std::sqrt(square + p.eps) * (1.0 + w); });
    add("the mean is taken off", [&](double square, double mean, double x, double w) {
        return (x - mean) / std::sqrt(std::max(square - mean * mean, 0.0) + p.eps) * w;
    });
    add("the sum of squares is not divided by their number", [&](double square, double, double x, double w) {
        return x / std::sqrt(square * static_cast<double>(p.dim) + p.eps) * w;
    });
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
