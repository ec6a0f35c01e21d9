// Random test data, the same on every machine up to the last bit of log and cos.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/types.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::testing {

using Generator = std::mt19937_64;

/// The value of type S nearest to `value` (bf16 and fp16 by way of float).
template <Storage S>
[[nodiscard]] S round_to(double value) {
    if constexpr (std::is_same_v<S, double>)
        return value;
    else
        return static_cast<S>(static_cast<float>(value));
}

/// A draw from N(0, 1) by Box and Muller; std::normal_distribution differs between standard libraries.
[[nodiscard]] inline double gaussian(Generator& generator) {
    const double radius = 0x1p-53 * static_cast<double>((generator() >> 11U) + 1U);  // (0, 1]
    const double angle = 0x1p-53 * static_cast<double>(generator() >> 11U);          // [0, 1)
    return std::sqrt(-2.0 * std::log(radius)) * std::cos(2.0 * std::numbers::pi * angle);
}

/// `count` draws from N(mean, sigma²), rounded to S.
template <Storage S>
[[nodiscard]] std::vector<S> gaussian_values(Generator& generator, Index count, double sigma = 1.0, double mean = 0.0) {
    std::vector<S> values(static_cast<std::size_t>(count));
    for (S& value : values) value = round_to<S>(mean + sigma * gaussian(generator));
    return values;
}

/// Puts `values` in a random order (Fisher and Yates); std::shuffle differs between standard libraries.
template <class V>
void shuffle(Generator& generator, std::vector<V>& values) {
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[generator() % i]);
}

/// Draws from N(0, 1), unrounded: [rows, cols].
[[nodiscard]] inline reference::Matrix random_matrix(Generator& generator, Index rows, Index cols) {
    return {rows, cols, gaussian_values<double>(generator, rows * cols)};
}

/// Every value of `matrix` rounded to S: what is left of it after it was stored.
template <Storage S>
[[nodiscard]] reference::Matrix rounded(reference::Matrix matrix) {
    for (double& value : matrix.values) value = static_cast<double>(round_to<S>(value));
    return matrix;
}

/// The values of a row-major array [rows, cols], widened.
template <Storage S>
[[nodiscard]] reference::Matrix widened(const std::vector<S>& values, Index rows, Index cols) {
    reference::Matrix matrix(rows, cols);
    for (std::size_t i = 0; i < matrix.values.size(); ++i) matrix.values[i] = static_cast<double>(values.at(i));
    return matrix;
}

/// The numbers first, first + 1, …: positions of consecutive tokens.
[[nodiscard]] inline std::vector<std::int64_t> consecutive(std::int64_t first, Index count) {
    std::vector<std::int64_t> positions;
    for (Index i = 0; i < count; ++i) positions.push_back(first + i);
    return positions;
}

/// Random weights of a layer, stored as S: projections from N(0, 1/fan-in), so that activations keep their size; norm
/// weights from N(1, 0.1²) and biases from N(0, 0.1²), so that leaving one out shows.
template <Storage S>
class RandomWeights {
  public:
    RandomWeights(Config config, std::uint64_t seed) : config_(std::move(config)) {
        Generator generator(seed);
        AttentionWeights shapes;
        for_each_tensor(config_, shapes, [&](std::string_view tensor, const TensorRef&, Index rows, Index cols) {
            const bool norm = tensor.ends_with("norm");
            const bool bias = tensor.ends_with("bias");
            const double sigma = norm || bias ? 0.1 : 1.0 / std::sqrt(static_cast<double>(cols));
            tensors_.push_back(gaussian_values<S>(generator, rows * cols, sigma, norm ? 1.0 : 0.0));
        });
    }

    /// Views of the tensors; they live as long as this.
    [[nodiscard]] AttentionWeights refs() const {
        AttentionWeights weights;
        std::size_t next = 0;
        for_each_tensor(config_, weights, [&](const char*, TensorRef& tensor, Index rows, Index cols) {
            tensor = TensorRef(tensors_[next++].data(), rows, cols);
        });
        return weights;
    }

  private:
    Config config_;
    std::vector<std::vector<S>> tensors_;  // in the order of for_each_tensor
};

}  // namespace mla::inline MLA_ISA::testing
