// Accumulate: probabilities times a block's values.
#pragma once

#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/tile_shape.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of values in the order of the probabilities that they meet: as listed, or of every two tokens the second first.
template <class Operand>
class RowOrder {
  public:
    template <class Rows>
    [[nodiscard]] Rows order(Rows values, Index tokens) noexcept {
        if constexpr (Operand::second_first) {
            if (values.rows != listed_ || tokens != tokens_) swap_pairs(values.rows, tokens);
            values.rows = swapped_;
        }
        return values;
    }

  private:
    void swap_pairs(const void* const* rows, Index tokens) noexcept {
        listed_ = rows;
        tokens_ = tokens;
        for (Index t = 0; t < tokens; ++t) swapped_[t] = rows[paired(t, tokens)];
    }

    const void* const* listed_ = nullptr;
    Index tokens_ = 0;
    const void* swapped_[simd::extent < Operand::second_first ? block_tokens : 1 > ];
};

/// out [M, N vectors] = rescale · out + Pᵀ · values, over `units` of tokens.
template <class Target, class Operand, int M, int N, Compute A, class Rows>
MLA_NEVER_INLINE void value_tile(Index units, const simd::ColumnOperand<typename Operand::Unit>& p, const Rows& values,
                                 const A* rescale, [[maybe_unused]] const A* step, A* out, Index out_stride,
                                 simd::Prefetch& next) noexcept {
    simd::fetch_tile<M>(out, out_stride, N * simd::lanes<Target, A>);
    simd::Tile<Target, typename Operand::Sum, M, N> tile;
    tile.clear();
    tile.template multiply<AttentionTile<Target, A>::value_step>(units, p, values, next);
    if constexpr (requires { Rows::in_twos; }) tile.interleave_columns();
    if constexpr (Operand::integers) {
        tile.add_steps_to_scaled(out, out_stride, rescale, step);
    } else {
        tile.add_to_scaled(out, out_stride, rescale);
    }
}

/// out [rows of all panels, columns] = rescale · out + Pᵀ · values, with P [panel][units of tokens, rows of the panel]. All rows
/// pass over a strip of values before the next strip, so that the strip is read from L1. Fetches `next` meanwhile.
template <class Target, Compute A, class Source>
void accumulate_columns(const RowGroup<A>& group, const PanelBatch<Target, A>& panels, Source& block, const Columns& columns,
                        const A* p, const RowFactors<A>& factors, simd::Prefetch& next) noexcept {
    using Shape = AttentionTile<Target, A>;
    using Operand = typename Source::Operand;
    using U = typename Operand::Unit;
    constexpr int M = Shape::value_rows;
    const Index vectors = divide_up(columns.end, Shape::lanes);
    RowOrder<Operand> in_order;
    Index vector = columns.begin / Shape::lanes;
    const auto multiply = [&]<int N>(std::integral_constant<int, N>, const auto& values) {
        const Index column = vector * Shape::lanes;
        panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
            constexpr Index width = V * Shape::lanes;
            const U* const weights = reinterpret_cast<const U*>(p + panel.offset * block_tokens);
            A* const out = group.out + panel.row * group.out_stride + column;
            const auto rows = in_order.order(values, panel.tokens);
            for (Index row = 0; row < width; row += M)
                value_tile<Target, Operand, M, N, A>(divide_up(panel.tokens, Operand::values_per_unit), {weights + row, width},
                                                     rows, factors.rescale + panel.offset + row,
                                                     factors.step + panel.offset + row, out + row * group.out_stride,
                                                     group.out_stride, next);
        });
        vector += N;
    };
    if constexpr (Source::values_by_parity) {
        constexpr std::integral_constant<int, 2> pair;
        while (panels.single() && (vector + pair) * Shape::lanes <= columns.end)
            multiply(pair, block.parity_values(vector * Shape::lanes));
    }
    const auto strip = [&]<int N>(std::integral_constant<int, N> n) {
        multiply(n, block.template values<N>(vector * Shape::lanes));
    };
    constexpr int widest = Shape::template value_vectors<Operand>;
    // Of four vectors two and two: a single one has too few sums to hide the latency of an FMA.
    while (vectors - vector >= widest && (widest < 3 || vectors - vector != 4)) strip(std::integral_constant<int, widest>{});
    if constexpr (widest > 2)
        while (vectors - vector >= 2) strip(std::integral_constant<int, 2>{});
    while (vector < vectors) strip(std::integral_constant<int, 1>{});
}

}  // namespace mla::inline MLA_ISA::detail
