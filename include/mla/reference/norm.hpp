#pragma once

#include <cmath>

#include "mla/reference/matrix.hpp"

namespace mla::inline MLA_ISA::reference {

/// RMSNorm of every row, in place: x_i ← x_i / sqrt(mean_j x_j² + eps) · weight_i; x [T, n], weight [1, n].
/// (Zhang and Sennrich 2019, equation 4, with the eps of every implementation.)
inline void rms_norm(Matrix& x, const Matrix& weight, double eps) {
    require_equal("reference::rms_norm weight.cols", weight.cols, "x.cols", x.cols);
    for (Index t = 0; t < x.rows; ++t) {
        const double mean_square = dot(x.row(t), x.row(t), x.cols) / static_cast<double>(x.cols);
        for (Index i = 0; i < x.cols; ++i) x(t, i) = x(t, i) / std::sqrt(mean_square + eps) * weight(0, i);
    }
}

/// LayerNorm of every row, in place: x_i ← (x_i − mean(x)) / sqrt(var(x) + eps) · weight_i + bias_i (Ba et al. 2016, equation 4,
/// over the values of a row); x [T, n], weight and bias [1, n].
inline void layer_norm(Matrix& x, const Matrix& weight, const Matrix& bias, double eps) {
    require_equal("reference::layer_norm weight.cols", weight.cols, "x.cols", x.cols);
    require_equal("reference::layer_norm bias.cols", bias.cols, "x.cols", x.cols);
    const auto n = static_cast<double>(x.cols);
    for (Index t = 0; t < x.rows; ++t) {
        double mean = 0.0;
        for (Index i = 0; i < x.cols; ++i) mean += x(t, i) / n;
        double variance = 0.0;
        for (Index i = 0; i < x.cols; ++i) variance += (x(t, i) - mean) * (x(t, i) - mean) / n;
        for (Index i = 0; i < x.cols; ++i) x(t, i) = (x(t, i) - mean) / std::sqrt(variance + eps) * weight(0, i) + bias(0, i);
    }
}

}  // namespace mla::inline MLA_ISA::reference
