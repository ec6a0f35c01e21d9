// Score, softmax and accumulate: what every attention kernel does with one staged block of keys and values.
#pragma once

#include "mla/kernels/row_group.hpp"

namespace mla::detail {

/// A block of cached tokens as the tiles want it. Rows from `count` up to the next multiple of 12 exist and are finite;
/// value rows are readable up to a whole number of vectors. K is the type computed in, but for groups of few rows.
template <Storage K>
struct Block {
    const K* keys = nullptr;  ///< [tokens, depth]
    Index key_stride = 0;
    const K* values = nullptr;  ///< [tokens, value_dim]; the latent of the key itself in absorbed attention
    Index value_stride = 0;
    Index value_dim = 0;
    Index begin = 0;  ///< position of the block's first token among the keys
    Index count = 0;  ///< tokens, at most block_tokens
};

/// Products of a score that are summed in registers before they join it. One sum over all 576 of a DeepSeek row would carry
/// twice the rounding error of four of 144; the three extra passes over a tile cost about 1 %.
inline constexpr Index score_depth = 144;

/// scores [tokens, N vectors of rows] = keys · packed queries, for the first `tokens` of a block, rounded up to whole tiles.
template <class Arch, int N, Compute A>
void score_panel(const Block<A>& block, Index tokens, Index depth, const A* panel, A* scores) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr int M = N == 2 ? Shape::score_tokens_pair : Shape::score_tokens_single;
    constexpr Index width = N * Shape::lanes;
    for (Index t = 0; t < tokens; t += M) {
        const simd::RowOperand<A> keys{block.keys + t * block.key_stride, block.key_stride};
        for (Index k = 0; k < depth; k += score_depth) {
            simd::Tile<Arch, A, M, N> tile;
            tile.clear();
            tile.multiply(std::min(score_depth, depth - k), keys.advance_k(k), panel + k * width, width);
            k == 0 ? tile.store(scores + t * width, width) : tile.add_to(scores + t * width, width);
        }
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

/// Turns scores [tokens, width] into exp(score − maximum), raises the running maxima, and writes to `rescale` what the sums
/// and outputs so far must be multiplied by. A row that has seen no key keeps maximum −inf and sum 0.
template <class Arch, Compute A>
void softmax_panel(Index tokens, Index width, A* scores, A* max, A* sum, A* rescale) noexcept {
    using Batch = simd::Batch<Arch, A>;
    const Batch nothing(-std::numeric_limits<A>::infinity());
    for (Index column = 0; column < width; column += simd::lanes<Arch, A>) {
        const Batch before = Batch::load_unaligned(max + column);
        Batch highest = before;
        for (Index t = 0; t < tokens; ++t) highest = xsimd::max(highest, Batch::load_unaligned(scores + t * width + column));
        // exp(−inf − 0) is 0, where exp(−inf − −inf) would be NaN.
        const Batch reference = xsimd::select(highest == nothing, Batch(A(0)), highest);
        const Batch factor = xsimd::exp(before - reference);
        Batch total = Batch::load_unaligned(sum + column) * factor;
        for (Index t = 0; t < tokens; ++t) {
            const Batch p = xsimd::exp(Batch::load_unaligned(scores + t * width + column) - reference);
            total += p;
            p.store_unaligned(scores + t * width + column);
        }
        highest.store_unaligned(max + column);
        total.store_unaligned(sum + column);
        factor.store_unaligned(rescale + column);
    }
}

/// out [width rows, value_dim] = rescale · out + Pᵀ · values, with P [tokens, width].
template <class Arch, Compute A>
void accumulate_panel(const Block<A>& block, Index tokens, Index width, const A* p, const A* rescale, A* out,
                      Index out_stride) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr int M = Shape::value_rows;
    const Index vectors = divide_up(block.value_dim, Shape::lanes);
    Index vector = 0;
    // All rows pass over a strip of values before the next strip, so that the strip is read from L1.
    const auto strips = [&]<int N>(std::integral_constant<int, N>) {
        for (; vector + N <= vectors; vector += N)
            for (Index row = 0; row < width; row += M) {
                A* c = out + row * out_stride + vector * Shape::lanes;
                simd::Tile<Arch, A, M, N> tile;
                tile.clear();
                tile.multiply(tokens, simd::ColumnOperand<A>{p + row, width}, block.values + vector * Shape::lanes,
                              block.value_stride);
                tile.add_to_scaled(c, out_stride, rescale + row);
            }
    };
    strips(std::integral_constant<int, Shape::value_vectors>{});
    strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

/// Lets rows [first, first + N vectors) of the group attend to the block. `scores` holds block_tokens × panel_rows.
template <class Arch, int N, Compute A>
void attend_panel(const RowGroup<A>& group, Index first, const Block<A>& block, A* scores) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr Index width = N * Shape::lanes;
    const Index tokens = std::min(block.count, group.visible[first + width - 1] - block.begin);
    if (tokens <= 0) return;
    score_panel<Arch, N>(block, tokens, group.depth, group.queries + first * group.depth, scores);
    if (group.visible[first] < block.begin + tokens) {
        alignas(64) A limit[width];
        for (Index r = 0; r < width; ++r)
            limit[r] = static_cast<A>(std::clamp<Index>(group.visible[first + r] - block.begin, 0, tokens));
        mask_scores<Arch>(tokens, width, limit, scores);
    }
    alignas(64) A rescale[width];
    softmax_panel<Arch>(tokens, width, scores, group.max + first, group.sum + first, rescale);
    accumulate_panel<Arch>(block, tokens, width, scores, rescale, group.out + first * group.out_stride, group.out_stride);
}

/// Lets every row of the group attend to the keys of the block that it may see.
template <class Arch, Compute A>
void attend_block(const RowGroup<A>& group, const Block<A>& block, A* scores) noexcept {
    using Shape = AttentionTile<Arch, A>;
    const Index padded = round_up(group.rows, Shape::lanes);
    Index first = 0;
    for (; first + Shape::panel_rows <= padded; first += Shape::panel_rows) attend_panel<Arch, 2>(group, first, block, scores);
    if (first < padded) attend_panel<Arch, 1>(group, first, block, scores);
}

}  // namespace mla::detail
