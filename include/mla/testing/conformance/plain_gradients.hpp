// Plain gradients of attention in float, which can be made wrong by one mistake.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "mla/core/views.hpp"
#include "mla/testing/conformance/gradient_step.hpp"
#include "mla/testing/conformance/step_mutants.hpp"

namespace mla::inline MLA_ISA::testing {

class PlainGradients {
    using Vector = std::vector<float>;

  public:
    PlainGradients(const GradientProblem& problem, StepMistake mistake) : problem_(problem), mistake_(mistake) {
        for (Index s = 0; s < problem.length; ++s)
            for (Index h = 0; h < problem.heads; ++h) keys_.push_back(key(s, h));
        d_keys_.assign(keys_.size(), {Vector(static_cast<std::size_t>(problem.query_dim())),
                                      Vector(static_cast<std::size_t>(problem.out_dim()))});
    }

    void run(const GradientOutputs<float>& to) {
        std::fill_n(to.d_q.data, problem_.q.size(), 0.0F);
        if (to.d_sinks != nullptr) std::fill_n(to.d_sinks, problem_.heads, 0.0F);
        for (Index t = 0; t < problem_.tokens; ++t)
            for (Index h = 0; h < problem_.heads; ++h) differentiate(t, h, to);
        std::fill_n(to.d_rows.data, problem_.rows.size(), 0.0F);
        std::fill_n(to.d_kv_b.data, problem_.kv_b.size(), 0.0F);
        for (Index s = 0; s < problem_.length; ++s)
            for (Index h = 0; h < problem_.heads; ++h) gather(s, h, to);
    }

  private:
    /// What a head attends to of a token, or its gradients.
    struct Key {
        Vector key;    ///< [query_dim]
        Vector value;  ///< [out_dim]
    };

    [[nodiscard]] bool is(StepMistake mistake) const noexcept { return mistake_ == mistake; }

    [[nodiscard]] const float* row(Index s) const { return problem_.rows.data() + s * problem_.row_dim(); }
    /// Row i of a head in kv_b.
    [[nodiscard]] Index kv_b_row(Index h, Index i) const { return h * (problem_.nope_dim + problem_.value_dim) + i; }

    [[nodiscard]] Key key(Index s, Index h) const {
        const Index Dc = problem_.latent_dim, Dn = problem_.nope_dim;
        const float *const latent = row(s), *const rope = latent + Dc;
        if (!problem_.expanded()) return {Vector(latent, latent + problem_.row_dim()), Vector(latent, latent + Dc)};
        Key made;
        for (Index i = 0; i < Dn + problem_.value_dim; ++i) {
            float sum = 0.0F;
            for (Index j = 0; j < Dc; ++j) sum += problem_.kv_b[static_cast<std::size_t>(kv_b_row(h, i) * Dc + j)] * latent[j];
            (i < Dn ? made.key : made.value).push_back(sum);
        }
        made.key.insert(made.key.end(), rope, rope + problem_.rope_dim);
        return made;
    }

    [[nodiscard]] static float dot(const float* a, const Vector& b) {
        float sum = 0.0F;
        for (const float value : b) sum += *a++ * value;
        return sum;
    }

    /// Query t's head h: its part of every gradient.
    void differentiate(Index t, Index h, const GradientOutputs<float>& to) {
        const Index visible =
            is(StepMistake::gradient_no_mask) ? problem_.length : std::max<Index>(problem_.length - problem_.tokens + t + 1, 0);
        if (visible == 0) return;
        const Index at = t * problem_.heads + h;
        const float* const q = problem_.q.data() + at * problem_.query_dim();
        const float* const d_out = problem_.d_out.data() + at * problem_.out_dim();
        const auto scale = static_cast<float>(problem_.scale);
        Vector p;
        for (Index s = 0; s < visible; ++s) p.push_back(scale * dot(q, of(keys_, s, h).key));
        const float largest = *std::max_element(p.begin(), p.end());
        float sum = 0.0F, delta = 0.0F;
        for (float& each : p) sum += each = std::exp(each - largest);
        const float sink = problem_.sinks.empty() ? 0.0F : std::exp(problem_.sinks[static_cast<std::size_t>(h)] - largest);
        for (Index s = 0; s < visible; ++s)
            delta += p[static_cast<std::size_t>(s)] / (sum + sink) * dot(d_out, of(keys_, s, h).value);
        if (!problem_.sinks.empty()) to.d_sinks[h] -= sink / (sum + sink) * delta;
        if (is(StepMistake::gradient_delta_left_out)) delta = 0.0F;
        const float d_lse = is(StepMistake::gradient_of_lse_left_out) ? 0.0F : problem_.d_lse[static_cast<std::size_t>(at)];
        for (Index s = 0; s < visible; ++s) {
            const float weight = p[static_cast<std::size_t>(s)] / (sum + sink);
            const float d_score =
                weight * (dot(d_out, of(keys_, s, h).value) - delta) + p[static_cast<std::size_t>(s)] / sum * d_lse;
            add(s, h, is(StepMistake::gradient_not_scaled) ? d_score : d_score * scale, weight, q, d_out, to.d_q.at(t, h));
        }
    }

    void add(Index s, Index h, float d_score, float weight, const float* q, const float* d_out, float* d_q) {
        Key& d_key = of(d_keys_, s, h);
        for (std::size_t j = 0; j < d_key.key.size(); ++j) {
            d_q[j] += d_score * of(keys_, s, h).key[j];
            d_key.key[j] += d_score * q[j];
        }
        for (std::size_t j = 0; j < d_key.value.size(); ++j) d_key.value[j] += weight * d_out[j];
    }

    /// A head's part of the gradients of token s and of kv_b.
    void gather(Index s, Index h, const GradientOutputs<float>& to) {
        const Index Dc = problem_.latent_dim, Dn = problem_.nope_dim, first = problem_.query_dim() - problem_.rope_dim;
        Key& d = of(d_keys_, s, h);
        if (is(StepMistake::gradient_as_value_left_out)) std::fill(d.value.begin(), d.value.end(), 0.0F);
        if (is(StepMistake::gradient_as_key_left_out)) std::fill_n(d.key.begin(), first, 0.0F);
        if (!is(StepMistake::gradient_rope_of_first_head) || h == 0)
            for (Index i = 0; i < problem_.rope_dim; ++i) to.d_rows(s, Dc + i) += d.key[static_cast<std::size_t>(first + i)];
        if (!problem_.expanded()) {
            for (Index j = 0; j < Dc; ++j)
                to.d_rows(s, j) += d.key[static_cast<std::size_t>(j)] + d.value[static_cast<std::size_t>(j)];
            return;
        }
        for (Index i = 0; i < Dn + problem_.value_dim; ++i) {
            const float part = i < Dn ? d.key[static_cast<std::size_t>(i)] : d.value[static_cast<std::size_t>(i - Dn)];
            for (Index j = 0; j < Dc; ++j) {
                to.d_rows(s, j) += part * problem_.kv_b[static_cast<std::size_t>(kv_b_row(h, i) * Dc + j)];
                to.d_kv_b(kv_b_row(h, i), j) += part * row(s)[j];
            }
        }
    }

    [[nodiscard]] Key& of(std::vector<Key>& keys, Index s, Index h) const {
        return keys[static_cast<std::size_t>(s * problem_.heads + h)];
    }

    const GradientProblem& problem_;
    StepMistake mistake_;
    std::vector<Key> keys_;    ///< [L·H]
    std::vector<Key> d_keys_;  ///< [L·H]
};

}  // namespace mla::inline MLA_ISA::testing
