// Attention of one to four rows: one head, or the few heads that share a key in grouped-query attention. Vectors then run
// along the values of a key rather than along the rows, of which there are too few to fill one, and keys and values are
// converted as they are loaded: each cached byte is read once and there is nothing to reuse it for.
#pragma once

#include "mla/kernels/block_attention.hpp"
#include "mla/simd/exp.hpp"
#include "mla/simd/fma.hpp"
#include "mla/simd/prefetch.hpp"
#include "mla/simd/reduce.hpp"

namespace mla::detail {

/// Keys that R rows are scored against at a time: as many as make whole vectors of scores. Of 32 registers 4×4 sums, two
/// vectors of a key and of each query take 26; of 16, 4×2 sums and a key take 10, and queries stay in memory.
template <class Arch, int R, Compute A>
inline constexpr int few_keys = static_cast<int>(std::max<Index>(simd::lanes<Arch, A>, 8)) / R;

/// Whether few rows read keys and values of C where they lie: when whole vectors make a value.
template <class Arch, Compute A, class C>
[[nodiscard]] constexpr bool few_in_place(Index value_dim) noexcept {
    return Storage<C> && value_dim % simd::lanes<Arch, A> == 0;
}

/// Where value k of a query of few rows lies, which meets keys of K two vectors at a time.
template <class Arch, Compute A, class K>
[[nodiscard]] constexpr Index few_place(Index k, Index depth) noexcept {
    constexpr Index width = simd::lanes<Arch, A>;
    const Index place = k % (2 * width);
    if (!simd::loads_by_parity<A, K> || k - place + 2 * width > depth) return k;
    return k - place + place % 2 * width + place / 2;
}

/// Rows of values whose vectors are loaded two by two.
template <class K>
struct ParityRows : ListedRows<K> {
    static constexpr bool by_parity = true;
};

/// sums[r T + t] = lanewise partial products of query row r and key t of T keys, over the whole vectors of [0, depth).
/// R + T loads feed R·T products.
template <class Arch, int R, int T, Compute A, Storage K>
MLA_ALWAYS_INLINE void multiply_few(const K* const* keys, Index depth, Index stride, const A* queries, simd::Batch<Arch, A>* sums,
                                    simd::Prefetch& next) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr Index width = simd::lanes<Arch, A>;
    Batch sum[simd::extent<R * T>];
    simd::unroll<R * T>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sum[i] = Batch(A(0)); });
    const auto add = [&](const Batch& key, auto t, const A* query) MLA_ALWAYS_INLINE_LAMBDA {
        simd::unroll<R>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA {
            sum[r * T + t] = simd::fma(key, Batch::load_unaligned(query + r * stride), sum[r * T + t]);
        });
    };
    Index k = 0;
    for (; k + 2 * width <= depth; k += 2 * width) {
        simd::unroll<T>([&](auto t) MLA_ALWAYS_INLINE_LAMBDA {
            Batch first, second;
            simd::load_two<Arch, A>(keys[t] + k, first, second);
            add(first, t, queries + k);
            add(second, t, queries + k + width);
        });
        next.step();
    }
    if (k < depth) {
        simd::unroll<T>([&](auto t) MLA_ALWAYS_INLINE_LAMBDA { add(simd::load<Arch, A>(keys[t] + k), t, queries + k); });
        next.step();
    }
    simd::unroll<R * T>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sums[i] = sum[i]; });
}

/// scores [R, block_tokens] = rows of queries [R, depth], placed by few_place, · keys.
template <class Arch, int R, Compute A, Storage K>
void score_few(const Block<K>& block, Index tokens, Index depth, const A* queries, A* scores, simd::Prefetch& next) noexcept {
    constexpr Index width = simd::lanes<Arch, A>;
    constexpr int T = few_keys<Arch, R, A>;
    const Index whole = depth / width * width;
    for (Index first = 0; first < tokens; first += T) {
        const K* keys[simd::extent<T>];
        for (Index t = 0; t < T; ++t) keys[t] = block.key_rows[std::min(first + t, tokens - 1)];
        simd::Batch<Arch, A> sums[simd::extent<R * T>];
        multiply_few<Arch, R, T>(keys, whole, depth, queries, sums, next);
        alignas(64) A products[simd::extent<R * T>];
        for (Index i = 0; i < R * T; i += width) simd::sum_lanes_of_each<Arch, A>(sums + i).store_aligned(products + i);
        for (Index r = 0; r < R; ++r) {
            for (Index t = 0; t < T; ++t)
                for (Index k = whole; k < depth; ++k)
                    products[r * T + t] =
                        simd::multiply_add(queries[r * depth + k], simd::convert<A>(keys[t][k]), products[r * T + t]);
            std::copy_n(products + r * T, T, scores + r * block_tokens + first);
        }
    }
}

/// Softmax of one row of scores [tokens], the first `visible` of which count; returns what its sum and output so far must be
/// multiplied by.
template <class Arch, Compute A>
A softmax_row(Index tokens, Index visible, A* scores, A& max, A& sum, simd::Prefetch& next) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr Index width = simd::lanes<Arch, A>;
    constexpr A nothing = -std::numeric_limits<A>::infinity();
    std::fill(scores + visible, scores + round_up(tokens, width), nothing);
    Batch highest(nothing);
    for (Index t = 0; t < visible; t += width) highest = xsimd::max(highest, Batch::load_unaligned(scores + t));
    A reference = std::max(max, simd::largest_lane<Arch, A>(highest));
    const A before = max;
    max = reference;
    if (reference == nothing) reference = A(0);
    Batch total(A(0));
    for (Index t = 0; t < tokens; t += width) {
        const Batch p = simd::exp<Arch, A>(Batch::load_unaligned(scores + t) - Batch(reference));
        total += p;
        p.store_unaligned(scores + t);
        next.step();
    }
    const A factor = simd::exp<Arch, A>(Batch(before - reference)).get(0);
    sum = sum * factor + xsimd::hadd(total);
    return factor;
}

/// Tokens between two steps of prefetching.
inline constexpr Index few_step = 2;

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
            constexpr bool by_parity = simd::loads_by_parity<A, K> && N % 2 == 0;
            std::conditional_t<by_parity, ParityRows<K>, ListedRows<K>> values{block.template values<N>(vector * width)};
            for (Index t = 0; t < tokens; t += few_step) {
                tile.multiply(std::min(few_step, tokens - t), probabilities, values);
                next.step();
            }
            if constexpr (by_parity) tile.interleave_columns();
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
        rescale[r] = softmax_row<Arch>(tokens, visible, scores + r * block_tokens, group.max[r], group.sum[r], next);
    }
    accumulate_few<Arch, R>(block, tokens, scores, rescale, group.out, group.out_stride, next);
}

/// Steps of prefetching in scoring `tokens` keys of `depth` values by `rows` rows.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index few_score_steps(Index rows, Index tokens, Index depth) noexcept {
    const Index keys = rows == 1 ? few_keys<Arch, 1, A> : rows == 2 ? few_keys<Arch, 2, A> : few_keys<Arch, 4, A>;
    return divide_up(tokens, keys) * std::max<Index>(divide_up(depth / simd::lanes<Arch, A>, Index{2}), 1);
}

/// Steps of prefetching in multiplying the values of `tokens` keys, `value_dim` each, by `rows` rows.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index few_value_steps(Index rows, Index tokens, Index value_dim) noexcept {
    constexpr Index width = simd::lanes<Arch, A>;
    return rows * divide_up(tokens, width) +
           divide_up(divide_up(value_dim, width), few_vectors<Arch>(rows)) * divide_up(tokens, few_step);
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
