// Weights laid out for the product tile, once, when a layer is built.
#pragma once

#include <algorithm>

#include "mla/core/errors.hpp"
#include "mla/core/tensor_ref.hpp"
#include "mla/core/workspace.hpp"
#include "mla/linear/panels.hpp"

namespace mla::inline MLA_ISA {

/// `count` matrices [in, out] (one a head, or a single one) in panels [panel][in / interleave][panel_columns][interleave], stored
/// as S. The last panel of a matrix, and the last row of a panel, are filled up with zeros. A product reads each panel front to
/// back, once.
template <Storage S>
class PackedMatrix {
  public:
    PackedMatrix() = default;

    /// Uninitialised until each matrix has been packed.
    PackedMatrix(Index count, Index in, Index out)
        : count_(count), in_(in), out_(out), data_(detail::allocate_aligned<S>(count * panels() * panel_elements())) {}

    /// A single matrix from a weight [out, in], as checkpoints store it.
    explicit PackedMatrix(const TensorRef& weight) : PackedMatrix(1, weight.cols, weight.rows) { pack(0, weight); }

    /// Packs matrix `index` from a weight [out, in].
    void pack(Index index, const TensorRef& weight) {
        require_shape(weight, out_, in_);
        weight.visit([&](const auto& element) { fill(index, [element](Index k, Index n) { return element(n, k); }); });
    }

    /// Packs matrix `index` from the transpose of a weight [in, out].
    void pack_transposed(Index index, const TensorRef& weight) {
        require_shape(weight, in_, out_);
        weight.visit([&](const auto& element) { fill(index, element); });
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
    /// Where W[k, n] lies in a panel whose first column is n = 0.
    [[nodiscard]] static constexpr Index place(Index k, Index n) noexcept {
        constexpr Index side_by_side = Format<S>::panel_interleave;
        return (k / side_by_side * panel_columns<S> + n) * side_by_side + k % side_by_side;
    }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return static_cast<std::size_t>(count_ * panels() * panel_elements()) * sizeof(S);
    }

  private:
    static void require_shape(const TensorRef& weight, Index rows, Index cols) {
        require_equal("packed weight rows", weight.rows, "rows", rows);
        require_equal("packed weight columns", weight.cols, "columns", cols);
    }

    /// From `element(in, out)`.
    template <class Element>
    void fill(Index index, const Element element) {
        // Blocks of k keep the 32 rows that a panel gathers in cache while they are read.
        constexpr Index block = 64;
        for (Index panel = 0; panel < panels(); ++panel) {
            S* const target = data_.get() + (index * panels() + panel) * panel_elements();
            std::fill(target + in_ / Format<S>::panel_interleave * Format<S>::panel_interleave * panel_columns<S>,
                      target + panel_elements(), S(0.0F));
            const Index first = panel * panel_columns<S>;
            const Index columns = std::min(panel_columns<S>, out_ - first);
            for (Index begin = 0; begin < in_; begin += block) {
                const Index end = std::min(begin + block, in_);
                for (Index n = 0; n < columns; ++n)
                    for (Index k = begin; k < end; ++k) target[place(k, n)] = simd::convert<S>(element(k, first + n));
                for (Index n = columns; n < panel_columns<S>; ++n)
                    for (Index k = begin; k < end; ++k) target[place(k, n)] = S(0.0F);
            }
        }
    }

    Index count_ = 0;
    Index in_ = 0;
    Index out_ = 0;
    detail::AlignedArray<S> data_;
};

}  // namespace mla::inline MLA_ISA
