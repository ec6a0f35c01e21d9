// The first step of the kernel contract: reads a block's listed rows once, in order, and lays them out as the tiles want them.
// The only step that knows how a cache stores its tokens.
#pragma once

#include <algorithm>
#include <utility>

#include "mla/cache/row_format.hpp"
#include "mla/kernels/block.hpp"
#include "mla/kernels/row_list.hpp"
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

/// A worker's room for one staged block.
template <Compute A>
struct StageBuffer {
    A* keys;    ///< [block_tokens, staged_stride of a key]
    A* values;  ///< [block_tokens, staged_stride of a value]; not used where a value is part of its key
};

/// Listed rows copied by `read(row, target)` to rows of `dim` values, with zeros up to the staged stride.
template <class U, Compute A, CacheElement C, class Read>
void copy_rows(const RowList<C>& rows, Index dim, A* buffer, UnitRows<U>& units, Read read) noexcept {
    using Copy = std::conditional_t<std::is_same_v<U, A>, A, bf16>;  // what a unit is made of
    const Index stride = staged_stride<A>(dim);
    Copy* target = reinterpret_cast<Copy*>(buffer);
    units.stride = stride / values_per_unit<U>;
    units.add(reinterpret_cast<const U*>(target), 0);
    for (const RowRun<C>& run : rows)
        for (Index i = 0; i < run.count; ++i, target += stride, ++units.runs[0].count) {
            read(run.data + i * rows.stride, target);
            std::fill(target + dim, target + stride, Copy());
        }
}

/// Listed rows of `dim` values as rows of units: where they lie, when they are units already and make few runs, else copied. Their
/// first `vector_dim` values are read by whole vectors.
template <class Arch, class U, Compute A, CacheElement C, class Read>
void place_rows(const RowList<C>& rows, Index dim, Index vector_dim, A* buffer, UnitRows<U>& units, Read read) noexcept {
    constexpr Index per_unit = values_per_unit<U>;
    if constexpr (std::is_same_v<C, std::conditional_t<std::is_same_v<U, A>, A, bf16>>) {
        if (vector_dim % simd::lanes<Arch, A> == 0 && rows.size <= most_unit_runs && dim % per_unit == 0 && rows.stride % per_unit == 0) {
            units.stride = rows.stride / per_unit;
            for (const RowRun<C>& run : rows) units.add(reinterpret_cast<const U*>(run.data), run.count);
            return;
        }
    }
    copy_rows<U>(rows, dim, buffer, units, read);
}

/// values[j, i] = value i of tokens 2j and 2j + 1; what the last token lacks beside it is 0, as is the tail of a row.
template <class Arch>
void interleave_values(const RowList<bf16>& rows, Index dim, simd::Bf16Pair* pairs, Index stride) noexcept {
    const bf16* even = nullptr;  // a token that waits for its neighbour
    const auto end_row = [&] {
        for (Index i = dim; i < stride; ++i) pairs[i].bits = 0;
        pairs += stride;
    };
    for (const RowRun<bf16>& run : rows)
        for (Index i = 0; i < run.count; ++i) {
            const bf16* row = run.data + i * rows.stride;
            if (even == nullptr) {
                even = row;
                continue;
            }
            simd::interleave<Arch>(std::exchange(even, nullptr), row, dim, pairs);
            end_row();
        }
    if (even == nullptr) return;
    for (Index i = 0; i < dim; ++i) pairs[i].bits = even[i].bits;
    end_row();
}

/// Listed rows as values in pairs of tokens.
template <class Arch, Compute A>
void place_pairs(const RowList<bf16>& rows, Index dim, Index count, A* buffer, UnitRows<simd::Bf16Pair>& units) noexcept {
    auto* const pairs = reinterpret_cast<simd::Bf16Pair*>(buffer);
    units.stride = staged_stride<A>(dim);
    units.add(pairs, divide_up(count, values_per_unit<simd::Bf16Pair>));
    interleave_values<Arch>(rows, dim, pairs, units.stride);
}

template <class U>
[[nodiscard]] Block<U> empty_block(Index value_dim, Index begin, Index count) noexcept {
    Block<U> block;
    block.value_dim = value_dim;
    block.begin = begin;
    block.count = count;
    return block;
}

/// A block of cached tokens in units: keys are whole rows [latent | rope key], values their latents.
template <class Arch, class U, Compute A, CacheElement C>
[[nodiscard]] Block<U> stage_latents(const RowList<C>& rows, const RowFormat<C>& format, Index begin, Index count,
                                     const StageBuffer<A>& buffer) noexcept {
    auto block = empty_block<U>(format.latent_dim, begin, count);
    if constexpr (std::is_same_v<U, A>) {
        place_rows<Arch>(rows, format.values(), format.latent_dim, buffer.keys, block.keys,
                         [&](const C* row, A* target) { format.template read<Arch>(row, target); });
        block.values = block.keys;
    } else {
        place_rows<Arch>(rows, format.values(), Index{0}, buffer.keys, block.keys,
                         [&](const bf16* row, bf16* target) { std::copy_n(row, format.values(), target); });
        place_pairs<Arch>(rows, format.latent_dim, count, buffer.values, block.values);
    }
    return block;
}

/// The same, copied and converted, in one run.
template <class Arch, Compute A, CacheElement C>
[[nodiscard]] Block<A> copy_latents(const RowList<C>& rows, const RowFormat<C>& format, Index begin, Index count,
                                    const StageBuffer<A>& buffer) noexcept {
    auto block = empty_block<A>(format.latent_dim, begin, count);
    copy_rows(rows, format.values(), buffer.keys, block.keys,
              [&](const C* row, A* target) { format.template read<Arch>(row, target); });
    block.values = block.keys;
    return block;
}

/// The same where keys and values of `dim` values lie apart.
template <class Arch, class U, Compute A, Storage C>
[[nodiscard]] Block<U> stage_key_values(const RowList<C>& keys, const RowList<C>& values, Index dim, Index begin, Index count,
                                        const StageBuffer<A>& buffer) noexcept {
    auto block = empty_block<U>(dim, begin, count);
    const auto read = [dim](const C* row, auto* target) { simd::convert_row<Arch>(target, row, dim); };
    place_rows<Arch>(keys, dim, Index{0}, buffer.keys, block.keys, read);
    if constexpr (std::is_same_v<U, A>) {
        place_rows<Arch>(values, dim, dim, buffer.values, block.values, read);
    } else {
        place_pairs<Arch>(values, dim, count, buffer.values, block.values);
    }
    return block;
}

}  // namespace mla::detail
