// Multi-head Latent Attention in both of its forms (DeepSeek-V2, section 2.1 and appendix C).
#pragma once

#include <cstdint>
#include <span>

#include "mla/config.hpp"
#include "mla/reference/attention.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/norm.hpp"
#include "mla/reference/rope.hpp"
#include "mla/reference/weights.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::reference {

/// Equal in exact arithmetic.
enum class Form : std::uint8_t {
    expanded,  ///< keys and values of every head are made from the latent: multi-head attention
    absorbed,  ///< W_UK moves into the query and W_UV behind the sum: multi-query attention on the latent
};

/// What q_b multiplies: RMSNorm(q_a(x)), with OutputGate::with_query beside q_a(x) itself; without q_lora_rank x.
/// x [T, hidden] -> [T, Rq], [T, 2·Rq] or [T, hidden]
[[nodiscard]] inline Matrix query_input(const Config& config, const AttentionWeights& weights, const Matrix& x) {
    if (config.q_lora_rank == 0) return x;
    const Matrix compressed = config.attention_bias ? linear(x, to_matrix(weights.q_a_proj), to_matrix(weights.q_a_bias))
                                                    : linear(x, to_matrix(weights.q_a_proj));  // [T, Rq]
    Matrix normalised = compressed;
    rms_norm(normalised, to_matrix(weights.q_a_layernorm), config.latent_norm_eps);
    if (config.output_gate != OutputGate::with_query) return normalised;
    return beside(normalised, compressed);
}

/// The rows of q_gate_proj that make queries, or gates: of each head Dn+Dr, and Dv behind them.
[[nodiscard]] inline Matrix query_gate_rows(const Config& config, const AttentionWeights& weights, bool gates) {
    const Index Dq = config.qk_nope_head_dim + config.qk_rope_head_dim;
    const Index Dv = config.v_head_dim;
    const Matrix all = to_matrix(weights.q_gate_proj);
    Matrix rows(0, all.cols);
    for (Index h = 0; h < config.num_attention_heads; ++h)
        append_rows(rows, gates ? row_range(all, h * (Dq + Dv) + Dq, Dv) : row_range(all, h * (Dq + Dv), Dq));
    return rows;
}

/// The matrix that makes queries of `query_input`: q_b, q_proj, or rows of q_gate_proj -> [H*(Dn+Dr), its columns]
[[nodiscard]] inline Matrix query_weights(const Config& config, const AttentionWeights& weights) {
    if (config.q_lora_rank == 0) return to_matrix(weights.q_proj);
    if (config.output_gate == OutputGate::with_query) return query_gate_rows(config, weights, false);
    return to_matrix(weights.q_b_proj);
}

/// What a learned scale [1, H] and bias [1, H] multiply the queries of a head by: scale·ln(position + 1) + bias.
[[nodiscard]] inline double learned_scale(const TensorRef& scale, const TensorRef& bias, Index head, std::int64_t position) {
    return to_matrix(scale)(0, head) * std::log(static_cast<double>(position) + 1.0) + to_matrix(bias)(0, head);
}

/// q = q_b(RMSNorm(q_a(x))) or q_proj(x); its last Dr values a head are rotated, and the whole is scaled by the config's
/// query multiplier and position scale, and by a learned scale. x [T, hidden], positions [T] -> q [T*H, Dn+Dr], row t*H + h
[[nodiscard]] inline Matrix project_queries(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                            std::span<const std::int64_t> positions) {
    const Index H = config.num_attention_heads;
    const Index Dn = config.qk_nope_head_dim;
    const Index Dr = config.qk_rope_head_dim;

    Matrix q = linear(query_input(config, weights, x), query_weights(config, weights));  // [T, H*(Dn+Dr)]
    q = reshape(std::move(q), x.rows * H, Dn + Dr);
    for (Index row = 0; row < q.rows; ++row) {
        const std::int64_t position = positions[static_cast<std::size_t>(row / H)];
        rotate(config.rope, Dr, position, q.row(row) + Dn);
        double multiplier = config.query_multiplier * position_scale(config, position);
        if (config.learned_query_scale)
            multiplier *= learned_scale(weights.query_scale, weights.query_scale_bias, row % H, position);
        for (Index i = 0; i < Dn + Dr; ++i) q(row, i) *= multiplier;
    }
    return q;
}

/// What the cache keeps of each token: c = RMSNorm(latent part of kv_a(x)) times the config's latent multiplier, and
/// k_pe = RoPE(rest), with rope_key_norm RoPE(RMSNorm(rest)). x [T, hidden], positions [T] -> [c | k_pe] [T, Dc+Dr]
[[nodiscard]] inline Matrix project_cache_rows(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                               std::span<const std::int64_t> positions) {
    const Index Dc = config.kv_lora_rank;
    const Index Dr = config.qk_rope_head_dim;

    Matrix rows = config.attention_bias ? linear(x, to_matrix(weights.kv_a_proj_with_mqa), to_matrix(weights.kv_a_bias))
                                        : linear(x, to_matrix(weights.kv_a_proj_with_mqa));  // [T, Dc+Dr]
    Matrix c = columns(rows, 0, Dc);                                                         // [T, Dc]
    rms_norm(c, to_matrix(weights.kv_a_layernorm), config.latent_norm_eps);
    Matrix k_pe = columns(rows, Dc, Dr);  // [T, Dr]
    if (config.rope_key_norm) rms_norm(k_pe, to_matrix(weights.k_rope_layernorm), config.latent_norm_eps);

    for (Index t = 0; t < x.rows; ++t) {
        for (Index i = 0; i < Dc; ++i) rows(t, i) = c(t, i) * config.latent_multiplier;
        for (Index i = 0; i < Dr; ++i) rows(t, Dc + i) = k_pe(t, i);
        rotate(config.rope, Dr, positions[static_cast<std::size_t>(t)], rows.row(t) + Dc);
    }
    return rows;
}

/// A layer's own sinks, where it has them.
[[nodiscard]] inline Attended with_own_sinks(const Config& config, const AttentionWeights& weights, Attended attended) {
    return config.sinks ? with_sinks(std::move(attended), to_matrix(weights.sinks).values) : attended;
}

/// Which keys the queries of the last T of L tokens see by the config alone: those before them, of the sliding window.
[[nodiscard]] inline Visible visible_in(const Config& config, Index T, Index L) { return sliding(T, L, config.sliding_window); }

/// Keys and values of every head, made from the latents.
struct ExpandedRows {
    Matrix k;  // [L, H*(Dn+Dr)]; a head: k_nope[h], then k_pe
    Matrix v;  // [L, H*Dv]
};

/// k_nope[h] = W_UK[h] c, v[h] = W_UV[h] c; every head has the same k_pe.
/// cache [L, Dc+Dr], kv_b [H*(Dn+Dv), Dc]; head h: W_UK[h] [Dn, Dc], then W_UV[h] [Dv, Dc]
[[nodiscard]] inline ExpandedRows expand_rows(const Matrix& cache, const Matrix& kv_b, Index H, Index Dn) {
    const Index L = cache.rows;
    const Index Dc = kv_b.cols;
    const Index Dr = cache.cols - Dc;
    const Index Dv = kv_b.rows / H - Dn;
    const Matrix kv = linear(columns(cache, 0, Dc), kv_b);  // [L, H*(Dn+Dv)]
    ExpandedRows rows{Matrix(L, H * (Dn + Dr)), Matrix(L, H * Dv)};
    for (Index s = 0; s < L; ++s)
        for (Index h = 0; h < H; ++h) {
            for (Index i = 0; i < Dn; ++i) rows.k(s, h * (Dn + Dr) + i) = kv(s, h * (Dn + Dv) + i);
            for (Index i = 0; i < Dr; ++i) rows.k(s, h * (Dn + Dr) + Dn + i) = cache(s, Dc + i);
            for (Index j = 0; j < Dv; ++j) rows.v(s, h * Dv + j) = kv(s, h * (Dn + Dv) + Dn + j);
        }
    return rows;
}

/// s = (q_nope·k_nope + q_pe·k_pe)·scale, o[h] = softmax(s) v[h] on the keys and values of `expand_rows`.
/// q [T*H, Dn+Dr], cache [L, Dc+Dr] -> output [T*H, Dv], lse [T, H]
[[nodiscard]] inline Attended attend_expanded_form(const Config& config, const AttentionWeights& weights, const Matrix& q,
                                                   const Matrix& cache, const Visible& visible) {
    const Index H = config.num_attention_heads;
    const ExpandedRows rows = expand_rows(cache, to_matrix(weights.kv_b_proj), H, config.qk_nope_head_dim);
    return with_own_sinks(config, weights, attend_masked(q, rows.k, rows.v, q.rows / H, H, H, softmax_scale(config), visible));
}
[[nodiscard]] inline Attended attend_expanded_form(const Config& config, const AttentionWeights& weights, const Matrix& q,
                                                   const Matrix& cache) {
    return attend_expanded_form(config, weights, q, cache, visible_in(config, q.rows / config.num_attention_heads, cache.rows));
}

/// q_lat[h] = W_UK[h]ᵀ q_nope[h], s = (q_lat·c + q_pe·k_pe)·scale, o_lat[h] = softmax(s) c, o[h] = W_UV[h] o_lat[h].
/// q [T*H, Dn+Dr], cache [L, Dc+Dr] -> output [T*H, Dv], lse [T, H]
[[nodiscard]] inline Attended attend_absorbed_form(const Config& config, const AttentionWeights& weights, const Matrix& q,
                                                   const Matrix& cache, const Visible& visible) {
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

    Attended latent = with_own_sinks(config, weights,
                                     attend_absorbed(q_absorbed, T, H, cache, Dc, softmax_scale(config), visible));  // [T*H, Dc]

    Matrix o(T * H, Dv);
    for (Index row = 0; row < T * H; ++row) {
        const Index w_uv = row % H * (Dn + Dv) + Dn;
        for (Index j = 0; j < Dv; ++j) o(row, j) = dot(kv_b.row(w_uv + j), latent.output.row(row), Dc);
    }
    return {std::move(o), std::move(latent.lse)};
}
[[nodiscard]] inline Attended attend_absorbed_form(const Config& config, const AttentionWeights& weights, const Matrix& q,
                                                   const Matrix& cache) {
    return attend_absorbed_form(config, weights, q, cache, visible_in(config, q.rows / config.num_attention_heads, cache.rows));
}

/// o[h] ← o[h] · sigmoid(g), where g is a linear function of x, or of the query's latent: one a head, or one a value.
/// x [T, hidden], o [T*H, Dv] -> [T*H, Dv]
[[nodiscard]] inline Matrix gate_output(const Config& config, const AttentionWeights& weights, const Matrix& x, Matrix o) {
    if (config.output_gate == OutputGate::none) return o;
    const Matrix g = config.output_gate == OutputGate::with_query
                         ? linear(query_input(config, weights, x), query_gate_rows(config, weights, true))
                         : linear(x, to_matrix(weights.gate_proj));  // [T, H] or [T, H*Dv]
    const Index Dv = config.v_head_dim;
    for (Index row = 0; row < o.rows; ++row)
        for (Index j = 0; j < Dv; ++j) {
            const Index value = row * Dv + j;
            const double logit = g.values[static_cast<std::size_t>(config.output_gate == OutputGate::per_head ? row : value)];
            o(row, j) /= 1.0 + std::exp(-logit);
        }
    return o;
}

/// y = o_proj(concat_h o[h]): o [T*H, Dv] -> y [T, hidden]
[[nodiscard]] inline Matrix project_output(const Config& config, const AttentionWeights& weights, const Matrix& o) {
    const Index H = config.num_attention_heads;
    const Matrix concatenated = reshape(o, o.rows / H, H * config.v_head_dim);  // [T, H*Dv]
    return config.attention_bias ? linear(concatenated, to_matrix(weights.o_proj), to_matrix(weights.o_bias))
                                 : linear(concatenated, to_matrix(weights.o_proj));
}

/// The layer: appends the tokens of x to the cache, unless it shares that of a layer before it, where they are its last; then
/// lets each see what `visible(t, s)` shows query t of x: by default the cache up to itself, or the sliding window's part of it.
/// x [T, hidden], positions [T], cache [L, Dc+Dr] (at first [0, Dc+Dr]), which grows by T rows -> y [T, hidden]
/// @throws std::invalid_argument when config, weights and shapes do not fit together; the cache is then as it was
[[nodiscard]] inline Matrix forward(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                    std::span<const std::int64_t> positions, Matrix& cache, Form form, const Visible& visible) {
    validate(config);
    validate(config, weights);
    require_equal("reference::forward x.cols", x.cols, "hidden_size", config.hidden_size);
    require_equal("reference::forward positions.size()", static_cast<Index>(positions.size()), "x.rows", x.rows);
    require_equal("reference::forward cache.cols", cache.cols, "kv_lora_rank + qk_rope_head_dim", config.cache_dim());

    const Matrix q = project_queries(config, weights, x, positions);                                  // [T*H, Dn+Dr]
    if (!config.shares_cache) append_rows(cache, project_cache_rows(config, weights, x, positions));  // [L+T, Dc+Dr]
    Attended attended = form == Form::expanded ? attend_expanded_form(config, weights, q, cache, visible)
                                               : attend_absorbed_form(config, weights, q, cache, visible);  // [T*H, Dv]
    return project_output(config, weights, gate_output(config, weights, x, std::move(attended.output)));
}
[[nodiscard]] inline Matrix forward(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                    std::span<const std::int64_t> positions, Matrix& cache, Form form) {
    const Index length = cache.rows + (config.shares_cache ? 0 : x.rows);
    return forward(config, weights, x, positions, cache, form, visible_in(config, x.rows, length));
}

}  // namespace mla::inline MLA_ISA::reference
