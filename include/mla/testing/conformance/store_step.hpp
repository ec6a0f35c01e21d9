// Storing tokens as cache rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "mla/reference/formats.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/testing/conformance/stored_rows.hpp"

namespace mla::inline MLA_ISA::testing {

/// Tokens [T, Dc + Dr] to be stored as rows of a kind.
struct StoreProblem {
    std::string name;
    reference::RowGeometry row{};
    Index tokens = 0;
    std::vector<float> values;
};

[[nodiscard]] inline std::vector<StoreProblem> store_problems() {
    std::vector<StoreProblem> problems;
    for (const reference::RowKind kind : reference::row_kinds)
        for (const auto& [dims, latent, rope] :
             {std::tuple{"deepseek", Index{512}, Index{64}}, std::tuple{"odd", Index{130}, Index{6}}}) {
            StoreProblem problem{std::string(dims) + "/" + std::string(name(kind)), {kind, latent, rope}, 5, {}};
            Generator generator = detail::step_generator("store_" + problem.name);
            problem.values = gaussian_values<float>(generator, problem.tokens * problem.row.values());
            std::fill_n(problem.values.begin(), problem.row.values(), 0.0F);
            for (Index i = 0; i < problem.row.values(); ++i)
                problem.values[static_cast<std::size_t>(problem.row.values() + i)] *= 1e-3F;
            problems.push_back(std::move(problem));
        }
    return problems;
}

/// What rows of which a port wrote the numbers `found` must say.
[[nodiscard]] inline StepAnswer store_answer(const StoreProblem& p, std::span<const double> found) {
    const reference::Matrix values(p.tokens, p.row.values(), {p.values.begin(), p.values.end()});
    const reference::Matrix exact(p.tokens, p.row.values());
    auto right = detail::expect_rows(p.row, values, exact, found);
    StepAnswer answer{right.numbers, right.bounds, {}};
    const auto cut = detail::expect_rows(p.row, values, exact, found, true);
    // The one mistake cuts narrow values, the other the rest.
    const auto cut_where = [&](bool narrow) {
        std::vector<double> numbers = right.numbers;
        for (std::size_t i = 0; i < values.values.size(); ++i)
            if ((static_cast<Index>(i) % values.cols < p.row.narrow()) == narrow) numbers[i] = cut.numbers[i];
        return numbers;
    };
    answer.mistakes.push_back({"16-bit values are cut off, not rounded to the nearest", cut_where(false)});
    answer.mistakes.push_back({"eight-bit values are cut off, not rounded to the nearest", cut_where(true)});
    answer.mistakes.push_back({"values are cut off, not rounded to the nearest", cut.numbers});
    std::vector<double> down = right.numbers;
    for (auto scale = down.begin() + static_cast<Index>(values.values.size()); scale != down.end(); ++scale)
        if (*scale > 0.0) *scale = std::exp2(std::floor(std::log2(*scale)));
    answer.mistakes.push_back({"scales are rounded down to a power of two", std::move(down)});
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
