// From tokens to what the cache takes.
#pragma once

#include <vector>

#include "mla/config.hpp"
#include "mla/layer/projection.hpp"
#include "mla/math/rms_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::detail {

/// Of a layer that shares no cache: c, k_pe = split(kv_a(x));  c = RMSNorm(c);  k_pe = RoPE(k_pe), normalised before with
/// rope_key_norm.
template <Storage T>
class LatentProjection {
    using A = compute_t<T>;

  public:
    LatentProjection(const Config& config, const AttentionWeights& weights, Precision precision, const Packer& pack)
        : config_(config), precision_(precision) {
        if (config.shares_cache) return;
        down_ = Projection<T>(weights.kv_a_proj_with_mqa, pack.options.kv_a_proj_with_mqa, pack.executor, config.attention_bias,
                              weights.kv_a_bias);
        norm_ = to_vector<A>(weights.kv_a_layernorm);
        if (config.rope_key_norm) rope_norm_ = to_vector<A>(weights.k_rope_layernorm);
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return down_.bytes(); }

    /// rows [T, Dc+Dr]; `angles` [T, Dr]: of the tokens' positions.
    void operator()(MatrixView<const A> x, const RotaryEmbedding& rope, MatrixView<const A> angles, MatrixView<A> rows,
                    ExecutorRef executor) const noexcept {
        down_(x, rows, executor, precision_);
        for_each_piece(executor, rows.rows, tokens_a_piece, [&](Index begin, Index count) {
            finish(rope, angles.row_range(begin, count), rows.row_range(begin, count));
        });
    }

  private:
    /// What follows the projection.
    void finish(const RotaryEmbedding& rope, MatrixView<const A> angles, MatrixView<A> rows) const noexcept {
        rms_norm(rows.columns(0, config_.kv_lora_rank), norm_.data(), config_.latent_norm_eps, config_.latent_multiplier);
        const MatrixView<A> keys = rows.columns(config_.kv_lora_rank, config_.qk_rope_head_dim);
        if (config_.rope_key_norm) rms_norm(keys, rope_norm_.data(), config_.latent_norm_eps);
        for (Index t = 0; t < keys.rows; ++t) rope.rotate(angles.row(t), keys.row(t));
    }

    Config config_;
    Precision precision_;
    Projection<T> down_;  ///< hidden → Dc+Dr
    std::vector<A> norm_, rope_norm_;
};

}  // namespace mla::inline MLA_ISA::detail
