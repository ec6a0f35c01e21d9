// The indexer of sparse attention: which keys a query attends to (DeepSeek-V3.2, section 2.1).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "mla/config.hpp"
#include "mla/reference/attention.hpp"
#include "mla/reference/layer.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/norm.hpp"
#include "mla/reference/rope.hpp"
#include "mla/reference/weights.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::reference {

/// Rotates the first Dr, or the last Dr, of the Di values of an index query or key, in place.
inline void rotate_index(const Config& config, std::int64_t position, double* v) {
    Rope rope = config.rope;
    rope.pairing = config.indexer.pairing;
    const Index Dr = config.qk_rope_head_dim;
    rotate(rope, Dr, position, config.indexer.rope_is_last ? v + config.indexer.head_dim - Dr : v);
}

/// Index queries wq_b(RMSNorm(q_a(x))), without q_lora_rank wq_b(LayerNorm(x)); times a learned scale. x [T, hidden], positions
/// [T]
/// -> [T*Hi, Di], row t*Hi + h
[[nodiscard]] inline Matrix project_index_queries(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                                  std::span<const std::int64_t> positions) {
    const Index Hi = config.indexer.heads;
    Matrix input = x;
    if (config.q_lora_rank > 0) {
        input = columns(query_input(config, weights, x), 0, config.q_lora_rank);
    } else {
        layer_norm(input, to_matrix(weights.indexer.q_input_norm), to_matrix(weights.indexer.q_input_norm_bias),
                   config.indexer.norm_eps);
    }
    Matrix q = reshape(linear(input, to_matrix(weights.indexer.wq_b)), x.rows * Hi, config.indexer.head_dim);
    for (Index row = 0; row < q.rows; ++row) {
        const std::int64_t position = positions[static_cast<std::size_t>(row / Hi)];
        rotate_index(config, position, q.row(row));
        if (!config.learned_query_scale) continue;
        const double scale = learned_scale(weights.indexer.query_scale, weights.indexer.query_scale_bias, row % Hi, position);
        for (Index i = 0; i < q.cols; ++i) q(row, i) *= scale;
    }
    return q;
}

/// Index keys LayerNorm(wk(x)), with pools beside them what weighs each value in its pool: pool_gate(x). x [T, hidden],
/// positions [T] -> [T, Di] or [T, 2·Di]
[[nodiscard]] inline Matrix project_index_keys(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                               std::span<const std::int64_t> positions) {
    Matrix k = linear(x, to_matrix(weights.indexer.wk));
    layer_norm(k, to_matrix(weights.indexer.k_norm), to_matrix(weights.indexer.k_norm_bias), config.indexer.norm_eps);
    for (Index t = 0; t < k.rows; ++t) rotate_index(config, positions[static_cast<std::size_t>(t)], k.row(t));
    return config.indexer.pool == 1 ? k : beside(k, linear(x, to_matrix(weights.indexer.pool_gate)));
}

/// The key of each whole pool of tokens: of value c, Σ_p softmax_p(gate[p, c] + positions[p, c]) · k[p, c].
/// rows [L, 2·Di] -> [L / pool, Di]
[[nodiscard]] inline Matrix pool_index_keys(const Config& config, const AttentionWeights& weights, const Matrix& rows) {
    const Index P = config.indexer.pool;
    const Index Di = config.indexer.head_dim;
    const Matrix positions = to_matrix(weights.indexer.pool_positions);
    Matrix pooled(rows.rows / P, Di);
    for (Index pool = 0; pool < pooled.rows; ++pool)
        for (Index c = 0; c < Di; ++c) {
            double sum = 0.0;
            for (Index p = 0; p < P; ++p) {
                const double weight = std::exp(rows(pool * P + p, Di + c) + positions(p, c));
                pooled(pool, c) += weight * rows(pool * P + p, c);
                sum += weight;
            }
            pooled(pool, c) /= sum;
        }
    return pooled;
}

/// I[t, s] = Σ_h w[t, h] · relu(q[t, h] · k[s]). q [T*Hi, Di], k [L, Di], w [T, Hi] -> [T, L]
[[nodiscard]] inline Matrix index_scores(const Matrix& q, const Matrix& k, const Matrix& w) {
    const Index Hi = w.cols;
    Matrix scores(w.rows, k.rows);
    for (Index t = 0; t < w.rows; ++t)
        for (Index s = 0; s < k.rows; ++s)
            for (Index h = 0; h < Hi; ++h) scores(t, s) += w(t, h) * std::max(dot(q.row(t * Hi + h), k.row(s), q.cols), 0.0);
    return scores;
}

/// Weights of the heads, weights_proj(x) · Hi^-½ · Di^-½. x [T, hidden] -> [T, Hi]
[[nodiscard]] inline Matrix index_head_weights(const Config& config, const AttentionWeights& weights, const Matrix& x) {
    Matrix w = linear(x, to_matrix(weights.indexer.weights_proj));
    const auto dims = static_cast<double>(config.indexer.heads * config.indexer.head_dim);
    for (double& value : w.values) value /= std::sqrt(dims);
    return w;
}

/// The `top_k` keys of largest score that each query may see, or all that it sees where there are no more; of equal scores the
/// earlier key. scores [T, L] of the last T of L tokens -> [T] lists of keys, ascending
[[nodiscard]] inline std::vector<std::vector<Index>> select_keys(const Matrix& scores, Index top_k) {
    std::vector<std::vector<Index>> selected;
    for (Index t = 0; t < scores.rows; ++t) {
        std::vector<Index> keys(static_cast<std::size_t>(visible_keys(t, scores.rows, scores.cols)));
        std::iota(keys.begin(), keys.end(), Index{0});
        std::stable_sort(keys.begin(), keys.end(), [&](Index a, Index b) { return scores(t, a) > scores(t, b); });
        if (static_cast<Index>(keys.size()) > top_k) keys.resize(static_cast<std::size_t>(top_k));
        std::sort(keys.begin(), keys.end());
        selected.push_back(std::move(keys));
    }
    return selected;
}

/// The tokens of the best pools that each query sees whole, at most top_k tokens, and those after its last whole pool where the
/// config says so. scores [T, L / pool] of the last T of L tokens -> [T] lists of tokens, ascending
[[nodiscard]] inline std::vector<std::vector<Index>> select_pools(const IndexerConfig& indexer, const Matrix& scores, Index L) {
    const Index P = indexer.pool;
    std::vector<std::vector<Index>> selected;
    for (Index t = 0; t < scores.rows; ++t) {
        const Index visible = visible_keys(t, scores.rows, L);
        const Matrix seen(1, visible / P, {scores.row(t), scores.row(t) + visible / P});
        std::vector<Index> tokens;
        for (const std::vector<Index>& pools : select_keys(seen, indexer.top_k / P))
            for (const Index pool : pools)
                for (Index p = 0; p < P; ++p) tokens.push_back(pool * P + p);
        for (Index s = visible / P * P; indexer.selects_tail && s < visible; ++s) tokens.push_back(s);
        selected.push_back(std::move(tokens));
    }
    return selected;
}

/// Which keys the indexer selects for the last T of L tokens. x [T, hidden], positions [T], index_keys [L, Di or 2·Di]
[[nodiscard]] inline std::vector<std::vector<Index>> select(const Config& config, const AttentionWeights& weights,
                                                            const Matrix& x, std::span<const std::int64_t> positions,
                                                            const Matrix& index_keys) {
    const bool pools = config.indexer.pool > 1;
    const Matrix scores =
        index_scores(project_index_queries(config, weights, x, positions),
                     pools ? pool_index_keys(config, weights, index_keys) : index_keys, index_head_weights(config, weights, x));
    return pools ? select_pools(config.indexer, scores, index_keys.rows) : select_keys(scores, config.indexer.top_k);
}

/// What queries see of which keys were selected, ascending.
[[nodiscard]] inline Visible visible_among(std::vector<std::vector<Index>> selected) {
    return [selected = std::move(selected)](Index t, Index s) {
        const std::vector<Index>& keys = selected[static_cast<std::size_t>(t)];
        return std::binary_search(keys.begin(), keys.end(), s);
    };
}

/// The layer with its own indexer: appends the tokens of x to both caches, then lets each attend to the keys selected for it.
/// x [T, hidden], positions [T], cache [L, Dc+Dr], index_keys [L, Di or 2·Di] -> y [T, hidden]
[[nodiscard]] inline Matrix forward_sparse(const Config& config, const AttentionWeights& weights, const Matrix& x,
                                           std::span<const std::int64_t> positions, Matrix& cache, Matrix& index_keys,
                                           Form form) {
    append_rows(index_keys, project_index_keys(config, weights, x, positions));
    return forward(config, weights, x, positions, cache, form, visible_among(select(config, weights, x, positions, index_keys)));
}

}  // namespace mla::inline MLA_ISA::reference
