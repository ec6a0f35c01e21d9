// Storing tokens as cache rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "mla/reference/formats.hpp"
#include "mla/testing/conformance/step.hpp"

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

/// What the rows must read back as, [T, Dc + Dr]: nearest values where rows have no scales, elsewhere within what the coarsest
/// sensible scale leaves: the next power of two above largest magnitude over largest value.
[[nodiscard]] inline StepAnswer store_answer(const StoreProblem& p) {
    StepAnswer answer;
    std::vector<double> truncated;
    for (Index t = 0; t < p.tokens; ++t) {
        const float* const token = p.values.data() + t * p.row.values();
        std::vector<std::byte> bytes(static_cast<std::size_t>(p.row.bytes()));
        reference::write_row(p.row, std::vector<double>(token, token + p.row.values()), bytes.data());
        const std::vector<double> nearest = reference::read_row(p.row, bytes.data());
        for (Index i = 0; i < p.row.values(); ++i) {
            const auto value = static_cast<double>(token[i]);
            if (i >= p.row.narrow()) {
                answer.values.push_back(nearest[static_cast<std::size_t>(i)]);
                answer.bounds.push_back(detail::smallest_normal);
                const auto layout = p.row.kind == reference::RowKind::fp16 ? reference::fp16_layout : reference::bf16_layout;
                const std::uint32_t bits = reference::nearest(layout, value);
                const bool above = std::abs(reference::value_of(layout, bits)) > std::abs(value);
                truncated.push_back(p.row.wide_bytes() > 2 ? nearest[static_cast<std::size_t>(i)]
                                                           : reference::value_of(layout, above ? bits - 1 : bits));
                continue;
            }
            const Index begin = i / p.row.group() * p.row.group();
            double largest = 0.0;
            for (Index k = begin; k < std::min(begin + p.row.group(), p.row.narrow()); ++k)
                largest = std::max(largest, std::abs(static_cast<double>(token[k])));
            const bool bytes8 = p.row.kind == reference::RowKind::int8;
            const double scale = 2.0 * largest / (bytes8 ? 127.0 : 448.0);
            answer.values.push_back(value);
            answer.bounds.push_back((bytes8 ? 0.501 * scale : std::max(0x1.01p-4 * std::abs(value), 0x1.01p-10 * scale)) +
                                    detail::smallest_normal);
            truncated.push_back(nearest[static_cast<std::size_t>(i)]);
        }
    }
    answer.mistakes.emplace_back("16-bit values are cut off, not rounded to the nearest", std::move(truncated));
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
