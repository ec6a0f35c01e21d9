// A projection of the layer: packed weights and what is added to their product.
#pragma once

#include <type_traits>
#include <variant>
#include <vector>

#include "mla/linear/linear.hpp"
#include "mla/weights.hpp"

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

/// How the constructors of a layer's parts pack.
struct Packer {
    PackOptions options;
    ExecutorRef executor;
};

template <Storage T, class List>
struct PackedAs;
template <Storage T, class... Ws>
struct PackedAs<T, TypeList<Ws...>> {
    using type = std::variant<PackedMatrix<T>, PackedMatrix<Ws>...>;
};

/// The quantised types that matrices of a layer of T may be kept in.
template <Storage T>
using QuantisedTypesOf = std::conditional_t<std::is_same_v<T, double>, TypeList<>, QuantisedWeightTypes>;

/// A matrix in T, or in one of those.
template <Storage T>
using PackedWeight = typename PackedAs<T, QuantisedTypesOf<T>>::type;

/// Whether a weight is to be kept as W.
template <QuantisedWeight W>
[[nodiscard]] bool packs_as(Packing packing, const TensorRef& weight) noexcept {
    switch (packing) {
        case Packing::as_stored: return keeps<W>(weight);
        case Packing::layer_type: return false;
        case Packing::fp8: return Format<W>::stored_dtype == DType::f8_e4m3;
        case Packing::int8: return Format<W>::stored_dtype == DType::i8;
        case Packing::int4: return Format<W>::stored_dtype == DType::i4;
    }
    return false;
}

template <Storage T>
[[nodiscard]] PackedWeight<T> pack_weight(const TensorRef& weight, Packing packing, ExecutorRef executor) {
    PackedWeight<T> packed;
    for_each_type(QuantisedTypesOf<T>{}, [&]<class W>() {
        if (packs_as<W>(packing, weight)) packed = PackedMatrix<W>(weight, executor);
    });
    if (packed.index() == 0) packed = PackedMatrix<T>(weight, executor);
    return packed;
}

template <Compute A, class... Matrices>
[[nodiscard]] PackedView<A> view_of(const std::variant<Matrices...>& packed, Precision precision) noexcept {
    return std::visit([&](const auto& matrix) { return PackedView<A>(matrix, precision); }, packed);
}

/// y = W x + b, with W in a layer of T, and b perhaps empty.
template <Storage T>
class Projection {
    using A = compute_t<T>;

  public:
    Projection() = default;
    Projection(const TensorRef& weight, Packing packing, ExecutorRef executor)
        : weight_(pack_weight<T>(weight, packing, executor)) {}
    Projection(const TensorRef& weight, Packing packing, ExecutorRef executor, bool has_bias, const TensorRef& bias)
        : Projection(weight, packing, executor) {
        if (has_bias) bias_ = to_vector<A>(bias);
    }

    [[nodiscard]] std::size_t bytes() const noexcept {
        return std::visit([](const auto& weight) { return weight.bytes(); }, weight_);
    }

    /// x [T, in] -> y [T, out]
    void operator()(MatrixView<const A> x, MatrixView<A> y, ExecutorRef executor, Precision precision) const noexcept {
        multiply_all(x, view_of<A>(weight_, precision), bias_.empty() ? nullptr : bias_.data(), y, executor);
    }

  private:
    PackedWeight<T> weight_;
    std::vector<A> bias_;
};

/// Heads side by side: [T, H·dim].
template <class A>
[[nodiscard]] MatrixView<A> side_by_side(const HeadsView<A>& heads) noexcept {
    return {heads.data, heads.tokens, heads.heads * heads.dim, heads.token_stride};
}

}  // namespace mla::inline MLA_ISA::detail
