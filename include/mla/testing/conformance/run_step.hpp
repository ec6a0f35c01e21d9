// The steps around attention: what a port must have for each, how it is let do it, and what its numbers are held against.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "mla/testing/conformance/gradient_step.hpp"
#include "mla/testing/conformance/merge_step.hpp"
#include "mla/testing/conformance/norm_step.hpp"
#include "mla/testing/conformance/port.hpp"
#include "mla/testing/conformance/rope_step.hpp"
#include "mla/testing/conformance/select_step.hpp"
#include "mla/testing/conformance/store_step.hpp"

namespace mla::inline MLA_ISA::testing {

/// merge(problem, out [rows, dim], lse [rows]): the merged parts, LSE natural, −inf for rows that neither part saw a key of.
template <class P>
concept MergePort = requires(P& port, const MergeProblem& problem, MatrixView<typename P::Output> out, typename P::Output* lse) {
    port.merge(problem, out, lse);
};
/// rotate(problem, x [T, Dr]): in place.
template <class P>
concept RopePort = requires(P& port, const RopeProblem& problem, MatrixView<typename P::Output> x) {
    port.rotate(problem, x);
};
/// rms_norm(problem, x [T, n]): in place.
template <class P>
concept NormPort = requires(P& port, const NormProblem& problem, MatrixView<typename P::Output> x) {
    port.rms_norm(problem, x);
};
/// store(problem, rows): tokens as rows of problem.row.bytes() each.
template <class P>
concept StorePort = requires(P& port, const StoreProblem& problem, std::byte* rows) {
    port.store(problem, rows);
};

/// append(problem, rows): tokens, normed and rotated, as rows of problem.row.bytes() each.
template <class P>
concept AppendPort = requires(P& port, const AppendProblem& problem, std::byte* rows) {
    port.append(problem, rows);
};

/// layer(problem, y [T, hidden]): a layer's outputs, of a cache that is empty before the first call.
template <class P>
concept LayerPort = requires(P& port, const LayerProblem& problem, MatrixView<typename P::Output> y) {
    port.layer(problem, y);
};

/// gradients(problem, outputs): every gradient of the problem, in full.
template <class P>
concept GradientPort = requires(P& port, const GradientProblem& problem, const GradientOutputs<typename P::Output>& outputs) {
    port.gradients(problem, outputs);
};

/// select(problem, selection [T, top_k]): the numbers of the chosen keys in any order, −1 for none.
template <class P>
concept SelectPort = requires(P& port, const SelectProblem& problem, MatrixView<std::int32_t> selection) {
    port.select(problem, selection);
};

template <MergePort P>
[[nodiscard]] std::vector<double> run_step(P& port, const MergeProblem& problem) {
    using Output = typename P::Output;
    std::vector<Output> values(static_cast<std::size_t>(problem.rows * (problem.dim + 1)),
                               std::numeric_limits<Output>::quiet_NaN());
    port.merge(problem, MatrixView<Output>(values.data(), problem.rows, problem.dim), values.data() + problem.rows * problem.dim);
    return {values.begin(), values.end()};
}

template <RopePort P>
[[nodiscard]] std::vector<double> run_step(P& port, const RopeProblem& problem) {
    using Output = typename P::Output;
    std::vector<Output> x(problem.x.begin(), problem.x.end());
    port.rotate(problem, MatrixView<Output>(x.data(), static_cast<Index>(problem.positions.size()), problem.dim));
    return {x.begin(), x.end()};
}

template <NormPort P>
[[nodiscard]] std::vector<double> run_step(P& port, const NormProblem& problem) {
    using Output = typename P::Output;
    std::vector<Output> x(problem.x.begin(), problem.x.end());
    port.rms_norm(problem, MatrixView<Output>(x.data(), problem.rows, problem.dim));
    return {x.begin(), x.end()};
}

/// What the rows say.
template <StorePort P>
[[nodiscard]] std::vector<double> run_step(P& port, const StoreProblem& problem) {
    std::vector<std::byte> rows(static_cast<std::size_t>(problem.tokens * problem.row.bytes()), std::byte{0xff});
    port.store(problem, rows.data());
    return row_numbers(problem.row, rows);
}

template <AppendPort P>
[[nodiscard]] std::vector<double> run_step(P& port, const AppendProblem& problem) {
    std::vector<std::byte> rows(static_cast<std::size_t>(problem.tokens * problem.row.bytes()), std::byte{0xff});
    port.append(problem, rows.data());
    std::vector<double> numbers = row_numbers(problem.row, rows);
    const bool in_halves = port.supported().rope_in_cache == RopeInCache::in_halves;
    if (in_halves && problem.rope.pairing == RopePairing::interleaved) pair_up(problem.row, problem.tokens, numbers);
    return numbers;
}

template <LayerPort P>
[[nodiscard]] std::vector<double> run_step(P& port, const LayerProblem& problem) {
    using Output = typename P::Output;
    const Index hidden = problem.config.hidden_size;
    std::vector<Output> y(static_cast<std::size_t>(problem.tokens() * hidden), std::numeric_limits<Output>::quiet_NaN());
    port.layer(problem, MatrixView<Output>(y.data(), problem.tokens(), hidden));
    return {y.begin(), y.end()};
}

template <GradientPort P>
[[nodiscard]] std::vector<double> run_step(P& port, const GradientProblem& problem) {
    using Output = typename P::Output;
    std::vector<Output> numbers(problem.q.size() + problem.rows.size() + problem.kv_b.size() + problem.sinks.size(),
                                std::numeric_limits<Output>::quiet_NaN());
    Output* const d_rows = numbers.data() + problem.q.size();
    Output* const d_kv_b = d_rows + problem.rows.size();
    Output* const d_sinks = problem.sinks.empty() ? nullptr : d_kv_b + problem.kv_b.size();
    port.gradients(problem, GradientOutputs<Output>{{numbers.data(), problem.tokens, problem.heads, problem.query_dim()},
                                                    {d_rows, problem.length, problem.row_dim()},
                                                    {d_kv_b, problem.kv_b_rows(), problem.latent_dim},
                                                    d_sinks});
    return {numbers.begin(), numbers.end()};
}

/// What the numbers of a port that supports so much, `found`, should be.
[[nodiscard]] inline StepAnswer step_answer(const Supported&, const MergeProblem& problem, std::span<const double>) {
    return merge_answer(problem);
}
[[nodiscard]] inline StepAnswer step_answer(const Supported&, const RopeProblem& problem, std::span<const double>) {
    return rope_answer(problem);
}
[[nodiscard]] inline StepAnswer step_answer(const Supported&, const NormProblem& problem, std::span<const double>) {
    return norm_answer(problem);
}
[[nodiscard]] inline StepAnswer step_answer(const Supported&, const StoreProblem& problem, std::span<const double> found) {
    return store_answer(problem, found);
}

[[nodiscard]] inline StepAnswer step_answer(const Supported&, const AppendProblem& problem, std::span<const double> found) {
    return append_answer(problem, found);
}

[[nodiscard]] inline StepAnswer step_answer(const Supported& port, const GradientProblem& problem, std::span<const double>) {
    return gradient_answer(problem, port.gradient_rounding(problem));
}
[[nodiscard]] inline StepAnswer step_answer(const Supported& port, const LayerProblem& problem, std::span<const double>) {
    return layer_answer(problem, port.layer_rounding(problem));
}

/// Why a step's problem is none for a port, or nothing.
template <class Problem>
    requires requires(const Problem& problem) { problem.row.kind; }
[[nodiscard]] std::string unsupported_step(const Supported& port, const Problem& problem) {
    const bool known = std::find(port.kinds.begin(), port.kinds.end(), problem.row.kind) != port.kinds.end();
    return known ? "" : std::string(name(problem.row.kind)) + " rows";
}
[[nodiscard]] inline std::string unsupported_step(const Supported& port, const LayerProblem& problem) {
    return port.layer(problem.config);
}
template <class Problem>
[[nodiscard]] std::string unsupported_step(const Supported&, const Problem&) {
    return {};
}

/// Calls f(step, problem) for every problem of the steps that are judged by their numbers.
template <class F>
void for_each_step(F&& f) {
    const auto all = [&](const char* step, const auto& problems) {
        for (const auto& problem : problems) f(std::string(step), problem);
    };
    all("merge", merge_problems());
    all("rope", rope_problems());
    all("rms_norm", norm_problems());
    all("store", store_problems());
    all("append", append_problems());
    all("layer", layer_problems());
    all("gradients", gradient_problems());
}

}  // namespace mla::inline MLA_ISA::testing
