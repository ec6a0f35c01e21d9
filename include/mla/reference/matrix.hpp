// The oracle's only data type and its only product.
#pragma once

#include <utility>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::reference {

/// Row-major matrix [rows, cols] of doubles.
struct Matrix {
    Index rows = 0;
    Index cols = 0;
    std::vector<double> values;  // [rows * cols]

    Matrix() = default;
    /// All zeros.
    Matrix(Index row_count, Index col_count)
        : Matrix(row_count, col_count, std::vector<double>(static_cast<std::size_t>(row_count * col_count))) {}
    Matrix(Index row_count, Index col_count, std::vector<double> row_major)
        : rows(row_count), cols(col_count), values(std::move(row_major)) {
        require_equal("reference::Matrix values.size()", static_cast<Index>(values.size()), "rows * cols", rows * cols);
    }

    [[nodiscard]] double* row(Index r) { return values.data() + r * cols; }
    [[nodiscard]] const double* row(Index r) const { return values.data() + r * cols; }
    [[nodiscard]] double& operator()(Index r, Index c) { return row(r)[c]; }
    [[nodiscard]] const double& operator()(Index r, Index c) const { return row(r)[c]; }
};

/// The columns [begin, begin + count) of `matrix`.
[[nodiscard]] inline Matrix columns(const Matrix& matrix, Index begin, Index count) {
    Matrix result(matrix.rows, count);
    for (Index r = 0; r < matrix.rows; ++r)
        for (Index c = 0; c < count; ++c) result(r, c) = matrix(r, begin + c);
    return result;
}

/// The rows [begin, begin + count) of `matrix`.
[[nodiscard]] inline Matrix row_range(const Matrix& matrix, Index begin, Index count) {
    return {count, matrix.cols, std::vector<double>(matrix.row(begin), matrix.row(begin) + count * matrix.cols)};
}

/// The same values in row-major order under another shape.
[[nodiscard]] inline Matrix reshape(Matrix matrix, Index rows, Index cols) { return {rows, cols, std::move(matrix.values)}; }

/// The columns of `right` behind those of `left`.
[[nodiscard]] inline Matrix beside(const Matrix& left, const Matrix& right) {
    require_equal("reference::beside right.rows", right.rows, "left.rows", left.rows);
    Matrix result(left.rows, left.cols + right.cols);
    for (Index r = 0; r < left.rows; ++r) {
        for (Index c = 0; c < left.cols; ++c) result(r, c) = left(r, c);
        for (Index c = 0; c < right.cols; ++c) result(r, left.cols + c) = right(r, c);
    }
    return result;
}

/// Adds the rows of `rows` below those of `matrix`; both have the same number of columns.
inline void append_rows(Matrix& matrix, const Matrix& rows) {
    require_equal("reference::append_rows rows.cols", rows.cols, "matrix.cols", matrix.cols);
    matrix.values.insert(matrix.values.end(), rows.values.begin(), rows.values.end());
    matrix.rows += rows.rows;
}

/// Σ_i a[i]·b[i]. Four sums side by side, because the additions of a single one would wait for each other.
[[nodiscard]] inline double dot(const double* a, const double* b, Index n) {
    double sum[4] = {};
    for (Index i = 0; i + 4 <= n; i += 4)
        for (Index j = 0; j < 4; ++j) sum[j] += a[i + j] * b[i + j];
    for (Index i = n / 4 * 4; i < n; ++i) sum[0] += a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// y = x·Wᵀ: x [T, in], weight [out, in] as in a checkpoint -> y [T, out]
[[nodiscard]] inline Matrix linear(const Matrix& x, const Matrix& weight) {
    require_equal("reference::linear x.cols", x.cols, "weight.cols", weight.cols);
    Matrix y(x.rows, weight.rows);
    for (Index t = 0; t < x.rows; ++t)
        for (Index o = 0; o < weight.rows; ++o) y(t, o) = dot(x.row(t), weight.row(o), x.cols);
    return y;
}

/// y = x·Wᵀ + bias: bias [1, out]
[[nodiscard]] inline Matrix linear(const Matrix& x, const Matrix& weight, const Matrix& bias) {
    Matrix y = linear(x, weight);
    for (Index t = 0; t < y.rows; ++t)
        for (Index o = 0; o < y.cols; ++o) y(t, o) += bias(0, o);
    return y;
}

}  // namespace mla::inline MLA_ISA::reference
