// The steps around attention by which a port is judged too. A step's answer is a list of numbers, each with its bound, and what
// plausible mistakes give in its place.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "mla/testing/conformance/cases.hpp"
#include "mla/testing/conformance/judge.hpp"
#include "mla/testing/random.hpp"

namespace mla::inline MLA_ISA::testing {

/// What a mistake gives in the place of an answer.
struct Mistaken {
    std::string name;
    std::vector<double> values;
    std::vector<double> bounds = {};  ///< of each value; empty: the answer's
};

/// What a step should give. Inputs of the steps are floats, not all of them exact in narrower types.
struct StepAnswer {
    std::vector<double> values;
    std::vector<double> bounds;  ///< of each value, for sums in float
    std::vector<Mistaken> mistakes;
};

/// Numbers beyond their bounds, the worst of them, and the mistakes that give the same numbers.
struct StepJudgement {
    Index wrong = 0;
    std::size_t worst = 0;
    std::vector<std::string> diagnoses;

    [[nodiscard]] bool passed() const noexcept { return wrong == 0; }
};

namespace detail {

/// Whether numbers are those of a mistake that leads elsewhere than the answer.
[[nodiscard]] inline bool explains(const Mistaken& mistake, const StepAnswer& answer, std::span<const double> found) {
    const std::vector<double>& bounds = mistake.bounds.empty() ? answer.bounds : mistake.bounds;
    bool shows = false;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (excess(found[i], mistake.values[i], 4.0 * bounds[i]) > 1.0) return false;
        shows = shows || excess(mistake.values[i], answer.values[i], 4.0 * answer.bounds[i]) > 1.0;
    }
    return shows;
}

}  // namespace detail

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
    for (const Mistaken& mistake : answer.mistakes)
        if (detail::explains(mistake, answer, found)) judgement.diagnoses.push_back(mistake.name);
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
