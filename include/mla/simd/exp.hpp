// The exponential of the softmax.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::simd {

/// f of a lane at a time: doubles are for who wants them exact.
template <class Target, Compute A, class F>
[[nodiscard]] Batch<Target, A> each_lane(const Batch<Target, A>& x, const F& f) noexcept {
    alignas(64) A lane[extent<lanes<Target, A>>];
    x.store_aligned(lane);
    for (A& value : lane) value = f(value);
    return Batch<Target, A>::load_aligned(lane);
}

/// eˣ for x of at most 88, as differences from a maximum are: exactly 1 at 0, and 0 below −87.3, where floats lose their bits.
/// NaN stays NaN. Floats err by at most 1.5 units in the last place (1 with FMA).
template <class Target, Compute A>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, A> exp(const Batch<Target, A>& x) noexcept {
    if constexpr (std::is_same_v<A, float>) {
        using Batch = simd::Batch<Target, float>;
        using Integers = simd::Batch<Target, std::int32_t>;
        // x = n ln 2 + r, with ln 2 in two parts, the first of which n multiplies exactly
        const Integers n = nearbyint_as_int(x * Batch(0x1.715476p+0F));
        const Batch whole = to_float(n);
        const Batch r =
            simd::fma<Target, float>(whole, Batch(-0x1.7f7d1cp-20F), simd::fma<Target, float>(whole, Batch(-0x1.62e4p-1F), x));
        // The minimax polynomial of degree 6 that begins 1 + r: it errs by less than 4e-9 for |r| up to half of ln 2.
        Batch p(0x1.6a23dp-10F);
        for (const float c : {0x1.123a2p-7F, 0x1.5558f2p-5F, 0x1.555492p-3F, 0x1.fffffcp-2F, 1.0F, 1.0F})
            p = simd::fma<Target, float>(p, r, Batch(c));
        const auto scaled = std::bit_cast<Batch>(std::bit_cast<Integers>(p) + (n << 23));  // p · 2ⁿ
        return select(x < Batch(-87.3F), Batch(0.0F), scaled);
    } else {
        return each_lane<Target, A>(x, [](A value) { return std::exp(value); });
    }
}

/// 2ⁿ of a whole n of at most 127: 0 below −126, as of −inf.
template <class Target, Compute A>
[[nodiscard]] MLA_ALWAYS_INLINE Batch<Target, A> power_of_two(const Batch<Target, A>& n) noexcept {
    if constexpr (std::is_same_v<A, float>) {
        using Integers = simd::Batch<Target, std::int32_t>;
        const Integers exponent = nearbyint_as_int(max(Batch<Target, A>(-127.0F), n)) + Integers(127);
        return std::bit_cast<Batch<Target, A>>(exponent << 23);
    } else {
        return each_lane<Target, A>(n, [](A value) { return std::exp2(value); });
    }
}

}  // namespace mla::inline MLA_ISA::simd
