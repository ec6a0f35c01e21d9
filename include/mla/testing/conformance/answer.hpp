// What a problem's answer is, in double, and how far one computed in fewer bits may lie from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mla/reference/matrix.hpp"
#include "mla/testing/conformance/problem.hpp"

namespace mla::inline MLA_ISA::testing {

/// A problem as it is to be read: for each request queries, keys, values, and the keys that each query attends to. A mistake is
/// another reading (faults.hpp).
struct RequestReading {
    reference::Matrix queries;             ///< [T·H, Dc+Dr], row t·H + h
    reference::Matrix keys;                ///< [L, Dc+Dr]
    reference::Matrix values;              ///< [L, Dc]
    std::vector<std::vector<Index>> seen;  ///< [T] keys, each as often as it counts
};
struct Reading {
    std::vector<RequestReading> requests;
    Index heads = 1;
    double scale = 1.0;
    std::vector<double> sinks;  ///< [H], or empty
};

/// The tokens that query `t` of a request attends to.
[[nodiscard]] inline std::vector<Index> seen_keys(const AttentionProblem& problem, Index request, Index t) {
    std::vector<Index> keys;
    if (problem.about.selected == 0) {
        for (Index s = 0; s < problem.length(request); ++s)
            if (problem.sees(request, t, s)) keys.push_back(s);
        return keys;
    }
    const std::int32_t* const list = problem.selection.data() + (problem.first_query(request) + t) * problem.about.selected;
    for (Index s = 0; s < problem.length(request); ++s)
        if (std::find(list, list + problem.about.selected, problem.slot_of(request, s)) != list + problem.about.selected)
            keys.push_back(s);
    return keys;
}

/// The problem read as it should be.
[[nodiscard]] inline Reading read(const AttentionProblem& problem) {
    const AttentionCase& c = problem.about;
    Reading reading{{}, c.heads, problem.scale, {problem.sinks.begin(), problem.sinks.end()}};
    for (Index r = 0; r < problem.requests(); ++r) {
        const Index rows = problem.queries_of(r) * c.heads;
        const auto* const first = problem.queries.data() + problem.first_query(r) * c.heads * problem.row.values();
        RequestReading request{{rows, problem.row.values(), {first, first + rows * problem.row.values()}},
                               problem.rows[static_cast<std::size_t>(r)],
                               reference::columns(problem.rows[static_cast<std::size_t>(r)], 0, c.latent_dim),
                               {}};
        for (Index t = 0; t < problem.queries_of(r); ++t) request.seen.push_back(seen_keys(problem, r, t));
        reading.requests.push_back(std::move(request));
    }
    return reading;
}

/// Outputs, natural logarithms of the sums of exponentials, and what bounds their errors.
struct Answer {
    reference::Matrix out;        ///< [T·H, Dc]
    std::vector<double> lse;      ///< [T·H]; −inf where a query sees no key
    reference::Matrix magnitude;  ///< Σ p·|v| of each output
    reference::Matrix spread;     ///< √(Σ p²·v²): what independent errors of the terms add up to
    reference::Matrix reach;      ///< the largest p times √(Σ v²): the same of errors in proportion to that p
    std::vector<double> products;  ///< [T·H]: the largest ‖q∘k‖ of a row, scaled: what errors of its scores are in proportion to
    std::vector<double> sharpness;  ///< [T·H]: scale · max|q| · max‖k‖, to which those of quantised queries and keys are
    Index summed = 0;               ///< the most keys that a query sees
};

namespace detail {

/// Row `row` of a request, into row `to` of the answer.
inline void attend_row(const Reading& reading, const RequestReading& request, Index row, Index to, Answer& answer) {
    const Index dim = request.keys.cols;
    const double* const query = request.queries.row(row);
    const std::vector<Index>& seen = request.seen[static_cast<std::size_t>(row / reading.heads)];
    const auto place = static_cast<std::size_t>(to);
    double largest = -std::numeric_limits<double>::infinity();
    std::vector<double> scores;
    double most_query = 0.0;
    for (Index i = 0; i < dim; ++i) most_query = std::max(most_query, std::abs(query[i]));
    for (const Index s : seen) {
        const double* const key = request.keys.row(s);
        double products = 0.0, squares = 0.0;
        for (Index i = 0; i < dim; ++i) {
            products += query[i] * key[i] * query[i] * key[i];
            squares += key[i] * key[i];
        }
        scores.push_back(reading.scale * reference::dot(query, key, dim));
        largest = std::max(largest, scores.back());
        answer.products[place] = std::max(answer.products[place], std::abs(reading.scale) * std::sqrt(products));
        answer.sharpness[place] = std::max(answer.sharpness[place], std::abs(reading.scale) * most_query * std::sqrt(squares));
    }
    double sum = 0.0;
    for (const double score : scores) sum += std::exp(score - largest);
    answer.lse[place] = seen.empty() ? -std::numeric_limits<double>::infinity() : largest + std::log(sum);
    answer.summed = std::max(answer.summed, static_cast<Index>(seen.size()));
    // A sink is one more logit, without a value; the LSE leaves it out.
    const double sink =
        reading.sinks.empty() ? 0.0 : std::exp(reading.sinks[static_cast<std::size_t>(row % reading.heads)] - largest);
    double most = 0.0;
    for (std::size_t i = 0; i < seen.size(); ++i) {
        const double p = std::exp(scores[i] - largest) / (sum + sink);
        most = std::max(most, p);
        const double* const value = request.values.row(seen[i]);
        for (Index c = 0; c < request.values.cols; ++c) {
            answer.out(to, c) += p * value[c];
            answer.magnitude(to, c) += p * std::abs(value[c]);
            answer.spread(to, c) += p * p * value[c] * value[c];
            answer.reach(to, c) += value[c] * value[c];
        }
    }
    for (Index c = 0; c < request.values.cols; ++c) {
        answer.spread(to, c) = std::sqrt(answer.spread(to, c));
        answer.reach(to, c) = most * std::sqrt(answer.reach(to, c));
    }
}

}  // namespace detail

/// softmax(scale · q·k) v of every row over the keys that it sees.
[[nodiscard]] inline Answer solve(const Reading& reading, Index latent_dim) {
    Index rows = 0;
    for (const RequestReading& request : reading.requests) rows += request.queries.rows;
    const auto count = static_cast<std::size_t>(rows);
    const reference::Matrix zeros(rows, latent_dim);
    Answer answer{zeros, std::vector<double>(count), zeros, zeros, zeros, std::vector<double>(count), std::vector<double>(count),
                  0};
    Index to = 0;
    for (const RequestReading& request : reading.requests)
        for (Index row = 0; row < request.queries.rows; ++row) detail::attend_row(reading, request, row, to++, answer);
    return answer;
}

/// What an implementation rounds, as it declares: unit roundoffs, relative to what is rounded. Inputs are given as they are
/// stored.
struct Rounding {
    double sums = 0x1p-24;          ///< of the type in which products are added up
    double probabilities = 0.0;     ///< where they are rounded before they meet values
    double probability_step = 0.0;  ///< error of a probability over the largest of its row: where they are quantised
    double queries = 0.0;           ///< error of a query's value over the largest of the query: where queries are quantised
    double keys = 0.0;              ///< error of a key's value over the key's norm, likewise
    double outputs = 0.0;           ///< of the type in which outputs are handed over
};

/// How far outputs and LSE may lie from the answer. Rounding errors being independent, a sum of n products errs by u·√n times the
/// root of the sum of their squares, with 2 more for what is rounded once; a score's error e moves each probability by 2e of
/// itself at most. Elements are held to three times what is expected of their own terms' magnitudes, all together to the root of
/// the squares of what is expected of each.
struct Bounds {
    reference::Matrix out;    ///< [T·H, Dc], of each element
    std::vector<double> lse;  ///< [T·H]
    double norm = 0.0;        ///< of all outputs' errors together
};

[[nodiscard]] inline Bounds bounds_of(const Answer& answer, Index row_dim, const Rounding& rounding) {
    constexpr double smallest = 0x1p-126;  // what is below may be taken for 0
    const double dot = rounding.sums * (2.0 + std::sqrt(static_cast<double>(row_dim)));
    const double sum = rounding.sums * (2.0 + std::sqrt(static_cast<double>(answer.summed)));
    Bounds bounds{reference::Matrix(answer.out.rows, answer.out.cols), std::vector<double>(answer.lse.size()), 0.0};
    double squares = 0.0;
    for (Index r = 0; r < answer.out.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        const double lse = std::isfinite(answer.lse[row]) ? std::abs(answer.lse[row]) : 0.0;
        const double score =
            dot * answer.products[row] + rounding.sums * lse + (rounding.queries + rounding.keys) * answer.sharpness[row];
        const double term = 2.0 * score + rounding.probabilities;
        bounds.lse[row] = 3.0 * (score + sum + rounding.probabilities +
                                 rounding.probability_step * std::sqrt(static_cast<double>(answer.summed)));
        for (Index c = 0; c < answer.out.cols; ++c) {
            const double own = rounding.outputs * std::abs(answer.out(r, c));
            const double steps = rounding.probability_step * answer.reach(r, c);
            bounds.out(r, c) = 3.0 * (answer.magnitude(r, c) * (term + sum) + steps + own) + smallest;
            const double expected = answer.spread(r, c) * term + steps + own + smallest +
                                    std::max(answer.spread(r, c), std::abs(answer.out(r, c))) * sum;
            squares += expected * expected;
        }
    }
    bounds.norm = std::sqrt(squares);
    return bounds;
}

}  // namespace mla::inline MLA_ISA::testing
