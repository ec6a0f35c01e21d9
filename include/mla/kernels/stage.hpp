// The first step of the kernel contract: reads a block's listed rows once, in order, and lays them out as the tiles want them.
// The only step that knows how a cache stores its tokens.
#pragma once

#include <algorithm>
#include <utility>

#include "mla/cache/row_format.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/block.hpp"

namespace mla::detail {

/// Distance of staged rows of `dim` values: whole cache lines, and an odd number of them, so that the rows that a tile walks
/// side by side fall into different sets of L1.
template <Compute A>
[[nodiscard]] constexpr Index staged_stride(Index dim) noexcept {
    constexpr Index line = static_cast<Index>(scratch_alignment / sizeof(A));
    return (divide_up(dim, line) | 1) * line;
}

/// Elements of scratch for one staged block of rows of `dim` values.
template <Compute A>
[[nodiscard]] constexpr Index staged_elements(Index dim) noexcept {
    return block_tokens * staged_stride<A>(dim);
}

/// A worker's room for one staged block.
template <Compute A>
struct StageBuffer {
    A* keys;    ///< [block_tokens, staged_stride of a key]
    A* values;  ///< [block_tokens, staged_stride of a value]; not used where a value is part of its key
};

/// What units are made of.
template <class U, Compute A>
using UnitValue = std::conditional_t<std::is_same_v<U, A>, A, bf16>;

/// Listed rows copied by `read(row, target)` to rows of `dim` values, with zeros up to the staged stride.
template <class U, Compute A, CacheElement C, class Read>
[[nodiscard]] RowList<U> copy_rows(const RowList<C>& rows, Index dim, A* buffer, Read read) noexcept {
    const Index stride = staged_stride<A>(dim);
    auto* target = reinterpret_cast<UnitValue<U, A>*>(buffer);
    RowList<U> copies;
    for (Index i = 0; i < rows.size(); ++i, target += stride) {
        read(rows[i], target);
        std::fill(target + dim, target + stride, UnitValue<U, A>());
        copies.add(reinterpret_cast<const U*>(target));
    }
    return copies;
}

/// Listed rows of `dim` values as rows of units: where they lie, when they are whole units already, else copied. Their first
/// `vector_dim` values are read by whole vectors.
template <class Arch, class U, Compute A, CacheElement C, class Read>
[[nodiscard]] RowList<U> place_rows(const RowList<C>& rows, Index dim, Index vector_dim, A* buffer, Read read) noexcept {
    if constexpr (std::is_same_v<C, UnitValue<U, A>>) {
        if (vector_dim % simd::lanes<Arch, A> == 0 && dim % values_per_unit<U> == 0) {
            RowList<U> same;
            for (Index i = 0; i < rows.size(); ++i) same.add(reinterpret_cast<const U*>(rows[i]));
            return same;
        }
    }
    return copy_rows<U>(rows, dim, buffer, read);
}

/// Rows [tokens / 2] of pairs: value i of two neighbouring tokens. What the last token lacks beside it is 0, as is the tail of a
/// row.
template <class Arch, class U, Compute A, class C>
[[nodiscard]] RowList<U> pair_rows(const RowList<C>& rows, Index dim, A* buffer) noexcept {
    const Index stride = staged_stride<A>(dim);
    U* pairs = reinterpret_cast<U*>(buffer);
    RowList<U> list;
    for (Index t = 0; t < rows.size(); t += 2, pairs += stride) {
        const bool alone = t + 1 == rows.size();
        simd::interleave<Arch>(rows[t], rows[alone ? t : t + 1], dim, pairs);
        if (alone)
            for (Index i = 0; i < dim; ++i) pairs[i].bits &= 0xffffU;
        for (Index i = dim; i < stride; ++i) pairs[i].bits = 0;
        list.add(pairs);
    }
    return list;
}

/// Rows [latent | rope key] of whole numbers, each part from a pair on: the latent's are its bytes, of the rope key as many as
/// Int16Range allows. Sets the steps of both. What is beside an odd last value meets a query's 0.
template <class Arch, Compute A>
[[nodiscard]] RowList<simd::Int16Pair> widen_rows(const RowList<int8>& rows, const RowFormat<int8>& format, A* buffer,
                                                  TokenSteps& steps) noexcept {
    const Index rope = round_up(format.latent_dim, Index{2});
    const Index stride = staged_stride<A>(units_of<simd::Int16Pair>(format.values(), format.latent_dim));
    auto* pairs = reinterpret_cast<simd::Int16Pair*>(buffer);
    RowList<simd::Int16Pair> list;
    for (Index t = 0; t < rows.size(); ++t, pairs += stride) {
        auto* const numbers = reinterpret_cast<std::int16_t*>(pairs);
        const auto* const rope_key = reinterpret_cast<const bf16*>(rows[t] + format.rope_offset());
        simd::widen<Arch>(rows[t], format.latent_dim, numbers);
        steps.latent[t] = format.scale(rows[t], 0);
        steps.rope[t] = simd::quantise<Arch>(rope_key, format.rope_dim, Int16Range::rope_key, numbers + rope);
        list.add(pairs);
    }
    return list;
}

/// A block of cached tokens in units: keys are whole rows [latent | rope key], values their latents.
template <class Arch, class U, Compute A, CacheElement C>
[[nodiscard]] Block<U> stage_latents(const RowList<C>& rows, const RowFormat<C>& format, Index begin,
                                     const StageBuffer<A>& buffer) noexcept {
    Block<U> block{.keys = {}, .values = {}, .value_dim = format.latent_dim, .begin = begin};
    if constexpr (is_quantised<U>) {
        block.keys = widen_rows<Arch>(rows, format, buffer.keys, block.steps);
        block.values = pair_rows<Arch, U>(rows, format.latent_dim, buffer.values);
    } else if constexpr (std::is_same_v<U, A>) {
        block.keys = place_rows<Arch, U>(rows, format.values(), format.latent_dim, buffer.keys,
                                         [&](const C* row, A* target) { format.template read<Arch>(row, target); });
        block.values = block.keys;
    } else {
        block.keys = place_rows<Arch, U>(rows, format.values(), Index{0}, buffer.keys,
                                         [&](const bf16* row, bf16* target) { std::copy_n(row, format.values(), target); });
        block.values = pair_rows<Arch, U>(rows, format.latent_dim, buffer.values);
    }
    return block;
}

/// The same where keys and values of `dim` values lie apart.
template <class Arch, class U, Compute A, Storage C>
[[nodiscard]] Block<U> stage_key_values(const RowList<C>& keys, const RowList<C>& values, Index dim, Index begin,
                                        const StageBuffer<A>& buffer) noexcept {
    const auto read = [dim](const C* row, auto* target) { simd::convert_row<Arch>(target, row, dim); };
    Block<U> block{
        .keys = place_rows<Arch, U>(keys, dim, Index{0}, buffer.keys, read), .values = {}, .value_dim = dim, .begin = begin};
    if constexpr (std::is_same_v<U, A>) {
        block.values = place_rows<Arch, U>(values, dim, dim, buffer.values, read);
    } else {
        block.values = pair_rows<Arch, U>(values, dim, buffer.values);
    }
    return block;
}

}  // namespace mla::detail
