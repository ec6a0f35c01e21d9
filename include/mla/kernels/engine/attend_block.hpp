// Score, softmax and accumulate: what every attention kernel does with one block of keys and values.
#pragma once

#include "mla/kernels/engine/accumulate.hpp"
#include "mla/kernels/engine/byte_products.hpp"
#include "mla/kernels/engine/score.hpp"
#include "mla/kernels/engine/softmax.hpp"
#include "mla/kernels/engine/tile_products.hpp"

namespace mla::inline MLA_ISA::detail {

/// The same products in vectors.
template <class Target>
struct VectorProducts {
    template <Compute A, class Source>
    static void score(const RowGroup<A>& group, const PanelBatch<Target, A>& panels, Source& block, A* scores,
                      simd::Prefetch& next) noexcept {
        score_panels(group, panels, block, scores, next);
    }
    /// Probabilities that wait for steps are weighed with those of some values before these are multiplied, in the upper half of
    /// `p`.
    template <Compute A, class Source>
    static void accumulate(const RowGroup<A>& group, const PanelBatch<Target, A>& panels, Source& block, A* p,
                           const RowFactors<A>& factors, simd::Prefetch& next) noexcept {
        using Operand = typename Source::Operand;
        if constexpr (std::is_same_v<operands::ProbabilitiesOf<Operand>, Operand>) {
            accumulate_columns(group, panels, block, {0, block.value_dim}, p, factors, next);
        } else {
            A* const weighed = p + panels.rows() * block_tokens;
            each_step(block, [&](const Columns& columns, const float* steps) {
                panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
                    const Index at = panel.offset * block_tokens;
                    auto* const units = reinterpret_cast<typename Operand::Unit*>(weighed + at);
                    weigh_probabilities<Target, Operand, V * simd::lanes<Target, A>>(panel.tokens, p + at, steps, units);
                });
                accumulate_columns(group, panels, block, columns, weighed, factors, next);
            });
        }
    }
};

/// What makes the products of an operand: `score` and `accumulate`.
template <class Target, class Operand>
using ProductsOf = std::conditional_t<!Operand::in_tiles, VectorProducts<Target>,
                                      std::conditional_t<Operand::integers, ByteProducts<Target>, TileProducts<Target>>>;

/// Hides the scores [tokens, width] of keys from the panel's rows that may not see them.
template <class Target, Index Width, Compute A>
void mask_panel(const RowGroup<A>& group, const Panel& panel, Index begin, A* scores) noexcept {
    if (group.visible[panel.row] < begin + panel.tokens) {
        alignas(64) A limit[simd::extent<Width>];
        for (Index r = 0; r < Width; ++r)
            limit[r] = static_cast<A>(std::clamp<Index>(group.visible[panel.row + r] - begin, 0, panel.tokens));
        mask_scores<Target>(panel.tokens, Width, limit, scores);
    }
    if (group.tree != nullptr)
        mask_tree(group, panel.row, Width, begin, panel.tokens, [=](Index r, Index t) -> A& { return scores[t * Width + r]; });
}

/// Steps of prefetching while `rows` rows attend to one block of `tokens`, as Source hands it out.
template <class Target, Compute A, class Source>
[[nodiscard]] constexpr Index prefetch_steps(Index rows, Index tokens, Index depth, Index value_dim) noexcept {
    using Shape = AttentionTile<Target, A>;
    using Operand = typename Source::Operand;
    if constexpr (Operand::in_tiles)
        return ProductsOf<Target, Operand>::prefetch_steps(rows, tokens, operands::units_of<Operand>(depth, value_dim),
                                                           value_dim);
    const Index padded = round_up(rows, Shape::lanes);
    const Index pairs = padded / Shape::panel_rows;
    const Index singles = divide_up(padded - pairs * Shape::panel_rows, Shape::lanes);
    const Index score_tiles =
        pairs * divide_up(tokens, Shape::score_tokens_pair) + singles * divide_up(tokens, Shape::score_tokens_single);
    const bool by_parity = Source::values_by_parity && rows <= Shape::lanes;
    const Index strips = divide_up(divide_up(value_dim, Shape::lanes), by_parity ? 2 : Shape::template value_vectors<Operand>);
    const Index steps =
        score_tiles * divide_up(divide_up(depth, Operand::values_per_unit), Shape::score_step) +
        padded / Shape::value_rows * strips * divide_up(divide_up(tokens, Operand::values_per_unit), Shape::value_step);
    return std::max<Index>(steps, 1);
}

/// Lets every row of the group attend to the keys of the block that it may see, and fetches `next` meanwhile. `scores` holds
/// score_elements(group.rows, lanes).
template <class Target, Compute A, class Source>
void attend_block(const RowGroup<A>& group, Source&& block, A* scores, simd::Prefetch next) noexcept {
    ProductsOf<Target, typename std::remove_cvref_t<Source>::Operand> products;
    for (Index first = 0; first < group.rows; first += batch_rows) {
        const PanelBatch<Target, A> panels(group, first, block.begin, block.count());
        RowFactors<A> factors;
        products.score(group, panels, block, scores, next);
        panels.each([&]<int N>(std::integral_constant<int, N>, const Panel& panel) {
            constexpr Index width = N * simd::lanes<Target, A>;
            A* const panel_scores = scores + panel.offset * block_tokens;
            mask_panel<Target, width>(group, panel, block.begin, panel_scores);
            softmax_panel<Target, width>(group, panel, block, panel_scores, factors);
        });
        products.accumulate(group, panels, block, scores, factors, next);
    }
}

}  // namespace mla::inline MLA_ISA::detail
