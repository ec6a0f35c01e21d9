// OpenBLAS's matrix product.
#pragma once

#include <cblas.h>

#include "library_product.hpp"

namespace mla::bench {

class OpenBlasProduct {
  public:
    using Element = float;
    using Right = PlainMatrix;
    static constexpr const char* library = "openblas";

    [[nodiscard]] static bool use_threads(Index threads) {
        openblas_set_num_threads(static_cast<int>(threads));
        return openblas_get_num_threads() == threads;
    }
    [[nodiscard]] static bool on_openmp() { return openblas_get_parallel() == OPENBLAS_OPENMP; }

    explicit OpenBlasProduct(const ProductShape& shape) : shape_(shape) {}

    [[nodiscard]] Right prepare(const float* b) const { return {shape_, b}; }

    void multiply(const float* a, const Right& b, float* y) const {
        const auto size = [](Index value) { return static_cast<blasint>(value); };
        cblas_sgemm(CblasRowMajor, CblasNoTrans, shape_.b_transposed ? CblasTrans : CblasNoTrans, size(shape_.rows),
                    size(shape_.cols), size(shape_.depth), 1.0F, a, size(shape_.depth), b.data(), size(shape_.b_stride), 0.0F, y,
                    size(shape_.cols));
    }

  private:
    ProductShape shape_;
};

}  // namespace mla::bench
