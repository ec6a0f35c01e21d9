// Score, softmax and accumulate: what every attention kernel does with one staged block of keys and values.
#pragma once

#include "mla/kernels/prefetch.hpp"
#include "mla/kernels/row_group.hpp"

namespace mla::detail {

/// Units of a score that are summed in registers before they join it. One sum over all 576 values of a DeepSeek row would carry
/// twice the rounding error of four of 144; the three extra passes over a tile cost about 1 %.
inline constexpr Index score_depth = 144;
/// Units between two steps of prefetching.
inline constexpr Index prefetch_depth = 24;

/// Steps of prefetching in scoring one block of `tokens` by `rows` rows.
template <class Arch, Compute A, class U>
[[nodiscard]] constexpr Index prefetch_steps(Index rows, Index tokens, Index depth) noexcept {
    using Shape = AttentionTile<Arch, A>;
    const Index pairs = rows / Shape::panel_rows;
    const Index singles = divide_up(rows - pairs * Shape::panel_rows, Shape::lanes);
    const Index tiles =
        pairs * divide_up(tokens, Shape::score_tokens_pair) + singles * divide_up(tokens, Shape::score_tokens_single);
    return std::max<Index>(tiles * divide_up(divide_up(depth, values_per_unit<U>), prefetch_depth), 1);
}

/// Units [begin, end) of every key and query.
struct Piece {
    Index begin;
    Index end;
};

/// scores [M tokens, N vectors of rows] (+)= a piece of keys [first, first + M) · the same of packed queries; the first piece
/// overwrites.
template <class Arch, int M, int N, Compute A, class U>
MLA_ALWAYS_INLINE void score_tile(const RowList<U>& keys, Index first, const Piece& piece, const U* panel, A* scores,
                                  Prefetch& next) noexcept {
    constexpr Index width = N * simd::lanes<Arch, A>;
    simd::ListedOperand<U, M> operand;
    simd::unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA { operand.rows[m] = keys[first + m] + piece.begin; });
    simd::Tile<Arch, A, M, N> tile;
    tile.clear();
    for (Index k = piece.begin; k < piece.end; k += prefetch_depth) {
        const Index count = std::min(prefetch_depth, piece.end - k);
        tile.multiply(count, operand, simd::StridedRows<U>{panel + k * width, width});
        operand.advance_k(count);
        next.step();
    }
    piece.begin == 0 ? tile.store(scores + first * width, width) : tile.add_to(scores + first * width, width);
}

/// scores [tokens, N vectors of rows] of the first `tokens` of a block, in tiles of 12 (or 6), 8, 4, 2 and 1 tokens, so that no
/// key is multiplied twice. All tokens pass a piece of the queries before the next piece: 144 units of 32 rows (18 KiB) stay in
/// L1, where whole queries (72 KiB) would come from L2 for every tile.
template <class Arch, int N, Compute A, class U>
void score_panel(const Block<U>& block, Index tokens, Index units, const U* panel, A* scores, Prefetch& next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr int widest = N == 2 ? Shape::score_tokens_pair : Shape::score_tokens_single;
    for (Index begin = 0; begin < units; begin += score_depth) {
        const Piece piece{begin, std::min(begin + score_depth, units)};
        Index t = 0;
        const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
            for (; t + M <= tokens; t += M) score_tile<Arch, M, N>(block.keys, t, piece, panel, scores, next);
        };
        tiles(std::integral_constant<int, widest>{});
        if constexpr (widest > 8) tiles(std::integral_constant<int, 8>{});
        tiles(std::integral_constant<int, 4>{});
        tiles(std::integral_constant<int, 2>{});
        tiles(std::integral_constant<int, 1>{});
    }
}

/// Sets the scores of keys that a row may not see to −inf. `limit[row]` counts the visible tokens of this block.
template <class Arch, Compute A>
void mask_scores(Index tokens, Index width, const A* limit, A* scores) noexcept {
    using Batch = simd::Batch<Arch, A>;
    const Batch hidden(-std::numeric_limits<A>::infinity());
    for (Index column = 0; column < width; column += simd::lanes<Arch, A>) {
        const Batch visible = Batch::load_unaligned(limit + column);
        for (Index t = 0; t < tokens; ++t) {
            A* cell = scores + t * width + column;
            const Batch score = Batch::load_unaligned(cell);
            xsimd::select(Batch(static_cast<A>(t)) < visible, score, hidden).store_unaligned(cell);
        }
    }
}

/// Replaces a column of scores [tokens, stride width] by p = exp(scale · score − reference) in units, and returns Σ p, as
/// rounded.
template <class Arch, class U, Compute A>
simd::Batch<Arch, A> exponentiate(Index tokens, Index width, A scale, const simd::Batch<Arch, A>& reference, A* scores) noexcept {
    using Batch = simd::Batch<Arch, A>;
    const auto probability = [=, factor = Batch(scale)](Index t) MLA_ALWAYS_INLINE_LAMBDA {
        const Batch score = Batch::load_unaligned(scores + t * width);
        return xsimd::exp(std::is_same_v<U, A> ? score - reference : xsimd::fms(score, factor, reference));
    };
    Batch total(A(0));
    if constexpr (std::is_same_v<U, A>) {
        for (Index t = 0; t < tokens; ++t) {
            const Batch p = probability(t);
            total += p;
            p.store_unaligned(scores + t * width);
        }
    } else {
        // A pair of rows shrinks to one, which never passes the rows still to be read.
        for (Index t = 0; t < tokens; t += 2) {
            Batch first = probability(t);
            Batch second = t + 1 < tokens ? probability(t + 1) : Batch(A(0));
            const auto pairs = simd::round_to_pairs<Arch>(first, second);
            total += first + second;
            pairs.store_unaligned(reinterpret_cast<std::uint32_t*>(scores + t / 2 * width));
        }
    }
    return total;
}

/// Turns scores [tokens, width] into exp(scale · score − maximum), in units, raises the running maxima, and writes to `rescale`
/// what the sums and outputs so far must be multiplied by. A row that has seen no key keeps maximum −inf and sum 0.
template <class Arch, class U, Compute A>
void softmax_panel(Index tokens, Index width, A scale, A* scores, A* max, A* sum, A* rescale) noexcept {
    using Batch = simd::Batch<Arch, A>;
    const Batch nothing(-std::numeric_limits<A>::infinity());
    for (Index column = 0; column < width; column += simd::lanes<Arch, A>) {
        const Batch before = Batch::load_unaligned(max + column);
        Batch highest(-std::numeric_limits<A>::infinity());
        for (Index t = 0; t < tokens; ++t) highest = xsimd::max(highest, Batch::load_unaligned(scores + t * width + column));
        highest = xsimd::max(before, highest * Batch(scale));
        // exp(−inf − 0) is 0, where exp(−inf − −inf) would be NaN.
        const Batch reference = xsimd::select(highest == nothing, Batch(A(0)), highest);
        const Batch factor = xsimd::exp(before - reference);
        const Batch total = exponentiate<Arch, U>(tokens, width, scale, reference, scores + column);
        highest.store_unaligned(max + column);
        xsimd::fma(Batch::load_unaligned(sum + column), factor, total).store_unaligned(sum + column);
        factor.store_unaligned(rescale + column);
    }
}

/// Listed rows from number `first` on, each from a column on, as the B of a product.
template <class U>
struct ListedColumns {
    const RowList<U>& rows;
    Index first;
    Index column;
    MLA_ALWAYS_INLINE const U* row(Index k) const { return rows[first + k] + column; }
};

/// out [width rows, value_dim] = rescale · out + Pᵀ · values, with P [tokens, width] in units.
template <class Arch, Compute A, class U>
void accumulate_panel(const Block<U>& block, Index tokens, Index width, const U* p, const A* rescale, A* out,
                      Index out_stride) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr int M = Shape::value_rows;
    const Index vectors = divide_up(block.value_dim, Shape::lanes);
    const Index units = divide_up(tokens, values_per_unit<U>);
    Index vector = 0;
    // All rows pass over a strip of values before the next strip, so that the strip is read from L1.
    const auto strips = [&]<int N>(std::integral_constant<int, N>) {
        for (; vector + N <= vectors; vector += N)
            for (Index row = 0; row < width; row += M) {
                simd::Tile<Arch, A, M, N> tile;
                tile.clear();
                tile.multiply(units, simd::ColumnOperand<U>{p + row, width},
                              ListedColumns<U>{block.values, 0, vector * Shape::lanes});
                tile.add_to_scaled(out + row * out_stride + vector * Shape::lanes, out_stride, rescale + row);
            }
    };
    strips(std::integral_constant<int, Shape::value_vectors>{});
    strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

/// Lets rows [first, first + N vectors) of the group attend to the block. `scores` holds block_tokens × panel_rows.
template <class Arch, int N, Compute A, class U>
void attend_panel(const RowGroup<A>& group, Index first, const Block<U>& block, A* scores, Prefetch& next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr Index width = N * Shape::lanes;
    const Index tokens = std::min(block.count(), group.visible[first + width - 1] - block.begin);
    if (tokens <= 0) return;
    const Index units = divide_up(group.depth, values_per_unit<U>);
    score_panel<Arch, N>(block, tokens, units, reinterpret_cast<const U*>(group.queries) + first * units, scores, next);
    if (group.visible[first] < block.begin + tokens) {
        alignas(64) A limit[simd::extent<width>];
        for (Index r = 0; r < width; ++r)
            limit[r] = static_cast<A>(std::clamp<Index>(group.visible[first + r] - block.begin, 0, tokens));
        mask_scores<Arch>(tokens, width, limit, scores);
    }
    if (!group.tree.empty()) mask_tree(group, first, width, block.begin, tokens, scores, Index{1}, width);
    alignas(64) A rescale[simd::extent<width>];
    softmax_panel<Arch, U>(tokens, width, group.scale, scores, group.max + first, group.sum + first, rescale);
    accumulate_panel<Arch>(block, tokens, width, reinterpret_cast<const U*>(scores), rescale,
                           group.out + first * group.out_stride, group.out_stride);
}

/// Lets every row of the group attend to the keys of the block that it may see, and fetches `next` meanwhile.
template <class Arch, Compute A, class U>
void attend_block(const RowGroup<A>& group, const Block<U>& block, A* scores, Prefetch next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    const Index padded = round_up(group.rows, Shape::lanes);
    Index first = 0;
    for (; first + Shape::panel_rows <= padded; first += Shape::panel_rows)
        attend_panel<Arch, 2>(group, first, block, scores, next);
    if (first < padded) attend_panel<Arch, 1>(group, first, block, scores, next);
}

}  // namespace mla::detail
