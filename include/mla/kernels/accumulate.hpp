// Accumulate: probabilities times a block's values.
#pragma once

#include "mla/kernels/softmax.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::detail {

/// Listed rows from number `first` on, each from a column on, as the B of a product.
template <class U>
struct ListedColumns {
    static constexpr int interleave = 1;
    const RowList<U>& rows;
    Index first;
    Index column;
    MLA_ALWAYS_INLINE const U* row(Index k) const { return rows[first + k] + column; }
    static constexpr Index offset(Index n) { return n; }
    MLA_ALWAYS_INLINE void advance(Index k) { first += k; }
};

/// Brings rows of a tile of outputs into L1 while its products are summed.
template <int Rows, Compute A>
MLA_ALWAYS_INLINE void fetch_outputs(const A* out, Index stride, Index columns) noexcept {
    constexpr Index line = 64 / static_cast<Index>(sizeof(A));
    simd::unroll<Rows>([=](auto row) MLA_ALWAYS_INLINE_LAMBDA {
        for (Index column = 0; column < columns; column += line) __builtin_prefetch(out + row * stride + column, 1, 3);
    });
}

/// out [M, N vectors] = rescale · out + Pᵀ · values, over `units` of tokens.
template <class Arch, int M, int N, Compute A, class U>
MLA_NEVER_INLINE void value_tile(Index units, const simd::ColumnOperand<U>& p, const ListedColumns<U>& values, const A* rescale,
                                 [[maybe_unused]] const A* step, A* out, Index out_stride, simd::Prefetch& next) noexcept {
    fetch_outputs<M>(out, out_stride, N * simd::lanes<Arch, A>);
    simd::Tile<Arch, Accumulator<U, A>, M, N> tile;
    tile.clear();
    tile.multiply(units, p, values, next);
    if constexpr (is_quantised<U>) {
        tile.add_steps_to_scaled(out, out_stride, rescale, step);
    } else {
        tile.add_to_scaled(out, out_stride, rescale);
    }
}

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
        // Of four vectors two and two: a single one has too few sums to hide the latency of an FMA.
        for (; vector + N <= vectors && (N < 3 || vectors - vector != 4); vector += N)
            for (Index row = 0; row < width; row += M)
                value_tile<Arch, M, N, A, U>(units, {p + row, width}, {block.values, 0, vector * Shape::lanes},
                                             factors.rescale + row, factors.step + row,
                                             out + row * out_stride + vector * Shape::lanes, out_stride, next);
    };
    constexpr int widest = Shape::template value_vectors<U>;
    strips(std::integral_constant<int, widest>{});
    if constexpr (widest > 2) strips(std::integral_constant<int, 2>{});
    strips(std::integral_constant<int, 1>{});
}

}  // namespace mla::detail
