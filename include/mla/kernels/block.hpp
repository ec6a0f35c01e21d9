// A block of cached tokens as the tiles want it.
#pragma once

#include "mla/core/float8.hpp"
#include "mla/kernels/row_list.hpp"
#include "mla/simd/bf16_pair.hpp"
#include "mla/simd/int16_pair.hpp"

namespace mla::detail {

/// What the kernels multiply cached values of type C in, where the instruction set allows: bf16 in pairs of bf16, int8 in pairs
/// of int16, which lose nothing of the bytes and little of queries and probabilities; else one value of the type computed in.
template <class Arch, Compute A, class C>
using Unit = std::conditional_t<
    std::is_same_v<A, float> && std::is_same_v<C, bf16> && simd::prefers_dot_bf16<Arch>, simd::Bf16Pair,
    std::conditional_t<std::is_same_v<A, float> && std::is_same_v<C, int8> && simd::has_dot_int16<Arch>, simd::Int16Pair, A>>;

/// Whether a unit is made of whole numbers that stand for multiples of a step.
template <class U>
inline constexpr bool is_quantised = std::is_same_v<U, simd::Int16Pair>;

template <class U>
inline constexpr Index values_per_unit = std::is_same_v<U, simd::Bf16Pair> || is_quantised<U> ? 2 : 1;

/// What products of units are summed in.
template <class U, Compute A>
using Accumulator = std::conditional_t<is_quantised<U>, std::int32_t, A>;

/// Units of a key or a query of `depth` values. Where they are whole numbers the latent and the rope key have steps of their own,
/// and so units of their own.
template <class U>
[[nodiscard]] constexpr Index units_of(Index depth, Index latent_dim) noexcept {
    if constexpr (is_quantised<U>)
        return divide_up(latent_dim, values_per_unit<U>) + divide_up(depth - latent_dim, values_per_unit<U>);
    return divide_up(depth, values_per_unit<U>);
}

/// How large the whole numbers of int16 units may get: sums of their products must stay below 2^31.
struct Int16Range {
    static constexpr float query = 8191.0F;  ///< beside 576 bytes (score_depth units), at most 128 each: below 2^30
    static constexpr float rope_key = 4095.0F;
    static constexpr Index rope_units = 32;         ///< 64 products of a query and a rope key: just below 2^31
    static constexpr float probability = 32767.0F;  ///< beside 96 bytes (block_tokens): 2^29
};

/// What the whole numbers of a block's tokens stand for.
struct TokenSteps {
    float latent[static_cast<std::size_t>(block_tokens)];
    float rope[static_cast<std::size_t>(block_tokens)];
};
struct NoSteps {};

/// Keys are rows of units; values are rows of one unit a value, where a unit of two holds the same value of two neighbouring
/// tokens. Values that share a unit with the last token's are finite, and value rows are readable up to whole vectors.
template <class U>
struct Block {
    RowList<U> keys;    ///< [tokens] rows of units
    RowList<U> values;  ///< [tokens / values_per_unit] rows [value_dim]
    Index value_dim = 0;
    Index begin = 0;  ///< position of the block's first token among the keys
    [[no_unique_address]] std::conditional_t<is_quantised<U>, TokenSteps, NoSteps> steps = {};

    [[nodiscard]] Index count() const noexcept { return keys.size(); }  ///< tokens
};

}  // namespace mla::detail
