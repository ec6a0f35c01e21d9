// The first step of the kernel contract: lists a block's cached rows, reads them once, in order, and lays them out as the
// tiles want them. The only step that knows how a cache stores its tokens.
#pragma once

#include <algorithm>

#include "mla/cache/latent_view.hpp"
#include "mla/kernels/block_attention.hpp"
#include "mla/kernels/row_group.hpp"

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

/// Copies `count` rows of `dim` values to rows of `stride`, converted, and sets their tails, and `padding` further rows, to zero.
template <class Arch, Storage To, Storage From>
void stage_rows(const From* source, Index source_stride, Index count, Index dim, To* target, Index stride, Index padding) noexcept {
    for (Index t = 0; t < count; ++t) {
        To* row = target + t * stride;
        simd::convert_row<Arch>(row, source + t * source_stride, dim);
        std::fill(row + dim, row + stride, To());
    }
    std::fill_n(target + count * stride, padding * stride, To());
}

/// Rows from `count` up to a whole score tile.
[[nodiscard]] constexpr Index tile_padding(Index count) noexcept { return round_up(count, Index{12}) - count; }

/// A worker's room for one staged block.
template <Compute A>
struct StageBuffer {
    A* keys;    ///< [block_tokens, staged_stride of a key]
    A* values;  ///< [block_tokens, staged_stride of a value]; the same as keys where a value is part of its key
};

/// Key and value rows of a block as they lie in a cache.
template <Storage C>
struct CachedRows {
    const C* keys;
    Index key_stride;
    Index key_dim;
    const C* values;
    Index value_stride;
    Index value_dim;
};

/// values[j, i] = value i of tokens 2j and 2j + 1; what the last token lacks beside it is 0, as is the tail of a row.
template <class Arch>
const simd::Bf16Pair* interleave_values(const CachedRows<bf16>& rows, Index count, simd::Bf16Pair* target, Index stride) noexcept {
    for (Index t = 0; t < count; t += 2) {
        simd::Bf16Pair* pairs = target + t / 2 * stride;
        const bf16* first = rows.values + t * rows.value_stride;
        if (t + 1 < count) {
            simd::interleave<Arch>(first, first + rows.value_stride, rows.value_dim, pairs);
        } else {
            for (Index i = 0; i < rows.value_dim; ++i) pairs[i].bits = first[i].bits;
        }
        for (Index i = rows.value_dim; i < stride; ++i) pairs[i].bits = 0;
    }
    return target;
}

/// A block in units. Keys stay where they lie when they are units already and make a whole block; else they are copied.
/// Values of bf16 pairs are interleaved, others are part of their key or copied.
template <class Arch, class U, Compute A, Storage C>
Block<U> stage(const CachedRows<C>& rows, Index begin, Index count, const StageBuffer<A>& buffer) noexcept {
    constexpr bool pairs = !std::is_same_v<U, A>;
    constexpr bool native = pairs || std::is_same_v<A, C>;
    using Copy = std::conditional_t<pairs, bf16, A>;  // what a unit is made of
    constexpr Index per_unit = values_per_unit<U>;
    const bool value_in_key = rows.values == rows.keys;
    const bool whole = count == block_tokens && rows.key_dim % per_unit == 0 && rows.key_stride % per_unit == 0 &&
                       (pairs || rows.value_dim % simd::lanes<Arch, A> == 0);

    const Copy* keys = nullptr;
    Index key_stride = rows.key_stride;
    if constexpr (native) {
        if (whole) keys = rows.keys;
    }
    if (keys == nullptr) {
        key_stride = staged_stride<A>(rows.key_dim);
        stage_rows<Arch>(rows.keys, rows.key_stride, count, rows.key_dim, reinterpret_cast<Copy*>(buffer.keys), key_stride, tile_padding(count));
        keys = reinterpret_cast<const Copy*>(buffer.keys);
    }
    Block<U> block{reinterpret_cast<const U*>(keys), key_stride / per_unit, nullptr, 0, rows.value_dim, begin, count};
    if constexpr (pairs) {
        block.value_stride = staged_stride<A>(rows.value_dim);
        block.values = interleave_values<Arch>(rows, count, reinterpret_cast<U*>(buffer.values), block.value_stride);
    } else if (value_in_key) {
        block.values = block.keys;
        block.value_stride = block.key_stride;
    } else if (native && whole) {
        block.values = reinterpret_cast<const U*>(rows.values);
        block.value_stride = rows.value_stride;
    } else {
        block.value_stride = staged_stride<A>(rows.value_dim);
        stage_rows<Arch>(rows.values, rows.value_stride, count, rows.value_dim, buffer.values, block.value_stride, Index{0});
        block.values = buffer.values;
    }
    return block;
}

}  // namespace mla::detail
