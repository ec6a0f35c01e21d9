// What is likely wrong with results that failed: the mistakes that lead to the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "mla/testing/conformance/judge.hpp"
#include "mla/testing/conformance/result_faults.hpp"

namespace mla::inline MLA_ISA::testing {
namespace detail {

/// Whether results are those of a mistake: as near to what it leads to as rounding allows, beside how far that is from right.
[[nodiscard]] inline bool is_near(std::span<const double> found, std::span<const double> mistaken, std::span<const double> right,
                                  double bound) {
    const double off = distance(found, mistaken);
    const double apart = distance(mistaken, right);
    return off <= 3.0 * bound || (std::isfinite(apart) && off <= 0.01 * apart);
}

}  // namespace detail

/// The names of the mistakes of `attention_faults` whose answers the results are, the likelier first.
[[nodiscard]] inline std::vector<std::string> diagnose(const AttentionProblem& problem, const Answer& right,
                                                       const Rounding& rounding, const Found& found) {
    const Bounds bounds = bounds_of(right, problem.about.query_dim(), rounding);
    double lse_bound = 0.0;
    for (const double bound : bounds.lse) lse_bound += bound * bound;
    lse_bound = std::sqrt(lse_bound);
    std::vector<std::string> names;
    for (const Fault& fault : attention_faults()) {
        const Results mistaken = results_with(problem, fault, right);
        const bool shows = detail::distance(mistaken.out.values, right.out.values) > 6.0 * bounds.norm ||
                           (!found.lse.empty() && detail::distance(mistaken.lse, right.lse) > 6.0 * lse_bound);
        if (!shows || !detail::is_near(found.out, mistaken.out.values, right.out.values, bounds.norm)) continue;
        if (!found.lse.empty() && !detail::is_near(found.lse, mistaken.lse, right.lse, lse_bound)) continue;
        names.push_back(fault.name);
    }
    return names;
}

/// How many cases each diagnosis explains: a mistake often looks like another in one case, seldom in many.
class Diagnoses {
  public:
    void add(const std::vector<std::string>& names) {
        for (const std::string& name : names) {
            const auto at = std::find_if(counts_.begin(), counts_.end(), [&](const auto& entry) { return entry.first == name; });
            if (at == counts_.end()) {
                counts_.emplace_back(name, 1);
            } else {
                ++at->second;
            }
        }
    }
    /// The one that explains the most, and how many; an empty name where none explains any.
    [[nodiscard]] std::pair<std::string, int> most_likely() const {
        std::pair<std::string, int> most{"", 0};
        for (const auto& entry : counts_)
            if (entry.second > most.second) most = entry;
        return most;
    }

  private:
    std::vector<std::pair<std::string, int>> counts_;
};

/// What a failure prints. `diagnoses`: by `diagnose`.
[[nodiscard]] inline std::string report(const AttentionProblem& problem, const Judgement& judgement,
                                        const std::vector<std::string>& diagnoses) {
    std::ostringstream text;
    text.precision(9);
    text << problem.about.name << ", " << name(problem.layout.kind) << " rows";
    if (problem.paged()) text << ", pages of " << problem.layout.page_size;
    text << ", seed " << seed_of(problem.about) << ": " << judgement.wrong << " wrong; error of all outputs "
         << judgement.error_norm << ", bound " << judgement.norm_bound;
    if (const auto& worst = judgement.worst) {
        text << "\n  worst: query " << worst->query << ", head " << worst->head << ", ";
        worst->value < 0 ? text << "LSE" : text << "value " << worst->value;
        text << ": expected " << worst->expected << ", found " << worst->found << ", bound " << worst->bound;
    }
    text << "\n  " << detail::likeness(diagnoses);
    return text.str();
}

}  // namespace mla::inline MLA_ISA::testing
