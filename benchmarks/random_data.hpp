// Random data by the gigabyte, never zeros: a few million Gaussian values, repeated from ever other offsets.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "mla/baselines/kv_cache.hpp"
#include "mla/requests.hpp"
#include "mla/testing/random.hpp"
#include "mla/weights.hpp"

namespace mla::bench {

/// 2^20 draws from N(0, 1), made once.
[[nodiscard]] inline const std::vector<float>& gaussians() {
    static const std::vector<float> values = [] {
        testing::Generator generator(20240507);
        return testing::gaussian_values<float>(generator, Index{1} << 20);
    }();
    return values;
}

/// Where in `gaussians()` the next `count` values come from: steps by a prime, so that no two pieces of the data are alike soon.
[[nodiscard]] inline const float* next_gaussians(Index count) {
    static Index offset = 0;
    const auto size = static_cast<Index>(gaussians().size());
    offset = (offset + 104729) % (size - count + 1);
    return gaussians().data() + offset;
}

/// `count` values from N(0, sigma²).
template <Storage S>
[[nodiscard]] detail::AlignedArray<S> random_values(Index count, double sigma = 1.0) {
    constexpr Index piece = 1 << 16;
    auto values = detail::allocate_aligned<S>(count);
    std::vector<S> scaled(gaussians().size());
    for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] = S(static_cast<float>(sigma) * gaussians()[i]);
    for (Index done = 0; done < count; done += piece) {
        const Index length = std::min(piece, count - done);
        std::copy_n(scaled.data() + (next_gaussians(length) - gaussians().data()), length, values.get() + done);
    }
    return values;
}

/// Weights [out, in] from N(0, 1/in), so that activations keep their size, with views that live as long as this.
template <Storage S>
class RandomTensors {
  public:
    [[nodiscard]] TensorRef add(Index rows, Index cols) {
        values_.push_back(random_values<S>(rows * cols, 1.0 / std::sqrt(static_cast<double>(cols))));
        return {values_.back().get(), rows, cols};
    }

    [[nodiscard]] AttentionWeights add(const Config& config) {
        AttentionWeights weights;
        for_each_tensor(config, weights,
                        [&](const char*, TensorRef& tensor, Index rows, Index cols) { tensor = add(rows, cols); });
        return weights;
    }

    [[nodiscard]] baselines::GroupedQueryWeights add(const baselines::GroupedQueryConfig& config) {
        return {add(config.q_dim(), config.hidden_size), add(config.kv_dim(), config.hidden_size),
                add(config.kv_dim(), config.hidden_size), add(config.hidden_size, config.q_dim())};
    }

  private:
    std::vector<detail::AlignedArray<S>> values_;
};

/// A weight in fp8 with a scale for each 128 × 128, as DeepSeek-V3 is published.
class BlockQuantised {
  public:
    BlockQuantised() = default;
    explicit BlockQuantised(const TensorRef& weight)
        : codes_(static_cast<std::size_t>(weight.rows * weight.cols)),
          scales_(static_cast<std::size_t>(divide_up(weight.rows, block) * divide_up(weight.cols, block))),
          rows_(weight.rows),
          cols_(weight.cols) {
        weight.visit([&](const auto& element) {
            for (Index row = 0; row < rows_; row += block)
                for (Index col = 0; col < cols_; col += block) quantise(row, col, element);
        });
    }
    [[nodiscard]] TensorRef ref() const noexcept {
        return {codes_.data(), rows_, cols_, BlockScales(scales_.data(), divide_up(cols_, block))};
    }

  private:
    static constexpr Index block = 128;

    template <class Element>
    void quantise(Index row, Index col, const Element& element) {
        const Index last_row = std::min(row + block, rows_), last_col = std::min(col + block, cols_);
        float largest = 0.0F;
        for (Index r = row; r < last_row; ++r)
            for (Index c = col; c < last_col; ++c) largest = std::max(largest, std::abs(static_cast<float>(element(r, c))));
        const float scale = largest / 448.0F;
        scales_[static_cast<std::size_t>(row / block * divide_up(cols_, block) + col / block)] = scale;
        for (Index r = row; r < last_row; ++r)
            for (Index c = col; c < last_col; ++c)
                codes_[static_cast<std::size_t>(r * cols_ + c)] = fp8(static_cast<float>(element(r, c)) / scale);
    }

    std::vector<fp8> codes_;
    std::vector<float> scales_;
    Index rows_ = 0;
    Index cols_ = 0;
};

inline constexpr Index tokens_at_a_time = 16;

/// Appends random tokens until the cache holds `length`.
template <LatentStore Cache>
void fill(Cache& cache, Index length) {
    const Index dim = cache.latent_dim() + cache.rope_dim();
    while (cache.size() < length) {
        const Index count = std::min(tokens_at_a_time, length - cache.size());
        cache.append(MatrixView<const float>(next_gaussians(count * dim), count, dim));
    }
}

template <Storage C>
void fill(baselines::KvCache<C>& cache, Index length) {
    const auto tokens = [&](Index count) {
        return HeadsView<const float>(next_gaussians(count * cache.kv_heads() * cache.head_dim()), count, cache.kv_heads(),
                                      cache.head_dim());
    };
    while (cache.size() < length) {
        const Index count = std::min(tokens_at_a_time, length - cache.size());
        cache.append(tokens(count), tokens(count));
    }
}

}  // namespace mla::bench
