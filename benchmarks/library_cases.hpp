// What other libraries' matrix products make of the work of our kernels. Before it is timed, each is held against ours.
#pragma once

#include <Eigen/Core>

#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "core_cases.hpp"
#include "library_product.hpp"
#include "linear_case.hpp"
#include "mla/testing/compare.hpp"

#ifdef _OPENMP
#include "mla/core/openmp_executor.hpp"
#endif

namespace mla::bench {

/// How far two ways to compute the same in S may lie apart, as a relative norm.
template <Storage S>
inline constexpr double library_tolerance = std::is_same_v<S, bf16> ? 2e-2 : 1e-4;

/// @throws std::runtime_error when `theirs` is not `ours`: whatever was computed, it is no comparison
template <Storage S>
void require_same(MatrixView<const float> theirs, MatrixView<const float> ours) {
    const std::vector<double> reference(ours.data, ours.data + ours.rows * ours.cols);
    const std::span<const float> result(theirs.data, reference.size());
    const double error = testing::compare(result, reference).relative_norm;
    if (error <= library_tolerance<S>) return;
    std::ostringstream text;
    text << "differs from ours by " << error << " of its norm, must be at most " << library_tolerance<S>;
    throw std::runtime_error(text.str());
}

/// `count` values of float, rounded to what a library multiplies.
template <Storage S>
[[nodiscard]] mla::detail::AlignedArray<S> rounded(const float* values, Index count) {
    auto copy = mla::detail::allocate_aligned<S>(count);
    std::transform(values, values + count, copy.get(), [](float value) { return S(value); });
    return copy;
}

/// exp(scale · (score − the largest)) of the scores that a query sees, 0 beyond, written to `out`, which may be the scores.
/// Returns their sum.
template <Storage S>
[[nodiscard]] float exponentials(float* scores, Index visible, Index keys, float scale, S* out) {
    Eigen::Map<Eigen::ArrayXf> row(scores, visible);
    row = (scale * (row - row.maxCoeff())).exp();
    const float sum = row.sum();
    if constexpr (!std::is_same_v<S, float>) std::transform(scores, scores + visible, out, [](float value) { return S(value); });
    std::fill(out + visible, out + keys, S(0.0F));
    return sum;
}

/// Absorbed decode as two products over the whole cache with a softmax between: scores = Q Cᵀ, out = softmax(scores) C. The rows
/// of the softmax are shared among the library's threads where these are OpenMP's; else the calling thread does them all.
template <class Product>
class LibraryDecodeCase final : public Case {
    using S = typename Product::Element;

  public:
    /// @throws std::runtime_error when the result is not ours
    LibraryDecodeCase(const Config& config, Index queries, Index length, Index threads)
        : Case(decode_work<S>(config, queries, length, threads)),
          scale_(static_cast<float>(config.softmax_scale())),
          rows_(queries * config.num_attention_heads),
          keys_(length),
          buffers_(queries, config.num_attention_heads, config.cache_dim(), config.kv_lora_rank),
          queries_(rounded<S>(buffers_.q.data, rows_ * config.cache_dim())),
          scores_(mla::detail::allocate_aligned<float>(rows_ * length)),
          probabilities_(mla::detail::allocate_aligned<S>(std::is_same_v<S, float> ? 0 : rows_ * length)),
          sums_(static_cast<std::size_t>(rows_)),
          score_({rows_, config.cache_dim(), length, mla::detail::RowLayout<S>(config).stride(), true}),
          accumulate_({rows_, length, config.kv_lora_rank, mla::detail::RowLayout<S>(config).stride()}),
          caches_(cold_copies(work().bytes), [&] {
              LatentCache<S> cache(config, length);
              fill(cache, length);
              const S* const data = cache.view().data;
              return Operands{std::move(cache), score_.prepare(data), accumulate_.prepare(data)};
          }) {
        attend(caches_.first());
        CoreBuffers ours(queries, config.num_attention_heads, config.cache_dim(), config.kv_lora_rank);
        decode_absorbed(buffers_.q, caches_.first().cache.view(), scale_, ours.out, {}, ours.workspace, team());
        require_same<S>(result(), ours.result());
    }

    void step() override { attend(caches_.turn()); }
    [[nodiscard]] MatrixView<const float> result() const override { return buffers_.result(); }

  private:
    /// A cache as the right operand of either product.
    struct Operands {
        LatentCache<S> cache;
        typename Product::Right keys, values;
    };

    void attend(const Operands& operands) {
        score_.multiply(queries_.get(), operands.keys, scores_.get());
        for_each_row([this](Index row) { sums_[row_index(row)] = softmax(row); });
        accumulate_.multiply(probabilities(), operands.values, buffers_.out.data);
        for_each_row([this](Index row) {
            float* const out = buffers_.out.data + row * buffers_.out.dim;
            for (Index i = 0; i < buffers_.out.dim; ++i) out[i] /= sums_[row_index(row)];
        });
    }

    /// The last query sees all keys, the one before all but one, and so on.
    [[nodiscard]] float softmax(Index row) {
        const Index visible = keys_ - (rows_ - 1 - row) / buffers_.out.heads;
        return exponentials(scores_.get() + row * keys_, visible, keys_, scale_, probabilities() + row * keys_);
    }

    /// In fp32 they take the place of the scores.
    [[nodiscard]] S* probabilities() {
        if constexpr (std::is_same_v<S, float>)
            return scores_.get();
        else
            return probabilities_.get();
    }

    template <class F>
    void for_each_row(F f) const {
#ifdef _OPENMP
        if (Product::on_openmp()) {
            OpenMPExecutor(static_cast<int>(work().threads)).parallel_for(rows_, f);
            return;
        }
#endif
        SerialExecutor::parallel_for(rows_, f);
    }

    [[nodiscard]] static std::size_t row_index(Index row) { return static_cast<std::size_t>(row); }

    float scale_;
    Index rows_, keys_;
    CoreBuffers buffers_;
    mla::detail::AlignedArray<S> queries_;
    mla::detail::AlignedArray<float> scores_;
    mla::detail::AlignedArray<S> probabilities_;
    std::vector<float> sums_;
    Product score_, accumulate_;
    Ring<Operands> caches_;
};

/// A projection of all heads together, its weights prepared beforehand as often as makes them cold.
template <class Product>
class LibraryLinearCase final : public Case {
    using S = typename Product::Element;

  public:
    /// @throws std::runtime_error when the result is not ours
    LibraryLinearCase(const Shape& shape, Index tokens, Index threads)
        : Case(linear_work<S>(shape, tokens, threads)),
          x_(random_values<float>(tokens * shape.in)),
          rounded_x_(rounded<S>(x_.get(), tokens * shape.in)),
          y_values_(mla::detail::allocate_aligned<float>(tokens * shape.out)),
          y_(y_values_.get(), tokens, shape.out),
          product_({tokens, shape.in, shape.out, shape.in, true, true}),
          weights_(prepare(shape)) {}

    void step() override { product_.multiply(rounded_x_.get(), weights_.turn(), y_.data); }
    [[nodiscard]] MatrixView<const float> result() const override { return y_; }

  private:
    [[nodiscard]] Ring<typename Product::Right> prepare(const Shape& shape) {
        RandomTensors<S> tensors;
        const TensorRef weight = tensors.add(shape.out, shape.in);
        const auto* const values = static_cast<const S*>(weight.data);
        check(weight);
        return {cold_copies(work().bytes), [&] { return product_.prepare(values); }};
    }

    void check(const TensorRef& weight) {
        product_.multiply(rounded_x_.get(), product_.prepare(static_cast<const S*>(weight.data)), y_.data);
        auto ours = mla::detail::allocate_aligned<float>(y_.rows * y_.cols);
        const MatrixView<float> y(ours.get(), y_.rows, y_.cols);
        linear<float>({x_.get(), y_.rows, weight.cols}, PackedMatrix<S>(weight), nullptr, y, team());
        require_same<S>(y_, y);
    }

    mla::detail::AlignedArray<float> x_;
    mla::detail::AlignedArray<S> rounded_x_;
    mla::detail::AlignedArray<float> y_values_;
    MatrixView<float> y_;
    Product product_;
    Ring<typename Product::Right> weights_;
};

}  // namespace mla::bench
