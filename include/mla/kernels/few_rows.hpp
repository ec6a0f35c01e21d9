// Attention of one to four rows: one head, or the few heads that share a key in grouped-query attention. Vectors then run
// along the values of a key rather than along the rows, of which there are too few to fill one, and keys and values are
// converted as they are loaded: each cached byte is read once and there is nothing to reuse it for.
#pragma once

#include "mla/kernels/block_attention.hpp"
#include "mla/simd/exp.hpp"
#include "mla/simd/prefetch.hpp"
#include "mla/simd/reduce.hpp"

namespace mla::detail {

/// sums[r][t] = lanewise partial products of query row r and key t of T keys, over the whole vectors of [0, depth).
/// R + T loads feed R·T products.
template <class Arch, std::size_t R, std::size_t T, Compute A, Storage K>
MLA_ALWAYS_INLINE void multiply_few(const K* const (&keys)[T], Index depth, Index stride, const A* queries,
                                    simd::Batch<Arch, A> (&sums)[R][T]) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr int rows = static_cast<int>(R);
    constexpr int keys_at_once = static_cast<int>(T);
    simd::unroll<rows * keys_at_once>([&](auto i)
                                          MLA_ALWAYS_INLINE_LAMBDA { sums[i / keys_at_once][i % keys_at_once] = Batch(A(0)); });
    for (Index k = 0; k < depth; k += simd::lanes<Arch, A>) {
        Batch query[R];
        simd::unroll<rows>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA { query[r] = Batch::load_unaligned(queries + r * stride + k); });
        simd::unroll<keys_at_once>([&](auto t) MLA_ALWAYS_INLINE_LAMBDA {
            const Batch key = simd::load<Arch, A>(keys[t] + k);
            simd::unroll<rows>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA { sums[r][t] = xsimd::fma(key, query[r], sums[r][t]); });
        });
    }
}

/// Keys that are scored at a time. R×T sums, R queries and a key: 4×4 take 21 of 32 registers, 4×2 take 13 of 16.
template <class Arch, Compute A>
inline constexpr int few_keys = static_cast<int>(std::min<Index>(simd::lanes<Arch, A>,
                                                                 simd::vector_registers<Arch> == 32 ? 4 : 2));

/// scores [R, block_tokens] = rows of queries [R, depth] · keys.
template <class Arch, int R, Compute A, Storage K>
void score_few(const Block<K>& block, Index tokens, Index depth, const A* queries, A* scores, simd::Prefetch& next) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr Index width = simd::lanes<Arch, A>;
    constexpr int T = few_keys<Arch, A>;
    const Index whole = depth / width * width;
    for (Index first = 0; first < tokens; first += width) {
        Batch sums[simd::extent<R>][simd::extent<width>];
        for (Index t = 0; t < width; t += T) {
            const K* keys[simd::extent<T>];
            for (Index i = 0; i < T; ++i) keys[i] = block.key_rows[std::min(first + t + i, tokens - 1)];
            Batch sum[simd::extent<R>][simd::extent<T>];
            multiply_few<Arch>(keys, whole, depth, queries, sum);
            simd::unroll<R * T>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sums[i / T][t + i % T] = sum[i / T][i % T]; });
            next.step();
        }
        const Index count = std::min(width, tokens - first);
        for (Index r = 0; r < R; ++r) {
            A* target = scores + r * block_tokens + first;
            simd::sum_lanes_of_each<Arch, A>(sums[r]).store_unaligned(target);
            for (Index t = 0; t < count; ++t)
                for (Index k = whole; k < depth; ++k)
                    target[t] =
                        simd::multiply_add(queries[r * depth + k], simd::convert<A>(block.key_rows[first + t][k]), target[t]);
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
    alignas(64) A parts[simd::extent<width>];
    highest.store_aligned(parts);
    A reference = std::max(max, *std::max_element(parts, parts + width));
    const A before = max;
    max = reference;
    if (reference == nothing) reference = A(0);
    Batch total(A(0));
    for (Index t = 0; t < tokens; t += width) {
        const Batch p = simd::exp<Arch, A>(Batch::load_unaligned(scores + t) - Batch(reference));
        total += p;
        p.store_unaligned(scores + t);
    }
    total.store_aligned(parts);
    const A factor = std::exp(before - reference);
    sum *= factor;
    for (const A part : parts) sum += part;
    return factor;
}

/// Tokens between two steps of prefetching.
inline constexpr Index few_step = 4;

/// Vectors of values summed at a time by `rows` rows. R×N sums, N values and a broadcast: 1×8 to 4×4 with 32 registers, half as
/// wide with 16.
template <class Arch>
[[nodiscard]] constexpr int few_vectors(Index rows) noexcept {
    const int widest = rows <= 2 ? 8 : 4;
    return simd::vector_registers<Arch> == 32 || rows == 1 ? widest : widest / 2;
}

/// out [R, value_dim] = rescale · out + P · values, with P [R, block_tokens].
template <class Arch, int R, Compute A, Storage K>
void accumulate_few(const Block<K>& block, Index tokens, const A* p, const A* rescale, A* out, Index out_stride,
                    simd::Prefetch& next) noexcept {
    constexpr int widest = few_vectors<Arch>(R);
    constexpr Index width = simd::lanes<Arch, A>;
    const Index vectors = divide_up(block.value_dim, width);
    Index vector = 0;
    const auto strips = [&]<int N>(std::integral_constant<int, N>) {
        for (; vector + N <= vectors; vector += N) {
            simd::Tile<Arch, A, R, N> tile;
            tile.clear();
            simd::RowsOperand<A, R> probabilities(p, block_tokens);
            ListedRows<K> values = block.template values<N>(vector * width);
            for (Index t = 0; t < tokens; t += few_step) {
                tile.multiply(std::min(few_step, tokens - t), probabilities, values);
                next.step();
            }
            tile.add_to_scaled(out + vector * width, out_stride, rescale);
        }
    };
    strips(std::integral_constant<int, widest>{});
    if constexpr (widest > 2) strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

template <class Arch, int R, Compute A, Storage K>
void attend_rows(const RowGroup<A>& group, const Block<K>& block, A* scores, simd::Prefetch values,
                 simd::Prefetch next) noexcept {
    const Index tokens = std::min(block.count(), group.visible[group.rows - 1] - block.begin);
    if (tokens <= 0) return;
    score_few<Arch, R>(block, tokens, group.depth, reinterpret_cast<const A*>(group.queries), scores, values);
    if (!group.tree.empty()) mask_tree(group, Index{0}, Index{R}, block.begin, tokens, scores, block_tokens, Index{1});
    A rescale[simd::extent<R>];
    for (Index r = 0; r < R; ++r) {
        const Index visible = std::clamp<Index>(group.visible[r] - block.begin, 0, tokens);
        rescale[r] = softmax_row<Arch>(tokens, visible, scores + r * block_tokens, group.max[r], group.sum[r]);
    }
    accumulate_few<Arch, R>(block, tokens, scores, rescale, group.out, group.out_stride, next);
}

/// Steps of prefetching in scoring `tokens` keys by few rows.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index few_score_steps(Index tokens) noexcept {
    return round_up(tokens, simd::lanes<Arch, A>) / few_keys<Arch, A>;
}

/// Steps of prefetching in multiplying the values of `tokens` keys, `value_dim` each, by `rows` rows.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index few_value_steps(Index rows, Index tokens, Index value_dim) noexcept {
    return divide_up(divide_up(value_dim, simd::lanes<Arch, A>), few_vectors<Arch>(rows)) * divide_up(tokens, few_step);
}

/// Lets a group of at most `few_rows` rows attend to the keys of the block that it may see. `scores` holds few_rows ×
/// block_tokens. Keys and values may be of any storage type; `values` is fetched while keys are scored, `next` while values are
/// summed.
template <class Arch, Compute A, Storage K>
void attend_few(const RowGroup<A>& group, const Block<K>& block, A* scores, const simd::Prefetch& values,
                const simd::Prefetch& next) noexcept {
    switch (group.rows) {
        case 1: return attend_rows<Arch, 1>(group, block, scores, values, next);
        case 2: return attend_rows<Arch, 2>(group, block, scores, values, next);
        default:
            return attend_rows<Arch, 4>(group, block, scores, values,
                                        next);  // a third row takes a fourth along, with zero queries
    }
}

}  // namespace mla::detail
