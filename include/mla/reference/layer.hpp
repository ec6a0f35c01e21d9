// Multi-head Latent Attention in both of its forms (DeepSeek-V2, section 2.1 and appendix C).
#pragma once

#include <cstdint>
#include <span>

#include "mla/config.hpp"
#include "mla/reference/attention.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/norm.hpp"
#include "mla/reference/rope.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::reference {

/// Equal in exact arithmetic.
enum class Form : std::uint8_t {
    expanded,  ///< keys and values of every head are made from the latent: multi-head attention
    absorbed,  ///< W_UK moves into the query and W_UV behind the sum: multi-query attention on the latent
};

/// q = q_b(RMSNorm(q_a(x))) or q_proj(x); its last Dr values a head are rotated, and the whole is scaled by the config's
/// query multiplier and position scale. x [T, hidden], positions [T] -> q [T*H, Dn+Dr], row t*H + h
[[nodiscard]] inline Matrix project_queries(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                            std::span<const std::int64_t> positions) {
    const Index H = config.num_attention_heads;
    const Index Dn = config.qk_nope_head_dim;
    const Index Dr = config.qk_rope_head_dim;

    Matrix q;  // [T, H*(Dn+Dr)]
    if (config.q_lora_rank > 0) {
        Matrix q_latent = config.attention_bias ? linear(x, to_matrix(weights.q_a_proj), to_matrix(weights.q_a_bias))
                                                : linear(x, to_matrix(weights.q_a_proj));  // [T, Rq]
        rms_norm(q_latent, to_matrix(weights.q_a_layernorm), config.latent_norm_eps);
        q = linear(q_latent, to_matrix(weights.q_b_proj));
    } else {
        q = linear(x, to_matrix(weights.q_proj));
    }

    q = reshape(std::move(q), x.rows * H, Dn + Dr);
    for (Index row = 0; row < q.rows; ++row) {
        const std::int64_t position = positions[static_cast<std::size_t>(row / H)];
        rotate(config.rope, Dr, position, q.row(row) + Dn);
        const double multiplier = config.query_multiplier * position_scale(config, position);
        for (Index i = 0; i < Dn + Dr; ++i) q(row, i) *= multiplier;
    }
    return q;
}

/// What the cache keeps of each token: c = RMSNorm(latent part of kv_a(x)) times the config's latent multiplier, and
/// k_pe = RoPE(rest). x [T, hidden], positions [T] -> [c | k_pe] [T, Dc+Dr]
[[nodiscard]] inline Matrix project_cache_rows(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                               std::span<const std::int64_t> positions) {
    const Index Dc = config.kv_lora_rank;
    const Index Dr = config.qk_rope_head_dim;

    Matrix rows = config.attention_bias ? linear(x, to_matrix(weights.kv_a_proj_with_mqa), to_matrix(weights.kv_a_bias))
                                        : linear(x, to_matrix(weights.kv_a_proj_with_mqa));  // [T, Dc+Dr]
    Matrix c = columns(rows, 0, Dc);                                                         // [T, Dc]
    rms_norm(c, to_matrix(weights.kv_a_layernorm), config.latent_norm_eps);

    for (Index t = 0; t < x.rows; ++t) {
        for (Index i = 0; i < Dc; ++i) rows(t, i) = c(t, i) * config.latent_multiplier;
        rotate(config.rope, Dr, positions[static_cast<std::size_t>(t)], rows.row(t) + Dc);
    }
    return rows;
}

/// k_nope[h] = W_UK[h] c, v[h] = W_UV[h] c, s = (q_nope·k_nope + q_pe·k_pe)·scale, o[h] = softmax(s) v[h].
/// q [T*H, Dn+Dr], cache [L, Dc+Dr] -> output [T*H, Dv], lse [T, H]
[[nodiscard]] inline Attended attend_expanded_form(const Config& config, const AttentionWeights& weights, const Matrix& q,
                                                   const Matrix& cache) {
    const Index H = config.num_attention_heads;
    const Index L = cache.rows;
    const Index Dc = config.kv_lora_rank;
    const Index Dn = config.qk_nope_head_dim;
    const Index Dr = config.qk_rope_head_dim;
    const Index Dv = config.v_head_dim;

    const Matrix kv = linear(columns(cache, 0, Dc), to_matrix(weights.kv_b_proj));  // [L, H*(Dn+Dv)]
    Matrix k(L, H * (Dn + Dr));                                                     // a head: k_nope[h], then k_pe
    Matrix v(L, H * Dv);
    for (Index s = 0; s < L; ++s)
        for (Index h = 0; h < H; ++h) {
            for (Index i = 0; i < Dn; ++i) k(s, h * (Dn + Dr) + i) = kv(s, h * (Dn + Dv) + i);
            for (Index i = 0; i < Dr; ++i) k(s, h * (Dn + Dr) + Dn + i) = cache(s, Dc + i);
            for (Index j = 0; j < Dv; ++j) v(s, h * Dv + j) = kv(s, h * (Dn + Dv) + Dn + j);
        }
    return attend_multi_head(q, k, v, q.rows / H, H, H, softmax_scale(config));
}

/// q_lat[h] = W_UK[h]ᵀ q_nope[h], s = (q_lat·c + q_pe·k_pe)·scale, o_lat[h] = softmax(s) c, o[h] = W_UV[h] o_lat[h].
/// q [T*H, Dn+Dr], cache [L, Dc+Dr] -> output [T*H, Dv], lse [T, H]
[[nodiscard]] inline Attended attend_absorbed_form(const Config& config, const AttentionWeights& weights, const Matrix& q,
                                                   const Matrix& cache) {
    const Index H = config.num_attention_heads;
    const Index T = q.rows / H;
    const Index Dc = config.kv_lora_rank;
    const Index Dn = config.qk_nope_head_dim;
    const Index Dr = config.qk_rope_head_dim;
    const Index Dv = config.v_head_dim;
    const Matrix kv_b = to_matrix(weights.kv_b_proj);  // [H*(Dn+Dv), Dc]; head h: W_UK[h] [Dn, Dc], then W_UV[h] [Dv, Dc]

    Matrix q_absorbed(T * H, Dc + Dr);  // [q_lat | q_pe]
    for (Index row = 0; row < T * H; ++row) {
        const Index w_uk = row % H * (Dn + Dv);
        for (Index i = 0; i < Dn; ++i)
            for (Index j = 0; j < Dc; ++j) q_absorbed(row, j) += q(row, i) * kv_b(w_uk + i, j);
        for (Index i = 0; i < Dr; ++i) q_absorbed(row, Dc + i) = q(row, Dn + i);
    }

    Attended latent = attend_absorbed(q_absorbed, T, H, cache, Dc, softmax_scale(config));  // output [T*H, Dc]

    Matrix o(T * H, Dv);
    for (Index row = 0; row < T * H; ++row) {
        const Index w_uv = row % H * (Dn + Dv) + Dn;
        for (Index j = 0; j < Dv; ++j) o(row, j) = dot(kv_b.row(w_uv + j), latent.output.row(row), Dc);
    }
    return {std::move(o), std::move(latent.lse)};
}

/// y = o_proj(concat_h o[h]): o [T*H, Dv] -> y [T, hidden]
[[nodiscard]] inline Matrix project_output(const Config& config, const AttentionWeights& weights, const Matrix& o) {
    const Index H = config.num_attention_heads;
    const Matrix concatenated = reshape(o, o.rows / H, H * config.v_head_dim);  // [T, H*Dv]
    return config.attention_bias ? linear(concatenated, to_matrix(weights.o_proj), to_matrix(weights.o_bias))
                                 : linear(concatenated, to_matrix(weights.o_proj));
}

/// The layer: appends the tokens of x to the cache, then lets each see the cache up to itself.
/// x [T, hidden], positions [T], cache [L, Dc+Dr] (at first [0, Dc+Dr]), which grows by T rows -> y [T, hidden]
/// @throws std::invalid_argument when config, weights and shapes do not fit together; the cache is then as it was
[[nodiscard]] inline Matrix forward(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                    std::span<const std::int64_t> positions, Matrix& cache, Form form) {
    validate(config);
    validate(config, weights);
    require_equal("reference::forward x.cols", x.cols, "hidden_size", config.hidden_size);
    require_equal("reference::forward positions.size()", static_cast<Index>(positions.size()), "x.rows", x.rows);
    require_equal("reference::forward cache.cols", cache.cols, "kv_lora_rank + qk_rope_head_dim", config.cache_dim());

    const Matrix q = project_queries(config, weights, x, positions);        // [T*H, Dn+Dr]
    append_rows(cache, project_cache_rows(config, weights, x, positions));  // [L+T, Dc+Dr]
    const Attended attended = form == Form::expanded ? attend_expanded_form(config, weights, q, cache)
                                                     : attend_absorbed_form(config, weights, q, cache);  // [T*H, Dv]
    return project_output(config, weights, attended.output);
}

}  // namespace mla::inline MLA_ISA::reference
