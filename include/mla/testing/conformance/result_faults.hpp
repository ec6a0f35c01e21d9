// Plausible mistakes of an attention kernel in what it makes of its scores, and the list of all.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include "mla/testing/conformance/faults.hpp"

namespace mla::inline MLA_ISA::testing {
namespace detail {

inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

[[nodiscard]] inline auto each_lse(
    std::function<double(const AttentionProblem&, const Reading&, const Results&, std::size_t)> f) {
    return [f = std::move(f)](const AttentionProblem& problem, const Reading& reading, Results& results) {
        for (std::size_t row = 0; row < results.lse.size(); ++row) results.lse[row] = f(problem, reading, results, row);
    };
}

inline void add_lse_faults(std::vector<Fault>& faults) {
    const double infinity = std::numeric_limits<double>::infinity();
    faults.push_back({"LSE is to base 2", {}, each_lse([](const auto&, const auto&, const Results& results, std::size_t row) {
                          return results.lse[row] * std::numbers::log2e;
                      })});
    faults.push_back({"LSE is the maximum plus the binary logarithm of the sum",
                      {},
                      each_lse([](const auto&, const auto&, const Results& results, std::size_t row) {
                          if (std::isinf(results.lse[row])) return results.lse[row];
                          return results.largest[row] + (results.lse[row] - results.largest[row]) * std::numbers::log2e;
                      })});
    faults.push_back({"LSE of a row without keys is +inf",
                      {},
                      each_lse([infinity](const auto&, const auto&, const Results& results, std::size_t row) {
                          return results.lse[row] == -infinity ? infinity : results.lse[row];
                      })});
    faults.push_back({"LSE of a row without keys is 0",
                      {},
                      each_lse([infinity](const auto&, const auto&, const Results& results, std::size_t row) {
                          return results.lse[row] == -infinity ? 0.0 : results.lse[row];
                      })});
    faults.push_back(
        {"LSE counts the sink", {}, each_lse([](const auto&, const Reading& reading, const Results& results, std::size_t row) {
             if (reading.sinks.empty()) return results.lse[row];
             const double sink = reading.sinks[row % static_cast<std::size_t>(reading.heads)];
             const double most = std::max(sink, results.lse[row]);
             if (std::isinf(most)) return most;
             return most + std::log(std::exp(sink - most) + std::exp(results.lse[row] - most));
         })});
    faults.push_back({"LSE is of scores that are not scaled",
                      {},
                      [](const AttentionProblem& problem, const Reading& reading, Results& results) {
                          Reading unscaled = reading;
                          unscaled.scale = 1.0;
                          results.lse = solve(unscaled, problem.about.out_dim()).lse;
                      }});
}

inline void add_output_faults(std::vector<Fault>& faults) {
    faults.push_back({"sinks are not looked at", [](const AttentionProblem&, Reading& reading) { reading.sinks.clear(); }});
    faults.push_back({"a head takes the sink of the next", [](const AttentionProblem&, Reading& reading) {
                          if (!reading.sinks.empty())
                              std::rotate(reading.sinks.begin(), reading.sinks.begin() + 1, reading.sinks.end());
                      }});
    faults.push_back({"a row without keys is NaN", {}, [](const AttentionProblem&, const Reading&, Results& results) {
                          for (Index r = 0; r < results.out.rows; ++r) {
                              if (results.lse[static_cast<std::size_t>(r)] != -std::numeric_limits<double>::infinity()) continue;
                              std::fill_n(results.out.row(r), results.out.cols, not_a_number);
                          }
                      }});
    faults.push_back({"outputs are not divided by their sum of exponentials",
                      {},
                      [](const AttentionProblem&, const Reading&, Results& results) {
                          for (Index r = 0; r < results.out.rows; ++r) {
                              const auto row = static_cast<std::size_t>(r);
                              if (std::isinf(results.lse[row])) continue;
                              const double sum = std::exp(results.lse[row] - results.largest[row]);
                              for (Index c = 0; c < results.out.cols; ++c) results.out(r, c) *= sum;
                          }
                      }});
    faults.push_back({"heads and queries are swapped in the output",
                      {},
                      [](const AttentionProblem& problem, const Reading&, Results& results) {
                          const Results right = results;
                          const Index T = problem.tokens(), H = problem.about.heads;
                          for (Index t = 0; t < T; ++t)
                              for (Index h = 0; h < H; ++h) {
                                  std::copy_n(right.out.row(t * H + h), right.out.cols, results.out.row(h * T + t));
                                  results.lse[static_cast<std::size_t>(h * T + t)] =
                                      right.lse[static_cast<std::size_t>(t * H + h)];
                              }
                      }});
    faults.push_back({"the last head is not computed", {}, [](const AttentionProblem& problem, const Reading&, Results& results) {
                          const Index H = problem.about.heads;
                          for (Index r = H - 1; r < results.out.rows; r += H) {
                              std::fill_n(results.out.row(r), results.out.cols, not_a_number);
                              results.lse[static_cast<std::size_t>(r)] = not_a_number;
                          }
                      }});
}

/// Half of the keys that each query sees, from the first or from the middle on.
[[nodiscard]] inline Reading half_of(Reading reading, bool second) {
    for (RequestReading& request : reading.requests)
        for (std::vector<Index>& seen : request.seen) {
            const auto middle = seen.begin() + static_cast<Index>(seen.size() / 2);
            seen = second ? std::vector<Index>(middle, seen.end()) : std::vector<Index>(seen.begin(), middle);
        }
    return reading;
}

inline void add_merge_faults(std::vector<Fault>& faults) {
    faults.push_back({"two halves of the keys are merged by their mean",
                      {},
                      [](const AttentionProblem& problem, const Reading& reading, Results& results) {
                          const Results first = solve(half_of(reading, false), problem.about.out_dim());
                          const Results second = solve(half_of(reading, true), problem.about.out_dim());
                          for (std::size_t i = 0; i < results.out.values.size(); ++i)
                              results.out.values[i] = (first.out.values[i] + second.out.values[i]) / 2.0;
                      }});
    faults.push_back({"a merge with a part that saw no key gives NaN",
                      {},
                      [](const AttentionProblem& problem, const Reading& reading, Results& results) {
                          const Results first = solve(half_of(reading, false), problem.about.out_dim());
                          for (Index r = 0; r < results.out.rows; ++r)
                              if (std::isinf(first.lse[static_cast<std::size_t>(r)])) {
                                  std::fill_n(results.out.row(r), results.out.cols, not_a_number);
                                  results.lse[static_cast<std::size_t>(r)] = not_a_number;
                              }
                      }});
}

}  // namespace detail

/// Every mistake that a diagnosis tries, the likelier first.
[[nodiscard]] inline std::vector<Fault> attention_faults() {
    std::vector<Fault> faults;
    detail::add_score_faults(faults);
    detail::add_mask_faults(faults);
    detail::add_cache_faults(faults);
    detail::add_expansion_faults(faults);
    detail::add_selection_faults(faults);
    detail::add_lse_faults(faults);
    detail::add_output_faults(faults);
    detail::add_merge_faults(faults);
    return faults;
}

}  // namespace mla::inline MLA_ISA::testing
