// Accumulate: probabilities times a block's values.
#pragma once

#include "mla/kernels/softmax.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::detail {

/// Listed rows from number `first` on, each from a column on, as the B of a product.
template <class U>
struct ListedColumns {
    const RowList<U>& rows;
    Index first;
    Index column;
    MLA_ALWAYS_INLINE const U* at(Index k, Index n) const { return rows[first + k] + column + n; }
};

/// out [width rows, value_dim] = rescale · out + Pᵀ · values, with P [tokens, width] in units. Fetches `next` meanwhile.
template <class Arch, Compute A, class U>
void accumulate_panel(const Block<U>& block, Index tokens, Index width, const U* p, const PanelFactors<Arch, A>& factors, A* out,
                      Index out_stride, simd::Prefetch& next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr int M = Shape::value_rows;
    const Index vectors = divide_up(block.value_dim, Shape::lanes);
    const Index units = divide_up(tokens, values_per_unit<U>);
    Index vector = 0;
    // All rows pass over a strip of values before the next strip, so that the strip is read from L1.
    const auto strips = [&]<int N>(std::integral_constant<int, N>) {
        for (; vector + N <= vectors; vector += N)
            for (Index row = 0; row < width; row += M) {
                simd::Tile<Arch, Accumulator<U, A>, M, N> tile;
                tile.clear();
                for (Index k = 0; k < units; k += simd::prefetch_depth) {
                    tile.multiply(std::min(simd::prefetch_depth, units - k), simd::ColumnOperand<U>{p + k * width + row, width},
                                  ListedColumns<U>{block.values, k, vector * Shape::lanes});
                    next.step();
                }
                A* const target = out + row * out_stride + vector * Shape::lanes;
                if constexpr (is_quantised<U>) {
                    tile.add_steps_to_scaled(target, out_stride, factors.rescale + row, factors.step + row);
                } else {
                    tile.add_to_scaled(target, out_stride, factors.rescale + row);
                }
            }
    };
    constexpr int widest = Shape::template value_vectors<U>;
    strips(std::integral_constant<int, widest>{});
    if constexpr (widest > 2) strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

}  // namespace mla::detail
