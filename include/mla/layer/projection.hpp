// A projection of the layer: packed weights and what is added to their product.
#pragma once

#include <vector>

#include "mla/linear/linear.hpp"

namespace mla::inline MLA_ISA::detail {

/// A vector in the type computed in.
template <Compute A>
[[nodiscard]] std::vector<A> to_vector(const TensorRef& tensor) {
    std::vector<A> values(static_cast<std::size_t>(tensor.cols));
    tensor.visit([&](const auto& element) {
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = simd::convert<A>(element(0, static_cast<Index>(i)));
    });
    return values;
}

/// y = W x + b, with W packed in T, and b perhaps empty.
template <Storage T>
class Projection {
    using A = compute_t<T>;

  public:
    Projection() = default;
    explicit Projection(const TensorRef& weight) : weight_(weight) {}
    Projection(const TensorRef& weight, bool has_bias, const TensorRef& bias) : weight_(weight) {
        if (has_bias) bias_ = to_vector<A>(bias);
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return weight_.bytes(); }

    /// x [T, in] -> y [T, out]
    void operator()(MatrixView<const A> x, MatrixView<A> y, ExecutorRef executor, Precision precision) const noexcept {
        linear<A>(x, weight_, bias_.empty() ? nullptr : bias_.data(), y, executor, precision);
    }

  private:
    PackedMatrix<T> weight_;
    std::vector<A> bias_;
};

/// Heads side by side: [T, H·dim].
template <class A>
[[nodiscard]] MatrixView<A> side_by_side(const HeadsView<A>& heads) noexcept {
    return {heads.data, heads.tokens, heads.heads * heads.dim, heads.token_stride};
}

}  // namespace mla::inline MLA_ISA::detail
