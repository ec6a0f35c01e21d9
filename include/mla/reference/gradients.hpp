// Gradients of attention in both of its forms. d_x stands for the gradient of a scalar loss by x, and has the shape of x.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "mla/reference/attention.hpp"
#include "mla/reference/layer.hpp"
#include "mla/reference/matrix.hpp"

namespace mla::inline MLA_ISA::reference {

/// One row of softmax attention over n keys: what each weighs, and the gradients of what the weights are made of.
struct SoftmaxGradients {
    std::vector<double> weights;   // [n]
    std::vector<double> d_scores;  // [n]
    double d_sink = 0.0;
};

/// With p = softmax(scores), lse = ln Σ_s exp(score_s) and 1 − w_sink = 1 / (1 + exp(sink − lse)) the weights are
/// w = (1 − w_sink)·p. Since ∂w_s/∂score_r = w_s·([s = r] − w_r), ∂w_s/∂sink = −w_s·w_sink and ∂lse/∂score_r = p_r,
///   d_score_r = w_r·(d_w_r − D) + p_r·d_lse, d_sink = −w_sink·D, where D = Σ_s w_s·d_w_s
/// (FlashAttention, Dao et al. 2022, appendix B.2; the sink is a score like any other, of a value of 0).
/// scores and d_weights [n], sink −inf for none
[[nodiscard]] inline SoftmaxGradients softmax_gradients(const std::vector<double>& scores, double sink,
                                                        const std::vector<double>& d_weights, double d_lse) {
    SoftmaxGradients row;
    if (scores.empty()) return row;
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;  // of exp(score − largest), so that none overflows
    for (const double score : scores) sum += std::exp(score - largest);
    const double lse = largest + std::log(sum);
    const double w_sink = 1.0 / (1.0 + std::exp(lse - sink));
    const double share = 1.0 / (1.0 + std::exp(sink - lse));  // 1 − w_sink, exact where that is small

    std::vector<double> p;  // [n]
    double D = 0.0;
    for (std::size_t s = 0; s < scores.size(); ++s) {
        p.push_back(std::exp(scores[s] - largest) / sum);
        row.weights.push_back(share * p[s]);
        D += row.weights[s] * d_weights[s];
    }
    for (std::size_t s = 0; s < scores.size(); ++s) row.d_scores.push_back(row.weights[s] * (d_weights[s] - D) + p[s] * d_lse);
    row.d_sink = -w_sink * D;
    return row;
}

/// The gradients of what `attend_masked` and `with_sinks` take.
struct AttentionGradients {
    Matrix d_q;                   // [T*H, D]
    Matrix d_k;                   // [L, G*D]
    Matrix d_v;                   // [L, G*Dv]
    std::vector<double> d_sinks;  // [H]; empty without sinks
};

/// @throws std::invalid_argument unless the arguments of `masked_gradients` have its shapes
inline void require_gradient_shapes(const Matrix& q, const Matrix& k, const Matrix& v, Index T, Index H, Index G,
                                    const Attended& d_attended, const std::vector<double>& sinks) {
    require_equal("reference::masked_gradients q.rows", q.rows, "T * H", T * H);
    require_equal("reference::masked_gradients H % G", H % G, "no remainder", Index{0});
    require_equal("reference::masked_gradients k.cols", k.cols, "G * D", G * q.cols);
    require_equal("reference::masked_gradients v.rows", v.rows, "k.rows", k.rows);
    require_equal("reference::masked_gradients d_output.rows", d_attended.output.rows, "T * H", T * H);
    require_equal("reference::masked_gradients d_output.cols", d_attended.output.cols, "Dv", v.cols / G);
    if (const Matrix& d_lse = d_attended.lse; !d_lse.values.empty()) {
        require_equal("reference::masked_gradients d_lse.rows", d_lse.rows, "T", T);
        require_equal("reference::masked_gradients d_lse.cols", d_lse.cols, "H", H);
    }
    if (!sinks.empty()) require_equal("reference::masked_gradients sinks.size()", static_cast<Index>(sinks.size()), "H", H);
}

/// The gradients of with_sinks(attend_masked(q, k, v, T, H, G, scale, visible), sinks): with score_s = scale·q·k_s,
/// d_q = scale·Σ_s d_score_s·k_s, d_k_s = scale·Σ d_score_s·q and d_v_s = Σ w_s·d_o, the last two over the rows that see s.
/// d_attended: output [T*H, Dv] and lse [T, H], the latter empty where the loss is not one of the LSE; sinks [H] or empty.
/// A row without a visible key gives no gradient, whatever d_attended holds of it.
[[nodiscard]] inline AttentionGradients masked_gradients(const Matrix& q, const Matrix& k, const Matrix& v, Index T, Index H,
                                                         Index G, double scale, const Visible& visible,
                                                         const Attended& d_attended, const std::vector<double>& sinks = {}) {
    require_gradient_shapes(q, k, v, T, H, G, d_attended, sinks);
    const Index D = q.cols;
    const Index Dv = v.cols / G;
    const Matrix& d_o = d_attended.output;

    AttentionGradients result{Matrix(T * H, D), Matrix(k.rows, k.cols), Matrix(v.rows, v.cols), sinks};
    std::fill(result.d_sinks.begin(), result.d_sinks.end(), 0.0);
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) {
            const Index r = t * H + h;
            const Index g = h / (H / G);
            const double sink = sinks.empty() ? -std::numeric_limits<double>::infinity() : sinks[static_cast<std::size_t>(h)];

            std::vector<Index> keys;        // those that the query sees
            std::vector<double> scores;     // of each of them
            std::vector<double> d_weights;  // of each of them: o = Σ_s w_s·v_s
            for (Index s = 0; s < k.rows; ++s) {
                if (!visible(t, s)) continue;
                keys.push_back(s);
                scores.push_back(scale * dot(q.row(r), k.row(s) + g * D, D));
                d_weights.push_back(dot(d_o.row(r), v.row(s) + g * Dv, Dv));
            }

            const double d_lse = d_attended.lse.values.empty() ? 0.0 : d_attended.lse(t, h);
            const SoftmaxGradients row = softmax_gradients(scores, sink, d_weights, d_lse);
            for (std::size_t i = 0; i < keys.size(); ++i) {
                for (Index j = 0; j < D; ++j) {
                    result.d_q(r, j) += scale * row.d_scores[i] * k(keys[i], g * D + j);
                    result.d_k(keys[i], g * D + j) += scale * row.d_scores[i] * q(r, j);
                }
                for (Index j = 0; j < Dv; ++j) result.d_v(keys[i], g * Dv + j) += row.weights[i] * d_o(r, j);
            }
            if (!sinks.empty()) result.d_sinks[static_cast<std::size_t>(h)] += row.d_sink;
        }
    return result;
}

/// The gradients of what `attend_absorbed` and `with_sinks` take.
struct AbsorbedGradients {
    Matrix d_q_lat;               // [T*H, Dc]
    Matrix d_q_pe;                // [T*H, Dr]
    Matrix d_c;                   // [L, Dc]; a latent's gradient as a key and as a value
    Matrix d_k_pe;                // [L, Dr]
    std::vector<double> d_sinks;  // [H]; empty without sinks
};

/// The gradients of with_sinks(attend_absorbed(q, T, H, rows, Dc, scale, visible), sinks).
/// q [T*H, Dc+Dr] = [q_lat | q_pe], rows [L, Dc+Dr] = [c | k_pe], d_attended: output [T*H, Dc] and lse [T, H] or empty
[[nodiscard]] inline AbsorbedGradients absorbed_gradients(const Matrix& q, Index T, Index H, const Matrix& rows, Index Dc,
                                                          double scale, const Visible& visible, const Attended& d_attended,
                                                          const std::vector<double>& sinks = {}) {
    const Index Dr = q.cols - Dc;
    AttentionGradients attention = masked_gradients(q, rows, columns(rows, 0, Dc), T, H, 1, scale, visible, d_attended, sinks);
    Matrix d_c = columns(attention.d_k, 0, Dc);
    for (Index s = 0; s < rows.rows; ++s)
        for (Index j = 0; j < Dc; ++j) d_c(s, j) += attention.d_v(s, j);
    return {columns(attention.d_q, 0, Dc), columns(attention.d_q, Dc, Dr), std::move(d_c), columns(attention.d_k, Dc, Dr),
            std::move(attention.d_sinks)};
}

/// The gradients of what `attend_expanded_form` takes.
struct ExpandedGradients {
    Matrix d_q;                   // [T*H, Dn+Dr]
    Matrix d_rows;                // [L, Dc+Dr] = [d_c | d_k_pe]
    Matrix d_kv_b;                // [H*(Dn+Dv), Dc]
    std::vector<double> d_sinks;  // [H]; empty without sinks
};

/// The gradients of `attend_expanded_form`: those of keys and values, taken back through [k_nope | v] = kv_b·c, so that
/// d_c = kv_bᵀ·[d_k_nope | d_v] and d_kv_b = Σ_s [d_k_nope | d_v]·cᵀ; that of k_pe is the sum over the heads.
/// q [T*H, Dn+Dr], rows [L, Dc+Dr], kv_b [H*(Dn+Dv), Dc], d_attended: output [T*H, Dv] and lse [T, H] or empty
[[nodiscard]] inline ExpandedGradients expanded_gradients(const Matrix& q, Index T, Index H, const Matrix& rows,
                                                          const Matrix& kv_b, double scale, const Visible& visible,
                                                          const Attended& d_attended, const std::vector<double>& sinks = {}) {
    const Index Dc = kv_b.cols;
    const Index Dr = rows.cols - Dc;
    const Index Dn = q.cols - Dr;
    const Index Dv = d_attended.output.cols;
    require_equal("reference::expanded_gradients kv_b.rows", kv_b.rows, "H * (Dn + Dv)", H * (Dn + Dv));

    const ExpandedRows expanded = expand_rows(rows, kv_b, H, Dn);
    AttentionGradients attention = masked_gradients(q, expanded.k, expanded.v, T, H, H, scale, visible, d_attended, sinks);
    ExpandedGradients result{std::move(attention.d_q), Matrix(rows.rows, Dc + Dr), Matrix(kv_b.rows, Dc),
                             std::move(attention.d_sinks)};
    for (Index s = 0; s < rows.rows; ++s)
        for (Index h = 0; h < H; ++h) {
            for (Index i = 0; i < Dn + Dv; ++i) {
                const double d_kv = i < Dn ? attention.d_k(s, h * (Dn + Dr) + i) : attention.d_v(s, h * Dv + i - Dn);
                for (Index j = 0; j < Dc; ++j) {
                    result.d_rows(s, j) += d_kv * kv_b(h * (Dn + Dv) + i, j);
                    result.d_kv_b(h * (Dn + Dv) + i, j) += d_kv * rows(s, j);
                }
            }
            for (Index i = 0; i < Dr; ++i) result.d_rows(s, Dc + i) += attention.d_k(s, h * (Dn + Dr) + Dn + i);
        }
    return result;
}

}  // namespace mla::inline MLA_ISA::reference
