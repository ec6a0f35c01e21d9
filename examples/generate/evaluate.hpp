// How well a decoder predicts text.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "decoder.hpp"

namespace generate {

/// −log2 of the probability that logits [vocabulary] give to `token`.
inline double bits_of(const Matrix& logits, Index row, Token token) {
    const float* values = logits.row(row).data();
    const float best = *std::max_element(values, values + logits.cols());
    double sum = 0.0;
    for (Index i = 0; i < logits.cols(); ++i) sum += std::exp(static_cast<double>(values[i] - best));
    return (std::log(sum) - static_cast<double>(values[token] - best)) / std::log(2.0);
}

/// Bits of every byte of `text` in windows of `window` bytes, which do not know of each other; the first byte of a window is
/// given. `tokens_a_call` bytes go in at a time: 1 reads as a decoder does that writes, `window` as a prompt is read.
template <class C>
std::vector<double> bits_of_bytes(const Decoder& decoder, std::string_view text, std::size_t window, std::size_t tokens_a_call,
                                  mla::ExecutorRef executor, mla::Form form = mla::Form::automatic) {
    mla::Workspace workspace;
    Caches<C> caches = decoder.make_caches<C>(static_cast<Index>(window));
    std::vector<double> bits;
    for (std::size_t begin = 0; begin + window <= text.size(); begin += window) {
        for (auto& cache : caches) cache.reset();
        std::vector<Token> tokens;
        for (const char c : text.substr(begin, window)) tokens.push_back(static_cast<unsigned char>(c));
        for (std::size_t first = 0; first < window; first += tokens_a_call) {
            const std::size_t count = std::min(tokens_a_call, window - first);
            const Matrix x = decoder.forward(std::span(tokens).subspan(first, count), caches, executor, workspace, form);
            const Matrix logits = decoder.logits(x, executor);
            for (std::size_t t = first; t < std::min(first + count, window - 1); ++t)
                bits.push_back(bits_of(logits, static_cast<Index>(t - first), tokens[t + 1]));
        }
    }
    return bits;
}

/// Their mean.
template <class C>
double bits_a_byte(const Decoder& decoder, std::string_view text, std::size_t window, std::size_t tokens_a_call,
                   mla::ExecutorRef executor, mla::Form form = mla::Form::automatic) {
    const auto bits = bits_of_bytes<C>(decoder, text, window, tokens_a_call, executor, form);
    return std::accumulate(bits.begin(), bits.end(), 0.0) / static_cast<double>(bits.size());
}

}  // namespace generate
