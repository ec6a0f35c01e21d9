// Lets a port do a step, and hands back its numbers in the order of the answer's.
#pragma once

#include <vector>

#include "mla/testing/conformance/port.hpp"

namespace mla::inline MLA_ISA::testing {

template <MergePort Port>
[[nodiscard]] std::vector<double> run_step(Port& port, const MergeProblem& problem) {
    using Output = typename Port::Output;
    std::vector<Output> values(static_cast<std::size_t>(problem.rows * (problem.dim + 1)),
                               std::numeric_limits<Output>::quiet_NaN());
    port.merge(problem, MatrixView<Output>(values.data(), problem.rows, problem.dim), values.data() + problem.rows * problem.dim);
    return {values.begin(), values.end()};
}

template <RopePort Port>
[[nodiscard]] std::vector<double> run_step(Port& port, const RopeProblem& problem) {
    using Output = typename Port::Output;
    std::vector<Output> x(problem.x.begin(), problem.x.end());
    port.rotate(problem, MatrixView<Output>(x.data(), static_cast<Index>(problem.positions.size()), problem.dim));
    return {x.begin(), x.end()};
}

template <NormPort Port>
[[nodiscard]] std::vector<double> run_step(Port& port, const NormProblem& problem) {
    using Output = typename Port::Output;
    std::vector<Output> x(problem.x.begin(), problem.x.end());
    port.rms_norm(problem, MatrixView<Output>(x.data(), problem.rows, problem.dim));
    return {x.begin(), x.end()};
}

/// What the rows read back as.
template <StorePort Port>
[[nodiscard]] std::vector<double> run_step(Port& port, const StoreProblem& problem) {
    std::vector<std::byte> rows(static_cast<std::size_t>(problem.tokens * problem.row.bytes()), std::byte{0xff});
    port.store(problem, rows.data());
    std::vector<double> values;
    for (Index t = 0; t < problem.tokens; ++t)
        for (const double value : reference::read_row(problem.row, rows.data() + t * problem.row.bytes()))
            values.push_back(value);
    return values;
}

}  // namespace mla::inline MLA_ISA::testing
