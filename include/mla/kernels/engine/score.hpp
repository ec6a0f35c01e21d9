// Score: a block's keys times the packed queries of a panel of rows.
#pragma once

#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/tile_shape.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::inline MLA_ISA::detail {

/// What a score tile does beside multiplying: the first piece of the units overwrites the scores, others add to them; what is in
/// steps is multiplied by its token's.
struct ScoreEnd {
    bool overwrite;
    const float* steps;
};

/// scores [M tokens, N vectors of rows] (+)= a piece of M keys · the same of packed queries.
template <class Target, class Operand, int M, int N, Compute A>
MLA_NEVER_INLINE void score_tile(const ListedRows<typename Operand::Unit>& keys, Index units, const typename Operand::Unit* panel,
                                 const ScoreEnd& end, A* scores, simd::Prefetch& next) noexcept {
    constexpr Index width = N * simd::lanes<Target, A>;
    using U = typename Operand::Unit;
    simd::RowsOperand<U, M> operand;
    simd::unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA { operand.rows[m] = keys.row(m); });
    simd::Tile<Target, typename Operand::Sum, M, N> tile;
    tile.clear();
    tile.template multiply<AttentionTile<Target, A>::score_step>(units, operand, simd::StridedRows<U>{panel, width}, next);
    if constexpr (Operand::in_steps) {
        end.overwrite ? tile.store_steps(scores, width, end.steps) : tile.add_steps_to(scores, width, end.steps);
    } else {
        end.overwrite ? tile.store(scores, width) : tile.add_to(scores, width);
    }
}

/// The same for any number of keys, in tiles of 12 (or 6), 4, 2 and 1, so that no key is multiplied twice.
template <class Target, class Operand, int N, Compute A>
void score_keys(ListedRows<typename Operand::Unit> keys, Index tokens, Index units, const typename Operand::Unit* panel,
                ScoreEnd end, A* scores, simd::Prefetch& next) noexcept {
    using Shape = AttentionTile<Target, A>;
    constexpr int widest = N == 2 ? Shape::score_tokens_pair : Shape::score_tokens_single;
    const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
        for (; tokens >= M; tokens -= M) {
            score_tile<Target, Operand, M, N>(keys, units, panel, end, scores, next);
            keys.advance(M);
            if constexpr (Operand::in_steps) end.steps += M;
            scores += M * N * Shape::lanes;
        }
    };
    tiles(std::integral_constant<int, widest>{});
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
}

/// Scores [panel][tokens, rows of the panel] of the block's keys that each panel may see. Some keys at a time are scored whole,
/// so that a block is read in the order in which it lies, and a piece of them stays in L1 while all panels pass over it.
template <class Target, Compute A, class Source>
void score_panels(const RowGroup<A>& group, const PanelBatch<Target, A>& panels, Source& block, A* scores,
                  simd::Prefetch& next) noexcept {
    using Operand = typename Source::Operand;
    using U = typename Operand::Unit;
    const Index units = operands::units_of<Operand>(group.depth, block.value_dim);
    for (Index first = 0; first < panels.tokens(); first += block.keys_at_once()) {
        const Index count = std::min(block.keys_at_once(), panels.tokens() - first);
        const auto score_piece = [&](const Piece& piece, const float* steps) {
            const auto keys = block.keys(first, count, piece);
            panels.each([&]<int N>(std::integral_constant<int, N>, const Panel& panel) {
                constexpr Index width = N * simd::lanes<Target, A>;
                const U* const queries = reinterpret_cast<const U*>(group.queries) + panel.row * units + piece.begin * width;
                score_keys<Target, Operand, N>(keys, std::min(count, panel.tokens - first), piece.end - piece.begin, queries,
                                               {piece.begin == 0, steps}, scores + panel.offset * block_tokens + first * width,
                                               next);
            });
        };
        each_piece(block, units, AttentionTile<Target, A>::template score_depth<Operand>, first, count, score_piece);
    }
}

/// Sets the scores of keys that a row may not see to −inf. `limit[row]` counts the visible tokens of this block.
template <class Target, Compute A>
void mask_scores(Index tokens, Index width, const A* limit, A* scores) noexcept {
    using Batch = simd::Batch<Target, A>;
    const Batch hidden(-std::numeric_limits<A>::infinity());
    for (Index column = 0; column < width; column += simd::lanes<Target, A>) {
        const Batch visible = Batch::load_unaligned(limit + column);
        for (Index t = 0; t < tokens; ++t) {
            A* cell = scores + t * width + column;
            const Batch score = Batch::load_unaligned(cell);
            simd::select(Batch(static_cast<A>(t)) < visible, score, hidden).store_unaligned(cell);
        }
    }
}

}  // namespace mla::inline MLA_ISA::detail
