// What the cases ask of another library's matrix product.
#pragma once

#include "mla/core/workspace.hpp"
#include "random_data.hpp"

namespace mla::bench {

/// y [rows, cols] = a [rows, depth] · b [depth, cols], all row-major; a and y without padding.
///
/// The product of a library is a class made from a shape, with the type `Element` of a and b (y is float), its name `library`,
/// `use_threads(n)`: whether the library can be told to run on n threads, and now does, `on_openmp()`: whether these are
/// OpenMP's, `prepare(b)`: the operand `Right`, and `multiply(a, right, y)`.
struct ProductShape {
    Index rows = 0;
    Index depth = 0;
    Index cols = 0;
    Index b_stride = 0;         ///< elements between two rows of b as it lies
    bool b_transposed = false;  ///< b lies as [cols, depth]
    bool b_constant = false;    ///< `prepare` copies b, into whatever layout the library likes best, as is done with weights
};

/// The right operand of a library that takes matrices as they lie: the caller's memory, or a copy.
class PlainMatrix {
  public:
    PlainMatrix(const ProductShape& shape, const float* b) : data_(b) {
        if (!shape.b_constant) return;
        const Index size = (shape.b_transposed ? shape.cols : shape.depth) * shape.b_stride;
        copy_ = mla::detail::allocate_aligned<float>(size);
        std::copy_n(b, size, copy_.get());
        data_ = copy_.get();
    }
    [[nodiscard]] const float* data() const noexcept { return data_; }

  private:
    const float* data_;
    mla::detail::AlignedArray<float> copy_;
};

}  // namespace mla::bench
