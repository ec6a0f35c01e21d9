// Layers that select their keys, or are handed the selection of another layer.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "mla/attention.hpp"
#include "mla/cache/paged_cache.hpp"
#include "support/executors.hpp"
#include "support/layer.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

using testing::layer_tolerance;
using testing::NamedConfig;
using testing::RandomWeights;
using testing::small_config;
using testing::thrown;
using testing::within;

Config sparse_config() {
    Config config = small_config();
    config.indexer = {.top_k = 9, .heads = 3, .head_dim = 14};
    return config;
}

std::vector<NamedConfig> sparse_configs() {
    std::vector<NamedConfig> configs;
    const auto add = [&](const char* name, auto&& change) {
        NamedConfig named{name, sparse_config()};
        change(named.config);
        configs.push_back(named);
    };
    add("half_split", [](Config&) {});
    add("interleaved", [](Config& c) { c.indexer.pairing = RopePairing::interleaved; });
    add("rope_is_last", [](Config& c) { c.indexer.rope_is_last = true, c.indexer.norm_eps = 1e-2; });
    add("one_head_all_rotated", [](Config& c) { c.indexer.heads = 1, c.indexer.head_dim = 10; });
    add("no_rope", [](Config& c) { c.qk_rope_head_dim = 0; });
    add("yarn", [](Config& c) { c.rope.scaling = testing::small_yarn(); });
    add("no_q_lora_learned_scale", [](Config& c) { c.q_lora_rank = 0, c.learned_query_scale = true; });
    add("top_1", [](Config& c) { c.indexer.top_k = 1; });
    add("pools", [](Config& c) { c.indexer.pool = 3; });
    add("pools_and_tail", [](Config& c) { c.indexer.pool = 3, c.indexer.selects_tail = true; });
    add("one_pool_and_tail", [](Config& c) { c.indexer.pool = 4, c.indexer.top_k = 4, c.indexer.selects_tail = true; });
    add("gate_and_sinks", [](Config& c) {
        c.output_gate = OutputGate::with_query;
        c.sinks = true;
        c.attention_bias = true;
    });
    return configs;
}

/// A layer, its cache of C with index keys of K, and the oracle's.
template <Storage T, Storage C, Storage K>
struct Sparse {
    using A = compute_t<T>;
    Config config;
    RandomWeights<T> weights;
    Attention<T> layer;
    Workspace workspace;
    std::vector<std::int32_t> selected;  ///< [T, most_selected] of the last call

    explicit Sparse(const Config& c) : config(c), weights(c, 7), layer(c, weights.refs()) {}

    /// Feeds the tokens in the given chunks, before each of which `before(begin, count)` is called; `selected` then holds all
    /// tokens' selection.
    template <class Cache, class Before = void (*)(Index, Index)>
    RowMatrix<A> feed(
        const Prompt<A>& prompt, const std::vector<Index>& chunks, Cache& cache, ExecutorRef executor = SerialExecutor{},
        Before before = [](Index, Index) {}) {
        RowMatrix<A> y(prompt.x.rows(), prompt.x.cols());
        const Index top_k = config.indexer.most_selected();
        selected.assign(static_cast<std::size_t>(prompt.x.rows() * top_k), 12345);
        Index begin = 0;
        for (const Index count : chunks) {
            const auto positions =
                std::span(prompt.positions).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
            const std::array<Request<Cache>, 1> requests{{{&cache, count}}};
            before(begin, count);
            layer.forward(prompt.x.middleRows(begin, count), positions, requests, y.middleRows(begin, count), executor, workspace,
                          {.selected = {selected.data() + begin * top_k, count, top_k}});
            begin += count;
        }
        return y;
    }
    RowMatrix<A> feed(const Prompt<A>& prompt, const std::vector<Index>& chunks) {
        LatentCache<C, K> cache(config, prompt.x.rows());
        return feed(prompt, chunks, cache);
    }

    /// What of the selection each token sees.
    [[nodiscard]] reference::Visible visible() const {
        return [this](Index t, Index s) {
            const Index most = config.indexer.most_selected();
            const auto row = selected.begin() + t * most;
            return std::find(row, row + most, s) != row + most;
        };
    }
    /// The oracle on the layer's own selection.
    [[nodiscard]] reference::Matrix expected_as_selected(const Prompt<A>& prompt) const {
        reference::Matrix cache(0, config.cache_dim());
        return reference::forward(config, weights.refs(), prompt.matrix(), prompt.positions, cache, reference::Form::expanded,
                                  visible());
    }
};

constexpr Index tokens = 61;
const std::vector<std::vector<Index>> chunkings = {{tokens}, std::vector<Index>(tokens, 1), {5, 1, 30, 25}, {12, 0, 49}};

TEST(AttentionSparseTest, DoubleLayersSelectAndAttendAsTheReferenceDoes) {
    for (const auto& [name, config] : sparse_configs()) {
        Sparse<double, double, double> sparse(config);
        const Prompt<double> prompt(config, tokens, 1, 50);
        reference::Matrix cache(0, config.cache_dim()), index_keys(0, config.indexer.row_dim());
        const auto expected = reference::forward_sparse(config, sparse.weights.refs(), prompt.matrix(), prompt.positions, cache,
                                                        index_keys, reference::Form::absorbed);
        for (const auto& chunks : chunkings) {
            const auto error = compare(sparse.feed(prompt, chunks), expected);
            EXPECT_TRUE(within(error, layer_tolerance<double>(config, tokens))) << name << ": " << error;
        }
    }
}

TEST(AttentionSparseTest, FloatLayersAttendToWhatTheySelected) {
    for (const auto& [name, config] : sparse_configs()) {
        Sparse<float, float, float> sparse(config);
        const Prompt<float> prompt(config, tokens, 2);
        for (const auto& chunks : chunkings) {
            const auto y = sparse.feed(prompt, chunks);
            const auto error = compare(y, sparse.expected_as_selected(prompt));
            EXPECT_TRUE(within(error, layer_tolerance<float>(config, tokens))) << name << ": " << error;
        }
    }
}

TEST(AttentionSparseTest, CachedIndexKeysAreTheReferences) {
    for (const auto& [name, config] : sparse_configs()) {
        Sparse<float, float, float> sparse(config);
        const Prompt<float> prompt(config, tokens, 3);
        LatentCache<float, float> cache(config, tokens);
        static_cast<void>(sparse.feed(prompt, {20, 41}, cache));
        const auto view = cache.index_view();
        std::vector<float> keys;
        for (Index t = 0; t < tokens; ++t) keys.insert(keys.end(), view.row(t), view.row(t) + view.latent_dim);
        const auto expected = reference::project_index_keys(config, sparse.weights.refs(), prompt.matrix(), prompt.positions);
        // A norm of few values may take the difference of two that are nearly equal.
        EXPECT_TRUE(within(testing::compare(keys, expected.values), 4.0 * layer_tolerance<float>(config, tokens))) << name;
    }
}

TEST(AttentionSparseTest, UpToTopKTokensItIsTheDenseLayerToTheBit) {
    Config config = sparse_config();
    config.indexer.top_k = 40;
    Sparse<bf16, bf16, bf16> sparse(config);
    Config dense = config;
    dense.indexer = {};
    const Attention<bf16> layer(dense, sparse.weights.refs());
    const Prompt<float> prompt(config, 40, 4);
    for (const std::vector<Index>& chunks : {std::vector<Index>{40}, {3, 37}}) {
        LatentCache<bf16> cache(dense, 40);
        EXPECT_TRUE(same_bits(sparse.feed(prompt, chunks), feed(layer, prompt, chunks, cache)));
    }
    for (Index t = 0; t < 40; ++t)
        for (Index i = 0; i < 40; ++i) EXPECT_EQ(sparse.selected[static_cast<std::size_t>(t * 40 + i)], i <= t ? i : -1);
}

TEST(AttentionSparseTest, ThreadsChangeNoBit) {
    Config config = sparse_config();
    config.num_attention_heads = 20;
    Sparse<float, bf16, bf16> sparse(config);
    const Prompt<float> prompt(config, 150, 5);
    const auto expected = sparse.feed(prompt, {149, 1});
    for (const Index threads : {2, 3}) {
        LatentCache<bf16, bf16> cache(config, 150);
        EXPECT_TRUE(same_bits(sparse.feed(prompt, {149, 1}, cache, ThreadExecutor(threads)), expected));
    }
}

// Several requests ---------------------------------------------------------------------------------------------------

TEST(AttentionSparseTest, EveryRequestOfABatchGetsWhatItGetsAlone) {
    const Config config = sparse_config();
    Sparse<float, float, float> sparse(config);
    PagedCache<float, float> pool(config, 80, 4);
    std::vector<PagedSequence<float, float>> sequences;
    const std::vector<Index> before = {0, 30, 5, 70, 3}, next = {80, 1, 1, 3, 0};
    std::vector<RowMatrix<float>> alone;
    std::vector<Request<PagedSequence<float, float>>> requests;
    for (std::size_t r = 0; r < before.size(); ++r) {
        sequences.push_back(pool.sequence(100));
        const Prompt<float> prompt(config, before[r] + next[r], 10 + r);
        alone.push_back(sparse.feed(prompt, {before[r], next[r]}).bottomRows(next[r]));
        Prompt<float> first = prompt;
        first.x = prompt.x.topRows(before[r]).eval();
        static_cast<void>(sparse.feed(first, {before[r]}, sequences.back()));
    }
    Prompt<float> all(config, 85, 0);
    Index row = 0;
    for (std::size_t r = 0; r < before.size(); ++r) {
        const Prompt<float> prompt(config, before[r] + next[r], 10 + r);
        requests.push_back({&sequences[r], next[r]});
        for (Index t = before[r]; t < before[r] + next[r]; ++t, ++row) {
            all.x.row(row) = prompt.x.row(t);
            all.positions[static_cast<std::size_t>(row)] = prompt.positions[static_cast<std::size_t>(t)];
        }
    }
    RowMatrix<float> y(85, config.hidden_size);
    sparse.layer.forward(all.x, all.positions, requests, y, SerialExecutor{}, sparse.workspace);
    row = 0;
    for (std::size_t r = 0; r < before.size(); row += next[r++])
        EXPECT_TRUE(same_bits(RowMatrix<float>(y.middleRows(row, next[r])), alone[r])) << "request " << r;
}

/// With pools a rollback leaves some half full.
void expect_forks_and_rollbacks(const Config& config) {
    Sparse<float, float, float> sparse(config);
    const Prompt<float> prompt(config, tokens, 6);
    const auto expected = sparse.feed(prompt, {30, 31});
    const auto expect_same = [&](auto& cache) {
        Prompt<float> rest = prompt;
        rest.x = prompt.x.bottomRows(31).eval();
        rest.positions.erase(rest.positions.begin(), rest.positions.begin() + 30);
        EXPECT_TRUE(same_bits(sparse.feed(rest, {31}, cache), RowMatrix<float>(expected.bottomRows(31))));
    };
    Prompt<float> other(config, 20, 7);
    Prompt<float> first = prompt;
    first.x = prompt.x.topRows(30).eval();
    PagedCache<float, float> pool(config, 60, 4);
    auto sequence = pool.sequence(70);
    static_cast<void>(sparse.feed(first, {30}, sequence));
    auto fork = sequence.fork(30);
    static_cast<void>(sparse.feed(other, {20}, sequence));
    expect_same(fork);
    sequence.truncate(30);
    expect_same(sequence);
    LatentCache<float, float> cache(config, 70);
    static_cast<void>(sparse.feed(first, {30}, cache));
    auto copy = cache.fork(30, 70);
    static_cast<void>(sparse.feed(other, {20}, cache));
    cache.truncate(30);
    expect_same(cache);
    expect_same(copy);
}

TEST(AttentionSparseTest, ForksAndRollbacksKeepLatentsAndIndexKeysTogether) {
    expect_forks_and_rollbacks(sparse_config());
    Config config = sparse_config();
    config.indexer.pool = 4;
    config.indexer.top_k = 12;
    config.indexer.selects_tail = true;
    expect_forks_and_rollbacks(config);
}

// Selections of another layer ----------------------------------------------------------------------------------------

TEST(AttentionSparseTest, ALayerWithoutAnIndexerTakesTheSelectionItIsHanded) {
    Config config = sparse_config();
    Sparse<float, float, float> selecting(config);
    const Prompt<float> prompt(config, tokens, 8);
    static_cast<void>(selecting.feed(prompt, {tokens}));
    config.indexer = {.top_k = 9, .heads = 0, .head_dim = 0};
    const RandomWeights<float> weights(config, 9);
    const Attention<float> layer(config, weights.refs());
    reference::Matrix reference_cache(0, config.cache_dim());
    const auto expected = reference::forward(config, weights.refs(), prompt.matrix(), prompt.positions, reference_cache,
                                             reference::Form::absorbed, selecting.visible());
    PagedCache<float> pool(config, 20, 8);
    auto cache = pool.sequence(tokens);
    RowMatrix<float> y(tokens, config.hidden_size);
    Workspace workspace;
    for (const auto& [begin, count] : {std::pair<Index, Index>{0, 40}, {40, 1}, {41, 20}}) {
        const std::array<Request<PagedSequence<float>>, 1> requests{{{&cache, count}}};
        layer.forward(prompt.x.middleRows(begin, count),
                      std::span(prompt.positions).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
                      requests, y.middleRows(begin, count), SerialExecutor{}, workspace,
                      {.selection = {selecting.selected.data() + begin * 9, count, 9}});
    }
    const auto error = compare(y, expected);
    EXPECT_TRUE(within(error, layer_tolerance<float>(config, tokens))) << error;
}

// Caches of another layer --------------------------------------------------------------------------------------------

TEST(AttentionSharedCacheTest, AttendsToTheCacheOfALayerBeforeIt) {
    const Config config = small_config();
    Config shared_config = config;
    shared_config.shares_cache = true;
    const Attention<float> first(config, RandomWeights<float>(config, 11).refs());
    const RandomWeights<float> weights(shared_config, 12);
    const Attention<float> second(shared_config, weights.refs());
    const Prompt<float> prompt(config, tokens, 13);
    for (const Form form : {Form::absorbed, Form::expanded}) {
        LatentCache<float> cache(config, tokens);
        RowMatrix<float> y(tokens, config.hidden_size);
        Workspace workspace;
        for (const auto& [begin, count] : {std::pair<Index, Index>{0, 40}, {40, 1}, {41, 20}}) {
            const auto positions =
                std::span(prompt.positions).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
            const auto x = prompt.x.middleRows(begin, count);
            first.forward(x, positions, cache, y.middleRows(begin, count), SerialExecutor{}, workspace, form);
            EXPECT_EQ(cache.size(), begin + count);
            second.forward(x, positions, cache, y.middleRows(begin, count), SerialExecutor{}, workspace, form);
            EXPECT_EQ(cache.size(), begin + count);
        }
        reference::Matrix rows = cached_rows(cache);
        const auto expected =
            reference::forward(shared_config, weights.refs(), prompt.matrix(), prompt.positions, rows, reference::Form::absorbed);
        EXPECT_TRUE(within(compare(y, expected), layer_tolerance<float>(config, tokens))) << int(form);
    }
    LatentCache<float> empty(config, tokens);
    RowMatrix<float> y(1, config.hidden_size);
    Workspace workspace;
    EXPECT_EQ(thrown<std::invalid_argument>([&] {
                  second.forward(prompt.x.topRows(1), std::span(prompt.positions).first(1), empty, y, SerialExecutor{},
                                 workspace);
              }),
              "mla: cache.size() of a layer that shares it is 0, must be at least 1");
}

/// A layer that keeps latents, and one that shares them and selects by index keys of its own.
struct Sharing {
    Config config = [] {
        Config shared = sparse_config();
        shared.shares_cache = true;
        return shared;
    }();
    Config first_config = small_config();
    Attention<float> first{first_config, RandomWeights<float>(first_config, 14).refs()};
    Sparse<float, float, float> second{config};
    Prompt<float> prompt{config, tokens, 15};

    /// The second layer's outputs; `latents` and `keys` take what is cached.
    template <class Latents, class Keys>
    RowMatrix<float> feed(const std::vector<Index>& chunks, Latents& latents, Keys& keys) {
        RowMatrix<float> ignored(tokens, config.hidden_size);
        SharedLatents cache(latents, keys);
        return second.feed(prompt, chunks, cache, SerialExecutor{}, [&](Index begin, Index count) {
            const auto positions =
                std::span(prompt.positions).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
            first.forward(prompt.x.middleRows(begin, count), positions, latents, ignored.topRows(count));
        });
    }
};

TEST(AttentionSharedCacheTest, SelectsByIndexKeysOfItsOwn) {
    Sharing layers;
    RowMatrix<float> at_once;
    for (const auto& chunks : chunkings) {
        LatentCache<float> latents(layers.first_config, tokens);
        LatentCache<float> keys(index_key_config(layers.config), tokens);
        const RowMatrix<float> y = layers.feed(chunks, latents, keys);
        EXPECT_EQ(keys.size(), tokens);
        reference::Matrix rows = cached_rows(latents);
        const auto expected =
            reference::forward(layers.config, layers.second.weights.refs(), layers.prompt.matrix(), layers.prompt.positions, rows,
                               reference::Form::absorbed, layers.second.visible());
        EXPECT_TRUE(within(compare(y, expected), layer_tolerance<float>(layers.config, tokens)));
        if (at_once.size() == 0) at_once = y;
    }
    PagedCache<float> pages(layers.first_config, 20, 8);
    PagedCache<float> key_pages(index_key_config(layers.config), 20, 4);
    auto latents = pages.sequence(tokens);
    auto keys = key_pages.sequence(tokens);
    EXPECT_TRUE(same_bits(layers.feed({tokens}, latents, keys), at_once));
}

TEST(AttentionSharedCacheTest, NamesWhatDoesNotFitTogetherAndLeavesIndexKeysAsTheyWere) {
    Sharing layers;
    LatentCache<float> latents(layers.first_config, tokens);
    LatentCache<float> keys(index_key_config(layers.config), tokens - 1);
    static_cast<void>(layers.feed({20, 10}, latents, keys));
    SharedLatents cache(latents, keys);
    RowMatrix<float> y(2, layers.config.hidden_size);
    const auto forward = [&](const auto& layer, auto& store) {
        layer.forward(layers.prompt.x.topRows(2), std::span(layers.prompt.positions).first(2), store, y);
    };
    EXPECT_EQ(thrown<std::invalid_argument>([&] { forward(layers.second.layer, cache); }),
              "mla: cache.index_keys().size() is 30, must be tokens before these = 28");
    EXPECT_EQ(keys.size(), 30);
    LatentCache<float, float> own(sparse_config(), tokens);
    EXPECT_EQ(thrown<std::invalid_argument>([&] { forward(layers.second.layer, own); }),
              "mla: cache.size() of a layer that shares it is 0, must be at least 2");
    const Sparse<float, float, float> other(sparse_config());
    EXPECT_EQ(thrown<std::invalid_argument>([&] { forward(other.layer, cache); }),
              "mla: cache is SharedLatents, must be one of its own for a layer that shares none");
    EXPECT_EQ(thrown<std::invalid_argument>([&] { forward(layers.second.layer, latents); }),
              "mla: cache is one without index keys, must be one with them for a layer with an indexer: LatentCache<C, K>, "
              "PagedCache<C, K>");
    EXPECT_THROW(static_cast<void>(index_key_config(small_config())), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(layers.feed({31}, latents, keys)), std::length_error);
    EXPECT_EQ(keys.size(), 30);
}

TEST(AttentionSparseErrorsTest, NameWhatIsMissingOrTooMuch) {
    const Config config = sparse_config();
    Sparse<float, float, float> sparse(config);
    Config shared_config = config;
    shared_config.indexer = {.top_k = 9, .heads = 0, .head_dim = 0};
    const Attention<float> shared(shared_config, sparse.weights.refs());
    const Prompt<float> prompt(config, 3, 9);
    RowMatrix<float> y(3, config.hidden_size);
    std::vector<std::int32_t> selection{0, -1, 1, 0, 2, 1};
    const auto message = [&](const Attention<float>& layer, auto cache, const ForwardOptions<float>& options) {
        return thrown<std::invalid_argument>([&] {
            using Cache = decltype(cache);
            const std::array<Request<Cache>, 1> requests{{{&cache, 3}}};
            Workspace workspace;
            layer.forward(prompt.x, prompt.positions, requests, y, SerialExecutor{}, workspace, options);
        });
    };
    const MatrixView<const std::int32_t> given(selection.data(), 3, 2);
    using Plain = LatentCache<float>;
    using Indexed = LatentCache<float, float>;
    EXPECT_EQ(message(sparse.layer, Plain(config, 3), {}),
              "mla: cache is one without index keys, must be one with them for a layer with an indexer: LatentCache<C, K>, "
              "PagedCache<C, K>");
    EXPECT_EQ(message(shared, Indexed(config, 3), {.selection = given}),
              "mla: cache.index_dim() is 14, must be indexer.head_dim = 0");
    EXPECT_EQ(message(shared, Plain(config, 3), {}),
              "mla: options.selection is empty, must be given: the layer selects no keys itself");
    EXPECT_EQ(message(sparse.layer, Indexed(config, 3), {.selection = given}),
              "mla: options.selection is given, must be empty: only a layer with top_k and without an indexer takes one");
    selection[1] = 1;
    EXPECT_EQ(message(shared, Plain(config, 3), {.selection = given}), "mla: options.selection[0][1] is 1, must be in [-1, 0]");
    std::vector<std::int32_t> selected(3 * 8);
    EXPECT_EQ(message(sparse.layer, Indexed(config, 3), {.selected = {selected.data(), 3, 8}}),
              "mla: options.selected.cols is 8, must be indexer.top_k = 9");
    const std::array<MatrixView<const bool>, 1> trees{};
    EXPECT_EQ(message(sparse.layer, Indexed(config, 3), {.trees = trees}),
              "mla: options.trees is given, must be empty for a layer that selects keys or has a sliding window");
    Config pooled = config;
    pooled.indexer.pool = 3;
    EXPECT_EQ(thrown<std::invalid_argument>([&] { PagedCache<float, float>(pooled, 3, 4); }),
              "mla: page_size is 4, must be a multiple of indexer.pool");
    pooled.indexer.pool = 2;
    EXPECT_EQ(thrown<std::invalid_argument>([&] { validate(pooled); }),
              "mla: indexer.top_k is 9, must be a multiple of indexer.pool");
    EXPECT_EQ(thrown<std::invalid_argument>([&] { Indexed(small_config(), 3); }),
              "mla: indexer.heads is 0, must be positive for a cache of index keys");
}

}  // namespace
}  // namespace mla
