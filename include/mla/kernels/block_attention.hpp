// Score, softmax and accumulate: what every attention kernel does with one staged block of keys and values.
#pragma once

#include "mla/kernels/accumulate.hpp"
#include "mla/kernels/score.hpp"
#include "mla/kernels/softmax.hpp"

namespace mla::detail {

/// Lets rows [first, first + N vectors) of the group attend to the block. `scores` holds block_tokens × panel_rows.
template <class Arch, int N, Compute A, class U>
void attend_panel(const RowGroup<A>& group, Index first, const Block<U>& block, A* scores, Prefetch& next) noexcept {
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
                     group.out_stride);
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
