// What rows of queries have seen of some of their keys, and how that becomes what they have seen of all.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "mla/core/workspace.hpp"
#include "mla/math/softmax_state.hpp"

namespace mla::inline MLA_ISA::detail {

/// States of consecutive rows: a maximum, a sum and an output each, not yet divided by the sum.
template <Compute A>
struct States {
    A* max = nullptr;
    A* sum = nullptr;
    A* out = nullptr;
    Index out_stride = 0;

    static States carve(Arena& arena, Index rows, Index out_stride) {
        States s;
        s.max = arena.take<A>(rows);
        s.sum = arena.take<A>(rows);
        s.out = arena.take<A>(rows * out_stride);
        s.out_stride = out_stride;
        return s;
    }
    /// Those from a row on.
    [[nodiscard]] States from(Index row) const noexcept { return {max + row, sum + row, out + row * out_stride, out_stride}; }
};

/// Merges the states of `rows` rows, of keys that follow those of `states`, into these. The weights are powers of two, so that
/// only sums are rounded.
template <Compute A>
void merge_states(const States<A>& states, const States<A>& other, Index rows, Index dim) noexcept {
    for (Index r = 0; r < rows; ++r) {
        const SoftmaxState<A> mine{states.max[r], states.sum[r]};
        const SoftmaxState<A> theirs{other.max[r], other.sum[r]};
        const SoftmaxState<A> both = merge(mine, theirs);
        const A weight = mine.weight(both.max);
        const A other_weight = theirs.weight(both.max);
        A* MLA_RESTRICT out = states.out + r * states.out_stride;
        const A* MLA_RESTRICT from = other.out + r * other.out_stride;
        for (Index c = 0; c < dim; ++c) out[c] = out[c] * weight + from[c] * other_weight;
        states.max[r] = both.max;
        states.sum[r] = both.sum;
    }
}

/// Where the states of one row for consecutive parts of its keys lie, `step` rows apart.
struct Partials {
    Index first = 0;
    Index count = 0;
    Index step = 0;
};

/// Merges them into the first: neighbours, then pairs of neighbours, in the order of the keys.
template <Compute A>
void merge_partials(const States<A>& states, const Partials& parts, Index dim) noexcept {
    for (Index apart = 1; apart < parts.count; apart *= 2)
        for (Index i = 0; i + apart < parts.count; i += 2 * apart)
            merge_states(states.from(parts.first + i * parts.step), states.from(parts.first + (i + apart) * parts.step), 1, dim);
}

/// Writes out [dim] and lse (when not null) of a row from its state of all keys. A row that saw no key gets output 0 and LSE
/// −inf. `sink` is the logit of a key without a value, −inf for none; it is no part of the LSE.
template <Compute A>
void write_output(const States<A>& whole, A sink, Index dim, A* out, A* lse) noexcept {
    const SoftmaxState<A> total{*whole.max, *whole.sum};
    // A sum that is NaN is not equal to 0 either: a poisoned row must not pass for an empty one.
    if (total.sum != A(0)) {
        const A weight = A(1) / (total.sum + std::exp2(sink * std::numbers::log2e_v<A> - total.max));
        for (Index c = 0; c < dim; ++c) out[c] = weight * whole.out[c];
    } else {
        std::fill_n(out, dim, A(0));
    }
    if (lse != nullptr) *lse = total.lse();
}

}  // namespace mla::inline MLA_ISA::detail
