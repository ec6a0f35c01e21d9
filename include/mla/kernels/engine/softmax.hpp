// Softmax: a block's scores become probabilities in the unit of the next product, and the running maxima and sums move on.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/reference.hpp"
#include "mla/kernels/engine/tile_shape.hpp"
#include "mla/simd/exp.hpp"

namespace mla::inline MLA_ISA::detail {

/// The largest of a column of scores [tokens, stride width], times its rows' factors.
template <class Target, Compute A>
[[nodiscard]] simd::Batch<Target, A> column_maximum(Index tokens, Index width, const simd::Batch<Target, A>& factor,
                                                    const A* scores) noexcept {
    using Batch = simd::Batch<Target, A>;
    constexpr Index chains = 4;  // a maximum is known after up to four cycles
    const Batch least(-std::numeric_limits<A>::infinity());
    Batch highest[simd::extent<chains>] = {least, least, least, least};
    const Index whole = tokens / chains * chains;
    for (Index t = 0; t < whole; t += chains)
        simd::unroll<chains>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            highest[i] = simd::max(highest[i], Batch::load_unaligned(scores + (t + i) * width));
        });
    for (Index t = whole; t < tokens; ++t) highest[0] = simd::max(highest[0], Batch::load_unaligned(scores + t * width));
    return simd::max(simd::max(highest[0], highest[1]), simd::max(highest[2], highest[3])) * factor;
}

/// Stores p(t) of each token as a column of units [units of tokens, stride width], in the operand's order, and returns Σ p, as
/// rounded.
template <class Target, class Operand, class P>
MLA_ALWAYS_INLINE auto store_probabilities(Index tokens, Index width, P&& probability, typename Operand::Unit* column) noexcept {
    using Batch = decltype(probability(Index{0}));
    using A = typename Batch::value_type;
    const auto units = [=](Index t) MLA_ALWAYS_INLINE_LAMBDA { return column + t / Operand::values_per_unit * width; };
    Batch total(A(0));
    if constexpr (Operand::values_per_unit == 1 && !Operand::second_first) {
        for (Index t = 0; t < tokens; ++t) {
            Batch p = probability(t);
            Operand::template store_units<Target>(p, units(t));
            total += p;
        }
        return total;
    }
    for (Index t = 0; t < tokens; t += 2) {
        const bool alone = t + 1 == tokens;
        Batch first = probability(t);
        Batch second = alone ? Batch(A(0)) : probability(t + 1);
        if constexpr (Operand::values_per_unit == 2) {
            Operand::template store_units<Target>(first, second, units(t));
        } else {
            Operand::template store_units<Target>(first, units(paired(t, tokens)));
            if (!alone) Operand::template store_units<Target>(second, units(t));
        }
        total += first;
        total += second;
    }
    return total;
}

/// Replaces a column of scores [tokens, stride width] by p = exp(factor · score − reference) in units, and returns Σ p, as
/// rounded.
template <class Target, class Operand, Compute A>
simd::Batch<Target, A> exponentiate(Index tokens, Index width, const simd::Batch<Target, A>& factor,
                                    const Reference<simd::Batch<Target, A>>& reference, A* scores) noexcept {
    using Batch = simd::Batch<Target, A>;
    const auto probability = [=](Index t) MLA_ALWAYS_INLINE_LAMBDA {
        const Batch score = Batch::load_unaligned(scores + t * width);
        return simd::exp<Target, A>(Operand::scales_queries ? reference.subtract_from(score)
                                                            : reference.template subtract_from<Target>(score, factor));
    };
    // A pair of rows may shrink to one, which never passes the rows still to be read.
    return store_probabilities<Target, Operand>(tokens, width, probability, reinterpret_cast<typename Operand::Unit*>(scores));
}

/// Units [units of tokens, Width] of p [tokens, Width] · steps[token].
template <class Target, class Operand, Index Width>
void weigh_probabilities(Index tokens, const float* p, const float* steps, typename Operand::Unit* units) noexcept {
    using Batch = simd::Batch<Target, float>;
    for (Index column = 0; column < Width; column += simd::lanes<Target, float>) {
        const auto weighed = [=](Index t) MLA_ALWAYS_INLINE_LAMBDA {
            return Batch::load_unaligned(p + t * Width + column) * Batch(steps[t]);
        };
        store_probabilities<Target, Operand>(tokens, Width, weighed, units + column);
    }
}

/// Replaces scores by integers round(p · weight[token]), with weights of at most Operand::probability_range; returns Σ p, not
/// rounded.
/// The reference is the column's own maximum.
template <class Target, class Operand, Compute A>
simd::Batch<Target, A> exponentiate_weighted(Index tokens, Index width, const simd::Batch<Target, A>& factor,
                                             const simd::Batch<Target, A>& reference, const A* weight, A* scores) noexcept {
    using Batch = simd::Batch<Target, A>;
    using Unit = typename Operand::Unit;
    Batch total(A(0));
    const auto weighted = [&](Index t) MLA_ALWAYS_INLINE_LAMBDA {
        const Batch p = simd::exp<Target, A>(simd::fma<Target, A>(Batch::load_unaligned(scores + t * width), factor, -reference));
        total += p;
        // The largest passes 1 where its score and its maximum were rounded differently.
        return simd::min(Batch(A(1)), p) * Batch(weight[t]);
    };
    for (Index t = 0; t < tokens; t += 2) {
        const Batch first = weighted(t);
        const Batch second = t + 1 < tokens ? weighted(t + 1) : Batch(A(0));
        Operand::template store_units<Target>(first, second, reinterpret_cast<Unit*>(scores + t / 2 * width));
    }
    return total;
}

/// weight[token] = its share of the largest step of the block, in integers up to ±Operand::probability_range. Returns what one
/// of them stands for. A token whose step is no number weighs 0: rows that see it have a sum of NaN, the others do not mind it.
template <class Operand, Compute A>
[[nodiscard]] A weigh_steps(const float* steps, Index tokens, A* weight) noexcept {
    A largest(0);
    for (Index t = 0; t < tokens; ++t) {
        weight[t] = std::isfinite(steps[t]) ? static_cast<A>(steps[t]) : A(0);
        largest = std::max(largest, std::abs(weight[t]));
    }
    if (largest == A(0)) return A(0);
    for (Index t = 0; t < tokens; ++t) weight[t] *= Operand::probability_range / largest;
    return largest / Operand::probability_range;
}

/// Turns scores [tokens, rows of the panel] into probabilities in units, raises the rows' running maxima, and sets what their
/// outputs so far must be multiplied by. A row that has seen no key keeps maximum −inf and sum 0.
///
/// Probabilities that are integers count from the block's own maximum, so that a block far below the running one keeps its tail.
template <class Target, Index Width, Compute A, class Source>
void softmax_panel(const RowGroup<A>& group, const Panel& panel, const Source& block, A* scores,
                   RowFactors<A>& factors) noexcept {
    using Batch = simd::Batch<Target, A>;
    using Operand = typename Source::Operand;
    constexpr Index weights = Operand::integers ? block_tokens : 1;
    A weight[simd::extent<weights>];
    A step(0);
    if constexpr (Operand::integers) step = weigh_steps<Operand>(block.steps.latent, panel.tokens, weight);
    for (Index column = 0; column < Width; column += simd::lanes<Target, A>) {
        A* const max = group.max + panel.row + column;
        A* const sum = group.sum + panel.row + column;
        const Batch factor = Batch::load_unaligned(group.factors + panel.row + column);
        const Batch before = Batch::load_unaligned(max);
        const Batch here = column_maximum<Target>(panel.tokens, Width, factor, scores + column);
        const Batch highest = simd::max(before, whole_maximum(here));
        const Reference<Batch> reference(highest, here);
        const Batch rescale = simd::power_of_two<Target, A>(before - finite_reference(highest));
        Batch total;
        if constexpr (Operand::integers) {
            const Batch share = simd::exp<Target, A>(reference.subtract_from(here));
            total = share * exponentiate_weighted<Target, operands::ProbabilitiesOf<Operand>>(
                                panel.tokens, Width, factor, finite_reference(here), weight, scores + column);
            (share * Batch(step)).store_unaligned(factors.step + panel.offset + column);
        } else {
            total =
                exponentiate<Target, operands::ProbabilitiesOf<Operand>>(panel.tokens, Width, factor, reference, scores + column);
        }
        highest.store_unaligned(max);
        simd::fma<Target, A>(Batch::load_unaligned(sum), rescale, total).store_unaligned(sum);
        rescale.store_unaligned(factors.rescale + panel.offset + column);
    }
}

}  // namespace mla::inline MLA_ISA::detail
