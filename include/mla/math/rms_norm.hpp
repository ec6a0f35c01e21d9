// Root-mean-square normalisation (Zhang & Sennrich 2019).
#pragma once

#include <cmath>

#include "mla/core/chosen_target.hpp"
#include "mla/core/float_environment.hpp"
#include "mla/core/views.hpp"
#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

template <class Target, Compute A>
void normalise_rows(A* x, Index stride, Index rows, Index cols, const A* weight, double eps, double multiplier) noexcept {
    const FloatEnvironment environment;
    using Batch = simd::Batch<Target, A>;
    constexpr Index width = simd::lanes<Target, A>;
    // As many partial sums on every target, so that all make the same.
    constexpr Index partial_sums = 16;
    for (Index r = 0; r < rows; ++r) {
        A* row = x + r * stride;
        Batch squares[simd::extent<partial_sums / width>];
        for (Batch& each : squares) each = Batch(A(0));
        Index i = 0;
        for (; i + partial_sums <= cols; i += partial_sums)
            simd::unroll<partial_sums / width>([&](auto part) MLA_ALWAYS_INLINE_LAMBDA {
                const Batch value = Batch::load_unaligned(row + i + part * width);
                squares[part] = simd::fma<Target, A>(value, value, squares[part]);
            });
        alignas(64) A partial[simd::extent<partial_sums>];
        for (Index part = 0; part < partial_sums / width; ++part) squares[part].store_aligned(partial + part * width);
        A sum = A(0);
        for (const A each : partial) sum += each;
        for (; i < cols; ++i) sum = std::fma(row[i], row[i], sum);
        const double mean = static_cast<double>(sum) / static_cast<double>(cols);
        const A scale = static_cast<A>(multiplier / std::sqrt(mean + eps));
        for (Index c = 0; c < cols; ++c) row[c] = row[c] * scale * weight[c];
    }
}

template <class Target, Compute A>
inline constexpr abi::NormKernels<A> norm_of{normalise_rows<Target, A>};

}  // namespace detail

/// x[r] ← x[r] / sqrt(mean(x[r]²) + eps) · weight · multiplier for each row, in place. x [rows, dim], weight [dim].
/// @throws std::invalid_argument as chosen_target does, where kernels are compiled
template <Compute A>
void rms_norm(MatrixView<A> x, const A* weight, double eps, double multiplier = 1.0) {
#if MLA_IS_COMPILED
    const abi::NormKernels<A> kernels = detail::chosen_kernels<A>().norm;
#else
    constexpr abi::NormKernels<A> kernels = detail::norm_of<targets::native, A>;
#endif
    kernels.rms_norm(x.data, x.stride, x.rows, x.cols, weight, eps, multiplier);
}

}  // namespace mla::inline MLA_ISA
