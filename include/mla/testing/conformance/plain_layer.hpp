// A plain layer in float, in the expanded form, that can be made wrong by one mistake.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "mla/core/views.hpp"
#include "mla/testing/conformance/layer_step.hpp"
#include "mla/testing/conformance/plain_math.hpp"
#include "mla/testing/conformance/step_mutants.hpp"

namespace mla::inline MLA_ISA::testing {

class PlainLayer {
    using Vector = std::vector<float>;

  public:
    PlainLayer(const LayerProblem& problem, StepMistake mistake)
        : problem_(problem), config_(problem.config), weights_(problem.weights.refs()), mistake_(mistake) {}

    /// y [T, hidden]
    void run(MatrixView<float> y) {
        Index first = 0;
        for (const Index count : problem_.calls) {
            for (Index t = first; t < first + count; ++t) cache(t, position(t, first));
            for (Index t = first; t < first + count; ++t) {
                const Vector out = attend(t, queries(t, position(t, first)), first + count);
                std::copy(out.begin(), out.end(), y.row(t));
            }
            first += count;
        }
    }

  private:
    /// What the cache keeps of a token.
    struct Token {
        Vector kv;    ///< [H·(Dn+Dv)]: kv_b·c
        Vector k_pe;  ///< [Dr]
    };

    [[nodiscard]] bool is(StepMistake mistake) const noexcept { return mistake_ == mistake; }

    [[nodiscard]] std::int64_t position(Index t, Index first_of_call) const {
        return is(StepMistake::layer_positions_restart) ? t - first_of_call : problem_.positions[static_cast<std::size_t>(t)];
    }

    /// W·x + bias
    [[nodiscard]] static Vector times(const TensorRef& weight, const Vector& x, const TensorRef& bias = {}) {
        Vector y(static_cast<std::size_t>(weight.rows));
        weight.visit([&](const auto& element) {
            for (Index o = 0; o < weight.rows; ++o)
                for (Index i = 0; i < weight.cols; ++i)
                    y[static_cast<std::size_t>(o)] += static_cast<float>(element(o, i)) * x[static_cast<std::size_t>(i)];
        });
        if (bias.empty()) return y;
        const reference::Matrix biases = reference::to_matrix(bias);
        for (std::size_t o = 0; o < y.size(); ++o) y[o] += static_cast<float>(biases.values[o]);
        return y;
    }

    void norm(float* x, const TensorRef& weight) const {
        const float root =
            detail::root_of_squares(x, weight.cols, is(StepMistake::layer_without_eps) ? 0.0 : config_.latent_norm_eps);
        const reference::Matrix weights = reference::to_matrix(weight);
        for (Index i = 0; i < weight.cols; ++i) x[i] = x[i] / root * static_cast<float>(weights(0, i));
    }

    void turn(float* x, std::int64_t position) const {
        const bool neighbours = config_.rope.pairing == RopePairing::interleaved;
        detail::turn(config_.rope, position, neighbours != is(StepMistake::layer_other_pairing), config_.qk_rope_head_dim, x);
    }

    [[nodiscard]] Vector token(Index t) const {
        const auto first = problem_.x.begin() + t * config_.hidden_size;
        return {first, first + config_.hidden_size};
    }

    /// [H·(Dn+Dr)]
    [[nodiscard]] Vector queries(Index t, std::int64_t position) const {
        Vector q;
        if (config_.q_lora_rank > 0) {
            Vector latent = times(weights_.q_a_proj, token(t), weights_.q_a_bias);
            if (!is(StepMistake::layer_query_not_normed)) norm(latent.data(), weights_.q_a_layernorm);
            q = times(weights_.q_b_proj, latent);
        } else {
            q = times(weights_.q_proj, token(t));
        }
        for (Index h = 0; h < config_.num_attention_heads; ++h)
            turn(q.data() + h * config_.qk_head_dim() + config_.qk_nope_head_dim, position);
        return q;
    }

    void cache(Index t, std::int64_t position) {
        Vector row = times(weights_.kv_a_proj_with_mqa, token(t), weights_.kv_a_bias);
        if (!is(StepMistake::layer_latent_not_normed)) norm(row.data(), weights_.kv_a_layernorm);
        turn(row.data() + config_.kv_lora_rank, position);
        Vector k_pe(row.begin() + config_.kv_lora_rank, row.end());
        tokens_.push_back({times(weights_.kv_b_proj, row), std::move(k_pe)});
    }

    [[nodiscard]] float scale() const {
        const Index dim = config_.qk_head_dim();
        if (is(StepMistake::layer_mscale_left_out)) return 1.0F / std::sqrt(static_cast<float>(dim));
        return static_cast<float>(config_.softmax_scale());
    }

    /// Scores of head h over the tokens [begin, end).
    [[nodiscard]] Vector scores(const Vector& q, Index h, Index begin, Index end) const {
        const Index Dn = config_.qk_nope_head_dim, Dv = config_.v_head_dim;
        const float* const query = q.data() + h * config_.qk_head_dim();
        const Index key = h * (Dn + Dv) + (is(StepMistake::layer_values_first) ? Dv : 0);
        Vector all;
        for (Index s = begin; s < end; ++s) {
            const Token& token = tokens_[static_cast<std::size_t>(s)];
            float sum = 0.0F;
            for (Index i = 0; i < Dn; ++i) sum += query[i] * token.kv[static_cast<std::size_t>(key + i)];
            for (Index i = 0; i < config_.qk_rope_head_dim; ++i) sum += query[Dn + i] * token.k_pe[static_cast<std::size_t>(i)];
            all.push_back(sum * scale());
        }
        return all;
    }

    /// y of token t, the cache of which holds `length`.
    [[nodiscard]] Vector attend(Index t, const Vector& q, Index length) const {
        const Index H = config_.num_attention_heads, Dn = config_.qk_nope_head_dim, Dv = config_.v_head_dim;
        const bool all = is(StepMistake::layer_no_mask);
        const Index end = all ? length : t + 1;
        const Index begin = all || config_.sliding_window == 0 ? 0 : std::max<Index>(end - config_.sliding_window, 0);
        Vector o(static_cast<std::size_t>(H * Dv));
        for (Index h = 0; h < H; ++h) {
            Vector weights = scores(q, h, begin, end);
            const float largest = *std::max_element(weights.begin(), weights.end());
            float sum = config_.sinks ? std::exp(static_cast<float>(reference::to_matrix(weights_.sinks)(0, h)) - largest) : 0.0F;
            for (float& weight : weights) sum += weight = std::exp(weight - largest);
            const Index value = h * (Dn + Dv) + (is(StepMistake::layer_values_first) ? 0 : Dn);
            for (Index j = 0; j < Dv; ++j) {
                const Index place = is(StepMistake::layer_heads_transposed) ? j * H + h : h * Dv + j;
                for (Index s = begin; s < end; ++s)
                    o[static_cast<std::size_t>(place)] +=
                        weights[static_cast<std::size_t>(s - begin)] / sum *
                        tokens_[static_cast<std::size_t>(s)].kv[static_cast<std::size_t>(value + j)];
            }
        }
        return times(weights_.o_proj, o, weights_.o_bias);
    }

    const LayerProblem& problem_;
    const Config& config_;
    AttentionWeights weights_;
    StepMistake mistake_;
    std::vector<Token> tokens_;
};

}  // namespace mla::inline MLA_ISA::testing
