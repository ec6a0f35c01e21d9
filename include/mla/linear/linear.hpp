// Products of activations with packed weights: the down- and up-projections.
#pragma once

#include <algorithm>
#include <cstddef>

#include "mla/core/chosen_target.hpp"
#include "mla/core/executor.hpp"
#include "mla/core/kernel_table.hpp"
#include "mla/core/views.hpp"
#include "mla/linear/packed_matrix.hpp"
#if !MLA_IS_COMPILED
#include "mla/linear/multiply.hpp"
#endif

namespace mla::inline MLA_ISA {
namespace detail {

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

/// Packed matrices of any type, as products that are computed in A take them; they must outlive it.
template <Compute A>
class PackedView {
  public:
    template <Weight S>
    PackedView(const PackedMatrix<S>& matrix, Precision precision)
        : kernels_(linear_kernels<S>(precision)),
          data_(reinterpret_cast<const std::byte*>(matrix.panel(0, 0))),
          matrix_bytes_(matrix.panels() * matrix.panel_elements() * static_cast<Index>(sizeof(S))),
          scales_(matrix.scales(0)),
          matrix_scales_(matrix.count() > 1 && scales_ != nullptr ? matrix.scales(1) - scales_ : 0),
          scale_step_(matrix.scale_step()),
          item_columns_(256 * (QuantisedWeight<S> ? 1 : Format<S>::panel_interleave)),
          count_(matrix.count()),
          in_(matrix.in()),
          out_(matrix.out()) {}

    [[nodiscard]] Index count() const noexcept { return count_; }
    [[nodiscard]] Index in() const noexcept { return in_; }
    [[nodiscard]] Index out() const noexcept { return out_; }
    [[nodiscard]] Index panels() const noexcept { return divide_up(out_, panel_columns<A>); }
    /// Columns of the panels that a worker takes at a time: at most two pieces side by side.
    [[nodiscard]] Index item_columns() const noexcept { return item_columns_; }

    /// y = x · panels [panel_begin, panel_end) of matrix `index`.
    void multiply(const MatrixView<const A>& x, Index index, Index panel_begin, Index panel_end,
                  const MatrixView<A>& y) const noexcept {
        const abi::MultiplyPanels<A> call{.x = x.data,
                                          .x_stride = x.stride,
                                          .y = y.data,
                                          .y_stride = y.stride,
                                          .rows = x.rows,
                                          .in = in_,
                                          .out = y.cols,
                                          .panels = data_ + index * matrix_bytes_,
                                          .panel_begin = panel_begin,
                                          .panel_end = panel_end,
                                          .scales = scales_ == nullptr ? nullptr : scales_ + index * matrix_scales_,
                                          .scale_step = scale_step_};
        kernels_.multiply(&call);
    }

  private:
    abi::LinearKernels<A> kernels_;
    const std::byte* data_;
    Index matrix_bytes_;
    const A* scales_;
    Index matrix_scales_;
    Index scale_step_;
    Index item_columns_;
    Index count_, in_, out_;
};

/// How a product of some rows is shared out: groups of panels, and where these are too few for the workers rows too, in pieces of
/// 64 at least, to which the reading of the panels is little; none are so few that they are multiplied in another way.
struct ProductItems {
    Index group = 1;   ///< panels of an item
    Index groups = 1;  ///< of a matrix
    Index cuts = 1;    ///< of its rows

    ProductItems(Index panels, Index most_group, Index rows, Index workers) noexcept {
        // At least 16 items keep several threads even, and two a thread many.
        group = std::clamp<Index>(panels / std::max<Index>(16, 2 * workers), 1, most_group);
        groups = divide_up(panels, group);
        cuts = std::clamp<Index>(divide_up(2 * workers, groups), 1, std::max<Index>(rows / 64, 1));
    }
    [[nodiscard]] Index count() const noexcept { return groups * cuts; }
};

/// Pieces that each head's panels are cut into: two panels at least, which tiles of AVX-512 take together.
[[nodiscard]] constexpr Index cut_head(Index heads, Index panels, Index workers) noexcept {
    return std::clamp<Index>(divide_up(2 * workers, heads), 1, std::max<Index>(panels / 2, 1));
}

/// y [T, out] = x [T, in] · W (+ bias [out], when not null).
template <Compute A>
void multiply_all(const MatrixView<const A>& x, const PackedView<A>& weight, const A* bias, const MatrixView<A>& y,
                  ExecutorRef executor) noexcept {
    const ProductItems items(weight.panels(), weight.item_columns() / panel_columns<A>, x.rows, executor.concurrency());
    for_each_item(executor, items.count(), [&](Index item, Index) {
        const Index cut = item % items.cuts;
        const Index begin = item / items.cuts * items.group;
        const Index end = std::min(begin + items.group, weight.panels());
        const Index first = x.rows * cut / items.cuts;
        const Index rows = x.rows * (cut + 1) / items.cuts - first;
        const MatrixView<A> to = y.row_range(first, rows);
        weight.multiply(x.row_range(first, rows), 0, begin, end, to);
        if (bias == nullptr) return;
        const Index last = std::min(end * panel_columns<A>, weight.out());
        for (Index t = 0; t < rows; ++t)
            for (Index n = begin * panel_columns<A>; n < last; ++n) to(t, n) += bias[n];
    });
}

/// y[t, h] = x[t, h] · W_h for each head h.
template <Compute A>
void multiply_heads(const HeadsView<const A>& x, const PackedView<A>& weight, const HeadsView<A>& y,
                    ExecutorRef executor) noexcept {
    const Index cuts = cut_head(weight.count(), weight.panels(), executor.concurrency());
    for_each_item(executor, weight.count() * cuts, [&](Index item, Index) {
        const Index head = item / cuts;
        const Index begin = weight.panels() * (item % cuts) / cuts;
        const Index end = weight.panels() * (item % cuts + 1) / cuts;
        weight.multiply(x.head(head), head, begin, end, y.head(head));
    });
}

}  // namespace detail

/// y [T, panels of W] = x [T, in] · W, on the calling thread, for panels [panel_begin, panel_end) of matrix `index`.
/// Every element is summed in the same order, however the work is cut: over pieces of k, and k in a piece, ascending. Under
/// Precision::operand x is rounded to bf16 where W is bf16 or narrower. y does not overlap x.
/// @throws std::invalid_argument as chosen_target does, where kernels are compiled
template <Compute A, Weight S>
void linear_panels(MatrixView<const A> x, const PackedMatrix<S>& weight, Index index, Index panel_begin, Index panel_end,
                   MatrixView<A> y, Precision precision = Precision::operand) {
    detail::PackedView<A>(weight, precision).multiply(x, index, panel_begin, panel_end, y);
}

/// y [T, out] = x [T, in] · W (+ bias [out], when not null). Under Precision::operand x is rounded to bf16 where W is bf16 or
/// narrower. y does not overlap x.
/// @throws std::invalid_argument as chosen_target does, where kernels are compiled
template <Compute A, Weight S>
void linear(MatrixView<const A> x, const PackedMatrix<S>& weight, const A* bias, MatrixView<A> y, ExecutorRef executor,
            Precision precision = Precision::operand) {
    detail::multiply_all(x, detail::PackedView<A>(weight, precision), bias, y, executor);
}

/// y[t, h] = x[t, h] · W_h for each head h: one small product a head. x [T, H, in], y [T, H, out], W holds H matrices.
/// @throws std::invalid_argument as chosen_target does, where kernels are compiled
template <Compute A, Weight S>
void linear_heads(HeadsView<const A> x, const PackedMatrix<S>& weight, HeadsView<A> y, ExecutorRef executor,
                  Precision precision = Precision::operand) {
    detail::multiply_heads(x, detail::PackedView<A>(weight, precision), y, executor);
}

}  // namespace mla::inline MLA_ISA
