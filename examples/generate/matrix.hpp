// The three steps that every part of the decoder is made of: a product with packed weights, a norm, and reading a vector.
#pragma once

#include <vector>

#include "mla/core/executor.hpp"
#include "mla/eigen.hpp"
#include "mla/linear/linear.hpp"
#include "mla/math/rms_norm.hpp"

namespace generate {

using mla::Index;
using Matrix = mla::RowMatrix<float>;         // activations, [tokens, values]
using Weight = mla::PackedMatrix<mla::bf16>;  // bf16, as the models are published; products are summed in float

/// How products are computed: by whom, and whether what meets a weight is rounded to bf16 as the weight is.
struct Products {
    mla::ExecutorRef executor;
    mla::Precision precision;
};

/// x·Wᵀ of a weight [out, in]: [T, in] -> [T, out].
inline Matrix multiply(const Matrix& x, const Weight& weight, const Products& products) {
    Matrix y(x.rows(), weight.out());
    const float* no_bias = nullptr;
    mla::linear(mla::MatrixView<const float>(x.data(), x.rows(), x.cols()), weight, no_bias,
                mla::MatrixView<float>(y.data(), y.rows(), y.cols()), products.executor, products.precision);
    return y;
}

/// A norm of its own weights, over rows.
struct Norm {
    std::vector<float> weight;
    double eps = 1e-6;

    Matrix operator()(Matrix x) const {
        mla::rms_norm(mla::MatrixView<float>(x.data(), x.rows(), x.cols()), weight.data(), eps);
        return x;
    }
};

/// A tensor of one row, as floats.
inline std::vector<float> to_vector(const mla::TensorRef& tensor) {
    std::vector<float> values;
    tensor.visit([&](const auto& element) {
        for (Index i = 0; i < tensor.cols; ++i) values.push_back(static_cast<float>(element(0, i)));
    });
    return values;
}

}  // namespace generate
