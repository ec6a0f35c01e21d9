// The bridge between Eigen, which hosts and the layer speak, and the views that kernels speak.
#pragma once

#include <Eigen/Core>

#include "mla/core/errors.hpp"
#include "mla/core/tensor_ref.hpp"
#include "mla/core/views.hpp"

namespace mla::inline MLA_ISA {

/// Row-major matrix of activations.
template <class A>
using RowMatrix = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace detail {

template <class S>
[[nodiscard]] constexpr DType eigen_dtype() noexcept {
    if constexpr (std::is_same_v<S, Eigen::bfloat16>)
        return DType::bf16;
    else if constexpr (std::is_same_v<S, Eigen::half>)
        return DType::f16;
    else
        return dtype_of<S>;
}

}  // namespace detail

/// A weight held in an Eigen matrix or map (row-major; a vector counts as one row) of double, float, Eigen::bfloat16,
/// Eigen::half, mla::bf16 or mla::fp16. The matrix must outlive the reference.
template <class Derived>
[[nodiscard]] TensorRef tensor_ref(const Eigen::DenseBase<Derived>& matrix) {
    using S = typename Derived::Scalar;
    static_assert(bool(Derived::IsRowMajor) || bool(Derived::IsVectorAtCompileTime), "weights are row-major, [out, in]");
    const Derived& m = matrix.derived();
    require_equal("weight inner stride", static_cast<Index>(m.innerStride()), "one element", Index{1});
    if constexpr (bool(Derived::IsVectorAtCompileTime))
        return {m.data(), detail::eigen_dtype<S>(), 1, m.size(), m.size()};
    else
        return {m.data(), detail::eigen_dtype<S>(), m.rows(), m.cols(), m.outerStride()};
}

}  // namespace mla::inline MLA_ISA
