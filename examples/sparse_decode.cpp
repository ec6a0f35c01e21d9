// Sparse attention as DeepSeek-V3.2 and GLM-5 have it: one layer's indexer chooses the tokens worth looking at, and a layer after
// it attends to the same ones. Latents and index keys lie in one paged cache and cannot drift apart.
#include <array>
#include <cstdio>
#include <vector>

#include "mla/mla.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"

namespace {

using mla::Index;
using Matrix = mla::RowMatrix<float>;

constexpr Index prompt = 200;
constexpr Index answer = 8;
constexpr Index top_k = 32;  // the models' is 2048

/// A layer that selects its keys, or one that takes a selection: it has no indexer, and keeps no index keys.
mla::Config layer_config(bool selects) {
    mla::Config config = mla::testing::small_config();
    config.indexer.top_k = top_k;
    if (selects) config.indexer = {.top_k = top_k, .heads = 8, .head_dim = 16};
    return config;
}

}  // namespace

int main() {
    const mla::Config selecting_config = layer_config(true);
    const mla::Config sharing_config = layer_config(false);
    const Index hidden = selecting_config.hidden_size;
    const mla::Attention<float> selecting(selecting_config, mla::testing::RandomWeights<float>(selecting_config, 1).refs());
    const mla::Attention<float> sharing(sharing_config, mla::testing::RandomWeights<float>(sharing_config, 2).refs());

    mla::PagedCache<mla::bf16, mla::bf16> pool(selecting_config, 32, 16);  // latents, and index keys in pages of the same numbers
    mla::PagedCache<mla::bf16> shared_pool(sharing_config, 32, 16);
    auto cache = pool.sequence(prompt + answer);
    auto shared_cache = shared_pool.sequence(prompt + answer);
    mla::Workspace workspace;

    mla::testing::Generator generator(3);
    const auto step = [&](Index first, Index count) {
        Matrix x(count, hidden);
        for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(mla::testing::gaussian(generator));
        const auto positions = mla::testing::consecutive(first, count);
        std::vector<std::int32_t> selection(static_cast<std::size_t>(count * top_k));
        const mla::MatrixView<std::int32_t> selected(selection.data(), count, top_k);
        // A model's norms, residuals and feed-forward parts would stand between the two.
        const std::array<mla::Request<decltype(cache)>, 1> requests{{{&cache, count}}};
        selecting.forward(x, positions, requests, x, mla::SerialExecutor{}, workspace, {.selected = selected});
        const std::array<mla::Request<decltype(shared_cache)>, 1> shared_requests{{{&shared_cache, count}}};
        sharing.forward(x, positions, shared_requests, x, mla::SerialExecutor{}, workspace, {.selection = selected});
        return selection;
    };

    step(0, prompt);
    for (Index t = prompt; t < prompt + answer; ++t) {
        const std::vector<std::int32_t> selection = step(t, 1);
        std::printf("token %td of %td cached attends to %d, %d, %d … %d\n", t, cache.size(), selection[0], selection[1],
                    selection[2], selection.back());
    }
    std::printf("%td + %td bytes a token cached, %td of %td tokens read a step\n", cache.bytes_per_token(),
                shared_cache.bytes_per_token(), top_k, cache.size());
    return 0;
}
