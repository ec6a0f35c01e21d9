// Which token comes next.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <span>

#include "decoder.hpp"

namespace generate {

/// Temperature 0 takes the best token. Any other draws from softmax(logits / temperature): below 1 rather the likely ones.
class Sampler {
  public:
    explicit Sampler(double temperature, std::uint64_t seed = 0) : temperature_(temperature), generator_(seed) {}

    Token operator()(std::span<const float> logits) {
        const auto best = std::max_element(logits.begin(), logits.end());
        if (temperature_ == 0.0) return static_cast<Token>(best - logits.begin());
        std::vector<double> weights;
        for (const float logit : logits) weights.push_back(std::exp(static_cast<double>(logit - *best) / temperature_));
        const double uniform = 0x1p-53 * static_cast<double>(generator_() >> 11U);  // [0, 1), the same on every machine
        double left = uniform * std::accumulate(weights.begin(), weights.end(), 0.0);
        std::size_t token = 0;
        while (token + 1 < weights.size() && left >= weights[token]) left -= weights[token++];
        return static_cast<Token>(token);
    }

  private:
    double temperature_;
    std::mt19937_64 generator_;
};

}  // namespace generate
