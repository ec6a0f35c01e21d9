// Eigen's matrix product.
#pragma once

#include <Eigen/Core>

#include "library_product.hpp"
#include "mla/eigen.hpp"

namespace mla::bench {

/// On several threads where the compiler runs with OpenMP, except with a single row.
class EigenProduct {
  public:
    using Element = float;
    using Right = PlainMatrix;
    static constexpr const char* library = "eigen";

    [[nodiscard]] static bool use_threads(Index threads) {
        Eigen::setNbThreads(static_cast<int>(threads));
        return Eigen::nbThreads() == threads;
    }
    [[nodiscard]] static bool on_openmp() { return true; }

    explicit EigenProduct(const ProductShape& shape) : shape_(shape) {}

    [[nodiscard]] Right prepare(const float* b) const { return {shape_, b}; }

    void multiply(const float* a, const Right& b, float* y) const {
        using Matrix = Eigen::Map<const RowMatrix<float>, Eigen::Unaligned, Eigen::OuterStride<>>;
        const Eigen::OuterStride<> stride(shape_.b_stride);
        const Eigen::Map<const RowMatrix<float>> left(a, shape_.rows, shape_.depth);
        Eigen::Map<RowMatrix<float>> product(y, shape_.rows, shape_.cols);
        if (shape_.b_transposed)
            product.noalias() = left * Matrix(b.data(), shape_.cols, shape_.depth, stride).transpose();
        else
            product.noalias() = left * Matrix(b.data(), shape_.depth, shape_.cols, stride);
    }

  private:
    ProductShape shape_;
};

}  // namespace mla::bench
