// The layer in float and double: against the fp64 oracle, and what holds however its tokens arrive.
#include "mla/attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "support/layer.hpp"

namespace mla {
namespace {

using testing::layer_tolerance;
using testing::NamedConfig;
using testing::RandomWeights;
using testing::small_config;
using testing::small_configs;
using testing::within;

constexpr Form forms[] = {Form::absorbed, Form::expanded};
constexpr Form all_forms[] = {Form::automatic, Form::absorbed, Form::expanded};

/// Enough heads that even a single token fills vectors of rows.
Config wide_config() {
    Config config = small_config();
    config.num_attention_heads = 6;
    return config;
}

template <class A>
class AttentionTest : public ::testing::Test {
  public:
    static Attention<A> layer(const Config& config) { return {config, RandomWeights<A>(config, 7).refs()}; }

    static reference::Matrix expected(const Config& config, const Prompt<A>& prompt) {
        const RandomWeights<A> weights(config, 7);
        reference::Matrix cache(0, config.cache_dim());
        return reference::forward(config, weights.refs(), prompt.matrix(), prompt.positions, cache, reference::Form::expanded);
    }
};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(AttentionTest, ComputeTypes);

// Against the oracle ------------------------------------------------------------------------------------------------

TYPED_TEST(AttentionTest, MatchesTheReferenceInEveryForm) {
    for (const auto& [name, config] : small_configs()) {
        const Prompt<TypeParam> prompt(config, 37, 1, 50);
        const auto layer = this->layer(config);
        const auto expected = this->expected(config, prompt);
        const double tolerance = layer_tolerance<TypeParam>(config, 37);
        for (const Form form : all_forms) {
            const auto error = compare(run<TypeParam>(layer, prompt, form), expected);
            EXPECT_TRUE(within(error, tolerance))
                << name << ", form " << int(form) << ": " << error << ", tolerance " << tolerance;
        }
    }
}

TYPED_TEST(AttentionTest, MatchesTheReferenceOverManyBlocksOfTokens) {
    for (const Config& config : {small_config(), wide_config()}) {
        const Prompt<TypeParam> prompt(config, 610, 2);
        const auto layer = this->layer(config);
        const auto expected = this->expected(config, prompt);
        const double tolerance = layer_tolerance<TypeParam>(config, 610);
        for (const Form form : forms)
            for (const std::vector<Index>& chunks : {std::vector<Index>{610}, {400, 1, 3, 206}}) {
                LatentCache<TypeParam> cache(config, 610);
                const auto error = compare(feed(layer, prompt, chunks, cache, form), expected);
                EXPECT_TRUE(within(error, tolerance)) << "form " << int(form) << ": " << error << ", tolerance " << tolerance;
            }
    }
}

TYPED_TEST(AttentionTest, PositionsMayBeFarOutOfOrderAndRepeated) {
    const Config config = small_config();
    Prompt<TypeParam> prompt(config, 6, 3);
    prompt.positions = {3000, 0, 17, 17, 5, 999};
    const auto expected = this->expected(config, prompt);
    // An angle errs by 2^-53 of itself on either side.
    const double tolerance = layer_tolerance<TypeParam>(config, 6) + 2.0 * 3000 * 0x1p-53;
    const auto error = compare(run<TypeParam>(this->layer(config), prompt), expected);
    EXPECT_TRUE(within(error, tolerance)) << error << ", tolerance " << tolerance;
}

// However the tokens arrive -----------------------------------------------------------------------------------------

TYPED_TEST(AttentionTest, AnyChunkingEqualsTheWhole) {
    constexpr Index T = 25;
    for (const auto& [name, config] : small_configs()) {
        const Prompt<TypeParam> prompt(config, T, 4);
        const auto layer = this->layer(config);
        const double tolerance = 2.0 * layer_tolerance<TypeParam>(config, T);  // both sides err
        for (const Form form : all_forms) {
            LatentCache<TypeParam> whole_cache(config, T);
            const auto whole = feed(layer, prompt, {T}, whole_cache, form);
            for (const std::vector<Index>& chunks :
                 {std::vector<Index>(T, 1), {1, 24}, {24, 1}, {2, 3, 4, 5, 11}, {13, 0, 12}, {7, 7, 7, 4}}) {
                LatentCache<TypeParam> cache(config, T);
                const auto error = compare(feed(layer, prompt, chunks, cache, form), whole);
                EXPECT_TRUE(within(error, tolerance)) << name << ", form " << int(form) << ": " << error;
                EXPECT_TRUE(same_tokens(cache, whole_cache)) << name << ", form " << int(form);
            }
        }
    }
}

TYPED_TEST(AttentionTest, ChunksOfManyRowsWithinOneRangeOfKeysGiveTheBitsOfTheWhole) {
    // Every chunk has more rows than the path for few of them takes, and no plan splits up to 255 keys.
    constexpr Index T = 250;
    const Config config = wide_config();
    const Prompt<TypeParam> prompt(config, T, 5);
    const auto layer = this->layer(config);
    const auto whole_absorbed = run<TypeParam>(layer, prompt, Form::absorbed);
    const auto whole_expanded = run<TypeParam>(layer, prompt, Form::expanded);
    for (const std::vector<Index>& chunks : {std::vector<Index>(T, 1), {1, 249}, {96, 96, 58}, {5, 90, 2, 153}}) {
        LatentCache<TypeParam> cache(config, T);
        EXPECT_TRUE(same_bits(feed(layer, prompt, chunks, cache, Form::absorbed), whole_absorbed));
    }
    for (const std::vector<Index>& chunks : {std::vector<Index>(T / 5, 5), {5, 245}, {96, 96, 58}, {241, 9}}) {
        LatentCache<TypeParam> cache(config, T);
        EXPECT_TRUE(same_bits(feed(layer, prompt, chunks, cache, Form::expanded), whole_expanded));
    }
}

TYPED_TEST(AttentionTest, ALaterTokenChangesNothingEarlier) {
    constexpr Index T = 130;
    for (const Config& config : {small_config(), wide_config()}) {
        const auto layer = this->layer(config);
        const Prompt<TypeParam> prompt(config, T, 6);
        for (const Index changed : {Index{1}, Index{40}, Index{96}, T - 1}) {
            Prompt<TypeParam> other = prompt;
            other.x.row(changed) *= TypeParam(-1000);
            other.positions[static_cast<std::size_t>(changed)] = 5000;
            for (const Form form : forms) {
                const auto before = run<TypeParam>(layer, prompt, form);
                const auto after = run<TypeParam>(layer, other, form);
                using Matrix = RowMatrix<TypeParam>;
                EXPECT_TRUE(same_bits<TypeParam>(Matrix(before.topRows(changed)), Matrix(after.topRows(changed))))
                    << "token " << changed;
                for (Index t = changed; t < T; ++t)
                    EXPECT_FALSE(same_bits<TypeParam>(Matrix(before.row(t)), Matrix(after.row(t))))
                        << "token " << changed << " at " << t;
            }
        }
    }
}

TYPED_TEST(AttentionTest, NaNInATokenIsNeverLost) {
    const Config config = small_config();
    Prompt<TypeParam> prompt(config, 120, 7);
    prompt.x(70, 2) = std::numeric_limits<TypeParam>::quiet_NaN();
    for (const Form form : forms) {
        const auto y = run<TypeParam>(this->layer(config), prompt, form);
        EXPECT_TRUE(y.bottomRows(50).array().isNaN().all());
    }
}

TYPED_TEST(AttentionTest, OnlyRelativePositionsMatter) {
    constexpr Index T = 20;
    for (const auto& [name, config] : small_configs()) {
        if (config.position_scale.beta != 0.0 || config.learned_query_scale) continue;  // depends on the position by design
        const auto layer = this->layer(config);
        const auto expected = run<TypeParam>(layer, Prompt<TypeParam>(config, T, 8));
        for (const std::int64_t shift : {1, 1000, 1000000}) {
            // Both sides err, and an angle by 2^-53 of itself in the query and in the key.
            const double tolerance = 2.0 * layer_tolerance<TypeParam>(config, T) + 2.0 * static_cast<double>(shift + T) * 0x1p-53;
            const auto error = compare(run<TypeParam>(layer, Prompt<TypeParam>(config, T, 8, shift)), expected);
            EXPECT_TRUE(within(error, tolerance)) << name << ", shift " << shift << ": " << error << ", tolerance " << tolerance;
        }
    }
}

TYPED_TEST(AttentionTest, PositionsMatterWhereTheLayerRotates) {
    const Config config = small_config();
    Prompt<TypeParam> prompt(config, 20, 9);
    const auto before = run<TypeParam>(this->layer(config), prompt);
    for (std::int64_t& position : prompt.positions) position *= 2;
    EXPECT_GT(compare(run<TypeParam>(this->layer(config), prompt), before).relative_norm, 1e-2);
}

// Cache -------------------------------------------------------------------------------------------------------------

TYPED_TEST(AttentionTest, ARollbackIsAsIfTheTokensHadNeverBeen) {
    const Config config = small_config();
    const auto layer = this->layer(config);
    const Prompt<TypeParam> prompt(config, 20, 10);
    const Prompt<TypeParam> rejected(config, 5, 11, 12);
    LatentCache<TypeParam> straight_cache(config, 20);
    const auto straight = feed(layer, prompt, {12, 8}, straight_cache);

    LatentCache<TypeParam> cache(config, 20);
    Workspace workspace;
    RowMatrix<TypeParam> y(20, config.hidden_size);
    RowMatrix<TypeParam> dropped(5, config.hidden_size);
    const std::span positions(prompt.positions);
    layer.forward(prompt.x.topRows(12), positions.first(12), cache, y.topRows(12), SerialExecutor{}, workspace);
    layer.forward(rejected.x, rejected.positions, cache, dropped, SerialExecutor{}, workspace);
    cache.truncate(12);
    layer.forward(prompt.x.bottomRows(8), positions.last(8), cache, y.bottomRows(8), SerialExecutor{}, workspace);
    EXPECT_TRUE(same_bits(y, straight));
    EXPECT_TRUE(same_tokens(cache, straight_cache));
}

TYPED_TEST(AttentionTest, AForkGoesItsOwnWayFromASharedPrefix) {
    const Config config = small_config();
    const auto layer = this->layer(config);
    const Prompt<TypeParam> prompt(config, 20, 12);
    LatentCache<TypeParam> cache(config, 20);
    const auto whole = feed(layer, prompt, {15, 5}, cache);

    LatentCache<TypeParam> branch = cache.fork(15, 30);
    RowMatrix<TypeParam> y(5, config.hidden_size);
    layer.forward(prompt.x.bottomRows(5), std::span(prompt.positions).last(5), branch, y);
    EXPECT_TRUE(same_bits<TypeParam>(y, RowMatrix<TypeParam>(whole.bottomRows(5))));
    EXPECT_TRUE(same_tokens(branch, cache));

    const LatentCache<TypeParam> before = cache.fork(20, 20);
    const Prompt<TypeParam> more(config, 10, 13, 20);
    RowMatrix<TypeParam> elsewhere(10, config.hidden_size);
    layer.forward(more.x, more.positions, branch, elsewhere);
    EXPECT_TRUE(same_tokens(cache, before));
    EXPECT_EQ(branch.size(), 30);
}

// Memory ------------------------------------------------------------------------------------------------------------

TYPED_TEST(AttentionTest, OutputMayReplaceTheInput) {
    const Config config = small_config();
    const auto layer = this->layer(config);
    for (const Index tokens : {1, 20})
        for (const Form form : forms) {
            const Prompt<TypeParam> prompt(config, tokens, 14);
            const auto expected = run<TypeParam>(layer, prompt, form);
            LatentCache<TypeParam> cache(config, tokens);
            RowMatrix<TypeParam> x = prompt.x;
            Workspace workspace;
            layer.forward(x, prompt.positions, cache, x, SerialExecutor{}, workspace, form);
            EXPECT_TRUE(same_bits(x, expected));
        }
}

TYPED_TEST(AttentionTest, RowsOfInputAndOutputMayLieApart) {
    const Config config = small_config();
    const auto layer = this->layer(config);
    const Prompt<TypeParam> prompt(config, 20, 15);
    using Matrix = RowMatrix<TypeParam>;
    Matrix wide_x = Matrix::Constant(20, config.hidden_size + 3, std::numeric_limits<TypeParam>::quiet_NaN());
    Matrix wide_y = Matrix::Constant(20, config.hidden_size + 5, 12345);
    wide_x.leftCols(config.hidden_size) = prompt.x;
    LatentCache<TypeParam> cache(config, 20);
    layer.forward(wide_x.leftCols(config.hidden_size), prompt.positions, cache, wide_y.leftCols(config.hidden_size));
    EXPECT_TRUE(same_bits<TypeParam>(Matrix(wide_y.leftCols(config.hidden_size)), run<TypeParam>(layer, prompt)));
    EXPECT_TRUE((wide_y.rightCols(5).array() == TypeParam(12345)).all());
}

TYPED_TEST(AttentionTest, WhatScratchHeldBeforeDoesNotMatter) {
    const Config config = small_config();
    const auto layer = this->layer(config);
    for (const Form form : forms) {
        const Prompt<TypeParam> prompt(config, 100, 16);
        const auto bytes = layer.workspace_bytes(100, 1);
        const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
        std::fill_n(memory.get(), bytes, std::byte{0xff});  // NaN throughout
        Workspace workspace{std::span(memory.get(), bytes)};
        LatentCache<TypeParam> cache(config, 100);
        RowMatrix<TypeParam> y(100, config.hidden_size);
        layer.forward(prompt.x, prompt.positions, cache, y, SerialExecutor{}, workspace, form);
        EXPECT_TRUE(same_bits(y, run<TypeParam>(layer, prompt, form)));
    }
}

TYPED_TEST(AttentionTest, NoTokensIsNoWork) {
    const Config config = small_config();
    const auto layer = this->layer(config);
    const Prompt<TypeParam> prompt(config, 3, 17);
    LatentCache<TypeParam> cache(config, 3);
    static_cast<void>(feed(layer, prompt, {3}, cache));
    RowMatrix<TypeParam> nothing(0, config.hidden_size);
    Workspace none{std::span<std::byte>()};
    layer.forward(nothing, {}, cache, nothing, SerialExecutor{}, none);
    EXPECT_EQ(cache.size(), 3);
}

TYPED_TEST(AttentionTest, WeightsAreNotNeededAfterConstructionAndMoveWithTheLayer) {
    const Config config = small_config();
    auto weights = std::make_unique<RandomWeights<TypeParam>>(config, 7);
    Attention<TypeParam> first(config, weights->refs());
    weights.reset();
    const Prompt<TypeParam> prompt(config, 9, 18);
    const auto expected = run<TypeParam>(this->layer(config), prompt);
    EXPECT_TRUE(same_bits(run<TypeParam>(first, prompt), expected));

    Attention<TypeParam> second(std::move(first));
    EXPECT_TRUE(same_bits(run<TypeParam>(second, prompt), expected));

    Config other = config;
    other.num_attention_heads = 1;
    Attention<TypeParam> third = this->layer(other);
    third = std::move(second);
    EXPECT_EQ(third.config(), config);
    EXPECT_TRUE(same_bits(run<TypeParam>(third, prompt), expected));
}

}  // namespace
}  // namespace mla
