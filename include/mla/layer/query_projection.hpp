// From tokens to queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/workspace.hpp"
#include "mla/layer/projection.hpp"
#include "mla/layer/query_scale.hpp"
#include "mla/math/rms_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::detail {

/// q = q_b(RMSNorm(q_a(x))) or q_proj(x), its rope parts rotated; with OutputGate::with_query the gate's logits behind each head.
template <Storage T>
class QueryProjection {
    using A = compute_t<T>;

  public:
    struct Scratch {
        MatrixView<A> latent;  ///< [T, Rq], with a gate [T, 2·Rq]; without q_lora_rank [T, 0]
        HeadsView<A> heads;    ///< [T, H, Dn+Dr], with a gate [T, H, Dn+Dr+Dv]
    };

    QueryProjection(const Config& config, const AttentionWeights& weights, Precision precision, const Packer& pack)
        : config_(config), precision_(precision) {
        if (config.learned_query_scale) scale_ = QueryScale<A>(weights.query_scale, weights.query_scale_bias);
        if (config.q_lora_rank == 0) {
            up_ = Projection<T>(weights.q_proj, pack.options.q_b_proj, pack.executor);
            return;
        }
        down_ = Projection<T>(weights.q_a_proj, pack.options.q_a_proj, pack.executor, config.attention_bias, weights.q_a_bias);
        norm_ = to_vector<A>(weights.q_a_layernorm);
        up_ = Projection<T>(has_gate() ? weights.q_gate_proj : weights.q_b_proj, pack.options.q_b_proj, pack.executor);
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return down_.bytes() + up_.bytes(); }

    [[nodiscard]] Scratch carve(Arena& arena, Index tokens) const {
        const Index latent = (has_gate() ? 2 : 1) * config_.q_lora_rank;
        const Index dim = config_.qk_head_dim() + (has_gate() ? config_.v_head_dim : 0);
        const Index heads = config_.num_attention_heads;
        return {{arena.take<A>(tokens * latent), tokens, latent}, {arena.take<A>(tokens * heads * dim), tokens, heads, dim}};
    }

    /// `angles` [T, Dr]: of the tokens' positions.
    void operator()(MatrixView<const A> x, std::span<const std::int64_t> positions, const RotaryEmbedding& rope,
                    MatrixView<const A> angles, const Scratch& s, ExecutorRef executor) const noexcept {
        up_(config_.q_lora_rank > 0 ? normalised_latent(x, s, executor) : x, side_by_side(s.heads), executor, precision_);
        const HeadsView<A> q = queries(s);
        for_each_item(executor, q.tokens, [&](Index t, Index) {
            const std::int64_t position = positions[static_cast<std::size_t>(t)];
            const A of_all = position_factor(position);
            for (Index h = 0; h < q.heads; ++h) {
                A* const query = q.at(t, h);
                rope.rotate(angles.row(t), query + config_.qk_nope_head_dim);
                const A factor = of_all * scale_(position, h);
                if (factor == A(1)) continue;
                for (Index i = 0; i < q.dim; ++i) query[i] *= factor;
            }
        });
    }

    /// [T, H, Dn+Dr]
    [[nodiscard]] HeadsView<A> queries(const Scratch& s) const noexcept { return s.heads.slice(0, config_.qk_head_dim()); }
    /// RMSNorm(q_a(x)) [T, Rq], of which an indexer makes its queries.
    [[nodiscard]] MatrixView<const A> latent(const Scratch& s) const noexcept { return s.latent.columns(0, config_.q_lora_rank); }
    /// [T, H, Dv], with OutputGate::with_query
    [[nodiscard]] HeadsView<const A> gate(const Scratch& s) const noexcept {
        return s.heads.slice(config_.qk_head_dim(), config_.v_head_dim);
    }

  private:
    [[nodiscard]] bool has_gate() const noexcept { return config_.output_gate == OutputGate::with_query; }

    [[nodiscard]] MatrixView<const A> normalised_latent(MatrixView<const A> x, const Scratch& s,
                                                        ExecutorRef executor) const noexcept {
        const MatrixView<A> latent = s.latent.columns(0, config_.q_lora_rank);
        down_(x, latent, executor, precision_);
        for_each_piece(executor, latent.rows, tokens_a_piece, [&](Index begin, Index count) {
            if (has_gate())
                for (Index t = begin; t < begin + count; ++t)
                    std::copy_n(latent.row(t), latent.cols, latent.row(t) + latent.cols);
            rms_norm(latent.row_range(begin, count), norm_.data(), config_.latent_norm_eps);
        });
        return s.latent;
    }

    /// 1 + beta·ln(1 + ⌊position / period⌋)
    [[nodiscard]] A position_factor(std::int64_t position) const noexcept {
        const PositionScale& rule = config_.position_scale;
        if (rule.beta == 0.0) return A(1);
        return static_cast<A>(1.0 + rule.beta * std::log1p(static_cast<double>(position / rule.period)));
    }

    Config config_;
    Precision precision_;
    Projection<T> down_;  ///< hidden → Rq, with q_lora_rank
    Projection<T> up_;    ///< Rq, 2·Rq or hidden → the heads
    std::vector<A> norm_;
    QueryScale<A> scale_;
};

}  // namespace mla::inline MLA_ISA::detail
