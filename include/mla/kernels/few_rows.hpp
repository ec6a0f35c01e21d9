// Attention of one to four rows: one head, or the few heads that share a key in grouped-query attention. Vectors then run
// along the values of a key rather than along the rows, of which there are too few to fill one, and keys and values are
// converted as they are loaded: each cached byte is read once and there is nothing to reuse it for.
#pragma once

#include "mla/kernels/block_attention.hpp"
#include "mla/simd/reduce.hpp"

namespace mla::detail {

/// scores [R, block_tokens] = packed rows of queries [R, depth] · keys.
template <class Arch, int R, Compute A, Storage K>
void score_few(const Block<K>& block, Index tokens, Index depth, const A* queries, A* scores) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr Index width = simd::lanes<Arch, A>;
    const Index whole = depth / width * width;
    for (Index first = 0; first < tokens; first += width) {
        Batch sums[R][width];
        const Index count = std::min(width, tokens - first);
        for (Index t = 0; t < width; ++t) {
            Batch sum[R];
            simd::unroll<R>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA { sum[r] = Batch(A(0)); });
            const K* key = block.keys + (first + std::min(t, count - 1)) * block.key_stride;
            for (Index k = 0; k < whole; k += width) {
                const Batch values = simd::load<Arch, A>(key + k);
                simd::unroll<R>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA {
                    sum[r] = xsimd::fma(values, Batch::load_unaligned(queries + r * depth + k), sum[r]);
                });
            }
            simd::unroll<R>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA { sums[r][t] = sum[r]; });
        }
        for (Index r = 0; r < R; ++r) {
            A* target = scores + r * block_tokens + first;
            simd::sum_lanes_of_each<Arch, A>(sums[r]).store_unaligned(target);
            for (Index t = 0; t < count; ++t)
                for (Index k = whole; k < depth; ++k)
                    target[t] += queries[r * depth + k] * simd::convert<A>(block.keys[(first + t) * block.key_stride + k]);
        }
    }
}

/// Softmax of one row of scores [tokens], the first `visible` of which count; returns what its sum and output so far must be
/// multiplied by.
template <class Arch, Compute A>
A softmax_row(Index tokens, Index visible, A* scores, A& max, A& sum) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr Index width = simd::lanes<Arch, A>;
    constexpr A nothing = -std::numeric_limits<A>::infinity();
    std::fill(scores + visible, scores + round_up(tokens, width), nothing);
    Batch highest(nothing);
    for (Index t = 0; t < visible; t += width) highest = xsimd::max(highest, Batch::load_unaligned(scores + t));
    alignas(64) A parts[width];
    highest.store_aligned(parts);
    A reference = std::max(max, *std::max_element(parts, parts + width));
    const A before = max;
    max = reference;
    if (reference == nothing) reference = A(0);
    Batch total(A(0));
    for (Index t = 0; t < tokens; t += width) {
        const Batch p = xsimd::exp(Batch::load_unaligned(scores + t) - Batch(reference));
        total += p;
        p.store_unaligned(scores + t);
    }
    total.store_aligned(parts);
    const A factor = std::exp(before - reference);
    sum *= factor;
    for (const A part : parts) sum += part;
    return factor;
}

/// out [R, value_dim] = rescale · out + P · values, with P [R, block_tokens].
template <class Arch, int R, Compute A, Storage K>
void accumulate_few(const Block<K>& block, Index tokens, const A* p, const A* rescale, A* out, Index out_stride) noexcept {
    // R×N sums, N values and a broadcast: 1×8 to 4×4 with 32 registers, half as wide with 16.
    constexpr int widest = (R == 1 ? 8 : 16 / R) / (simd::vector_registers<Arch> == 32 || R == 1 ? 1 : 2);
    constexpr Index width = simd::lanes<Arch, A>;
    const Index vectors = divide_up(block.value_dim, width);
    Index vector = 0;
    const auto strips = [&]<int N>(std::integral_constant<int, N>) {
        for (; vector + N <= vectors; vector += N) {
            simd::Tile<Arch, A, R, N> tile;
            tile.clear();
            tile.multiply(tokens, simd::RowOperand<A>{p, block_tokens}, block.values + vector * width, block.value_stride);
            tile.add_to_scaled(out + vector * width, out_stride, rescale);
        }
    };
    strips(std::integral_constant<int, widest>{});
    if constexpr (widest > 2) strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

template <class Arch, int R, Compute A, Storage K>
void attend_rows(const RowGroup<A>& group, const Block<K>& block, A* scores) noexcept {
    const Index tokens = std::min(block.count, group.visible[group.rows - 1] - block.begin);
    if (tokens <= 0) return;
    score_few<Arch, R>(block, tokens, group.depth, group.queries, scores);
    A rescale[R];
    for (Index r = 0; r < R; ++r) {
        const Index visible = std::clamp<Index>(group.visible[r] - block.begin, 0, tokens);
        rescale[r] = softmax_row<Arch>(tokens, visible, scores + r * block_tokens, group.max[r], group.sum[r]);
    }
    accumulate_few<Arch, R>(block, tokens, scores, rescale, group.out, group.out_stride);
}

/// Lets a group of at most `few_rows` rows attend to the keys of the block that it may see. `scores` holds
/// few_rows × block_tokens. Keys and values may be of any storage type.
template <class Arch, Compute A, Storage K>
void attend_few(const RowGroup<A>& group, const Block<K>& block, A* scores) noexcept {
    switch (group.rows) {
        case 1: return attend_rows<Arch, 1>(group, block, scores);
        case 2: return attend_rows<Arch, 2>(group, block, scores);
        default: return attend_rows<Arch, 4>(group, block, scores);  // a third row takes a fourth along, with zero queries
    }
}

}  // namespace mla::detail
