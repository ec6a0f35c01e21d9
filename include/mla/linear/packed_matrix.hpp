// Weights laid out for the product tile, once, when a layer is built.
#pragma once

#include <algorithm>

#include "mla/core/errors.hpp"
#include "mla/core/executor.hpp"
#include "mla/core/memory.hpp"
#include "mla/core/tensor_ref.hpp"
#include "mla/core/workspace.hpp"
#include "mla/linear/pack_panel.hpp"
#include "mla/linear/panels.hpp"
#include "mla/linear/quantise.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

/// Calls f(item, worker) for `items` that fill `bytes` each of new memory, one behind the other. Neighbours up to a large page
/// stay on one thread: of two that touch a new page at once each clears one, and the system throws one of them away.
inline void fill_by_pages(ExecutorRef executor, Index items, Index bytes, FunctionRef<void(Index, Index)> f) {
    const Index most = std::max(items / executor.concurrency(), Index{1});
    const Index run = std::clamp(static_cast<Index>(large_page) / std::max(bytes, Index{1}), Index{1}, most);
    for_each_item(executor, divide_up(items, run), [&](Index number, Index worker) {
        for (Index item = number * run; item < std::min((number + 1) * run, items); ++item) f(item, worker);
    });
}

}  // namespace detail

/// `count` matrices [in, out] (one a head, or a single one) in panels [panel][in / interleave][panel_columns][interleave], stored
/// as S. The last panel of a matrix, and the last row of a panel, are filled up with zeros. A product reads each panel front to
/// back, once.
///
/// Panels of fp8, int8 and int4 hold codes, and beside them scales: a weight that a checkpoint stores so keeps both, of others
/// they are made, with a scale for each 128 values of a row (int4: 32). Their products multiply exact codes, and sums of them by
/// scales.
template <Weight S>
class PackedMatrix {
  public:
    PackedMatrix() = default;

    /// Uninitialised until each matrix has been packed. `scale_step`: rows k that one scale of a quantised matrix is for.
    /// @throws std::invalid_argument when that is no multiple of 8 that divides most_scale_step, or a quantised matrix has no
    /// rows k
    PackedMatrix(Index count, Index in, Index out, Index scale_step = detail::default_scale_step<S>)
        : count_(count),
          in_(in),
          out_(out),
          data_(detail::allocate_aligned<S>(count * panels() * panel_elements())),
          scale_step_(checked(scale_step)),
          scales_(detail::allocate_aligned<float>(QuantisedWeight<S> ? count * panels() * scale_stride() : 0)) {
        if constexpr (QuantisedWeight<S>) require_at_least("packed weight columns", in, Index{1});
    }

    /// A single matrix from a weight [out, in], as checkpoints store it; panels are shared out over the executor.
    explicit PackedMatrix(const TensorRef& weight, ExecutorRef executor = SerialExecutor{})
        : PackedMatrix(1, weight.cols, weight.rows, detail::scale_step_for<S>(weight)) {
        pack(0, weight, executor);
    }

    /// Packs matrix `index` from a weight [out, in].
    /// @throws std::invalid_argument when its shape is another, or its scales, which are to be kept, are for fewer rows k
    void pack(Index index, const TensorRef& weight, ExecutorRef executor = SerialExecutor{}) {
        require_shape(weight, out_, in_);
        if constexpr (QuantisedWeight<S>)
            if (detail::keeps<S>(weight)) require_step(detail::kept_scale_step(weight.scales));
        for_each_panel(index, executor, [&](Index first, Index columns, S* panel, [[maybe_unused]] float* scales) {
            if constexpr (QuantisedWeight<S>) {
                detail::fill_panel(weight, first, columns, scale_step_, panel, scales);
            } else {
                detail::fill_panel(weight, first, columns, panel);
            }
        });
    }

    /// Packs matrix `index` from the transpose of a weight [in, out]; a quantised matrix from one that it keeps, by rows too.
    void pack_transposed(Index index, const TensorRef& weight, ExecutorRef executor = SerialExecutor{}) {
        require_shape(weight, in_, out_);
        if constexpr (QuantisedWeight<S>) {
            require(weight.dtype == Format<S>::stored_dtype, "packed weight type", name(weight.dtype), Format<S>::name);
            require_step(detail::kept_row_step(weight.scales, 0));
        }
        for_each_panel(index, executor, [&](Index first, Index columns, S* panel, [[maybe_unused]] float* scales) {
            if constexpr (QuantisedWeight<S>) {
                detail::fill_transposed_panel(weight, first, columns, scale_step_, panel, scales);
            } else {
                detail::fill_transposed_panel(weight, first, columns, panel);
            }
        });
    }

    [[nodiscard]] Index count() const noexcept { return count_; }
    [[nodiscard]] Index in() const noexcept { return in_; }
    [[nodiscard]] Index out() const noexcept { return out_; }
    [[nodiscard]] Index panels() const noexcept { return divide_up(out_, panel_columns<S>); }
    [[nodiscard]] Index panel_elements() const noexcept { return mla::panel_elements<S>(in_); }
    /// A panel of a matrix.
    [[nodiscard]] const S* panel(Index index, Index panel) const noexcept {
        return data_.get() + (index * panels() + panel) * panel_elements();
    }
    /// The scales of a matrix, [panel][k / scale_step][panel_columns]; null of weights that have none.
    [[nodiscard]] const compute_t<S>* scales([[maybe_unused]] Index index) const noexcept {
        if constexpr (QuantisedWeight<S>) return scales_.get() + index * panels() * scale_stride();
        return nullptr;
    }
    /// Rows k that one scale is for.
    [[nodiscard]] Index scale_step() const noexcept { return scale_step_; }
    /// Where W[k, n] lies in a panel whose first column is n = 0.
    [[nodiscard]] static constexpr Index place(Index k, Index n) noexcept requires Storage<S> {
        constexpr Index side_by_side = Format<S>::panel_interleave;
        return (k / side_by_side * panel_columns<S> + n) * side_by_side + k % side_by_side;
    }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return static_cast<std::size_t>(count_ * panels() * panel_elements()) * sizeof(S) +
               static_cast<std::size_t>(QuantisedWeight<S> ? count_ * panels() * scale_stride() : 0) * sizeof(float);
    }

  private:
    static Index checked(Index scale_step) {
        require(!QuantisedWeight<S> || (scale_step > 0 && scale_step % 8 == 0 && most_scale_step % scale_step == 0), "scale_step",
                scale_step, "8, 16, 32, 64 or 128");
        return scale_step;
    }
    /// A scale of the weight is for `kept` rows k.
    void require_step(Index kept) const {
        require(kept % scale_step_ == 0, "scale_step", scale_step_, "a divisor of the rows that share a scale of the weight");
    }
    static void require_shape(const TensorRef& weight, Index rows, Index cols) {
        require_equal("packed weight rows", weight.rows, "rows", rows);
        require_equal("packed weight columns", weight.cols, "columns", cols);
    }

    /// Calls fill(first column, columns, panel, its scales) for each panel of a matrix.
    template <class Fill>
    void for_each_panel(Index index, ExecutorRef executor, Fill&& fill) {
        const Index bytes = panel_elements() * static_cast<Index>(sizeof(S));
        detail::fill_by_pages(executor, panels(), bytes, [&](Index panel, Index) {
            const Index number = index * panels() + panel;
            const Index first = panel * panel_columns<S>;
            fill(first, std::min(panel_columns<S>, out_ - first), data_.get() + number * panel_elements(),
                 QuantisedWeight<S> ? scales_.get() + number * scale_stride() : nullptr);
        });
    }
    /// Scales of a panel.
    [[nodiscard]] Index scale_stride() const noexcept { return divide_up(in_, scale_step_) * panel_columns<S>; }

    Index count_ = 0;
    Index in_ = 0;
    Index out_ = 0;
    detail::AlignedArray<S> data_;
    Index scale_step_ = detail::default_scale_step<S>;
    detail::AlignedArray<float> scales_;  ///< of quantised matrices
};

}  // namespace mla::inline MLA_ISA
