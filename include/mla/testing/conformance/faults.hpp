// Plausible mistakes of an attention kernel, each as the answer that it leads to: what a wrong result is held against to say what
// is likely wrong. Here those in what is read; result_faults.hpp has the others. The list is open: add a mistake that you made.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "mla/testing/conformance/answer.hpp"

namespace mla::inline MLA_ISA::testing {

/// A mistake. `misread` changes what is computed on, `misreport` what comes of it; either may be empty.
struct Fault {
    std::string name;
    std::function<void(const AttentionProblem&, Reading&)> misread = {};
    std::function<void(const AttentionProblem&, const Reading&, Results&)> misreport = {};
};

/// What a kernel with this mistake answers. `right`: the problem's results.
[[nodiscard]] inline Results results_with(const AttentionProblem& problem, const Fault& fault, const Results& right) {
    Reading reading = read(problem);
    if (fault.misread) fault.misread(problem, reading);
    Results results = fault.misread ? solve(reading, problem.about.out_dim()) : right;
    if (fault.misreport) fault.misreport(problem, reading, results);
    return results;
}

namespace detail {

template <class F>
void for_each_request(Reading& reading, F&& f) {
    for (std::size_t r = 0; r < reading.requests.size(); ++r) f(reading.requests[r], static_cast<Index>(r));
}

/// A mistake in which keys query t of a request of T queries and L keys sees, in a case without a selection.
[[nodiscard]] inline auto sees_instead(std::function<bool(Index t, Index s, Index T, Index L)> sees) {
    return [sees = std::move(sees)](const AttentionProblem& problem, Reading& reading) {
        if (problem.about.selected > 0) return;
        for_each_request(reading, [&](RequestReading& request, Index r) {
            const Index T = problem.queries_of(r), L = problem.length(r);
            for (Index t = 0; t < T; ++t) {
                std::vector<Index>& seen = request.seen[static_cast<std::size_t>(t)];
                seen.clear();
                for (Index s = 0; s < L; ++s)
                    if (sees(t, s, T, L)) seen.push_back(s);
            }
        });
    };
}

/// A mistake in the keys that each query sees: `change(seen)`.
[[nodiscard]] inline auto seen_changed(std::function<void(std::vector<Index>&)> change) {
    return [change = std::move(change)](const AttentionProblem&, Reading& reading) {
        for_each_request(reading, [&](RequestReading& request, Index) {
            for (std::vector<Index>& seen : request.seen) change(seen);
        });
    };
}

/// A mistake in how the rope part of queries is laid out: value i comes from place(i, Dr).
[[nodiscard]] inline auto rope_places(std::function<Index(Index, Index)> place) {
    return [place = std::move(place)](const AttentionProblem& problem, Reading& reading) {
        const Index Dr = problem.about.rope_dim, first = problem.about.query_dim() - Dr;
        for_each_request(reading, [&](RequestReading& request, Index) {
            const reference::Matrix right = request.queries;
            for (Index row = 0; row < right.rows; ++row)
                for (Index i = 0; i < Dr; ++i) request.queries(row, first + i) = right(row, first + place(i, Dr));
        });
    };
}

/// A mistake in the order of a request's rows: token s is read from the row of token(s).
inline void reread(const AttentionProblem& problem, Reading& reading,
                   const std::function<const double*(Index request, Index token)>& row) {
    for_each_request(reading, [&](RequestReading& request, Index r) {
        for (Index s = 0; s < request.keys.rows; ++s) {
            const double* const from = row(r, s);
            std::copy_n(from, request.keys.cols, request.keys.row(s));
            std::copy_n(from, problem.about.latent_dim, request.values.row(s));
        }
    });
}

/// The row in slot `slot` of the pool, as whichever request holds it stored it; NaN where none does.
[[nodiscard]] inline std::vector<double> row_in_slot(const AttentionProblem& problem, Index slot) {
    return reference::read_row(problem.row, problem.memory.data() + slot * problem.row_bytes);
}

/// Tokens read as if table entry i of a request were entry(table, i, used).
[[nodiscard]] inline auto pages_read(std::function<Index(const std::int32_t*, Index, Index)> entry) {
    return [entry = std::move(entry)](const AttentionProblem& problem, Reading& reading) {
        if (!problem.paged()) return;
        std::vector<double> values;
        const Index size = problem.layout.page_size;
        reread(problem, reading, [&](Index r, Index s) {
            const Index page = entry(problem.block_table(r), s / size, divide_up(problem.length(r), size));
            values = row_in_slot(problem, page % problem.pages * size + s % size);
            return values.data();
        });
    };
}

/// The scale of a group, or what lies in a row where that of a group too many would; NaN past the row's end.
[[nodiscard]] inline double scale_or_past(const reference::RowGeometry& row, const std::byte* bytes, Index group) {
    if (row.scale_offset() + (group + 1) * row.scale_bytes() > row.bytes()) return std::numeric_limits<double>::quiet_NaN();
    return reference::detail::scale_of(row, bytes, group);
}

/// Narrow value i times scale(row's bytes, i) in place of its own.
[[nodiscard]] inline auto scales_read(std::function<double(const reference::RowGeometry&, const std::byte*, Index)> scale) {
    return [scale = std::move(scale)](const AttentionProblem& problem, Reading& reading) {
        const reference::RowGeometry& row = problem.row;
        if (row.narrow() == 0) return;
        std::vector<double> values;
        reread(problem, reading, [&](Index r, Index s) {
            const std::byte* const bytes = problem.memory.data() + problem.row_of(r, s) * problem.row_bytes;
            values = reference::read_row(row, bytes);
            for (Index i = 0; i < row.narrow(); ++i)
                values[static_cast<std::size_t>(i)] = reference::detail::narrow_value(row.kind, bytes[i]) * scale(row, bytes, i);
            return values.data();
        });
    };
}

inline void add_score_faults(std::vector<Fault>& faults) {
    const auto scaled = [](auto factor) {
        return [factor](const AttentionProblem& problem, Reading& reading) { reading.scale = factor(problem); };
    };
    faults.push_back({"scores are not scaled", scaled([](const AttentionProblem&) { return 1.0; })});
    faults.push_back({"scores are scaled by the root of the row's width",
                      scaled([](const AttentionProblem& p) { return 1.0 / std::sqrt(static_cast<double>(p.row.values())); })});
    faults.push_back({"scores are scaled twice", scaled([](const AttentionProblem& p) { return p.scale * p.scale; })});
    faults.push_back(
        {"exp2 of scores without log2(e)", scaled([](const AttentionProblem& p) { return p.scale * std::numbers::ln2; })});
    faults.push_back(
        {"exp of scores times log2(e)", scaled([](const AttentionProblem& p) { return p.scale * std::numbers::log2e; })});
    faults.push_back({"rope part of queries is in halves, of keys in pairs",
                      rope_places([](Index i, Index Dr) { return i % 2 * (Dr / 2) + i / 2; })});
    faults.push_back({"rope part of queries is in pairs, of keys in halves",
                      rope_places([](Index i, Index Dr) { return i < Dr / 2 ? 2 * i : 2 * (i - Dr / 2) + 1; })});
    const auto cleared = [](bool rope) {
        return [rope](const AttentionProblem& problem, Reading& reading) {
            const Index middle = problem.about.query_dim() - problem.about.rope_dim;
            const Index begin = rope ? middle : 0;
            const Index end = rope ? problem.about.query_dim() : middle;
            for_each_request(reading, [&](RequestReading& request, Index) {
                for (Index row = 0; row < request.queries.rows; ++row)
                    for (Index i = begin; i < end; ++i) request.queries(row, i) = 0.0;
            });
        };
    };
    faults.push_back({"the rope part is left out of the scores", cleared(true)});
    faults.push_back({"the latent part is left out of the scores", cleared(false)});
}

inline void add_mask_faults(std::vector<Fault>& faults) {
    faults.push_back(
        {"the mask hides a query's own token", sees_instead([](Index t, Index s, Index T, Index L) { return s < L - T + t; })});
    faults.push_back({"the mask shows one token too many",
                      sees_instead([](Index t, Index s, Index T, Index L) { return s <= L - T + t + 1; })});
    faults.push_back(
        {"the causal mask is aligned top left", sees_instead([](Index t, Index s, Index, Index) { return s <= t; })});
    faults.push_back({"there is no causal mask", sees_instead([](Index, Index, Index, Index) { return true; })});
    faults.push_back(
        {"the tree's mask is not looked at", sees_instead([](Index t, Index s, Index T, Index L) { return s <= L - T + t; })});
    for (const std::size_t count : {1U, 16U, 32U, 64U, 96U, 128U, 256U, 512U, 1024U}) {
        const std::string keys = count == 1 ? "key is" : std::to_string(count) + " keys are";
        faults.push_back({"the first " + keys + " lost", seen_changed([count](std::vector<Index>& seen) {
                              seen.erase(seen.begin(), seen.begin() + static_cast<Index>(std::min(count, seen.size())));
                          })});
        faults.push_back({"the last " + keys + " lost", seen_changed([count](std::vector<Index>& seen) {
                              seen.resize(seen.size() - std::min(count, seen.size()));
                          })});
        if (count == 1) continue;
        faults.push_back({"keys after the last whole " + std::to_string(count) + " are lost",
                          seen_changed([count](std::vector<Index>& seen) { seen.resize(seen.size() / count * count); })});
        faults.push_back({"only the first " + std::to_string(count) + " keys count",
                          seen_changed([count](std::vector<Index>& seen) { seen.resize(std::min(count, seen.size())); })});
    }
    faults.push_back({"tokens of a page that is not full are lost", [](const AttentionProblem& problem, Reading& reading) {
                          if (!problem.paged()) return;
                          for_each_request(reading, [&](RequestReading& request, Index r) {
                              const Index whole = problem.length(r) / problem.layout.page_size * problem.layout.page_size;
                              for (std::vector<Index>& seen : request.seen)
                                  std::erase_if(seen, [=](Index s) { return s >= whole; });
                          });
                      }});
}

inline void add_cache_faults(std::vector<Fault>& faults) {
    faults.push_back({"a row past the length is read", [](const AttentionProblem&, Reading& reading) {
                          for_each_request(reading, [&](RequestReading& request, Index) {
                              const auto poison = [](reference::Matrix& matrix) {
                                  reference::append_rows(matrix, {1, matrix.cols,
                                                                  std::vector<double>(static_cast<std::size_t>(matrix.cols),
                                                                                      std::numeric_limits<double>::quiet_NaN())});
                              };
                              poison(request.keys);
                              poison(request.values);
                              for (std::vector<Index>& seen : request.seen) seen.push_back(request.keys.rows - 1);
                          });
                      }});
    faults.push_back({"values are the end of the row", [](const AttentionProblem& problem, Reading& reading) {
                          for_each_request(reading, [&](RequestReading& request, Index) {
                              request.values = reference::columns(request.keys, problem.about.rope_dim, problem.about.latent_dim);
                          });
                      }});
    faults.push_back({"the block table is not looked at", pages_read([](const std::int32_t*, Index i, Index) { return i; })});
    faults.push_back({"the block table is read one entry late",
                      pages_read([](const std::int32_t* table, Index i, Index used) { return Index{table[(i + 1) % used]}; })});
    faults.push_back({"the block table is read backwards",
                      pages_read([](const std::int32_t* table, Index i, Index used) { return Index{table[used - 1 - i]}; })});
    faults.push_back({"every request reads the cache of the first", [](const AttentionProblem& problem, Reading& reading) {
                          const reference::Matrix& first = problem.rows.front();
                          if (first.rows == 0) return;
                          reread(problem, reading, [&](Index, Index s) { return first.row(std::min(s, first.rows - 1)); });
                      }});
    faults.push_back(
        {"values are not scaled", scales_read([](const reference::RowGeometry&, const std::byte*, Index) { return 1.0; })});
    faults.push_back({"values are scaled by the scale of the next group",
                      scales_read([](const reference::RowGeometry& row, const std::byte* bytes, Index i) {
                          return reference::detail::scale_of(row, bytes, (i / row.group() + 1) % row.scales());
                      })});
    faults.push_back({"scales are read for groups of half the size",
                      scales_read([](const reference::RowGeometry& row, const std::byte* bytes, Index i) {
                          return scale_or_past(row, bytes, i / std::max<Index>(row.group() / 2, 1));
                      })});
    faults.push_back({"all values are scaled by the first scale",
                      scales_read([](const reference::RowGeometry& row, const std::byte* bytes, Index) {
                          return reference::detail::scale_of(row, bytes, 0);
                      })});
}

inline void add_expansion_faults(std::vector<Fault>& faults) {
    faults.push_back(
        {"kv_b is read as the keys of all heads, then their values", [](const AttentionProblem& problem, Reading& reading) {
             const AttentionCase& c = problem.about;
             const auto rows = [&](Index first, Index count) {
                 const float* const from = problem.kv_b.data() + first * c.latent_dim;
                 return reference::Matrix(count, c.latent_dim, {from, from + count * c.latent_dim});
             };
             for (std::size_t h = 0; h < reading.key_weights.size(); ++h) {
                 const auto head = static_cast<Index>(h);
                 reading.key_weights[h] = rows(head * c.nope_dim, c.nope_dim);
                 reading.value_weights[h] = rows(c.heads * c.nope_dim + head * c.value_dim, c.value_dim);
             }
         }});
    faults.push_back({"a head takes the keys and values of the next", [](const AttentionProblem&, Reading& reading) {
                          if (reading.key_weights.empty()) return;
                          std::rotate(reading.key_weights.begin(), reading.key_weights.begin() + 1, reading.key_weights.end());
                          std::rotate(reading.value_weights.begin(), reading.value_weights.begin() + 1,
                                      reading.value_weights.end());
                      }});
}

inline void add_selection_faults(std::vector<Fault>& faults) {
    /// The keys of a list, read as tokens(request, slot) says: as often as it names them.
    const auto listed = [](std::function<std::vector<Index>(const AttentionProblem&, Index, std::int32_t)> tokens) {
        return [tokens = std::move(tokens)](const AttentionProblem& problem, Reading& reading) {
            if (problem.about.selected == 0) return;
            for_each_request(reading, [&](RequestReading& request, Index r) {
                for (Index t = 0; t < problem.queries_of(r); ++t) {
                    std::vector<Index>& seen = request.seen[static_cast<std::size_t>(t)];
                    seen.clear();
                    for (Index i = 0; i < problem.about.selected; ++i)
                        for (const Index s : tokens(problem, r,
                                                    problem.selection[static_cast<std::size_t>(
                                                        (problem.first_query(r) + t) * problem.about.selected + i)]))
                            if (s < problem.length(r)) seen.push_back(s);
                }
            });
        };
    };
    const auto token_in = [](const AttentionProblem& problem, Index r, std::int32_t slot) {
        for (Index s = 0; s < problem.length(r); ++s)
            if (problem.slot_of(r, s) == slot) return s;
        return problem.length(r);
    };
    faults.push_back({"a key that is selected twice counts twice",
                      listed([token_in](const AttentionProblem& problem, Index r, std::int32_t slot) -> std::vector<Index> {
                          if (slot < 0) return {};
                          return {token_in(problem, r, slot)};
                      })});
    faults.push_back({"−1 in a selection is read as the first token",
                      listed([token_in](const AttentionProblem& problem, Index r, std::int32_t slot) -> std::vector<Index> {
                          return {slot < 0 ? 0 : token_in(problem, r, slot)};
                      })});
    faults.push_back({"the selection is not looked at", [](const AttentionProblem& problem, Reading& reading) {
                          if (problem.about.selected == 0) return;
                          for_each_request(reading, [&](RequestReading& request, Index r) {
                              for (Index t = 0; t < problem.queries_of(r); ++t) {
                                  std::vector<Index>& seen = request.seen[static_cast<std::size_t>(t)];
                                  seen.clear();
                                  for (Index s = 0; s < problem.length(r); ++s)
                                      if (problem.sees(r, t, s)) seen.push_back(s);
                              }
                          });
                      }});
}

}  // namespace detail

}  // namespace mla::inline MLA_ISA::testing
