// A step of decoding that every translation unit that includes this compiles for itself.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "mla/mla.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"

/// The output of three decoded tokens, as the other unit computes it.
std::vector<float> decode_in_other_unit();

namespace {

std::vector<float> decode() {
    const mla::Config config = mla::testing::small_config();
    const mla::testing::RandomWeights<float> weights(config, 1);
    const mla::Attention<float> attention(config, weights.refs());
    mla::LatentCache<float> cache(config, 3);
    mla::testing::Generator generator(2);
    mla::RowMatrix<float> y(1, config.hidden_size);
    for (std::int64_t token = 0; token < cache.capacity(); ++token) {
        const std::vector<float> x = mla::testing::gaussian_values<float>(generator, config.hidden_size);
        attention.forward(Eigen::Map<const mla::RowMatrix<float>>(x.data(), 1, config.hidden_size), std::array{token}, cache, y);
    }
    return {y.data(), y.data() + y.size()};
}

}  // namespace
