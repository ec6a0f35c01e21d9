// Products of activations with packed weights: the down- and up-projections.
#pragma once

#include <algorithm>

#include "mla/core/chosen_target.hpp"
#include "mla/core/executor.hpp"
#include "mla/linear/packed_matrix.hpp"
#if !MLA_IS_COMPILED
#include "mla/linear/multiply.hpp"
#endif

namespace mla::inline MLA_ISA {
namespace detail {

/// Columns of the panels that a worker takes at a time: at most two pieces side by side.
template <Weight S>
inline constexpr Index linear_item_columns = 256 * (QuantisedWeight<S> ? 1 : Format<S>::panel_interleave);

/// The products of weights of S on the target that calls run on.
template <Weight S>
[[nodiscard]] abi::LinearKernels<compute_t<S>> linear_kernels([[maybe_unused]] Precision precision) {
#if MLA_IS_COMPILED
    return chosen_kernels<compute_t<S>>().linear[index_of<S, WeightTypes>][static_cast<int>(precision)];
#else
    return precision == Precision::operand ? linear_of<targets::native, S, Precision::operand>
                                           : linear_of<targets::native, S, Precision::full>;
#endif
}

template <Compute A, Weight S>
void multiply_panels(const abi::LinearKernels<A>& kernels, const MatrixView<const A>& x, const PackedMatrix<S>& weight,
                     Index index, Index panel_begin, Index panel_end, const MatrixView<A>& y) noexcept {
    const abi::MultiplyPanels<A> call{.x = x.data,
                                      .x_stride = x.stride,
                                      .y = y.data,
                                      .y_stride = y.stride,
                                      .rows = x.rows,
                                      .in = weight.in(),
                                      .out = y.cols,
                                      .panels = weight.panel(index, 0),
                                      .panel_begin = panel_begin,
                                      .panel_end = panel_end,
                                      .scales = weight.scales(index),
                                      .scale_step = weight.scale_step()};
    kernels.multiply(&call);
}

}  // namespace detail

/// y [T, panels of W] = x [T, in] · W, on the calling thread, for panels [panel_begin, panel_end) of matrix `index`.
/// Every element is summed in the same order, however the work is cut: over pieces of k, and k in a piece, ascending. Under
/// Precision::operand x is rounded to bf16 where W is bf16 or narrower. y does not overlap x.
template <Compute A, Weight S>
void linear_panels(MatrixView<const A> x, const PackedMatrix<S>& weight, Index index, Index panel_begin, Index panel_end,
                   MatrixView<A> y, Precision precision = Precision::operand) noexcept {
    detail::multiply_panels(detail::linear_kernels<S>(precision), x, weight, index, panel_begin, panel_end, y);
}

/// y [T, out] = x [T, in] · W (+ bias [out], when not null). Under Precision::operand x is rounded to bf16 where W is bf16 or
/// narrower. y does not overlap x.
template <Compute A, Weight S>
void linear(MatrixView<const A> x, const PackedMatrix<S>& weight, const A* bias, MatrixView<A> y, ExecutorRef executor,
            Precision precision = Precision::operand) noexcept {
    const auto kernels = detail::linear_kernels<S>(precision);
    // At least 16 items keep several threads even.
    const Index group = std::clamp<Index>(weight.panels() / 16, 1, detail::linear_item_columns<S> / panel_columns<S>);
    for_each_item(executor, divide_up(weight.panels(), group), [&](Index item, Index) {
        const Index begin = item * group;
        const Index end = std::min(begin + group, weight.panels());
        detail::multiply_panels(kernels, x, weight, 0, begin, end, y);
        if (bias == nullptr) return;
        const Index last = std::min(end * panel_columns<S>, weight.out());
        for (Index t = 0; t < x.rows; ++t)
            for (Index n = begin * panel_columns<S>; n < last; ++n) y(t, n) += bias[n];
    });
}

/// y[t, h] = x[t, h] · W_h for each head h: one small product a head. x [T, H, in], y [T, H, out], W holds H matrices.
template <Compute A, Weight S>
void linear_heads(HeadsView<const A> x, const PackedMatrix<S>& weight, HeadsView<A> y, ExecutorRef executor,
                  Precision precision = Precision::operand) noexcept {
    const auto kernels = detail::linear_kernels<S>(precision);
    for_each_item(executor, weight.count(), [&](Index head, Index) {
        detail::multiply_panels(kernels, x.head(head), weight, head, 0, weight.panels(), y.head(head));
    });
}

}  // namespace mla::inline MLA_ISA
