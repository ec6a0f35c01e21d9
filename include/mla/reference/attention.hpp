// Softmax attention on data that is already projected, and the merge of two partial results.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "mla/reference/matrix.hpp"

namespace mla::inline MLA_ISA::reference {

/// What attention gives: outputs, and for each row the natural logarithm of the sum of its exponentials.
struct Attended {
    Matrix output;  // [T*H, Dv], row t*H + h
    Matrix lse;     // [T, H]; −inf where a row sees no key
};

/// How many of L keys query t of T sees: the causal mask aligned bottom right shows it the keys 0 … L−T+t.
[[nodiscard]] inline Index visible_keys(Index t, Index T, Index L) { return std::max(L - T + t + 1, Index{0}); }

/// Which keys a query sees: called with query t and key s.
using Visible = std::function<bool(Index, Index)>;

[[nodiscard]] inline Visible causal(Index T, Index L) {
    return [=](Index t, Index s) { return s < visible_keys(t, T, L); };
}

/// The causal mask of which each query sees the last `window` keys only; with window 0 all.
[[nodiscard]] inline Visible sliding(Index T, Index L, Index window) {
    return [=](Index t, Index s) {
        const Index end = visible_keys(t, T, L);
        return s < end && (window == 0 || s >= end - window);
    };
}

/// Attention with grouped heads: o = softmax(scale·q·kᵀ) v over the visible keys, where query head h reads key and value head
/// h / (H/G). G = H is multi-head, G = 1 multi-query attention.
/// q [T*H, D] with rows t*H + h, k [L, G*D], v [L, G*Dv] -> output [T*H, Dv], lse [T, H]
/// A row without a visible key gives output 0 and LSE −inf.
[[nodiscard]] inline Attended attend_masked(const Matrix& q, const Matrix& k, const Matrix& v, Index T, Index H, Index G,
                                            double scale, const Visible& visible) {
    const Index L = k.rows;
    const Index D = q.cols;
    const Index Dv = v.cols / G;
    require_equal("reference::attend q.rows", q.rows, "T * H", T * H);
    require_equal("reference::attend H % G", H % G, "no remainder", Index{0});
    require_equal("reference::attend k.cols", k.cols, "G * D", G * D);
    require_equal("reference::attend v.rows", v.rows, "k.rows", L);

    Attended result{Matrix(T * H, Dv), Matrix(T, H)};
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) {
            const Index g = h / (H / G);
            const double infinity = std::numeric_limits<double>::infinity();

            std::vector<Index> keys;     // those that the query sees
            std::vector<double> scores;  // of each of them
            double largest = -infinity;
            for (Index s = 0; s < L; ++s) {
                if (!visible(t, s)) continue;
                keys.push_back(s);
                scores.push_back(scale * dot(q.row(t * H + h), k.row(s) + g * D, D));
                largest = std::max(largest, scores.back());
            }

            double sum = 0.0;  // of exp(score − largest), so that none overflows
            for (const double score : scores) sum += std::exp(score - largest);
            const double lse = keys.empty() ? -infinity : largest + std::log(sum);

            double* output = result.output.row(t * H + h);  // [Dv]
            for (std::size_t i = 0; i < keys.size(); ++i) {
                const double probability = std::exp(scores[i] - largest) / sum;
                const double* value = v.row(keys[i]) + g * Dv;  // [Dv]
                for (Index j = 0; j < Dv; ++j) output[j] += probability * value[j];
            }
            result.lse(t, h) = lse;
        }
    return result;
}

/// The same under the causal mask.
[[nodiscard]] inline Attended attend_multi_head(const Matrix& q, const Matrix& k, const Matrix& v, Index T, Index H, Index G,
                                                double scale) {
    return attend_masked(q, k, v, T, H, G, scale, causal(T, k.rows));
}

/// An attention sink (Xiao et al. 2023): each head h has one more logit, without a value. o ← o / (1 + exp(sink − lse)); the LSE
/// stays that of the keys.
[[nodiscard]] inline Attended with_sinks(Attended attended, const std::vector<double>& sinks) {
    const Index H = attended.lse.cols;
    for (Index row = 0; row < attended.output.rows; ++row) {
        const double lse = attended.lse(row / H, row % H);
        const double share = 1.0 / (1.0 + std::exp(sinks[static_cast<std::size_t>(row % H)] - lse));
        for (Index j = 0; j < attended.output.cols; ++j)
            attended.output(row, j) = attended.output(row, j) == 0.0 ? 0.0 : attended.output(row, j) * share;
    }
    return attended;
}

/// Absorbed MLA is multi-query attention whose one key is the cache row [c | k_pe] and whose one value is its latent c
/// (DeepSeek-V2, section 2.1.2). q [T*H, Dc+Dr] = [q_lat | q_pe], cache [L, Dc+Dr] -> output [T*H, Dc], lse [T, H]
[[nodiscard]] inline Attended attend_absorbed(const Matrix& q, Index T, Index H, const Matrix& cache, Index Dc, double scale,
                                              const Visible& visible) {
    return attend_masked(q, cache, columns(cache, 0, Dc), T, H, 1, scale, visible);
}

/// The same under the causal mask.
[[nodiscard]] inline Attended attend_absorbed(const Matrix& q, Index T, Index H, const Matrix& cache, Index Dc, double scale) {
    return attend_absorbed(q, T, H, cache, Dc, scale, causal(T, cache.rows));
}

/// Attention over the union of two disjoint sets of keys from the results over each:
/// lse = ln(exp(lse₁) + exp(lse₂)), o = o₁·exp(lse₁ − lse) + o₂·exp(lse₂ − lse).
/// A side that saw no key (LSE −inf, or +inf as FlashMLA writes it) counts for nothing, whatever its output holds; if neither
/// saw one, the row is again 0 and −inf.
[[nodiscard]] inline Attended merge(const Attended& first, const Attended& second) {
    require_equal("reference::merge second.output.rows", second.output.rows, "first.output.rows", first.output.rows);
    require_equal("reference::merge second.output.cols", second.output.cols, "first.output.cols", first.output.cols);
    Attended result{Matrix(first.output.rows, first.output.cols), Matrix(first.lse.rows, first.lse.cols)};
    for (Index t = 0; t < first.lse.rows; ++t)
        for (Index h = 0; h < first.lse.cols; ++h) {
            double larger = -std::numeric_limits<double>::infinity();
            for (const Attended* side : {&first, &second})
                if (!std::isinf(side->lse(t, h))) larger = side->lse(t, h) <= larger ? larger : side->lse(t, h);
            double total = 0;
            const Index r = t * first.lse.cols + h;
            for (const Attended* side : {&first, &second}) {
                if (std::isinf(side->lse(t, h))) continue;
                const double weight = std::exp(side->lse(t, h) - larger);
                total += weight;
                for (Index j = 0; j < first.output.cols; ++j) result.output(r, j) += weight * side->output(r, j);
            }
            result.lse(t, h) = larger;
            if (total == 0) continue;  // neither side saw a key
            result.lse(t, h) += std::log(total);
            for (Index j = 0; j < first.output.cols; ++j) result.output(r, j) /= total;
        }
    return result;
}

}  // namespace mla::inline MLA_ISA::reference
