// Output gates: values times the sigmoid of something learned.
#pragma once

#include <cmath>

#include "mla/core/chosen_target.hpp"
#include "mla/core/float_environment.hpp"
#include "mla/core/views.hpp"
#include "mla/simd/exp.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

/// 1 / (1 + e⁻ˣ). Below −87, where the exponential would overflow, as at −87: 1.6e-38.
template <class Target, Compute A>
[[nodiscard]] MLA_ALWAYS_INLINE simd::Batch<Target, A> sigmoid(const simd::Batch<Target, A>& x) noexcept {
    using Batch = simd::Batch<Target, A>;
    const Batch one(A(1));
    const Batch least(A(-87));
    return one / (one + simd::exp<Target, A>(-simd::select(x < least, least, x)));
}

template <class Target, Compute A>
void multiply_by_sigmoid(A* values, const A* logits, Index count) noexcept {
    const FloatEnvironment environment;
    using Batch = simd::Batch<Target, A>;
    constexpr Index width = simd::lanes<Target, A>;
    Index i = 0;
    for (; i + width <= count; i += width)
        (Batch::load_unaligned(values + i) * sigmoid<Target, A>(Batch::load_unaligned(logits + i))).store_unaligned(values + i);
    if (i == count) return;
    alignas(64) A rest[simd::extent<width>] = {};
    std::copy_n(logits + i, count - i, rest);
    sigmoid<Target, A>(Batch::load_aligned(rest)).store_aligned(rest);
    for (Index r = 0; i + r < count; ++r) values[i + r] *= rest[r];
}

template <class Target, Compute A>
inline constexpr abi::GateKernels<A> gate_of{multiply_by_sigmoid<Target, A>};

template <Compute A>
[[nodiscard]] abi::GateKernels<A> gate_kernels() {
#if MLA_IS_COMPILED
    return chosen_kernels<A>().gate;
#else
    return gate_of<targets::native, A>;
#endif
}

}  // namespace detail

/// o[t, h] ← o[t, h] · sigmoid(logits[t, h]), one a value. o, logits [T, H, Dv], which do not overlap.
/// @throws std::invalid_argument as chosen_target does, where kernels are compiled
template <Compute A>
void gate_values(HeadsView<A> o, HeadsView<const A> logits) {
    const abi::GateKernels<A> kernels = detail::gate_kernels<A>();
    for (Index t = 0; t < o.tokens; ++t)
        for (Index h = 0; h < o.heads; ++h) kernels.multiply_by_sigmoid(o.at(t, h), logits.at(t, h), o.dim);
}

/// o[t, h] ← o[t, h] · sigmoid(logits[t, h]), one for all values of a head. o [T, H, Dv], logits [T, H].
/// @throws std::invalid_argument as chosen_target does, where kernels are compiled
template <Compute A>
void gate_heads(HeadsView<A> o, MatrixView<const A> logits) {
    const abi::GateKernels<A> kernels = detail::gate_kernels<A>();
    for (Index t = 0; t < o.tokens; ++t)
        for (Index h = 0; h < o.heads; ++h) {
            A factor = A(1);
            kernels.multiply_by_sigmoid(&factor, &logits(t, h), 1);
            A* const values = o.at(t, h);
            for (Index i = 0; i < o.dim; ++i) values[i] *= factor;
        }
}

}  // namespace mla::inline MLA_ISA
