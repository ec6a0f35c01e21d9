// What a problem's answer is, in double, and how far one computed in fewer bits may lie from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "mla/reference/matrix.hpp"
#include "mla/testing/conformance/problem.hpp"

namespace mla::inline MLA_ISA::testing {

/// A problem as it is to be read: for each request queries, keys, values, and the keys that each query attends to. A mistake is
/// another reading (faults.hpp).
struct RequestReading {
    reference::Matrix queries;             ///< [T·H, query_dim], row t·H + h
    reference::Matrix keys;                ///< [L, Dc+Dr]; in the expanded form its latents are still to be decompressed
    reference::Matrix values;              ///< [L, Dc], likewise
    std::vector<std::vector<Index>> seen;  ///< [T] keys, each as often as it counts
};
struct Reading {
    std::vector<RequestReading> requests;
    Index heads = 1;
    double scale = 1.0;
    std::vector<double> sinks;                     ///< [H], or empty
    Index nope_dim = 0;                            ///< 0: absorbed
    std::vector<reference::Matrix> key_weights;    ///< [H]: W_UK [Dn, Dc] of the expanded form
    std::vector<reference::Matrix> value_weights;  ///< [H]: W_UV [Dv, Dc]
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

namespace detail {

/// The halves of kv_b, a matrix a head.
inline void read_expansion(const AttentionProblem& problem, Reading& reading) {
    const AttentionCase& c = problem.about;
    if (!c.expanded()) return;
    reading.nope_dim = c.nope_dim;
    const float* row = problem.kv_b.data();
    const auto take = [&](Index rows) {
        reference::Matrix matrix(rows, c.latent_dim, {row, row + rows * c.latent_dim});
        row += rows * c.latent_dim;
        return matrix;
    };
    for (Index h = 0; h < c.heads; ++h) {
        reading.key_weights.push_back(take(c.nope_dim));
        reading.value_weights.push_back(take(c.value_dim));
    }
}

}  // namespace detail

/// The problem read as it should be.
[[nodiscard]] inline Reading read(const AttentionProblem& problem) {
    const AttentionCase& c = problem.about;
    Reading reading;
    reading.heads = c.heads;
    reading.scale = problem.scale;
    reading.sinks.assign(problem.sinks.begin(), problem.sinks.end());
    detail::read_expansion(problem, reading);
    for (Index r = 0; r < problem.requests(); ++r) {
        const Index rows = problem.queries_of(r) * c.heads;
        const auto* const first = problem.queries.data() + problem.first_query(r) * c.heads * c.query_dim();
        RequestReading request{{rows, c.query_dim(), {first, first + rows * c.query_dim()}},
                               problem.rows[static_cast<std::size_t>(r)],
                               reference::columns(problem.rows[static_cast<std::size_t>(r)], 0, c.latent_dim),
                               {}};
        for (Index t = 0; t < problem.queries_of(r); ++t) request.seen.push_back(seen_keys(problem, r, t));
        reading.requests.push_back(std::move(request));
    }
    return reading;
}

/// Outputs, and natural logarithms of the sums of exponentials.
struct Results {
    reference::Matrix out;        ///< [T·H, out_dim]
    std::vector<double> lse;      ///< [T·H]; −inf where a query sees no key
    std::vector<double> largest;  ///< [T·H]: the largest score of a row
};

/// Results with what their errors are in proportion to.
struct Answer : Results {
    reference::Matrix magnitude;  ///< Σ p·|v| of each output
    reference::Matrix spread;     ///< √(Σ p²·v²): what independent errors of the terms add up to
    reference::Matrix reach;      ///< the largest p times √(Σ v²): the same of errors in proportion to that p
    std::vector<double> products;  ///< [T·H]: the largest ‖q∘k‖ of a row, scaled: what errors of its scores are in proportion to
    std::vector<double> sharpness;  ///< [T·H]: scale · max|q| · max‖k‖, to which those of quantised queries and keys are
    std::vector<double> key_terms;  ///< [T·H], expanded: the largest ‖q∘‖w∘c‖‖ of a row, scaled
    reference::Matrix value_terms;  ///< expanded: Σ p·‖w∘c‖ of each output
    Index summed = 0;               ///< the most keys that a query sees
    Index decompressed = 0;         ///< values that are summed for one of a key or a value: Dc in the expanded form
};

namespace detail {

/// What a head of a request attends to: keys [L, query_dim], values [L, out_dim].
struct HeadRows {
    reference::Matrix keys;
    reference::Matrix values;
};

/// k_nope = W_UK c, v = W_UV c; the rope key is the same for all heads.
[[nodiscard]] inline HeadRows head_rows(const Reading& reading, const RequestReading& request, Index head) {
    if (reading.nope_dim == 0) return {request.keys, request.values};
    const auto h = static_cast<std::size_t>(head);
    const Index Dc = reading.key_weights[h].cols;
    const reference::Matrix latents = reference::columns(request.keys, 0, Dc);
    const reference::Matrix rope = reference::columns(request.keys, Dc, request.keys.cols - Dc);
    return {reference::beside(reference::linear(latents, reading.key_weights[h]), rope),
            reference::linear(request.values, reading.value_weights[h])};
}

/// √(Σ (w[o, i]·x[t, i])²): x [T, in], weight [out, in] -> [T, out]
[[nodiscard]] inline reference::Matrix term_norms(const reference::Matrix& x, const reference::Matrix& weight) {
    const auto squared = [](reference::Matrix matrix) {
        for (double& value : matrix.values) value *= value;
        return matrix;
    };
    reference::Matrix norms = reference::linear(squared(x), squared(weight));
    for (double& value : norms.values) value = std::sqrt(value);
    return norms;
}

/// ‖w∘c‖ of each decompressed key and value, to which the error of a sum of Dc products is in proportion, however small the sum
/// is.
[[nodiscard]] inline HeadRows head_terms(const Reading& reading, const RequestReading& request, Index head) {
    if (reading.nope_dim == 0) return {};
    const auto h = static_cast<std::size_t>(head);
    const reference::Matrix latents = reference::columns(request.keys, 0, reading.key_weights[h].cols);
    return {term_norms(latents, reading.key_weights[h]), term_norms(request.values, reading.value_weights[h])};
}

/// Calls f(request, head, row of the request, row of the results) for every row; of the expanded form a head after the other,
/// and `head` is asked for its rows when it begins.
template <class Head, class F>
void for_each_row(const Reading& reading, Head&& head, F&& f) {
    const bool expanded = reading.nope_dim > 0;
    Index first = 0;
    for (const RequestReading& request : reading.requests) {
        // Absorbed, all heads read the same rows.
        for (Index h = 0; h < (expanded ? reading.heads : 1) && request.queries.rows > 0; ++h) {
            const auto rows = head(request, h);
            for (Index row = h; row < request.queries.rows; row += expanded ? reading.heads : 1)
                f(request, rows, row, first + row);
        }
        first += request.queries.rows;
    }
}

[[nodiscard]] inline const std::vector<Index>& seen_by(const Reading& reading, const RequestReading& request, Index row) {
    return request.seen[static_cast<std::size_t>(row / reading.heads)];
}

/// A sink is one more logit, without a value; the LSE leaves it out.
[[nodiscard]] inline double sink_term(const Reading& reading, Index row, double largest) {
    if (reading.sinks.empty()) return 0.0;
    return std::exp(reading.sinks[static_cast<std::size_t>(row % reading.heads)] - largest);
}

/// Row `row` of a request, into row `to` of the results.
inline void attend_row(const Reading& reading, const RequestReading& request, const HeadRows& rows, Index row, Index to,
                       Results& results) {
    const std::vector<Index>& seen = seen_by(reading, request, row);
    std::vector<double> scores;
    scores.reserve(seen.size());
    for (const Index s : seen)
        scores.push_back(reading.scale * reference::dot(request.queries.row(row), rows.keys.row(s), rows.keys.cols));
    double largest = -std::numeric_limits<double>::infinity();
    for (const double score : scores) largest = std::max(largest, score);
    double sum = 0.0;
    for (double& score : scores) sum += score = std::exp(score - largest);
    const auto place = static_cast<std::size_t>(to);
    results.largest[place] = largest;
    results.lse[place] = seen.empty() ? largest : largest + std::log(sum);
    const double divisor = sum + sink_term(reading, row, largest);
    double* const out = results.out.row(to);
    for (std::size_t i = 0; i < seen.size(); ++i) {
        const double p = scores[i] / divisor;
        const double* const value = rows.values.row(seen[i]);
        for (Index c = 0; c < rows.values.cols; ++c) out[c] += p * value[c];
    }
}

/// What errors of a row's scores are in proportion to.
inline void measure_scores(const Reading& reading, const RequestReading& request, const HeadRows& rows, const HeadRows& terms,
                           Index row, std::size_t place, Answer& answer) {
    const double* const query = request.queries.row(row);
    const double scale = std::abs(reading.scale);
    double most_query = 0.0;
    for (Index i = 0; i < rows.keys.cols; ++i) most_query = std::max(most_query, std::abs(query[i]));
    for (const Index s : seen_by(reading, request, row)) {
        const double* const key = rows.keys.row(s);
        double products = 0.0, squares = 0.0, key_terms = 0.0;
        for (Index i = 0; i < rows.keys.cols; ++i) {
            products += query[i] * key[i] * query[i] * key[i];
            squares += key[i] * key[i];
        }
        for (Index i = 0; i < terms.keys.cols; ++i) key_terms += std::pow(query[i] * terms.keys(s, i), 2);
        answer.products[place] = std::max(answer.products[place], scale * std::sqrt(products));
        answer.sharpness[place] = std::max(answer.sharpness[place], scale * most_query * std::sqrt(squares));
        answer.key_terms[place] = std::max(answer.key_terms[place], scale * std::sqrt(key_terms));
    }
}

/// What errors of a row's outputs are in proportion to.
inline void measure_values(const Reading& reading, const RequestReading& request, const HeadRows& rows, const HeadRows& terms,
                           Index row, Index to, Answer& answer) {
    const std::vector<Index>& seen = seen_by(reading, request, row);
    const double largest = answer.largest[static_cast<std::size_t>(to)];
    const double sum = std::exp(answer.lse[static_cast<std::size_t>(to)] - largest) + sink_term(reading, row, largest);
    answer.summed = std::max(answer.summed, static_cast<Index>(seen.size()));
    double most = 0.0;
    for (const Index s : seen) {
        const double score = reading.scale * reference::dot(request.queries.row(row), rows.keys.row(s), rows.keys.cols);
        const double p = std::exp(score - largest) / sum;
        most = std::max(most, p);
        const double* const value = rows.values.row(s);
        for (Index c = 0; c < rows.values.cols; ++c) {
            answer.magnitude(to, c) += p * std::abs(value[c]);
            answer.spread(to, c) += p * p * value[c] * value[c];
            answer.reach(to, c) += value[c] * value[c];
            if (terms.values.cols > 0) answer.value_terms(to, c) += p * terms.values(s, c);
        }
    }
    for (Index c = 0; c < rows.values.cols; ++c) {
        answer.spread(to, c) = std::sqrt(answer.spread(to, c));
        answer.reach(to, c) = most * std::sqrt(answer.reach(to, c));
    }
}

}  // namespace detail

/// softmax(scale · q·k) v of every row over the keys that it sees.
[[nodiscard]] inline Results solve(const Reading& reading, Index out_dim) {
    Index rows = 0;
    for (const RequestReading& request : reading.requests) rows += request.queries.rows;
    const std::vector<double> none(static_cast<std::size_t>(rows));
    Results results{reference::Matrix(rows, out_dim), none, none};
    detail::for_each_row(
        reading, [&](const RequestReading& request, Index h) { return detail::head_rows(reading, request, h); },
        [&](const RequestReading& request, const detail::HeadRows& head, Index row, Index to) {
            detail::attend_row(reading, request, head, row, to, results);
        });
    return results;
}

/// A problem's results, and what bounds their errors.
[[nodiscard]] inline Answer solve(const AttentionProblem& problem) {
    const Reading reading = read(problem);
    Results results = solve(reading, problem.about.out_dim());
    const reference::Matrix zeros(results.out.rows, results.out.cols);
    const std::vector<double> none(results.lse.size());
    Answer answer{std::move(results), zeros, zeros, zeros, none, none, none, zeros, 0, 0};
    if (reading.nope_dim > 0) answer.decompressed = problem.about.latent_dim;
    detail::for_each_row(
        reading,
        [&](const RequestReading& request, Index h) {
            return std::pair{detail::head_rows(reading, request, h), detail::head_terms(reading, request, h)};
        },
        [&](const RequestReading& request, const auto& head, Index row, Index to) {
            detail::measure_scores(reading, request, head.first, head.second, row, static_cast<std::size_t>(to), answer);
            detail::measure_values(reading, request, head.first, head.second, row, to, answer);
        });
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
    double decompressed = 0.0;      ///< of keys and values of the expanded form, where they are rounded
    double outputs = 0.0;           ///< of the type in which outputs are handed over
};

namespace detail {

/// The smallest normal float; what is below may be taken for 0.
inline constexpr double smallest_normal = 0x1p-126;

}  // namespace detail

/// How far outputs and LSE may lie from the answer. Rounding errors being independent, a sum of n products errs by u·√n times the
/// root of the sum of their squares, with 2 more for what is rounded once; a score's error e moves each probability by 2e of
/// itself at most. Elements are held to three times what is expected of their own terms' magnitudes, all together to the root of
/// the squares of what is expected of each.
struct Bounds {
    reference::Matrix out;    ///< [T·H, Dc], of each element
    std::vector<double> lse;  ///< [T·H]
    double norm = 0.0;        ///< of all outputs' errors together
};

[[nodiscard]] inline Bounds bounds_of(const Answer& answer, Index query_dim, const Rounding& rounding) {
    const auto sum_of = [&](Index terms) { return rounding.sums * (2.0 + std::sqrt(static_cast<double>(terms))); };
    const bool expanded = answer.decompressed > 0;
    const double decompression = expanded ? sum_of(answer.decompressed) : 0.0;
    const double dot = sum_of(query_dim) + rounding.decompressed;
    const double sum = sum_of(answer.summed) + rounding.decompressed;
    Bounds bounds{reference::Matrix(answer.out.rows, answer.out.cols), std::vector<double>(answer.lse.size()), 0.0};
    double squares = 0.0;
    for (Index r = 0; r < answer.out.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        const double lse = std::isfinite(answer.lse[row]) ? std::abs(answer.lse[row]) : 0.0;
        const double score = dot * answer.products[row] + rounding.sums * lse +
                             (rounding.queries + rounding.keys) * answer.sharpness[row] + decompression * answer.key_terms[row];
        const double term = 2.0 * score + rounding.probabilities;
        bounds.lse[row] = 3.0 * (score + sum + rounding.probabilities +
                                 rounding.probability_step * std::sqrt(static_cast<double>(answer.summed)));
        for (Index c = 0; c < answer.out.cols; ++c) {
            const double own = rounding.outputs * std::abs(answer.out(r, c));
            const double steps =
                rounding.probability_step * answer.reach(r, c) + (expanded ? decompression * answer.value_terms(r, c) : 0.0);
            bounds.out(r, c) = 3.0 * (answer.magnitude(r, c) * (term + sum) + steps + own) + detail::smallest_normal;
            const double expected = answer.spread(r, c) * term + steps + own + detail::smallest_normal +
                                    std::max(answer.spread(r, c), std::abs(answer.out(r, c))) * sum;
            squares += expected * expected;
        }
    }
    bounds.norm = std::sqrt(squares);
    return bounds;
}

}  // namespace mla::inline MLA_ISA::testing
