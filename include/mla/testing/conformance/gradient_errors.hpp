// How far gradients computed in float may lie from a problem's answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mla/reference/gradients.hpp"
#include "mla/testing/conformance/gradient_problem.hpp"
#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// What gradients are computed with, as a port declares it: unit roundoffs.
struct GradientRounding {
    double sums = 0x1p-24;      ///< of the type in which products are added up
    double weights = 0.0;       ///< of weights and gradients of scores, where they are rounded before they meet keys or values
    double decompressed = 0.0;  ///< of keys and values of the expanded form and of their gradients, where they are rounded
    double outputs = 0.0;       ///< of the type in which gradients are handed over

    /// Error of a sum of n products, over the root of the sum of their squares.
    [[nodiscard]] double sum(Index n) const { return sums * (2.0 + std::sqrt(static_cast<double>(n))); }
};

namespace detail {

/// √(Σ (a·b)²)
[[nodiscard]] inline double product_norm(const double* a, const double* b, Index n) {
    double squares = 0.0;
    for (Index i = 0; i < n; ++i) squares += a[i] * b[i] * a[i] * b[i];
    return std::sqrt(squares);
}

/// The scores of a row of queries and the gradients of its weights, as sums of products; and what those err by.
struct RowSums {
    std::vector<double> scores;
    std::vector<double> d_weights;
    std::vector<double> weight_errors;  ///< of d_weights
    double score_error = 0.0;           ///< the largest
};

[[nodiscard]] inline RowSums row_sums(const GradientProblem& p, const GradientForm& form, const GradientRounding& rounding,
                                      Index row) {
    const Index D = p.query_dim(), Dv = p.out_dim(), g = form.groups == 1 ? 0 : row % p.heads;
    const double *const q = form.q.row(row), *const d_out = form.d_out.row(row);
    RowSums sums;
    for (Index s = 0; s < reference::visible_keys(row / p.heads, p.tokens, p.length); ++s) {
        const double *const k = form.k.row(s) + g * D, *const v = form.v.row(s) + g * Dv;
        sums.scores.push_back(p.scale * reference::dot(q, k, D));
        sums.d_weights.push_back(reference::dot(d_out, v, Dv));
        // Of a sum's products, of keys and values that are such sums, and of those as rounded.
        const auto error = [&](const double* a, const double* b, const double* terms, Index n) {
            return std::hypot(std::hypot(rounding.sum(n), rounding.decompressed) * product_norm(a, b, n),
                              rounding.sum(p.latent_dim) * product_norm(a, terms, n));
        };
        sums.weight_errors.push_back(error(d_out, v, form.v_terms.row(s) + g * Dv, Dv));
        sums.score_error = std::max(sums.score_error, p.scale * error(q, k, form.k_terms.row(s) + g * D, D));
    }
    return sums;
}

/// The softmax of a row of queries, and what the parts of its gradients err by.
struct RowErrors {
    reference::SoftmaxGradients exact;
    double weight = 0.0;           ///< relative, of a weight
    std::vector<double> d_scores;  ///< of each
    double d_sink = 0.0;
};

/// A weight errs by twice what its score does, as a sum of exponentials, and by what the LSE is rounded to, all in proportion; D,
/// the sum of weights times their gradients, by that and by what these err by; the gradient of a score, w_s·(d_w_s − D) +
/// p_s·d_lse, by all of it. The errors are independent, so that their squares add.
[[nodiscard]] inline RowErrors row_errors(const GradientProblem& p, const GradientForm& form, const GradientRounding& rounding,
                                          Index row) {
    const RowSums sums = row_sums(p, form, rounding, row);
    RowErrors errors;
    if (sums.scores.empty()) return errors;
    const double sink =
        form.sinks.empty() ? -std::numeric_limits<double>::infinity() : form.sinks[static_cast<std::size_t>(row % p.heads)];
    const auto d_lse = static_cast<double>(p.d_lse[static_cast<std::size_t>(row)]);
    errors.exact = reference::softmax_gradients(sums.scores, sink, sums.d_weights, d_lse);
    const std::vector<double> without_lse = reference::softmax_gradients(sums.scores, sink, sums.d_weights, 0.0).d_scores;
    const std::vector<double>& weights = errors.exact.weights;
    const double largest = *std::max_element(sums.scores.begin(), sums.scores.end());
    errors.weight = std::hypot(2.0 * sums.score_error, rounding.sum(static_cast<Index>(weights.size())), rounding.sums * largest);
    double delta = 0.0, of_keys = 0.0;
    for (std::size_t s = 0; s < weights.size(); ++s) {
        delta = std::hypot(delta, weights[s] * errors.weight * sums.d_weights[s], weights[s] * sums.weight_errors[s]);
        of_keys += weights[s];
    }
    for (std::size_t s = 0; s < weights.size(); ++s)
        errors.d_scores.push_back(
            std::hypot(errors.weight * std::hypot(without_lse[s], errors.exact.d_scores[s] - without_lse[s]),
                       weights[s] * sums.weight_errors[s], weights[s] * delta));
    errors.d_sink = std::hypot(errors.weight * errors.exact.d_sink, std::max(1.0 - of_keys, 0.0) * delta);
    return errors;
}

/// Squares of the errors of what masked_gradients gives, as those of independent terms.
[[nodiscard]] inline reference::AttentionGradients gradient_squares(const GradientProblem& p, const GradientForm& form,
                                                                    const GradientRounding& rounding) {
    const Index D = p.query_dim(), Dv = p.out_dim(), rows = p.tokens * p.heads;
    const auto add = [](double& square, double error) { square += error * error; };
    reference::AttentionGradients squares{reference::Matrix(rows, D), reference::Matrix(form.k.rows, form.k.cols),
                                          reference::Matrix(form.v.rows, form.v.cols), std::vector<double>(form.sinks.size())};
    for (Index row = 0; row < rows; ++row) {
        const RowErrors errors = row_errors(p, form, rounding, row);
        const Index g = form.groups == 1 ? 0 : row % p.heads;
        for (std::size_t i = 0; i < errors.d_scores.size(); ++i) {
            const auto s = static_cast<Index>(i);
            const double d_score = std::abs(errors.exact.d_scores[i]);
            const double of_query = std::hypot(errors.d_scores[i], d_score * rounding.sum(p.length), d_score * rounding.weights);
            const double of_key = std::hypot(errors.d_scores[i], d_score * rounding.sum(rows), d_score * rounding.weights);
            const double of_value = errors.exact.weights[i] * std::hypot(errors.weight, rounding.sum(rows), rounding.weights);
            for (Index j = 0; j < D; ++j) {
                const double k = form.k(s, g * D + j);
                add(squares.d_q(row, j), p.scale * std::hypot(of_query * k, d_score * rounding.decompressed * k,
                                                              d_score * rounding.sum(p.latent_dim) * form.k_terms(s, g * D + j)));
                add(squares.d_k(s, g * D + j), p.scale * of_key * form.q(row, j));
            }
            for (Index j = 0; j < Dv; ++j) add(squares.d_v(s, g * Dv + j), of_value * form.d_out(row, j));
        }
        if (!form.sinks.empty())
            add(squares.d_sinks[static_cast<std::size_t>(row % p.heads)],
                std::hypot(errors.d_sink, errors.exact.d_sink * rounding.sum(p.tokens)));
    }
    return squares;
}

/// Bounds of [d_q | d_rows | d_kv_b | d_sinks]: each number is held to three times the root of the squares of its terms' errors.
/// `right`: what the sums through kv_b are made of.
[[nodiscard]] inline std::vector<double> gradient_bounds(const GradientProblem& p, const GradientForm& form,
                                                         const reference::AttentionGradients& right,
                                                         const GradientRounding& rounding) {
    std::vector<double> bounds =
        assemble(p, gradient_squares(p, form, rounding), right, [&](double square, double value, double factor, Index products) {
            const double sum = std::hypot(rounding.sum(products), rounding.decompressed) * value;
            return (square + sum * sum) * factor * factor;
        });
    for (double& bound : bounds) bound = 3.0 * std::sqrt(bound) + smallest_normal;
    return bounds;
}

}  // namespace detail

}  // namespace mla::inline MLA_ISA::testing
