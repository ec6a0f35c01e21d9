// The steps around attention by which a port is judged too. A step's answer is a list of numbers, each with its bound, and what
// plausible mistakes give in its place.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "mla/testing/conformance/cases.hpp"
#include "mla/testing/conformance/judge.hpp"
#include "mla/testing/random.hpp"

namespace mla::inline MLA_ISA::testing {

/// What a step should give. Inputs of the steps are floats, not all of them exact in narrower types.
struct StepAnswer {
    std::vector<double> values;
    std::vector<double> bounds;                                         ///< of each value, for sums in float
    std::vector<std::pair<std::string, std::vector<double>>> mistakes;  ///< by name, what they give
};

/// Numbers beyond their bounds, the worst of them, and the mistakes that give the same numbers.
struct StepJudgement {
    Index wrong = 0;
    std::size_t worst = 0;
    std::vector<std::string> diagnoses;

    [[nodiscard]] bool passed() const noexcept { return wrong == 0; }
};

[[nodiscard]] inline StepJudgement judge_step(const StepAnswer& answer, std::span<const double> found) {
    require_equal("found.size()", found.size(), "values of the answer", answer.values.size());
    StepJudgement judgement;
    double most = 1.0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double excess = detail::excess(found[i], answer.values[i], answer.bounds[i]);
        if (excess <= 1.0) continue;
        if (judgement.wrong++ == 0 || excess > most) {
            most = excess;
            judgement.worst = i;
        }
    }
    if (judgement.passed()) return judgement;
    for (const auto& [name, mistaken] : answer.mistakes) {
        bool same = true, shows = false;
        for (std::size_t i = 0; i < found.size(); ++i) {
            same = same && detail::excess(found[i], mistaken[i], 4.0 * answer.bounds[i]) <= 1.0;
            shows = shows || detail::excess(mistaken[i], answer.values[i], 4.0 * answer.bounds[i]) > 1.0;
        }
        if (same && shows) judgement.diagnoses.push_back(name);
    }
    return judgement;
}

[[nodiscard]] inline std::string report(const std::string& name, const StepAnswer& answer, std::span<const double> found,
                                        const StepJudgement& judgement) {
    std::ostringstream text;
    text.precision(9);
    const std::size_t i = judgement.worst;
    text << name << ": " << judgement.wrong << " of " << found.size() << " wrong\n  worst: number " << i << ": expected "
         << answer.values[i] << ", found " << found[i] << ", bound " << answer.bounds[i] << "\n  "
         << detail::likeness(judgement.diagnoses);
    return text.str();
}

namespace detail {

inline constexpr double float_roundoff = 0x1p-24;

[[nodiscard]] inline Generator step_generator(const std::string& name) { return Generator(seed_of({.name = name})); }

}  // namespace detail

}  // namespace mla::inline MLA_ISA::testing
