// Score: a block's keys times the packed queries of a panel of rows.
#pragma once

#include "mla/kernels/row_group.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::detail {

/// Units of a score that are summed in registers before they join it: as many as keep a panel's piece of the queries in 18 KiB of
/// L1, 144 of AVX-512 and 288 of AVX2. More would carry more rounding errors: one sum over all 576 values of a DeepSeek row
/// twice as much as four of 144.
template <class Arch, Compute A>
inline constexpr Index score_depth = std::min<Index>(18 * 1024 /
                                                         (AttentionTile<Arch, A>::panel_rows * static_cast<Index>(sizeof(A))),
                                                     288);

/// Units [begin, end) of every key and query, and of whole numbers what those of each key stand for.
struct Piece {
    Index begin;
    Index end;
    const float* steps;
};

/// scores [M tokens, N vectors of rows] (+)= a piece of keys [first, first + M) · the same of packed queries; the first piece
/// overwrites.
template <class Arch, int M, int N, Compute A, class U>
MLA_NEVER_INLINE void score_tile(const RowList<U>& keys, Index first, const Piece& piece, const U* panel, A* scores,
                                 simd::Prefetch& next) noexcept {
    constexpr Index width = N * simd::lanes<Arch, A>;
    simd::RowsOperand<U, M> operand;
    simd::unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA { operand.rows[m] = keys[first + m] + piece.begin; });
    simd::Tile<Arch, Accumulator<U, A>, M, N> tile;
    tile.clear();
    tile.multiply(piece.end - piece.begin, operand, simd::StridedRows<U>{panel + piece.begin * width, width}, next);
    A* const target = scores + first * width;
    if constexpr (is_quantised<U>) {
        piece.begin == 0 ? tile.store_steps(target, width, piece.steps + first)
                         : tile.add_steps_to(target, width, piece.steps + first);
    } else {
        piece.begin == 0 ? tile.store(target, width) : tile.add_to(target, width);
    }
}

/// A piece for all of the first `tokens` of a block, in tiles of 12 (or 6), 8, 4, 2 and 1 tokens, so that no key is multiplied
/// twice.
template <class Arch, int N, Compute A, class U>
void score_piece(const RowList<U>& keys, Index tokens, const Piece& piece, const U* panel, A* scores,
                 simd::Prefetch& next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr int widest = N == 2 ? Shape::score_tokens_pair : Shape::score_tokens_single;
    Index t = 0;
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; t + M <= tokens; t += M) score_tile<Arch, M, N>(keys, t, piece, panel, scores, next);
    };
    tiles(std::integral_constant<int, widest>{});
    if constexpr (widest > 8) tiles(std::integral_constant<int, 8>{});
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

/// scores [tokens, N vectors of rows] of the first `tokens` of a block. All tokens pass a piece of the queries before the next
/// piece: 144 units of 32 rows (18 KiB) stay in L1, where whole queries (72 KiB) would come from L2 for every tile.
template <class Arch, int N, Compute A, class U>
void score_panel(const Block<U>& block, Index tokens, Index units, const U* panel, A* scores, simd::Prefetch& next) noexcept {
    const auto pieces = [&](Index first, Index last, Index depth, const float* steps) {
        for (Index begin = first; begin < last; begin += depth)
            score_piece<Arch, N>(block.keys, tokens, {begin, std::min(begin + depth, last), steps}, panel, scores, next);
    };
    if constexpr (is_quantised<U>) {
        const Index rope = divide_up(block.value_dim, values_per_unit<U>);
        pieces(0, rope, score_depth<Arch, A>, block.steps.latent);
        pieces(rope, units, Int16Range::rope_units, block.steps.rope);
    } else {
        pieces(0, units, score_depth<Arch, A>, nullptr);
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

}  // namespace mla::detail
