// Holds a port's outputs against a problem's answer.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mla/testing/conformance/answer.hpp"

namespace mla::inline MLA_ISA::testing {

/// An output, or an LSE, that is further off than it may be, and by the most.
struct WorstElement {
    Index query = 0;
    Index head = 0;
    Index value = -1;  ///< of the output; −1: the LSE
    double expected = 0.0;
    double found = 0.0;
    double bound = 0.0;
};

struct Judgement {
    bool passed = false;
    Index wrong = 0;  ///< elements and LSEs beyond their bounds
    std::optional<WorstElement> worst;
    double error_norm = 0.0;  ///< ‖found − expected‖ of the outputs
    double norm_bound = 0.0;
};

/// What a port handed over: out [T·H, Dc], lse [T·H] natural logarithms, or empty.
struct Found {
    std::span<const double> out;
    std::span<const double> lse;
};

namespace detail {

/// What failed results look like, as a phrase.
[[nodiscard]] inline std::string likeness(const std::vector<std::string>& diagnoses) {
    if (diagnoses.empty()) return "no known mistake gives these results";
    std::string text = "looks like: " + diagnoses.front();
    for (std::size_t i = 1; i < diagnoses.size(); ++i) text += "; or: " + diagnoses[i];
    return text;
}

/// How many times its bound a value is off: 0 where it is equal, or NaN like what is expected; infinite where only one is finite.
[[nodiscard]] inline double excess(double found, double expected, double bound) {
    if (found == expected || (std::isnan(found) && std::isnan(expected))) return 0.0;
    if (!std::isfinite(found) || !std::isfinite(expected)) return std::numeric_limits<double>::infinity();
    return std::abs(found - expected) / bound;
}

/// The root of the sum of squares of what two results differ by; infinite where only one is finite.
[[nodiscard]] inline double distance(std::span<const double> a, std::span<const double> b) {
    double squares = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
        if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return std::numeric_limits<double>::infinity();
        squares += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return std::sqrt(squares);
}

}  // namespace detail

[[nodiscard]] inline Judgement judge(const AttentionProblem& problem, const Answer& answer, const Rounding& rounding,
                                     const Found& found) {
    require_equal("found.out.size()", found.out.size(), "values of the outputs", answer.out.values.size());
    if (!found.lse.empty()) require_equal("found.lse.size()", found.lse.size(), "rows", answer.lse.size());
    const Bounds bounds = bounds_of(answer, problem.about.query_dim(), rounding);
    Judgement judgement;
    judgement.norm_bound = bounds.norm;
    judgement.error_norm = detail::distance(found.out, answer.out.values);
    double most = 1.0;
    const auto hold = [&](std::size_t row, Index value, double result, double expected, double bound) {
        const double excess = detail::excess(result, expected, bound);
        if (excess <= 1.0) return;
        ++judgement.wrong;
        if (judgement.worst && !(excess > most)) return;
        most = excess;
        const auto r = static_cast<Index>(row);
        judgement.worst = {r / problem.about.heads, r % problem.about.heads, value, expected, result, bound};
    };
    for (std::size_t row = 0; row < answer.lse.size(); ++row) {
        for (Index c = 0; c < answer.out.cols; ++c) {
            const std::size_t i = row * static_cast<std::size_t>(answer.out.cols) + static_cast<std::size_t>(c);
            hold(row, c, found.out[i], answer.out.values[i], bounds.out.values[i]);
        }
        if (!found.lse.empty()) hold(row, -1, found.lse[row], answer.lse[row], bounds.lse[row]);
    }
    judgement.passed = judgement.wrong == 0 && judgement.error_norm <= judgement.norm_bound;
    return judgement;
}

}  // namespace mla::inline MLA_ISA::testing
