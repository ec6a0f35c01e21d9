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

}  // namespace mla::inline MLA_ISA::reference
