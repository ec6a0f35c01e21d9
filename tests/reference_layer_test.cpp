// The oracle's layers against values worked out by hand, and each form and chunking against the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace {

using namespace mla::reference;
using mla::Config;
using mla::Index;
using mla::Rope;
using mla::RopePairing;
using mla::TensorRef;
using mla::testing::compare;
using mla::testing::consecutive;
using mla::testing::Generator;
using mla::testing::layer_tolerance;
using mla::testing::NamedConfig;
using mla::testing::random_matrix;
using mla::testing::RandomWeights;
using mla::testing::unit_roundoff;
using mla::testing::within;

/// Hand-worked values take fewer than ten roundings on numbers below 8.
constexpr double few_roundings = 10 * 8 * unit_roundoff<double>;

TensorRef ref(const Matrix& matrix) { return {matrix.values.data(), matrix.rows, matrix.cols}; }

// The layer ----------------------------------------------------------------------------------------------------------

TEST(ReferenceLayerTest, HandWorkedTwoTokens) {
    // hidden 4, one head, Dc = 2, Dn = 1, Dr = 2, Dv = 1, eps 0. x = (a, b, c, d) gives latent (a, b), rope key (c, d),
    // q_nope = a, q_pe = (c, d); k_nope = first, v = second value of the normalised latent; y = v·(1, 2, 3, 4).
    Config config;
    config.hidden_size = 4;
    config.num_attention_heads = 1;
    config.kv_lora_rank = 2;
    config.qk_nope_head_dim = 1;
    config.qk_rope_head_dim = 2;
    config.v_head_dim = 1;
    config.latent_norm_eps = 0.0;
    const Matrix q_proj(3, 4, {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1});
    const Matrix kv_a(4, 4, {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1});
    const Matrix norm(1, 2, {1, 1});
    const Matrix kv_b(2, 2, {1, 0, 0, 1});
    const Matrix o_proj(4, 1, {1, 2, 3, 4});
    mla::AttentionWeights weights;
    weights.q_proj = ref(q_proj);
    weights.kv_a_proj_with_mqa = ref(kv_a);
    weights.kv_a_layernorm = ref(norm);
    weights.kv_b_proj = ref(kv_b);
    weights.o_proj = ref(o_proj);

    // Latents (3, 4) and (4, 3) over √12.5: (0.6√2, 0.8√2) and (0.8√2, 0.6√2). Rope key (1, 0) at positions 0 and 1:
    // (1, 0) and (cos 1, sin 1). Query 1: q_nope 4, q_pe (cos 1, sin 1). Scores
    //   s0 = (4·0.6√2 + cos 1)/√3 = 2.2715354759632884, s1 = (4·0.8√2 + 1)/√3 = 3.1901393281583497,
    // so p1 = 1/(1 + exp(s0 − s1)) = 0.7147575455749754 and o = (1 − p1)·0.8√2 + p1·0.6√2 = 0.929206886946349.
    const Matrix x(2, 4, {3, 4, 1, 0, 4, 3, 1, 0});
    const double o[2] = {0.8 * std::sqrt(2.0), 0.929206886946349};
    for (const Form form : {Form::expanded, Form::absorbed}) {
        Matrix cache(0, 4);
        const Matrix y = forward(config, weights, x, consecutive(0, 2), cache, form);
        for (Index t = 0; t < 2; ++t)
            for (Index i = 0; i < 4; ++i) EXPECT_NEAR(y(t, i), static_cast<double>(i + 1) * o[t], few_roundings);
        const std::vector<double> rows{0.6 * std::sqrt(2.0), 0.8 * std::sqrt(2.0), 1.0,           0.0,
                                       0.8 * std::sqrt(2.0), 0.6 * std::sqrt(2.0), std::cos(1.0), std::sin(1.0)};
        EXPECT_TRUE(within(compare(cache.values, rows), few_roundings));
    }
}

class ReferenceConfigTest : public ::testing::TestWithParam<NamedConfig> {
  protected:
    static constexpr Index T = 19;
    const Config& config = GetParam().config;
    RandomWeights<double> weights{config, 5};
    Generator generator{6};
    Matrix x = random_matrix(generator, T, config.hidden_size);
    std::vector<std::int64_t> positions = consecutive(3, T);

    Matrix run(const Matrix& input, std::span<const std::int64_t> at, Matrix& cache, Form form) const {
        return forward(config, weights.refs(), input, at, cache, form);
    }
    Matrix run(const Matrix& input, Form form) const {
        Matrix cache(0, config.cache_dim());
        return run(input, positions, cache, form);
    }
};

INSTANTIATE_TEST_SUITE_P(SmallConfigs, ReferenceConfigTest, ::testing::ValuesIn(mla::testing::small_configs()),
                         [](const auto& tested) {
                             std::string name = tested.param.name;
                             for (char& c : name)
                                 if (c == '-') c = '_';
                             return name;
                         });

TEST_P(ReferenceConfigTest, AbsorbedEqualsExpanded) {
    const double tolerance = 2 * layer_tolerance<double>(config, T);  // both err
    ASSERT_LE(tolerance, 1e-13);
    const auto error = compare(run(x, Form::absorbed).values, run(x, Form::expanded).values);
    EXPECT_TRUE(within(error, tolerance)) << error;

    // and so do the LSE of the two
    const Matrix q = project_queries(config, weights.refs(), x, positions);
    const Matrix cache = project_cache_rows(config, weights.refs(), x, positions);
    const Attended expanded = attend_expanded_form(config, weights.refs(), q, cache);
    const Attended absorbed = attend_absorbed_form(config, weights.refs(), q, cache);
    EXPECT_TRUE(within(compare(absorbed.lse.values, expanded.lse.values), tolerance));
}

TEST_P(ReferenceConfigTest, AnyChunkingEqualsTheWholeBitForBit) {
    for (const Form form : {Form::expanded, Form::absorbed}) {
        Matrix whole_cache(0, config.cache_dim());
        const Matrix whole = run(x, positions, whole_cache, form);
        for (const Index chunk : {1, 2, 7, 18}) {
            Matrix cache(0, config.cache_dim());
            Matrix y(0, config.hidden_size);
            for (Index begin = 0; begin < T; begin += chunk) {
                const Index count = std::min(chunk, T - begin);
                append_rows(y, run(row_range(x, begin, count), consecutive(3 + begin, count), cache, form));
            }
            EXPECT_EQ(y.values, whole.values) << "chunks of " << chunk;
            EXPECT_EQ(cache.values, whole_cache.values);
        }
    }
}

TEST_P(ReferenceConfigTest, ALaterTokenChangesNothingEarlier) {
    const Matrix before = run(x, Form::expanded);
    x(11, 0) += 1.0;
    const Matrix after = run(x, Form::expanded);
    for (Index t = 0; t < T; ++t) {
        const bool same = std::equal(before.row(t), before.row(t) + before.cols, after.row(t));
        const bool sees = t >= 11 && (config.sliding_window == 0 || t - 11 < config.sliding_window);
        EXPECT_EQ(same, !sees) << "token " << t;
    }
}

TEST(ReferenceLayerTest, AbsorbedEqualsExpandedAtTheLargestTestSize) {
    Config config = mla::testing::small_config();
    config.hidden_size = 512;
    config.num_attention_heads = 5;
    config.kv_lora_rank = 512;
    config.qk_nope_head_dim = 128;
    config.qk_rope_head_dim = 64;
    config.v_head_dim = 128;
    const RandomWeights<float> weights(config, 7);
    Generator generator(8);
    constexpr Index L = 700;
    Matrix cache = random_matrix(generator, L - 2, config.cache_dim());
    Matrix same_cache = cache;
    const Matrix x = random_matrix(generator, 2, config.hidden_size);
    const Matrix expanded = forward(config, weights.refs(), x, consecutive(L - 2, 2), cache, Form::expanded);
    const Matrix absorbed = forward(config, weights.refs(), x, consecutive(L - 2, 2), same_cache, Form::absorbed);
    const auto error = compare(absorbed.values, expanded.values);
    EXPECT_TRUE(within(error, std::min(2 * layer_tolerance<double>(config, L), 1e-13))) << error;
}

TEST(ReferenceLayerTest, ABiasEqualsAWeightOnAConstantInput) {
    Config biased = mla::testing::small_config();
    biased.attention_bias = true;
    const RandomWeights<double> weights(biased, 17);
    Generator generator(18);
    const Matrix x = random_matrix(generator, 4, biased.hidden_size);
    Matrix cache(0, biased.cache_dim());
    const Matrix y = forward(biased, weights.refs(), x, consecutive(0, 4), cache, Form::expanded);

    // The same layer without bias on [x | 1]: biases become the last columns, and o_bias is added here.
    const auto with_column = [](const Matrix& matrix, const std::vector<double>& last) {  // last [rows]
        Matrix result(matrix.rows, matrix.cols + 1);
        for (Index r = 0; r < matrix.rows; ++r) {
            std::copy(matrix.row(r), matrix.row(r) + matrix.cols, result.row(r));
            result(r, matrix.cols) = last.at(static_cast<std::size_t>(r));
        }
        return result;
    };
    Config plain = biased;
    plain.attention_bias = false;
    plain.hidden_size += 1;
    mla::AttentionWeights augmented = weights.refs();
    const Matrix q_a = with_column(to_matrix(augmented.q_a_proj), to_matrix(augmented.q_a_bias).values);
    const Matrix kv_a = with_column(to_matrix(augmented.kv_a_proj_with_mqa), to_matrix(augmented.kv_a_bias).values);
    const Matrix o_bias = to_matrix(augmented.o_bias);
    Matrix o_proj = to_matrix(augmented.o_proj);
    append_rows(o_proj, Matrix(1, o_proj.cols));  // the constant has no output
    augmented.q_a_proj = ref(q_a);
    augmented.kv_a_proj_with_mqa = ref(kv_a);
    augmented.o_proj = ref(o_proj);
    Matrix plain_cache(0, plain.cache_dim());
    Matrix expected =
        columns(forward(plain, augmented, with_column(x, {1, 1, 1, 1}), consecutive(0, 4), plain_cache, Form::expanded), 0,
                biased.hidden_size);
    for (Index t = 0; t < 4; ++t)
        for (Index i = 0; i < expected.cols; ++i) expected(t, i) += o_bias(0, i);
    EXPECT_TRUE(within(compare(y.values, expected.values), 2 * layer_tolerance<double>(biased, 4)));
}

TEST(ReferenceLayerTest, MultipliersScaleWhatTheySay) {
    Config config = mla::testing::small_config();
    const RandomWeights<double> weights(config, 9);
    Generator generator(10);
    const Matrix x = random_matrix(generator, 2, config.hidden_size);
    const std::vector<std::int64_t> positions{4, 5};
    const Matrix q = project_queries(config, weights.refs(), x, positions);
    const Matrix rows = project_cache_rows(config, weights.refs(), x, positions);

    config.query_multiplier = 2.0;  // powers of two: exact
    config.latent_multiplier = 4.0;
    config.position_scale = {1.0 / std::log(2.0), 5};  // 1 at position 4, 2 (within a rounding) at position 5
    const Matrix scaled_q = project_queries(config, weights.refs(), x, positions);
    const Matrix scaled_rows = project_cache_rows(config, weights.refs(), x, positions);
    for (Index row = 0; row < q.rows; ++row)
        for (Index i = 0; i < q.cols; ++i) {
            const double scale = row < config.num_attention_heads ? 2.0 : 4.0;
            EXPECT_NEAR(scaled_q(row, i), scale * q(row, i), few_roundings);
        }
    for (Index t = 0; t < 2; ++t)
        for (Index i = 0; i < rows.cols; ++i) {
            const double scale = i < config.kv_lora_rank ? 4.0 : 1.0;  // the rope key keeps its size
            EXPECT_EQ(scaled_rows(t, i), scale * rows(t, i));
        }
}

TEST(ReferenceLayerTest, ABadArgumentLeavesTheCacheAsItWas) {
    const Config config = mla::testing::small_config();
    const RandomWeights<float> weights(config, 11);
    const Matrix cache_before(2, config.cache_dim());
    const auto expect_rejected = [&](const Config& with, const Matrix& x, const std::vector<std::int64_t>& at, Matrix cache) {
        const std::vector<double> before = cache.values;
        EXPECT_THROW(static_cast<void>(forward(with, weights.refs(), x, at, cache, Form::expanded)), std::invalid_argument);
        EXPECT_EQ(cache.values, before);
    };
    Config without_heads = config;
    without_heads.num_attention_heads = 0;
    Config other_rank = config;
    other_rank.kv_lora_rank += 1;
    const Matrix x(2, config.hidden_size);
    expect_rejected(without_heads, x, {0, 1}, cache_before);
    expect_rejected(other_rank, x, {0, 1}, cache_before);
    expect_rejected(config, Matrix(2, config.hidden_size + 1), {0, 1}, cache_before);
    expect_rejected(config, x, {0, 1, 2}, cache_before);
    expect_rejected(config, x, {0, 1}, Matrix(2, config.cache_dim() + 1));
}

// Grouped queries ----------------------------------------------------------------------------------------------------

TEST(ReferenceGroupedQueryTest, EqualsMultiHeadWithItsKeyAndValueHeadsRepeated) {
    constexpr Index hidden = 23;
    constexpr Index H = 6;
    constexpr Index G = 2;
    constexpr Index D = 8;
    constexpr Index T = 9;
    Generator generator(12);
    const Matrix x = random_matrix(generator, T, hidden);
    const Matrix q_proj = random_matrix(generator, H * D, hidden);
    const Matrix k_proj = random_matrix(generator, G * D, hidden);
    const Matrix v_proj = random_matrix(generator, G * D, hidden);
    const Matrix o_proj = random_matrix(generator, hidden, H * D);
    Matrix k_repeated(0, hidden);
    Matrix v_repeated(0, hidden);
    for (Index h = 0; h < H; ++h) {
        append_rows(k_repeated, row_range(k_proj, h / (H / G) * D, D));
        append_rows(v_repeated, row_range(v_proj, h / (H / G) * D, D));
    }
    for (const RopePairing pairing : {RopePairing::interleaved, RopePairing::half_split}) {
        const Rope rope{10000.0, pairing, {}};
        const GroupedQueryLayer grouped{ref(q_proj), ref(k_proj), ref(v_proj), ref(o_proj), H, G, D, rope};
        const GroupedQueryLayer multi_head{ref(q_proj), ref(k_repeated), ref(v_repeated), ref(o_proj), H, H, D, rope};
        Matrix k_cache(0, G * D);
        Matrix v_cache(0, G * D);
        Matrix k_full(0, H * D);
        Matrix v_full(0, H * D);
        const Matrix y = forward_grouped_query(grouped, x, consecutive(0, T), k_cache, v_cache);
        EXPECT_EQ(y.values, forward_grouped_query(multi_head, x, consecutive(0, T), k_full, v_full).values);

        Matrix k_steps(0, G * D);
        Matrix v_steps(0, G * D);
        for (Index t = 0; t < T; ++t) {
            const Matrix step = forward_grouped_query(grouped, row_range(x, t, 1), consecutive(t, 1), k_steps, v_steps);
            EXPECT_EQ(step.values, row_range(y, t, 1).values);
        }
        EXPECT_EQ(k_steps.values, k_cache.values);
    }
}

TEST(ReferenceGroupedQueryTest, HandWorkedTwoTokens) {
    // hidden 2, one head of D = 2, all projections the identity. x0 = x1 = (1, 0), at positions 0 and 1; keys (1, 0) and
    // (cos 1, sin 1) = query 1. Scores of query 1: cos 1/√2 and 1/√2. Values equal x, so weigh v by the key's token.
    const Matrix identity(2, 2, {1, 0, 0, 1});
    const Matrix x(2, 2, {1, 0, 1, 0});
    const GroupedQueryLayer layer{ref(identity), ref(identity), ref(identity), ref(identity), 1, 1, 2, Rope{}};
    Matrix k_cache(0, 2);
    Matrix v_cache(0, 2);
    static_cast<void>(forward_grouped_query(layer, row_range(x, 0, 1), consecutive(0, 1), k_cache, v_cache));
    v_cache(0, 1) = 1.0;  // tells token 0 from token 1: y(0, 1) is the probability of token 0
    const Matrix y = forward_grouped_query(layer, row_range(x, 1, 1), consecutive(1, 1), k_cache, v_cache);
    EXPECT_NEAR(y(0, 0), 1.0, few_roundings);
    EXPECT_NEAR(y(0, 1), 1.0 / (1.0 + std::exp((1.0 - std::cos(1.0)) / std::sqrt(2.0))), few_roundings);
}

}  // namespace
