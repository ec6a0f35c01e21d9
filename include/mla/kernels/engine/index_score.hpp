// The scores by which an indexer chooses keys (DeepSeek-V3.2, section 2.1): the score step of attention over the heads of one
// query, whose sums are added up, weighted, where they are positive.
#pragma once

#include "mla/core/float_environment.hpp"
#include "mla/formats/formats.hpp"
#include "mla/kernels/engine/attend_block.hpp"
#include "mla/kernels/engine/pack_queries.hpp"
#include "mla/kernels/engine/run_item.hpp"
#include "mla/kernels/engine/staged_block.hpp"

namespace mla::inline MLA_ISA::detail {

/// index[t] += Σ_h weights[h] · relu(scores[t, h]) over the rows of `panels`. Of a vector of tokens at a time, so that the sums
/// of their lanes are vectors too: to 1024 products of 64 heads on AVX2 this adds 8.
template <class Target, Compute A>
void add_heads(const PanelBatch<Target, A>& panels, const A* scores, const A* weights, A* index) noexcept {
    using Batch = simd::Batch<Target, A>;
    constexpr Index lanes = simd::lanes<Target, A>;
    const Batch zero(A(0));
    for (Index first = 0; first < panels.tokens(); first += lanes) {
        Batch sums[simd::extent<lanes>];
        for (Batch& sum : sums) sum = zero;
        panels.each([&]<int N>(std::integral_constant<int, N>, const Panel& panel) {
            constexpr Index width = N * lanes;
            const A* cell = scores + panel.offset * block_tokens + first * width;
            for (Index t = 0; t < lanes; ++t, cell += width)
                simd::unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA {
                    const Batch score = Batch::load_unaligned(cell + n * lanes);
                    // NaN is no less than 0 and stays.
                    sums[t] = simd::fma<Target, A>(simd::select(score < zero, zero, score),
                                                   Batch::load_unaligned(weights + panel.row + n * lanes), sums[t]);
                });
        });
        (simd::sum_lanes_of_each<Target, A>(sums) + Batch::load_unaligned(index + first)).store_unaligned(index + first);
    }
}

template <class Target, class Operand, class C, Compute A>
void score_index(const abi::ScoreIndex<A>* call) noexcept {
    const FloatEnvironment environment;
    const RowGroup<A>& group = *call->block.group;
    std::fill_n(call->index, round_up(call->block.tokens, simd::lanes<Target, A>), A(0));
    with_block<Target, Operand, C>(call->block, [&](auto&& block) {
        using Source = std::remove_cvref_t<decltype(block)>;
        const Index steps = prefetch_steps<Target, A, Source>(group.rows, call->block.tokens, group.depth, 0);
        simd::Prefetch next = fetch_next<C>(call->block, steps);
        ProductsOf<Target, Operand> products;
        for (Index first = 0; first < group.rows; first += batch_rows) {
            const PanelBatch<Target, A> panels(group, first, block.begin, block.count());
            products.score(group, panels, block, call->block.scores, next);
            add_heads(panels, call->block.scores, call->weights, call->index);
        }
    });
}

/// Queries of any number of heads are packed in panels.
template <class Target, class Operand, Compute A>
void pack_index(const abi::PackQueries<A>* call) noexcept {
    const FloatEnvironment environment;
    pack_panels<Target, Operand>(*call);
}

template <class Target, class Operand, CacheElement C, Compute A>
inline constexpr abi::IndexKernels<A> index_kernels_of{run_item<Target, Operand>, pack_index<Target, Operand, A>,
                                                       score_index<Target, Operand, C, A>};

template <class Target, Compute A, CacheElement C, Precision P>
inline constexpr abi::IndexKernels<A> index_scores_of = index_kernels_of<Target, operands::OperandOf<Target, A, C, P>, C, A>;

}  // namespace mla::inline MLA_ISA::detail
