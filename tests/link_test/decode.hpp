// A step of decoding that every translation unit that includes this compiles for itself, with flags of its own.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "mla/mla.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"

/// What a unit computed, and for which target.
struct Decoded {
    std::string target;
    std::vector<float> values;
};

Decoded decode_in_first_unit();
Decoded decode_in_second_unit();

namespace {

[[maybe_unused]] Decoded decode() {
    const mla::Config config = mla::testing::small_config();
    const mla::testing::RandomWeights<mla::bf16> weights(config, 1);
    const mla::Attention<mla::bf16> attention(config, weights.refs());
    mla::LatentCache<mla::bf16> cache(config, 30);
    mla::testing::Generator generator(2);
    const std::vector<float> x = mla::testing::gaussian_values<float>(generator, 30 * config.hidden_size);
    mla::RowMatrix<float> y(30, config.hidden_size);
    std::vector<std::int64_t> positions(30);
    for (std::size_t t = 0; t < positions.size(); ++t) positions[t] = static_cast<std::int64_t>(t);
    attention.forward(Eigen::Map<const mla::RowMatrix<float>>(x.data(), 30, config.hidden_size), positions, cache, y);
    return {mla::targets::native::name, {y.data(), y.data() + y.size()}};
}

}  // namespace
