// Attention of one to four rows: one head, or the few heads that share a key in grouped-query attention. Vectors then run
// along the values of a key rather than along the rows, of which there are too few to fill one, and keys and values are
// converted as they are loaded: each cached byte is read once and there is nothing to reuse it for. DRAM bounds it, so with every
// part of a row that is read one that is wanted soon is fetched: four lines at a time took up to a tenth longer.
#pragma once

#include <bit>
#include <cmath>
#include <numeric>

#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/reference.hpp"
#include "mla/kernels/engine/tile_shape.hpp"
#include "mla/simd/exp.hpp"
#include "mla/simd/prefetch.hpp"
#include "mla/simd/rows.hpp"

namespace mla::inline MLA_ISA::detail {

/// How the scores of R rows lie: groups of as many keys as make whole vectors of scores, [R, keys] each.
/// With 32 registers 4×4 sums, two vectors of a key and of each query take 26; with 16, 4×2 sums and a key take 10, and queries
/// stay in memory.
template <class Target, int R, Compute A>
struct FewScores {
    static constexpr Index lanes = simd::lanes<Target, A>;
    static constexpr int keys = static_cast<int>(std::max<Index>(lanes, 8)) / R;
    static constexpr int size = R * keys;
    static constexpr int vectors = size / static_cast<int>(lanes);

    [[nodiscard]] static constexpr Index place(Index row, Index key) noexcept {
        return key / keys * size + row * keys + key % keys;
    }
};

/// Rows that `rows` few rows are computed as: a third takes a fourth along, with a zero query.
[[nodiscard]] constexpr Index few_padded(Index rows) noexcept {
    return static_cast<Index>(std::bit_ceil(static_cast<std::size_t>(rows)));
}

/// A block of tokens that few rows attend to: keys and values of K where they lie.
template <Storage K>
struct FewBlock {
    using Value = K;
    static constexpr bool in_steps = false;
    const void* const* key_rows;
    const void* const* value_rows;
    Index tokens;
    Index value_dim;
    Index begin;  ///< position of the first token among the keys

    [[nodiscard]] ListedRows<K> values(Index column) const noexcept {
        return {value_rows, column * static_cast<Index>(sizeof(K))};
    }
};

/// The same of numbers in steps, which `steps` reads.
template <class Steps>
struct FewSteps : FewBlock<float> {
    static constexpr bool in_steps = true;
    Steps& steps;
};

/// Whether rows of an operand are few: integers are multiplied by panels, however few the rows, and so is what is in steps that
/// end within two vectors.
template <class Target, class Operand>
[[nodiscard]] constexpr bool are_few(Index rows, Index latent_dim) noexcept {
    const bool whole = !Operand::in_steps || latent_dim % (2 * simd::lanes<Target, float>) == 0;
    return !Operand::integers && whole && rows <= few_rows;
}

/// Types that few rows are compiled to read where they lie: A, and those of 16 bits as floats.
template <Compute A, class C>
inline constexpr bool few_read = std::is_same_v<C, A> || (std::is_same_v<A, float> && Storage<C> && sizeof(C) == 2);

/// Whether few rows read keys and values of C where they lie: when whole vectors make them.
template <class Target, Compute A, class C>
[[nodiscard]] constexpr bool few_in_place(Index depth, Index value_dim) noexcept {
    return few_read<A, C> && depth % simd::lanes<Target, A> == 0 && value_dim % simd::lanes<Target, A> == 0;
}

/// Where value k of query `row` of `rows` lies, which meets keys of K two vectors at a time: [pairs of vectors][row][values].
template <class Target, Compute A, class K>
[[nodiscard]] constexpr Index few_place(Index row, Index rows, Index k, Index depth) noexcept {
    constexpr Index width = simd::lanes<Target, A>;
    const Index in_pair = k % (2 * width);
    const Index pair = (k - in_pair) * rows + row * 2 * width;
    if (!simd::loads_by_parity<A, K> || k - in_pair + 2 * width > depth) return pair + in_pair;
    return pair + in_pair % 2 * width + in_pair / 2;
}

/// Rows that, whenever one is read, bring a part, of `Bytes` bytes, of another into L2.
template <class Rows, Index Bytes>
struct FetchingRows : Rows {
    const void* const* others;
    Index first;  ///< byte of it

    [[nodiscard]] MLA_ALWAYS_INLINE auto row(Index k) const noexcept {
        simd::prefetch_bytes<Bytes>(static_cast<const char*>(others[k]) + first);
        return Rows::row(k);
    }
    MLA_ALWAYS_INLINE void advance(Index k) {
        Rows::advance(k);
        others += k;
    }
};

/// Probabilities as scores lie, as the product tile reads them.
template <class Scores, Compute A>
struct FewOperand {
    static constexpr int pass = Scores::keys;
    const A* data;
    MLA_ALWAYS_INLINE const A* at(Index row, Index k) const { return data + row * Scores::keys + k; }
    MLA_ALWAYS_INLINE void advance(Index k) { data += k == Scores::keys ? Scores::size : k; }
};

/// sums[r T + t] = lanewise partial products of query r and key t of T keys, over whole vectors of `depth`, and fetches as many
/// elements of `Fetched` bytes of T other rows. R + T loads feed R·T products.
template <class Target, int R, int T, Index Fetched, Compute A, Storage K>
MLA_ALWAYS_INLINE void multiply_few(const K* const* keys, const char* const* others, Index depth, const A* queries,
                                    simd::Batch<Target, A>* sums) noexcept {
    using Batch = simd::Batch<Target, A>;
    constexpr Index width = simd::lanes<Target, A>;
    Batch sum[simd::extent<R * T>];
    simd::unroll<R * T>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sum[i] = Batch(A(0)); });
    const auto add = [&](const Batch& key, auto t, const A* query) MLA_ALWAYS_INLINE_LAMBDA {
        simd::unroll<R>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA {
            const Batch values = Batch::load_unaligned(query + r * 2 * width);
            if constexpr (Target::fuses) {
                sum[r * T + t] = simd::fma<Target, A>(key, values, sum[r * T + t]);
            } else {
                sum[r * T + t] = key * values + sum[r * T + t];
            }
        });
    };
    Index k = 0;
    for (; k + 2 * width <= depth; k += 2 * width, queries += Index{R} * 2 * width) {
        simd::unroll<T>([&](auto t) MLA_ALWAYS_INLINE_LAMBDA {
            Batch first, second;
            simd::load_two<Target, A>(keys[t] + k, first, second);
            simd::prefetch_bytes<2 * width * Fetched>(others[t] + k * Fetched);
            add(first, t, queries);
            add(second, t, queries + width);
        });
    }
    if (k < depth) simd::unroll<T>([&](auto t) MLA_ALWAYS_INLINE_LAMBDA { add(simd::load<Target, A>(keys[t] + k), t, queries); });
    simd::unroll<R * T>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sums[i] = sum[i]; });
}

/// The same of keys [first, first + T) of a block, where those in steps are multiplied by them.
template <class Target, int R, int T, Index Fetched, Compute A, class Block>
MLA_ALWAYS_INLINE void multiply_keys(const Block& block, Index first, const typename Block::Value* const* keys,
                                     const char* const* others, Index depth, const A* queries,
                                     simd::Batch<Target, A>* sums) noexcept {
    using Batch = simd::Batch<Target, A>;
    if constexpr (!Block::in_steps) {
        multiply_few<Target, R, T, Fetched>(keys, others, depth, queries, sums);
    } else {
        std::fill_n(sums, R * T, Batch(A(0)));
        const auto add = [&](Index begin, Index end, const float* steps) {
            const A* numbers[simd::extent<T>];
            const char* fetched[simd::extent<T>];
            Batch part[simd::extent<R * T>];
            for (Index t = 0; t < T; ++t) numbers[t] = keys[t] + begin;
            for (Index t = 0; t < T; ++t) fetched[t] = others[t] + begin * Fetched;
            multiply_few<Target, R, T, Fetched>(numbers, fetched, end - begin, queries + begin * R, part);
            for (int i = 0; i < R * T; ++i) sums[i] = simd::fma<Target, A>(part[i], Batch(steps[i % T]), sums[i]);
        };
        constexpr Index shared = std::remove_cvref_t<decltype(block.steps)>::values_per_step;
        for (Index begin = 0; begin < block.value_dim; begin += shared)
            add(begin, std::min(begin + shared, block.value_dim),
                block.steps.latent_steps(begin / shared, first, std::min(Index{T}, block.tokens - first)));
        if (block.value_dim < depth) add(block.value_dim, depth, block.steps.rope_steps(first));
    }
}

/// Scores of the rows of queries [R, depth], placed by few_place, and the first `tokens` keys.
template <class Target, int R, Index Fetched, Compute A, class Block>
void score_few(const Block& block, const void* const* others, Index tokens, Index depth, const A* queries, A* scores) noexcept {
    using Scores = FewScores<Target, R, A>;
    using K = typename Block::Value;
    constexpr int T = Scores::keys;
    for (Index first = 0; first < tokens; first += T) {
        const K* keys[simd::extent<T>];
        const char* fetched[simd::extent<T>];
        for (Index t = 0; t < T; ++t) {
            keys[t] = static_cast<const K*>(block.key_rows[std::min(first + t, tokens - 1)]);
            fetched[t] = static_cast<const char*>(others[std::min(first + t, tokens - 1)]);
        }
        simd::Batch<Target, A> sums[simd::extent<Scores::size>];
        multiply_keys<Target, R, T, Fetched>(block, first, keys, fetched, round_up(depth, Scores::lanes), queries, sums);
        for (Index i = 0; i < Scores::size; i += Scores::lanes, scores += Scores::lanes)
            simd::sum_lanes_of_each<Target, A>(sums + i).store_unaligned(scores);
    }
}

/// Turns scores into probabilities as products take them, raises the rows' running maxima, and sets what their outputs so far
/// must be multiplied by.
template <class Target, class Operand, int R, Compute A>
void softmax_few(const RowGroup<A>& group, Index tokens, A* scores, A* rescale) noexcept {
    using Batch = simd::Batch<Target, A>;
    using Scores = FewScores<Target, R, A>;
    constexpr A nothing = -std::numeric_limits<A>::infinity();
    const A* const end = scores + divide_up(tokens, Index{Scores::keys}) * Scores::size;
    const auto each_vector = [&](auto f) MLA_ALWAYS_INLINE_LAMBDA {
        for (A* cell = scores; cell < end; cell += Scores::size)
            simd::unroll<Scores::vectors>([&](auto v) MLA_ALWAYS_INLINE_LAMBDA { f(v, cell + v * Scores::lanes); });
    };
    Batch vectors[simd::extent<Scores::vectors>];
    Batch factor[simd::extent<Scores::vectors>];
    alignas(64) A lanes[simd::extent<Scores::size>];
    const auto set = [&](A value) MLA_ALWAYS_INLINE_LAMBDA {
        for (Batch& vector : vectors) vector = Batch(value);
    };
    const auto store = [&]() MLA_ALWAYS_INLINE_LAMBDA {
        for (Index v = 0; v < Scores::vectors; ++v) vectors[v].store_aligned(lanes + v * Scores::lanes);
    };
    if constexpr (!Operand::scales_queries) {
        for (Index r = 0; r < R; ++r) std::fill_n(lanes + r * Scores::keys, Scores::keys, group.factors[r]);
        for (Index v = 0; v < Scores::vectors; ++v) factor[v] = Batch::load_aligned(lanes + v * Scores::lanes);
    }
    set(nothing);
    each_vector([&](auto v, const A* cell)
                    MLA_ALWAYS_INLINE_LAMBDA { vectors[v] = simd::max(vectors[v], Batch::load_unaligned(cell)); });
    store();
    alignas(64) A maxima[simd::extent<Scores::size>];
    for (Index r = 0; r < R; ++r) {
        A* const row = lanes + r * Scores::keys;
        const A before = group.max[r];
        const A here = *std::max_element(row, row + Scores::keys) * (Operand::scales_queries ? A(1) : group.factors[r]);
        group.max[r] = std::max(before, std::nearbyint(here * std::numbers::log2e_v<A>));
        std::fill_n(row, Scores::keys, group.max[r]);
        std::fill_n(maxima + r * Scores::keys, Scores::keys, here);
        rescale[r] = before == group.max[r] ? A(1) : std::exp2(before - group.max[r]);  // the maximum seldom moves
    }
    Reference<Batch> reference[simd::extent<Scores::vectors>];
    for (Index v = 0; v < Scores::vectors; ++v)
        reference[v] = {Batch::load_aligned(lanes + v * Scores::lanes), Batch::load_aligned(maxima + v * Scores::lanes)};
    set(A(0));
    each_vector([&](auto v, A* cell) MLA_ALWAYS_INLINE_LAMBDA {
        const Batch score = Batch::load_unaligned(cell);
        Batch p = simd::exp<Target, A>(Operand::scales_queries ? reference[v].subtract_from(score)
                                                               : reference[v].template subtract_from<Target>(score, factor[v]));
        Operand::template store_units<Target>(p, cell);
        vectors[v] += p;
    });
    store();
    for (Index r = 0; r < R; ++r)
        // Spelled out: left to itself the compiler fuses product and sum in one instance of this and not in the next.
        group.sum[r] =
            std::fma(group.sum[r], rescale[r], std::accumulate(lanes + r * Scores::keys, lanes + (r + 1) * Scores::keys, A(0)));
}

/// Vectors of values summed at a time by `rows` rows. R×N sums, N values and a broadcast: 1×8 to 4×4 with 32 registers, half as
/// wide with 16.
template <class Target>
[[nodiscard]] constexpr int few_vectors(Index rows) noexcept {
    const int widest = rows <= 2 ? 8 : 4;
    return Target::registers == 32 || rows == 1 ? widest : widest / 2;
}

/// out [R, columns] = rescale · out + P · values of the first `tokens` keys.
template <class Target, int R, Index Fetched, Compute A, class Block>
void accumulate_few(const Block& block, const Columns& columns, const void* const* others, Index tokens, const A* p,
                    const A* rescale, A* out, Index out_stride) noexcept {
    using K = typename Block::Value;
    constexpr int widest = few_vectors<Target>(R);
    constexpr Index width = simd::lanes<Target, A>;
    const Index vectors = divide_up(columns.end, width);
    Index vector = columns.begin / width;
    const auto strips = [&]<int N>(std::integral_constant<int, N>) {
        constexpr bool by_parity = simd::loads_by_parity<A, K> && N % 2 == 0;
        using Rows = std::conditional_t<by_parity, ParityRows<K>, ListedRows<K>>;
        for (; vector + N <= vectors; vector += N) {
            simd::Tile<Target, A, R, N> tile;
            tile.clear();
            FewOperand<FewScores<Target, R, A>, A> probabilities{p};
            FetchingRows<Rows, N * width * Fetched> values{Rows{block.values(vector * width)}, others, vector * width * Fetched};
            tile.multiply(tokens, probabilities, values);
            if constexpr (by_parity) tile.interleave_columns();
            tile.add_to_scaled(out + vector * width, out_stride, rescale);
        }
    };
    strips(std::integral_constant<int, widest>{});
    if constexpr (widest > 2) strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

/// Probabilities times the steps of `tokens` tokens, as products take them; all lie as scores do.
template <class Target, int R>
void weigh_few(Index tokens, const float* p, const float* steps, float* weighed) noexcept {
    using Scores = FewScores<Target, R, float>;
    const Index groups = divide_up(tokens, Index{Scores::keys});
    for (Index i = 0; i < groups * Scores::size; ++i)
        weighed[i] = p[i] * steps[i / Scores::size * Scores::keys + i % Scores::keys];
    simd::round_row<Target>(weighed, groups * Scores::size, weighed);
}

template <class Target, class Operand, int R, Index Fetched, Compute A, class Block>
void attend_rows(const RowGroup<A>& group, const Block& block, A* scores, const void* const* with_keys,
                 const void* const* with_values) noexcept {
    const Index tokens = std::min(block.tokens, group.visible[group.rows - 1] - block.begin);
    if (tokens <= 0) return;
    using Scores = FewScores<Target, R, A>;
    const auto score = [=](Index row, Index t) -> A& { return scores[Scores::place(row, t)]; };
    score_few<Target, R, Fetched>(block, with_keys, tokens, group.depth, reinterpret_cast<const A*>(group.queries), scores);
    if (group.tree != nullptr) mask_tree(group, Index{0}, Index{R}, block.begin, tokens, score);
    for (Index r = 0; r < R; ++r) {
        const Index visible = std::clamp<Index>(group.visible[r] - block.begin, 0, tokens);
        for (Index t = visible; t < round_up(tokens, Index{Scores::keys}); ++t) score(r, t) = -std::numeric_limits<A>::infinity();
    }
    A rescale[simd::extent<R>];
    using Probabilities = std::conditional_t<Block::in_steps, operands::Unrounded, operands::UnpairedOf<Operand, A>>;
    softmax_few<Target, Probabilities, R>(group, tokens, scores, rescale);
    const auto accumulate = [&](const Columns& columns, const A* p) {
        accumulate_few<Target, R, Fetched>(block, columns, with_values, tokens, p, rescale, group.out, group.out_stride);
    };
    if constexpr (Block::in_steps) {
        A* const weighed = scores + few_rows * block_tokens;
        each_step(block.steps, [&](const Columns& columns, const float* steps) {
            weigh_few<Target, R>(tokens, scores, steps, weighed);
            accumulate(columns, weighed);
        });
    } else {
        accumulate({0, block.value_dim}, scores);
    }
}

/// Lets a group of at most `few_rows` rows attend to the keys of the block that it may see. `scores` holds few_rows ×
/// block_tokens. With each key that is scored as many values of a row of `with_keys`, of `Fetched` bytes each, are fetched, with
/// each value one of `with_values`. Both list a row for every key of the block.
template <class Target, class Operand, Index Fetched, Compute A, class Block>
void attend_few(const RowGroup<A>& group, const Block& block, A* scores, const void* const* with_keys,
                const void* const* with_values) noexcept {
    switch (few_padded(group.rows)) {
        case 1: return attend_rows<Target, Operand, 1, Fetched>(group, block, scores, with_keys, with_values);
        case 2: return attend_rows<Target, Operand, 2, Fetched>(group, block, scores, with_keys, with_values);
        default: return attend_rows<Target, Operand, 4, Fetched>(group, block, scores, with_keys, with_values);
    }
}

}  // namespace mla::inline MLA_ISA::detail
