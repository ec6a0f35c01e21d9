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

/// Whether a row of C holds e4m3.
template <CacheElement C>
inline constexpr bool is_fp8 = std::is_same_v<C, fp8> || std::is_same_v<C, fp8_v4>;

/// What our absorbed kernel rounds on its way over a cache of C, on every target: probabilities to bf16 over caches of bf16 and
/// fp8, there times scales, to integers over int8; and queries alike, which the problems' are already where the cache is bf16.
template <CacheElement C, Compute A = std::conditional_t<std::is_same_v<C, double>, double, float>>
inline constexpr double decode_allowance = std::is_same_v<A, double> ? 0.0
                                           : std::is_same_v<C, bf16> ? testing::rounded_probabilities<bf16>
                                           : is_fp8<C>               ? 2.0 * testing::rounded_probabilities<bf16>
                                           : std::is_same_v<C, int8> ? testing::rounded_to_int16
                                                                     : 0.0;

/// What our products with weights S round on the way through a layer: activations to bf16 where the weights are. Each errs by at
/// most u, at random by u/√3; five products in a row err by √5 of that together, and what reaches the scores by as much again.
template <Storage S>
inline constexpr double activation_allowance = std::is_same_v<S, bf16> ? 2.0 * testing::unit_roundoff<bf16> : 0.0;

/// The same of the keys and values that are decompressed from a cache of C, and of the queries and probabilities that meet them:
/// bf16 where it or the cache is.
template <CacheElement C, Compute A>
inline constexpr double decompressed_allowance = std::is_same_v<A, float> && (std::is_same_v<C, bf16> || Quantised<C>)
                                                     ? 2.0 * testing::unit_roundoff<bf16>
                                                     : 0.0;

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
inline constexpr auto prefill =
    [](auto q, auto cache, TensorRef kv_b, auto scale, auto out, auto lse, Precision precision = Precision::operand) {
        const PackedExpansion<S> packed(kv_b, q.heads, q.dim - cache.rope_dim, out.dim);
        Workspace workspace;
        prefill_expanded(q, cache, packed.weights(), scale, out, lse, workspace, SerialExecutor{}, {}, precision);
    };

}  // namespace mla
