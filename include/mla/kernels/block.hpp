// A block of cached tokens as the tiles want it.
#pragma once

#include "mla/kernels/row_list.hpp"
#include "mla/simd/bf16_pair.hpp"

namespace mla::detail {

/// What the kernels multiply cached values of type C in: bf16 in pairs where one instruction multiplies and adds a pair, else
/// one value of the type computed in.
template <class Arch, Compute A, class C>
using Unit =
    std::conditional_t<std::is_same_v<A, float> && std::is_same_v<C, bf16> && simd::has_dot_bf16<Arch>, simd::Bf16Pair, A>;

template <class U>
inline constexpr Index values_per_unit = std::is_same_v<U, simd::Bf16Pair> ? 2 : 1;

/// Keys are rows of units; values are rows of one unit a value, where a unit of two holds the same value of two neighbouring
/// tokens. Values that share a unit with the last token's are finite, and value rows are readable up to whole vectors.
template <class U>
struct Block {
    RowList<U> keys;    ///< [tokens] rows [depth in units]
    RowList<U> values;  ///< [tokens / values_per_unit] rows [value_dim]
    Index value_dim = 0;
    Index begin = 0;  ///< position of the block's first token among the keys

    [[nodiscard]] Index count() const noexcept { return keys.size(); }  ///< tokens
};

}  // namespace mla::detail
