// Gradients of attention in both of its forms, for kernels that train.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "mla/core/views.hpp"
#include "mla/reference/gradients.hpp"
#include "mla/testing/conformance/gradient_errors.hpp"
#include "mla/testing/conformance/gradient_problem.hpp"
#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// Where a port writes gradients: each of the shape of what it is the gradient by.
template <class Output>
struct GradientOutputs {
    HeadsView<Output> d_q;      ///< [T, H, Dc+Dr], expanded [T, H, Dn+Dr]
    MatrixView<Output> d_rows;  ///< [L, Dc+Dr]: of the latent as a key and as a value, of the rope key of all heads
    MatrixView<Output> d_kv_b;  ///< [H·(Dn+Dv), Dc] of the expanded form
    Output* d_sinks = nullptr;  ///< [H], or null
};

[[nodiscard]] inline std::vector<GradientProblem> gradient_problems() {
    std::vector<GradientProblem> problems;
    const auto add = [&](GradientProblem p, bool sinks = false) {
        Generator generator = detail::step_generator("gradients_" + p.name);
        const auto draw = [&](std::vector<float>& values, Index count, double sigma = 1.0) {
            for (Index i = 0; i < count; ++i) values.push_back(static_cast<float>(round_to<bf16>(sigma * gaussian(generator))));
        };
        p.scale = static_cast<double>(static_cast<float>(1.0 / std::sqrt(0.7 * static_cast<double>(p.query_dim()))));
        draw(p.q, p.tokens * p.heads * p.query_dim());
        draw(p.rows, p.length * p.row_dim());
        draw(p.kv_b, p.kv_b_rows() * p.latent_dim, 1.0 / std::sqrt(static_cast<double>(p.latent_dim)));
        draw(p.d_out, p.tokens * p.heads * p.out_dim());
        draw(p.d_lse, p.tokens * p.heads);
        draw(p.sinks, sinks ? p.heads : 0);
        problems.push_back(std::move(p));
    };
    add({.name = "absorbed_decode", .tokens = 1, .heads = 5, .length = 40});
    add({.name = "absorbed_prompt", .tokens = 14, .length = 14});
    add({.name = "absorbed_chunk", .tokens = 6, .length = 30, .latent_dim = 33, .rope_dim = 6});
    add({.name = "absorbed_more_queries_than_keys", .tokens = 7, .length = 3});
    add({.name = "absorbed_sinks", .tokens = 5, .length = 21}, true);
    add({.name = "expanded_prompt", .tokens = 14, .length = 14, .nope_dim = 12, .value_dim = 10});
    add({.name = "expanded_chunk", .tokens = 6, .length = 30, .latent_dim = 33, .rope_dim = 6, .nope_dim = 13, .value_dim = 11});
    add({.name = "expanded_without_rope", .tokens = 5, .length = 12, .rope_dim = 0, .nope_dim = 8, .value_dim = 16});
    add({.name = "expanded_sinks", .tokens = 5, .length = 21, .nope_dim = 12, .value_dim = 10}, true);
    return problems;
}

/// How gradients are computed: the right way, or with a mistake.
struct GradientReading {
    std::string name;
    bool with_delta = true;  ///< Σ_s w_s·d_w_s in the gradient of a score
    bool as_value = true;    ///< a latent's part as a value
    bool as_key = true;      ///< and as a key
    bool scaled = true;      ///< gradients of queries and keys by those of scores
    bool with_d_lse = true;
    bool causal = true;
    bool of_all_heads = true;  ///< the rope key's
};

[[nodiscard]] inline std::vector<GradientReading> gradient_mistakes() {
    return {{.name = "the sum of weights times their gradients is not taken off", .with_delta = false},
            {.name = "the latent's gradient as a value is left out", .as_value = false},
            {.name = "the latent's gradient as a key is left out", .as_key = false},
            {.name = "gradients of queries and keys are not scaled", .scaled = false},
            {.name = "the gradient of the LSE is left out", .with_d_lse = false},
            {.name = "there is no causal mask", .causal = false},
            {.name = "the rope key's gradient is that of the first head", .of_all_heads = false}};
}

namespace detail {

/// What the loss changes by per output and LSE. Without the delta D score s's gradient is larger by w_s·D: as if the LSE's were
/// by D times what keys weigh beside the sink.
[[nodiscard]] inline reference::Attended loss_gradients(const GradientProblem& p, const GradientForm& form,
                                                        const GradientReading& reading) {
    const Index T = p.tokens, H = p.heads;
    reference::Attended d{form.d_out, reference::Matrix(T, H)};
    if (reading.with_d_lse) d.lse.values.assign(p.d_lse.begin(), p.d_lse.end());
    if (reading.with_delta) return d;
    reference::Attended attended =
        reference::attend_masked(form.q, form.k, form.v, T, H, form.groups, p.scale, reference::causal(T, p.length));
    const reference::Matrix lse = attended.lse;
    if (!form.sinks.empty()) attended = reference::with_sinks(std::move(attended), form.sinks);
    for (Index row = 0; row < T * H; ++row) {
        const double sink =
            form.sinks.empty() ? 0.0 : std::exp(form.sinks[static_cast<std::size_t>(row % H)] - lse(row / H, row % H));
        d.lse(row / H, row % H) += reference::dot(attended.output.row(row), d.output.row(row), p.out_dim()) / (1.0 + sink);
    }
    return d;
}

/// Values [begin, end) of each group's keys become f(token, column).
template <class F>
void change_keys(const GradientForm& form, Index begin, Index end, reference::Matrix& d_k, F&& f) {
    for (Index s = 0; s < d_k.rows; ++s)
        for (Index g = 0; g < form.groups; ++g)
            for (Index i = begin; i < end; ++i) d_k(s, g * form.q.cols + i) = f(s, g * form.q.cols + i);
}

/// Gradients of what a form attends to.
[[nodiscard]] inline reference::AttentionGradients form_gradients(const GradientProblem& p, const GradientForm& form,
                                                                  const GradientReading& reading) {
    const Index T = p.tokens, H = p.heads, D = p.query_dim(), first = D - p.rope_dim;
    const reference::Visible visible =
        reading.causal ? reference::causal(T, p.length) : reference::Visible([](Index, Index) { return true; });
    reference::Attended d = loss_gradients(p, form, reading);
    const auto gradients = [&] {
        return reference::masked_gradients(form.q, form.k, form.v, T, H, form.groups, p.scale, visible, d, form.sinks);
    };
    reference::AttentionGradients result = gradients();
    if (!reading.scaled)
        for (reference::Matrix* matrix : {&result.d_q, &result.d_k})
            for (double& value : matrix->values) value /= p.scale;
    if (!reading.as_value) std::fill(result.d_v.values.begin(), result.d_v.values.end(), 0.0);
    if (!reading.as_key) change_keys(form, 0, first, result.d_k, [](Index, Index) { return 0.0; });
    if (!reading.of_all_heads) {
        for (Index row = 0; row < T * H; ++row) {
            if (row % H == 0) continue;
            std::fill_n(d.output.row(row), d.output.cols, 0.0);
            d.lse(row / H, row % H) = 0.0;
        }
        const reference::Matrix of_first = gradients().d_k;
        change_keys(form, first, D, result.d_k, [&](Index s, Index column) { return of_first(s, column); });
    }
    return result;
}

[[nodiscard]] inline std::vector<double> gradient_numbers(const GradientProblem& p, const reference::AttentionGradients& parts) {
    return assemble(p, parts, parts, [](double part, double, double factor, Index) { return part * factor; });
}

}  // namespace detail

/// [d_q | d_rows | d_kv_b | d_sinks]
[[nodiscard]] inline StepAnswer gradient_answer(const GradientProblem& p, const GradientRounding& rounding) {
    const detail::GradientForm form(p);
    const auto numbers = [&](const GradientReading& reading) {
        return detail::gradient_numbers(p, detail::form_gradients(p, form, reading));
    };
    const reference::AttentionGradients right = detail::form_gradients(p, form, {});
    StepAnswer answer{detail::gradient_numbers(p, right), detail::gradient_bounds(p, form, right, rounding), {}};
    for (std::size_t i = 0; i < answer.values.size(); ++i) answer.bounds[i] += rounding.outputs * std::abs(answer.values[i]);
    for (const GradientReading& mistake : gradient_mistakes()) answer.mistakes.push_back({mistake.name, numbers(mistake)});
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
