// Root-mean-square normalisation (Zhang & Sennrich 2019).
#pragma once

#include <cmath>

#include "mla/core/views.hpp"
#include "mla/simd/fma.hpp"

namespace mla {

/// x[r] ← x[r] / sqrt(mean(x[r]²) + eps) · weight · multiplier for each row, in place. x [rows, dim], weight [dim].
template <class Arch = simd::DefaultArch, Compute A>
void rms_norm(MatrixView<A> x, const A* weight, double eps, double multiplier = 1.0) noexcept {
    using Batch = simd::Batch<Arch, A>;
    constexpr Index width = simd::lanes<Arch, A>;
    for (Index r = 0; r < x.rows; ++r) {
        A* row = x.row(r);
        Batch squares(A(0));
        Index i = 0;
        for (; i + width <= x.cols; i += width) {
            const Batch value = Batch::load_unaligned(row + i);
            squares = simd::fma(value, value, squares);
        }
        A sum = A(0);
        alignas(64) A partial[simd::extent<width>];
        squares.store_aligned(partial);
        for (Index lane = 0; lane < width; ++lane) sum += partial[lane];
        for (; i < x.cols; ++i) sum += row[i] * row[i];
        const double mean = static_cast<double>(sum) / static_cast<double>(x.cols);
        const A scale = static_cast<A>(multiplier / std::sqrt(mean + eps));
        for (Index c = 0; c < x.cols; ++c) row[c] = row[c] * scale * weight[c];
    }
}

}  // namespace mla
