// Speculative decoding: a draft of several tokens is verified in one call, and what was wrong is taken back with
// `cache.truncate`. The outputs are those of decoding token by token, without speculation.
#include <algorithm>
#include <cstdio>

#include "mla/mla.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace {

using mla::Index;
using Matrix = mla::RowMatrix<float>;

constexpr Index length = 60;  // tokens that are generated
constexpr Index draft = 4;    // tokens of a call: the next one, which is certain, and three guesses

mla::Config small_layer() {
    mla::Config config;
    config.hidden_size = 256;
    config.num_attention_heads = 8;
    config.kv_lora_rank = 64;
    config.qk_nope_head_dim = 32;
    config.qk_rope_head_dim = 16;
    config.v_head_dim = 32;
    return config;
}

/// One token a call; `tokens` holds what the layer is fed for each of them, [length, hidden].
Matrix decode_plainly(const mla::Attention<float>& attention, const Matrix& tokens) {
    mla::LatentCache<float> cache(attention.config(), length);
    Matrix y(length, tokens.cols());
    for (Index t = 0; t < length; ++t)
        attention.forward(tokens.middleRows(t, 1), mla::testing::consecutive(t, 1), cache, y.middleRows(t, 1));
    return y;
}

/// A draft a call. Round r guesses r mod 4 tokens right; the guesses after those are noise, and are rolled back.
Matrix decode_speculatively(const mla::Attention<float>& attention, const Matrix& tokens, Index& rejected) {
    mla::LatentCache<float> cache(attention.config(), length + draft);  // room for a draft that reaches past the end
    Matrix y(length, tokens.cols());
    for (Index round = 0; cache.size() < length; ++round) {
        const Index start = cache.size();
        const Index accepted = std::min(1 + round % draft, length - start);
        Matrix guesses = Matrix::Random(draft, tokens.cols());
        guesses.topRows(accepted) = tokens.middleRows(start, accepted);

        Matrix outputs(draft, tokens.cols());
        attention.forward(guesses, mla::testing::consecutive(start, draft), cache, outputs);
        y.middleRows(start, accepted) = outputs.topRows(accepted);  // causal: what follows cannot have changed these
        cache.truncate(start + accepted);                           // as if the others had never been appended
        rejected += draft - accepted;
    }
    return y;
}

}  // namespace

int main() {
    const mla::Config config = small_layer();
    const mla::testing::RandomWeights<float> checkpoint(config, 1);
    const mla::Attention<float> attention(config, checkpoint.refs());
    const Matrix tokens = Matrix::Random(length, config.hidden_size);

    Index rejected = 0;
    const Matrix plain = decode_plainly(attention, tokens);
    const Matrix speculative = decode_speculatively(attention, tokens, rejected);
    const double difference = static_cast<double>((speculative - plain).norm() / plain.norm());
    const double tolerance = 2.0 * mla::testing::layer_tolerance<float>(config, length);  // each side may err by one
    std::printf("%td tokens decoded, %td guesses rolled back: relative difference %.1e, allowed %.1e\n", length, rejected,
                difference, tolerance);
    return rejected > 0 && difference <= tolerance ? 0 : 1;
}
