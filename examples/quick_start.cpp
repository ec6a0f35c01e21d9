// One layer from weights to outputs: a prompt goes in whole, further tokens one by one, all through `forward`.
#include <cstdio>
#include <span>

#include "mla/mla.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

using Matrix = mla::RowMatrix<float>;

int main() {
    // A published geometry; or a Config of your own, or mla::io::load_hf_config of a config.json.
    const mla::Config config = mla::presets::deepseek_v2_lite();

    // Random numbers stand in for a checkpoint here. The layer asks for TensorRefs: pointer, type, rows, columns, stride.
    const mla::testing::RandomWeights<mla::bf16> checkpoint(config, 1);
    const mla::AttentionWeights weights = checkpoint.refs();
    const mla::Attention<mla::bf16, 512> attention(config, weights);  // packs a copy; the tensors may go now

    constexpr mla::Index prompt = 24;
    constexpr mla::Index total = 32;
    const Matrix x = Matrix::Random(total, config.hidden_size);  // [T, hidden], after the input norm
    const auto positions = mla::testing::consecutive(0, total);
    const auto tokens = [&](mla::Index first, mla::Index count) {
        return std::span(positions).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    };

    mla::LatentCache<mla::bf16> cache(config, total);
    Matrix y(total, config.hidden_size);
    mla::Workspace workspace;  // scratch memory, kept from call to call: a decode step then allocates nothing
    mla::SerialExecutor executor;

    // Prefill, then decode. Each token attends to all cached ones up to itself.
    attention.forward(x.topRows(prompt), tokens(0, prompt), cache, y.topRows(prompt), executor, workspace);
    for (mla::Index t = prompt; t < total; ++t)
        attention.forward(x.middleRows(t, 1), tokens(t, 1), cache, y.middleRows(t, 1), executor, workspace);

    // Multi-head attention would cache a key and a value for every head.
    const mla::Index mla_bytes = cache.bytes_per_token();
    const mla::Index mha_values = config.num_attention_heads * (config.qk_head_dim() + config.v_head_dim);
    const mla::Index mha_bytes = mha_values * mla::Index{sizeof(mla::bf16)};
    const double ratio = static_cast<double>(mha_bytes) / static_cast<double>(mla_bytes);
    std::printf("cached bytes a token and layer: MLA %td, MHA %td, %.1f times as many\n", mla_bytes, mha_bytes, ratio);

    // How the tokens were cut into calls, and which form computed them, makes no difference but rounding.
    mla::LatentCache<mla::bf16> whole_cache(config, total);
    Matrix whole(total, config.hidden_size);
    attention.forward(x, positions, whole_cache, whole, executor, workspace, mla::Form::expanded);
    const auto error = static_cast<double>((y - whole).norm() / whole.norm());
    // Each form rounds sums in its own way, and where the CPU multiplies bf16 the absorbed one rounds its operands to that.
    const double tolerance =
        2.0 * mla::testing::layer_tolerance<float>(config, total) + mla::testing::storage_tolerance<mla::bf16>;
    std::printf("prefill and decode against one call: relative difference %.1e, allowed %.1e\n", error, tolerance);

    return cache.size() == total && ratio > 8.0 && error <= tolerance ? 0 : 1;
}
