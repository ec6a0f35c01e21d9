// Layer normalisation (Ba et al. 2016).
#pragma once

#include <cmath>

#include "mla/core/views.hpp"

namespace mla::inline MLA_ISA {

/// x[r] ← (x[r] − mean) / sqrt(variance + eps) · weight + bias for each row, in place, its sums in double. x [rows, dim]; weight,
/// bias [dim]. Index keys are the only ones to take it, 128 values a token: it needs no vectors.
template <Compute A>
void layer_norm(MatrixView<A> x, const A* weight, const A* bias, double eps) noexcept {
    const auto count = static_cast<double>(x.cols);
    for (Index r = 0; r < x.rows; ++r) {
        A* const row = x.row(r);
        double sum = 0.0;
        for (Index i = 0; i < x.cols; ++i) sum += static_cast<double>(row[i]);
        const double mean = sum / count;
        double squares = 0.0;
        for (Index i = 0; i < x.cols; ++i) {
            const double distance = static_cast<double>(row[i]) - mean;
            squares += distance * distance;
        }
        const double scale = 1.0 / std::sqrt(squares / count + eps);
        for (Index i = 0; i < x.cols; ++i)
            row[i] = static_cast<A>((static_cast<double>(row[i]) - mean) * scale) * weight[i] + bias[i];
    }
}

}  // namespace mla::inline MLA_ISA
