// Score, softmax and accumulate: what every attention kernel does with one staged block of keys and values.
#pragma once

#include "mla/kernels/accumulate.hpp"
#include "mla/kernels/score.hpp"
#include "mla/kernels/softmax.hpp"

namespace mla::detail {

/// Lets rows [first, first + N vectors) of the group attend to the block. `scores` holds block_tokens × panel_rows.
template <class Arch, int N, Compute A, class U>
void attend_panel(const RowGroup<A>& group, Index first, const Block<U>& block, A* scores, simd::Prefetch& next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr Index width = N * Shape::lanes;
    const Index tokens = std::min(block.count(), group.visible[first + width - 1] - block.begin);
    if (tokens <= 0) return;
    const Index units = units_of<U>(group.depth, block.value_dim);
    score_panel<Arch, N>(block, tokens, units, reinterpret_cast<const U*>(group.queries) + first * units, scores, next);
    if (group.visible[first] < block.begin + tokens) {
        alignas(64) A limit[simd::extent<width>];
        for (Index r = 0; r < width; ++r)
            limit[r] = static_cast<A>(std::clamp<Index>(group.visible[first + r] - block.begin, 0, tokens));
        mask_scores<Arch>(tokens, width, limit, scores);
    }
    if (!group.tree.empty()) mask_tree(group, first, width, block.begin, tokens, scores, Index{1}, width);
    PanelFactors<Arch, A> factors;
    softmax_panel(block, tokens, group, first, width, scores, factors);
    accumulate_panel(block, tokens, width, reinterpret_cast<const U*>(scores), factors, group.out + first * group.out_stride,
                     group.out_stride, next);
}

/// Steps of prefetching while `rows` rows attend to one block of `tokens`.
template <class Arch, Compute A, class U>
[[nodiscard]] constexpr Index prefetch_steps(Index rows, Index tokens, Index depth, Index value_dim) noexcept {
    using Shape = AttentionTile<Arch, A>;
    const auto passes = [](Index units) { return divide_up(units, simd::prefetch_depth); };
    const Index padded = round_up(rows, Shape::lanes);
    const Index pairs = padded / Shape::panel_rows;
    const Index singles = divide_up(padded - pairs * Shape::panel_rows, Shape::lanes);
    const Index score_tiles =
        pairs * divide_up(tokens, Shape::score_tokens_pair) + singles * divide_up(tokens, Shape::score_tokens_single);
    const Index strips = divide_up(divide_up(value_dim, Shape::lanes), Shape::template value_vectors<U>);
    const Index steps = score_tiles * passes(divide_up(depth, values_per_unit<U>)) +
                        padded / Shape::value_rows * strips * passes(divide_up(tokens, values_per_unit<U>));
    return std::max<Index>(steps, 1);
}

/// Lets every row of the group attend to the keys of the block that it may see, and fetches `next` meanwhile.
template <class Arch, Compute A, class U>
void attend_block(const RowGroup<A>& group, const Block<U>& block, A* scores, simd::Prefetch next) noexcept {
    using Shape = AttentionTile<Arch, A>;
    const Index padded = round_up(group.rows, Shape::lanes);
    Index first = 0;
    for (; first + Shape::panel_rows <= padded; first += Shape::panel_rows)
        attend_panel<Arch, 2>(group, first, block, scores, next);
    if (first < padded) attend_panel<Arch, 1>(group, first, block, scores, next);
}

}  // namespace mla::detail
