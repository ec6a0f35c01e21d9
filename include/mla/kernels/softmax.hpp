// Softmax: a block's scores become probabilities in the unit of the next product, and the running maxima and sums move on.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "mla/kernels/row_group.hpp"
#include "mla/simd/exp.hpp"
#include "mla/simd/fma.hpp"

namespace mla::detail {

/// What the outputs of a batch's rows so far must be multiplied by, and, of whole numbers, what those of the next products stand
/// for.
template <Compute A>
struct RowFactors {
    alignas(64) A rescale[simd::extent<batch_rows>];
    alignas(64) A step[simd::extent<batch_rows>];
};

/// exp(−inf − 0) is 0, where exp(−inf − −inf) would be NaN.
template <class Batch>
[[nodiscard]] MLA_ALWAYS_INLINE Batch finite_reference(const Batch& maximum) noexcept {
    const Batch nothing(-std::numeric_limits<typename Batch::value_type>::infinity());
    return xsimd::select(maximum == nothing, Batch(typename Batch::value_type(0)), maximum);
}

/// The largest of a column of scores [tokens, stride width], times its rows' factors.
template <class Arch, Compute A>
[[nodiscard]] simd::Batch<Arch, A> column_maximum(Index tokens, Index width, const simd::Batch<Arch, A>& factor,
                                                  const A* scores) noexcept {
    using Batch = simd::Batch<Arch, A>;
    Batch highest(-std::numeric_limits<A>::infinity());
    for (Index t = 0; t < tokens; ++t) highest = xsimd::max(highest, Batch::load_unaligned(scores + t * width));
    return highest * factor;
}

/// Replaces a column of scores [tokens, stride width] by p = exp(factor · score − reference) in units, and returns Σ p, as
/// rounded.
template <class Arch, class U, Compute A>
simd::Batch<Arch, A> exponentiate(Index tokens, Index width, const simd::Batch<Arch, A>& factor,
                                  const simd::Batch<Arch, A>& reference, A* scores) noexcept {
    using Batch = simd::Batch<Arch, A>;
    const auto probability = [=](Index t) MLA_ALWAYS_INLINE_LAMBDA {
        const Batch score = Batch::load_unaligned(scores + t * width);
        return simd::exp<Arch, A>(std::is_same_v<U, A> ? score - reference : simd::fma(score, factor, -reference));
    };
    Batch total(A(0));
    if constexpr (std::is_same_v<U, A>) {
        for (Index t = 0; t < tokens; ++t) {
            const Batch p = probability(t);
            total += p;
            p.store_unaligned(scores + t * width);
        }
    } else {
        // A pair of rows shrinks to one, which never passes the rows still to be read.
        for (Index t = 0; t < tokens; t += 2) {
            Batch first = probability(t);
            Batch second = t + 1 < tokens ? probability(t + 1) : Batch(A(0));
            const auto pairs = simd::round_to_pairs<Arch>(first, second);
            total += first + second;
            pairs.store_unaligned(reinterpret_cast<std::uint32_t*>(scores + t / 2 * width));
        }
    }
    return total;
}

/// The same to whole numbers round(p · weight[token]), with weights of at most Int16Range::probability; returns Σ p, not rounded.
template <class Arch, Compute A>
simd::Batch<Arch, A> exponentiate_quantised(Index tokens, Index width, const simd::Batch<Arch, A>& factor,
                                            const simd::Batch<Arch, A>& reference, const A* weight, A* scores) noexcept {
    using Batch = simd::Batch<Arch, A>;
    Batch total(A(0));
    const auto weighted = [&](Index t) MLA_ALWAYS_INLINE_LAMBDA {
        const Batch p = simd::exp<Arch, A>(simd::fma(Batch::load_unaligned(scores + t * width), factor, -reference));
        total += p;
        // The largest passes 1 where its score and its maximum were rounded differently.
        return xsimd::min(Batch(A(1)), p) * Batch(weight[t]);
    };
    for (Index t = 0; t < tokens; t += 2) {
        const Batch first = weighted(t);
        const Batch second = t + 1 < tokens ? weighted(t + 1) : Batch(A(0));
        simd::pair_lanes<Arch>(first, second).store_unaligned(reinterpret_cast<std::uint32_t*>(scores + t / 2 * width));
    }
    return total;
}

/// weight[token] = its share of the largest step of the block, in whole numbers up to ±Int16Range::probability. Returns what one
/// of them stands for. A token whose step is no number weighs 0: rows that see it have a sum of NaN, the others do not mind it.
template <Compute A>
[[nodiscard]] A weigh_steps(const float* steps, Index tokens, A* weight) noexcept {
    A largest(0);
    for (Index t = 0; t < tokens; ++t) {
        weight[t] = std::isfinite(steps[t]) ? static_cast<A>(steps[t]) : A(0);
        largest = std::max(largest, std::abs(weight[t]));
    }
    if (largest == A(0)) return A(0);
    for (Index t = 0; t < tokens; ++t) weight[t] *= Int16Range::probability / largest;
    return largest / Int16Range::probability;
}

/// Turns scores [tokens, rows of the panel] into probabilities in units, raises the rows' running maxima, and sets what their
/// outputs so far must be multiplied by. A row that has seen no key keeps maximum −inf and sum 0.
///
/// Probabilities of whole numbers count from the block's own maximum, so that a block far below the running one keeps its tail.
template <class Arch, Index Width, Compute A, class Source>
void softmax_panel(const RowGroup<A>& group, const Panel& panel, const Source& block, A* scores,
                   RowFactors<A>& factors) noexcept {
    using Batch = simd::Batch<Arch, A>;
    using U = typename Source::Unit;
    constexpr Index weights = is_quantised<U> ? block_tokens : 1;
    A weight[simd::extent<weights>];
    A step(0);
    if constexpr (is_quantised<U>) step = weigh_steps(block.steps.latent, panel.tokens, weight);
    for (Index column = 0; column < Width; column += simd::lanes<Arch, A>) {
        A* const max = group.max + panel.row + column;
        A* const sum = group.sum + panel.row + column;
        const Batch factor = Batch::load_unaligned(group.factors + panel.row + column);
        const Batch before = Batch::load_unaligned(max);
        const Batch here = column_maximum<Arch>(panel.tokens, Width, factor, scores + column);
        const Batch highest = xsimd::max(before, here);
        const Batch reference = finite_reference(highest);
        const Batch rescale = simd::exp<Arch, A>(before - reference);
        Batch total;
        if constexpr (is_quantised<U>) {
            const Batch share = simd::exp<Arch, A>(here - reference);
            total = share *
                    exponentiate_quantised<Arch>(panel.tokens, Width, factor, finite_reference(here), weight, scores + column);
            (share * Batch(step)).store_unaligned(factors.step + panel.offset + column);
        } else {
            total = exponentiate<Arch, U>(panel.tokens, Width, factor, reference, scores + column);
        }
        highest.store_unaligned(max);
        simd::fma(Batch::load_unaligned(sum), rescale, total).store_unaligned(sum);
        rescale.store_unaligned(factors.rescale + panel.offset + column);
    }
}

}  // namespace mla::detail
