// What probabilities are relative to: a power of two, so that they round to the same values in any block and range of keys.
#pragma once

#include <cmath>
#include <limits>
#include <numbers>

#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::detail {

/// A softmax's running maximum as a whole number n, the nearest logarithm to base 2 of e^maximum: probabilities are e^score / 2ⁿ,
/// of which another n changes the exponent alone, but for a float's last bits. −inf where no score was seen.
template <class Batch>
[[nodiscard]] MLA_ALWAYS_INLINE Batch whole_maximum(const Batch& maximum) noexcept {
    return simd::nearbyint(maximum * Batch(std::numbers::log2e_v<typename Batch::value_type>));
}

/// exp(−inf − 0) is 0, where exp(−inf − −inf) would be NaN.
template <class Batch>
[[nodiscard]] MLA_ALWAYS_INLINE Batch finite_reference(const Batch& maximum) noexcept {
    const Batch nothing(-std::numeric_limits<typename Batch::value_type>::infinity());
    return simd::select(maximum == nothing, Batch(typename Batch::value_type(0)), maximum);
}

/// n ln 2 in two parts, of which a score loses nothing to the first. `maximum` is that of the scores to come. From 2²⁰ on, where
/// floats are sixteenths apart and their products with ln 2 wider than that, it is the largest of them that is subtracted.
template <class Batch>
struct Reference {
    using A = typename Batch::value_type;
    static constexpr A high_part = A(355) / A(512);
    static constexpr A low_part = A(-2.1219444005469058273e-4);  // ln 2 − 355/512

    Reference() noexcept = default;
    Reference(const Batch& n, const Batch& maximum) noexcept {
        const Batch whole = finite_reference(n);
        const Batch product = whole * Batch(high_part);
        const auto near = simd::abs(whole) < Batch(A(0x1p20));
        high = simd::select(near, product, simd::max(product, maximum));
        low = simd::select(near, whole * Batch(low_part), Batch(A(0)));
    }
    [[nodiscard]] MLA_ALWAYS_INLINE Batch subtract_from(const Batch& score) const noexcept { return score - high - low; }
    /// The same of score · factor.
    template <class Target>
    [[nodiscard]] MLA_ALWAYS_INLINE Batch subtract_from(const Batch& score, const Batch& factor) const noexcept {
        return simd::fma<Target, A>(score, factor, -high) - low;
    }

    Batch high;
    Batch low;
};

}  // namespace mla::inline MLA_ISA::detail
