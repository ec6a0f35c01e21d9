// A consumer's whole program: a layer whose weights are such that every output is 1, token after token.
#include <mla/mla.hpp>

#include <array>
#include <cstdint>
#include <cstdio>

namespace {

mla::Config small_config() {
    mla::Config config = mla::presets::deepseek_v2_lite();
    config.hidden_size = 32;
    config.num_attention_heads = 2;
    config.kv_lora_rank = 16;
    return config;
}

/// A matrix that turns a vector of ones into a vector of ones.
mla::RowMatrix<float> averaging(mla::Index rows, mla::Index cols) {
    return mla::RowMatrix<float>::Constant(rows, cols, 1.0F / static_cast<float>(cols));
}

}  // namespace

int main() {
    const mla::Config config = small_config();
    const mla::RowMatrix<float> q_proj = averaging(config.q_dim(), config.hidden_size);
    const mla::RowMatrix<float> kv_a_proj = averaging(config.cache_dim(), config.hidden_size);
    const mla::RowMatrix<float> kv_a_layernorm = mla::RowMatrix<float>::Ones(1, config.kv_lora_rank);
    const mla::RowMatrix<float> kv_b_proj =
        averaging(config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank);
    const mla::RowMatrix<float> o_proj = averaging(config.hidden_size, config.o_dim());

    mla::AttentionWeights weights;
    weights.q_proj = mla::tensor_ref(q_proj);
    weights.kv_a_proj_with_mqa = mla::tensor_ref(kv_a_proj);
    weights.kv_a_layernorm = mla::tensor_ref(kv_a_layernorm);
    weights.kv_b_proj = mla::tensor_ref(kv_b_proj);
    weights.o_proj = mla::tensor_ref(o_proj);

    const mla::Attention<float> attention(config, weights);
    mla::LatentCache<float> cache(config, 3);
    float worst = 0.0F;
    for (std::int64_t token = 0; token < cache.capacity(); ++token) {
        const mla::RowMatrix<float> x = mla::RowMatrix<float>::Ones(1, config.hidden_size);
        mla::RowMatrix<float> y(1, config.hidden_size);
        attention.forward(x, std::array{token}, cache, y);
        worst = std::max(worst, (y.array() - 1.0F).abs().maxCoeff<Eigen::PropagateNaN>());
    }
    std::printf("%td tokens cached, outputs within %.1e of 1\n", cache.size(), static_cast<double>(worst));
    return worst <= 1e-5F ? 0 : 1;  // five sums of at most 256 equal terms, and eps = 1e-6 under the norm's root
}
