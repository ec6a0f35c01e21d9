// The running state of a softmax, and the one rule by which two parts of it become one.
#pragma once

#include <cmath>
#include <limits>

#include "mla/core/views.hpp"

namespace mla::inline MLA_ISA {

/// What a softmax over some of its scores has seen: their maximum, and Σ exp(score − maximum). Natural logarithms.
/// Nothing seen is {−inf, 0}, the neutral element of `merge`. Keeping the two apart, rather than their LSE, loses nothing
/// when scores are large.
template <Compute A>
struct SoftmaxState {
    A max = -std::numeric_limits<A>::infinity();
    A sum = A(0);

    [[nodiscard]] static SoftmaxState from_lse(A lse) noexcept {
        return {lse, lse == -std::numeric_limits<A>::infinity() ? A(0) : A(1)};
    }
    /// Log of the sum of exponentials; −inf when nothing was seen.
    [[nodiscard]] A lse() const noexcept { return max + std::log(sum); }

    /// exp(max − reference), and 0 rather than NaN when both are −inf.
    [[nodiscard]] A weight(A reference) const noexcept {
        return max == -std::numeric_limits<A>::infinity() ? A(0) : std::exp(max - reference);
    }
};

/// The state of both parts together.
template <Compute A>
[[nodiscard]] SoftmaxState<A> merge(const SoftmaxState<A>& a, const SoftmaxState<A>& b) noexcept {
    const A max = a.max < b.max ? b.max : a.max;
    return {max, a.sum * a.weight(max) + b.sum * b.weight(max)};
}

/// Merges attention over two disjoint sets of keys into the first: `out` [rows, dim] and `lse` [rows] take what attention
/// over both sets would have given. Outputs are normalised, LSE is natural; −inf marks a row that saw no key, and so does the
/// +inf of FlashMLA. What such a row holds as output is not read; a row that saw no key on either side gets output 0 and
/// LSE −inf. `other_out` has the shape of `out` and does not overlap it.
template <Compute A>
void merge(MatrixView<A> out, A* lse, MatrixView<const A> other_out, const A* other_lse) noexcept {
    for (Index r = 0; r < out.rows; ++r) {
        if (std::isinf(other_lse[r]) && !std::isinf(lse[r])) continue;
        if (std::isinf(lse[r])) {
            const bool nothing = std::isinf(other_lse[r]);
            for (Index c = 0; c < out.cols; ++c) out(r, c) = nothing ? A(0) : other_out(r, c);
            lse[r] = nothing ? -std::numeric_limits<A>::infinity() : other_lse[r];
            continue;
        }
        const auto mine = SoftmaxState<A>::from_lse(lse[r]);
        const auto theirs = SoftmaxState<A>::from_lse(other_lse[r]);
        const auto both = merge(mine, theirs);
        const A keep = mine.weight(both.max) / both.sum;
        const A take = theirs.weight(both.max) / both.sum;
        for (Index c = 0; c < out.cols; ++c) out(r, c) = keep * out(r, c) + take * other_out(r, c);
        lse[r] = both.lse();
    }
}

}  // namespace mla::inline MLA_ISA
