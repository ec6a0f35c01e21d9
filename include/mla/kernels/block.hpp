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
template <class U>
using StepsOf = std::conditional_t<is_quantised<U>, TokenSteps, NoSteps>;

/// Units [begin, end) of every key and query.
struct Piece {
    Index begin;
    Index end;
};

/// Keys that are scored whole before the next ones: two of the widest score tiles, so that a panel's queries are read half as
/// often; where keys are converted, which happens a piece at a time before all rows of queries pass over it, one.
inline constexpr Index scored_tokens = 24;
inline constexpr Index staged_tokens = 12;

/// Rows of units, each some bytes into a listed row.
template <class U>
struct ListedRows {
    static constexpr int interleave = 1;
    const void* const* rows;
    Index first_byte;

    [[nodiscard]] MLA_ALWAYS_INLINE const U* row(Index k) const noexcept {
        return reinterpret_cast<const U*>(static_cast<const char*>(rows[k]) + first_byte);
    }
    static constexpr Index offset(Index column) { return column; }
    MLA_ALWAYS_INLINE void advance(Index k) { rows += k; }
};

/// The same of K that a tile converts as it loads them, two vectors at a time split by parity.
template <class K>
struct ParityRows : ListedRows<K> {
    static constexpr bool by_parity = true;
};

/// A block of tokens whose keys and values are units where they lie: rows of keys, and rows of one unit a value, where a unit of
/// two holds the same value of two neighbouring tokens. Values that share a unit with the last token's are finite, and value rows
/// are readable up to whole vectors.
template <class U>
struct Block {
    using Unit = U;
    static constexpr bool values_by_parity = false;
    RowList<U> key_rows;    ///< [tokens] rows of units
    RowList<U> value_rows;  ///< [tokens / values_per_unit] rows [value_dim]
    Index value_dim = 0;
    Index begin = 0;  ///< position of the block's first token among the keys

    [[nodiscard]] Index count() const noexcept { return key_rows.size(); }  ///< tokens
    [[nodiscard]] Index keys_at_once() const noexcept { return scored_tokens; }
    [[nodiscard]] ListedRows<U> keys(Index first, Index, const Piece& piece) const noexcept {
        return {key_rows.data() + first, piece.begin * static_cast<Index>(sizeof(U))};
    }
    template <int N>
    [[nodiscard]] ListedRows<U> values(Index column) const noexcept {
        return {value_rows.data(), column * static_cast<Index>(sizeof(U))};
    }
};

}  // namespace mla::detail
