// The running state of a softmax, and the one rule by which two parts of it become one.
#pragma once

#include <cmath>
#include <limits>
#include <numbers>

#include "mla/core/views.hpp"

namespace mla::inline MLA_ISA {

/// What a softmax over some of its scores has seen: n near the logarithm to base 2 of the largest exponential, and Σ e^score /
/// 2ⁿ. Nothing seen is {−inf, 0}, the neutral element of `merge`. Keeping the two apart, rather than their LSE, loses nothing
/// when scores are large.
template <Compute A>
struct SoftmaxState {
    A max = -std::numeric_limits<A>::infinity();
    A sum = A(0);

    /// Natural logarithm of the sum of exponentials; −inf when nothing was seen.
    [[nodiscard]] A lse() const noexcept { return (max + std::log2(sum)) * std::numbers::ln2_v<A>; }

    /// 2^(max − reference), and 0 rather than NaN when both are −inf.
    [[nodiscard]] A weight(A reference) const noexcept {
        return max == -std::numeric_limits<A>::infinity() ? A(0) : std::exp2(max - reference);
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
        const A larger = lse[r] < other_lse[r] ? other_lse[r] : lse[r];
        const A mine = std::exp(lse[r] - larger);
        const A theirs = std::exp(other_lse[r] - larger);
        const A both = mine + theirs;
        for (Index c = 0; c < out.cols; ++c) out(r, c) = mine / both * out(r, c) + theirs / both * other_out(r, c);
        lse[r] = larger + std::log(both);
    }
}

}  // namespace mla::inline MLA_ISA
