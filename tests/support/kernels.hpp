// Our kernels as the conformance suite calls an implementation.
#pragma once

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/prefill_expanded.hpp"
#include "mla/testing/shapes.hpp"
#include "mla/testing/tolerance.hpp"

namespace mla {

/// kv_b_proj in its two packed halves.
template <Storage S>
struct PackedExpansion {
    PackedMatrix<S> key;
    PackedMatrix<S> value;

    PackedExpansion(const TensorRef& kv_b, Index heads, Index nope, Index value_dim)
        : key(heads, kv_b.cols, nope), value(heads, kv_b.cols, value_dim) {
        for (Index h = 0; h < heads; ++h) {
            key.pack(h, kv_b.row_range(h * (nope + value_dim), nope));
            value.pack(h, kv_b.row_range(h * (nope + value_dim) + nope, value_dim));
        }
    }
    [[nodiscard]] ExpansionWeights<S> weights() const { return {key, value}; }
};

/// What our absorbed kernel rounds on its way over a cache of C: probabilities, where pairs of bf16 are multiplied at once, and
/// queries and rope keys too, where pairs of int16 are.
template <CacheElement C, Compute A = std::conditional_t<std::is_same_v<C, double>, double, float>>
inline constexpr double decode_allowance =
    std::is_same_v<detail::Unit<simd::DefaultArch, A, C>, A>      ? 0.0
    : detail::is_quantised<detail::Unit<simd::DefaultArch, A, C>> ? testing::rounded_to_int16
                                                                  : testing::rounded_probabilities<bf16>;

/// What our products with weights S may round on the way through a layer: activations of more than a few rows, where pairs of
/// bf16 are multiplied at once. Each errs by at most u, at random by u/√3; five products in a row err by √5 of that together, and
/// what reaches the scores by as much again.
template <Storage S>
inline constexpr double activation_allowance =
    std::is_same_v<detail::LinearUnit<simd::DefaultArch, compute_t<S>, S>, compute_t<S>> ? 0.0
                                                                                         : 2.0 * testing::unit_roundoff<bf16>;

/// The same of decompressed attention alone, which rounds latents, keys, queries, probabilities and values: an error of a key or
/// a query is one of its score, and grows with the scores.
template <Storage S>
[[nodiscard]] double expansion_allowance(const testing::AttentionShape& shape) {
    return activation_allowance<S> * (shape.scores == testing::Scores::peaked ? testing::peaked_sigma : 1.0);
}

inline constexpr auto decode = [](auto q, auto cache, auto scale, auto out, auto lse) {
    Workspace workspace;
    decode_absorbed(q, cache, scale, out, lse, workspace, SerialExecutor{});
};

/// With weights stored as S.
template <Storage S>
inline constexpr auto prefill = [](auto q, auto cache, TensorRef kv_b, auto scale, auto out, auto lse) {
    const PackedExpansion<S> packed(kv_b, q.heads, q.dim - cache.rope_dim, out.dim);
    Workspace workspace;
    prefill_expanded(q, cache, packed.weights(), scale, out, lse, workspace, SerialExecutor{});
};

}  // namespace mla
