// The layer against transformers' own attention modules: the golden files of tests/golden.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "support/golden.hpp"
#include "support/layer.hpp"

namespace mla {
namespace {

constexpr Form forms[] = {Form::automatic, Form::absorbed, Form::expanded};

/// Both sides err: ours as a layer computed in A, transformers' as one in the type it ran in. An angle that transformers
/// computes in that type errs by its roundoff (frequency 2u, product u); frequency 0 is exact, so that the largest such
/// error is that of position · base^(−2/Dr). In float, the goal for a layer bounds our side.
template <Compute A>
double tolerance(const golden::Case& layer) {
    const Config& c = layer.config;
    const Index keys = layer.x.rows;
    const double angle =
        static_cast<double>(layer.positions.back()) * std::pow(c.rope.base, -2.0 / static_cast<double>(c.qk_rope_head_dim));
    const double ours = testing::layer_tolerance<A>(c, keys) + 3.0 * angle * 0x1p-53;
    return ours + (layer.in_double ? testing::layer_tolerance<double>(c, keys) + 3.0 * angle * 0x1p-53
                                   : testing::layer_tolerance<float>(c, keys) + 3.0 * angle * 0x1p-24);
}

template <Compute A>
Prompt<A> prompt_of(const golden::Case& layer) {
    Prompt<A> prompt(layer.config, layer.x.rows, 0);
    for (Index i = 0; i < prompt.x.size(); ++i) prompt.x.data()[i] = static_cast<A>(layer.x.values[static_cast<std::size_t>(i)]);
    prompt.positions = layer.positions;
    return prompt;
}

template <Compute A, class K>
void expect_index_keys(const LatentCache<A, K>& cache, const golden::Case& file, double bound) {
    if constexpr (!std::is_same_v<K, NoIndexKeys>) {
        std::vector<A> keys;
        const auto view = cache.index_view();
        for (Index t = 0; t < view.length; ++t) keys.insert(keys.end(), view.row(t), view.row(t) + view.latent_dim);
        const auto error = testing::compare(keys, file.index_keys.values);
        EXPECT_TRUE(testing::within(error, bound)) << "index keys " << error << ", tolerance " << bound;
    }
}

/// K: the type of index keys, or none.
template <Compute A, class K>
void expect_parity_with(const golden::Case& file) {
    const Attention<A> layer(file.config, file.weights);
    const Prompt<A> prompt = prompt_of<A>(file);
    const double bound = tolerance<A>(file);
    for (const golden::Run& golden_run : file.runs)
        for (const Form form : forms) {
            LatentCache<A, K> cache(file.config, file.x.rows);
            const auto error = compare(feed(layer, prompt, golden_run.chunks, cache, form), golden_run.y);
            EXPECT_TRUE(testing::within(error, bound))
                << golden_run.name << ", form " << int(form) << ": " << error << ", tolerance " << bound;
            const auto cache_error = testing::compare(cached_rows(cache).values, file.cache.values);
            EXPECT_TRUE(testing::within(cache_error, bound))
                << golden_run.name << ": cache " << cache_error << ", tolerance " << bound;
            expect_index_keys(cache, file, bound);
        }
}

/// The same of a layer whose cache is another's: its rows are there before each chunk's tokens are.
template <Compute A>
void expect_parity_over_shared(const golden::Case& file) {
    const Attention<A> layer(file.config, file.weights);
    const Prompt<A> prompt = prompt_of<A>(file);
    const std::vector<A> rows(file.cache.values.begin(), file.cache.values.end());
    const double bound = tolerance<A>(file);
    for (const golden::Run& golden_run : file.runs)
        for (const Form form : forms) {
            LatentCache<A> latents(file.config, file.x.rows);
            LatentCache<A> index_keys(index_key_config(file.config), file.x.rows);
            SharedLatents cache(latents, index_keys);
            const auto y = feed(layer, prompt, golden_run.chunks, cache, form, SerialExecutor{}, [&](Index begin, Index count) {
                latents.append(MatrixView<const A>(rows.data() + begin * file.cache.cols, count, file.cache.cols));
            });
            const auto error = compare(y, golden_run.y);
            EXPECT_TRUE(testing::within(error, bound)) << golden_run.name << ", form " << int(form) << ": " << error;
            const auto key_error = testing::compare(cached_rows(index_keys).values, file.index_keys.values);
            EXPECT_TRUE(testing::within(key_error, bound)) << golden_run.name << ": index keys " << key_error;
        }
}

template <Compute A>
void expect_parity(const golden::Case& file) {
    if (file.config.shares_cache) return expect_parity_over_shared<A>(file);
    file.config.indexer.heads > 0 ? expect_parity_with<A, A>(file) : expect_parity_with<A, NoIndexKeys>(file);
}

class GoldenAttentionTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenAttentionTest, FloatLayerMatchesTransformersInAnyChunkingAndForm) { expect_parity<float>(golden::load(GetParam())); }

TEST_P(GoldenAttentionTest, DoubleLayerMatchesTransformersInAnyChunkingAndForm) {
    expect_parity<double>(golden::load(GetParam()));
}

/// The layer's own selection of the whole prompt.
TEST_P(GoldenAttentionTest, LayersWithAnIndexerSelectWhatTransformersSelects) {
    const golden::Case file = golden::load(GetParam());
    const Index top_k = file.config.indexer.most_selected();
    if (file.config.indexer.heads == 0 || file.config.shares_cache) return;
    const Attention<double> layer(file.config, file.weights);
    const Prompt<double> prompt = prompt_of<double>(file);
    LatentCache<double, double> cache(file.config, file.x.rows);
    const std::array<Request<LatentCache<double, double>>, 1> requests{{{&cache, file.x.rows}}};
    std::vector<std::int32_t> selected(static_cast<std::size_t>(file.x.rows * top_k));
    RowMatrix<double> y(file.x.rows, file.config.hidden_size);
    Workspace workspace;
    layer.forward(prompt.x, prompt.positions, requests, y, SerialExecutor{}, workspace,
                  {.selected = {selected.data(), file.x.rows, top_k}});
    for (std::size_t t = 0; t < file.selection.size(); ++t) {
        const auto row = selected.begin() + static_cast<Index>(t) * top_k;
        std::vector<Index> keys(row, std::find(row, row + top_k, -1));
        EXPECT_EQ(keys, file.selection[t]) << "token " << t;
    }
}

INSTANTIATE_TEST_SUITE_P(Transformers, GoldenAttentionTest, ::testing::ValuesIn(golden::names()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace mla
