// The oracle's parts against values worked out by hand and against numbers from transformers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
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
using mla::LongRope;
using mla::Rope;
using mla::RopePairing;
using mla::TensorRef;
using mla::Yarn;
using mla::testing::compare;
using mla::testing::Generator;
using mla::testing::NamedConfig;
using mla::testing::random_matrix;
using mla::testing::sum_tolerance;
using mla::testing::unit_roundoff;
using mla::testing::within;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Hand-worked values take fewer than ten roundings on numbers below 8.
constexpr double few_roundings = 10 * 8 * unit_roundoff<double>;

// Matrix -------------------------------------------------------------------------------------------------------------

TEST(ReferenceMatrixTest, WidensEveryStorageTypeExactlyAndHonoursTheStride) {
    const auto expect_widened = [](const auto& stored) {  // [2, 2] in rows of 3
        const TensorRef tensor(stored.data(), mla::dtype_of<typename std::decay_t<decltype(stored)>::value_type>, 2, 2, 3);
        EXPECT_EQ(to_matrix(tensor).values, (std::vector<double>{0.1015625, -2.0, 0x1p-14, 96.0}));
    };
    const std::vector<double> values{0.1015625, -2.0, not_a_number, 0x1p-14, 96.0, not_a_number};
    expect_widened(values);
    expect_widened(std::vector<float>(values.begin(), values.end()));
    std::vector<mla::bf16> bf16s;
    std::vector<mla::fp16> fp16s;
    for (const double value : values) {
        bf16s.push_back(mla::testing::round_to<mla::bf16>(value));
        fp16s.push_back(mla::testing::round_to<mla::fp16>(value));
    }
    expect_widened(bf16s);
    expect_widened(fp16s);
}

TEST(ReferenceMatrixTest, DotSumsEveryLengthWhollyOnce) {
    for (Index n = 0; n <= 9; ++n) {
        std::vector<double> a;
        for (Index i = 0; i < n; ++i) a.push_back(static_cast<double>(1 << i));
        EXPECT_EQ(dot(a.data(), std::vector<double>(a.size(), 1.0).data(), n), static_cast<double>((1 << n) - 1));
    }
}

TEST(ReferenceMatrixTest, LinearIsWeightTimesInputPlusBias) {
    const Matrix x(1, 2, {2, 3});
    const Matrix weight(3, 2, {1, 0, 0, 1, 10, 100});
    EXPECT_EQ(linear(x, weight).values, (std::vector<double>{2, 3, 320}));
    EXPECT_EQ(linear(x, weight, Matrix(1, 3, {5, 6, 7})).values, (std::vector<double>{7, 9, 327}));
}

// RMSNorm ------------------------------------------------------------------------------------------------------------

TEST(ReferenceNormTest, DividesEachRowByItsRootMeanSquare) {
    // mean square of (3, 4) is 12.5; with eps 12.5 the root is 5. The second row is the first times 2: root √62.5.
    Matrix x(2, 2, {3, 4, 6, 8});
    rms_norm(x, Matrix(1, 2, {1, 2}), 12.5);
    EXPECT_NEAR(x(0, 0), 0.6, few_roundings);
    EXPECT_NEAR(x(0, 1), 1.6, few_roundings);
    EXPECT_NEAR(x(1, 0), 6.0 / std::sqrt(62.5), few_roundings);
    EXPECT_NEAR(x(1, 1), 16.0 / std::sqrt(62.5), few_roundings);
}

// RoPE ---------------------------------------------------------------------------------------------------------------

TEST(ReferenceRopeTest, TurnsAdjacentPairsWhenInterleaved) {
    // base 4 and dim 4 give frequencies 1 and 4^(−1/2) = 1/2; at position 2 the angles are 2 and 1.
    std::vector<double> v{1, 2, 3, 4};
    rotate(Rope{4.0, RopePairing::interleaved, {}}, 4, 2, v.data());
    EXPECT_NEAR(v[0], 1 * std::cos(2) - 2 * std::sin(2), few_roundings);
    EXPECT_NEAR(v[1], 2 * std::cos(2) + 1 * std::sin(2), few_roundings);
    EXPECT_NEAR(v[2], 3 * std::cos(1) - 4 * std::sin(1), few_roundings);
    EXPECT_NEAR(v[3], 4 * std::cos(1) + 3 * std::sin(1), few_roundings);
}

TEST(ReferenceRopeTest, TurnsHalvesWhenHalfSplit) {
    std::vector<double> v{1, 2, 3, 4};
    rotate(Rope{4.0, RopePairing::half_split, {}}, 4, 2, v.data());
    EXPECT_NEAR(v[0], 1 * std::cos(2) - 3 * std::sin(2), few_roundings);
    EXPECT_NEAR(v[1], 2 * std::cos(1) - 4 * std::sin(1), few_roundings);
    EXPECT_NEAR(v[2], 3 * std::cos(2) + 1 * std::sin(2), few_roundings);
    EXPECT_NEAR(v[3], 4 * std::cos(1) + 2 * std::sin(1), few_roundings);
}

TEST(ReferenceRopeTest, KeepsDoublePrecisionAtPositionOneMillion) {
    // cos and sin of 1,000,000 radians to 17 digits; an angle reduced in float would be wrong in the second digit.
    std::vector<double> v{1, 0};
    rotate(Rope{}, 2, 1000000, v.data());
    EXPECT_NEAR(v[0], 0.93675212753314474, few_roundings);
    EXPECT_NEAR(v[1], -0.34999350217129294, few_roundings);
}

TEST(ReferenceRopeTest, ScoresDependOnTheRelativePositionOnly) {
    constexpr Index dim = 10;
    Generator generator(1);
    for (const NamedConfig& named : mla::testing::small_configs()) {
        if (named.config.qk_rope_head_dim != dim) continue;
        const Matrix q = random_matrix(generator, 1, dim);
        const Matrix k = random_matrix(generator, 1, dim);
        const auto score = [&](std::int64_t q_position, std::int64_t k_position) {
            Matrix turned_q = q;
            Matrix turned_k = k;
            rotate(named.config.rope, dim, q_position, turned_q.row(0));
            rotate(named.config.rope, dim, k_position, turned_k.row(0));
            return dot(turned_q.row(0), turned_k.row(0), dim);
        };
        // An angle near 1e6 is rounded by 1e6·u, for q and for k, and enters |q|·|k|·magnitude² ≤ 4·dim at these draws.
        const double tolerance = 2 * 1e6 * unit_roundoff<double> * 4 * dim;
        for (const std::int64_t shift : {1, 77, 1000000})
            EXPECT_NEAR(score(23, 4), score(23 + shift, 4 + shift), tolerance) << named;
        // The position is not ignored, where it is to count.
        EXPECT_EQ(std::abs(score(23, 4) - score(24, 4)) > 1e-3, named.config.rope.rotates) << named;
    }
}

// Relative 1e-6: transformers computes in float, where base^(2i/64) and the ramp together take fewer than 16 roundings.
void expect_frequencies(const Rope& rope, Index dim, const std::vector<std::pair<std::size_t, double>>& expected) {
    const std::vector<double> frequencies = inverse_frequencies(rope, dim);
    ASSERT_EQ(static_cast<Index>(frequencies.size()), dim / 2);
    for (const auto& [i, f] : expected) EXPECT_NEAR(frequencies[i] / f, 1.0, 1e-6) << "pair " << i;
}

// The following numbers come from transformers 5.23.0, ROPE_INIT_FUNCTIONS["yarn"] and ["longrope"] in
// modeling_rope_utils.py, called with head_dim = dim and these parameters.

TEST(ReferenceRopeTest, YarnFrequenciesOfDeepSeekV3AreThoseOfTransformers) {
    Yarn yarn;  // original length 4096, beta 32 and 1
    yarn.factor = 40.0;
    expect_frequencies({10000.0, RopePairing::interleaved, yarn}, 64,
                       {{0, 1.0},
                        {1, 0.7498942},
                        {5, 0.23713736},
                        {10, 0.056234129},
                        {11, 0.039006926},
                        {12, 0.026879361},
                        {14, 0.012447956},
                        {16, 0.0055000004},
                        {17, 0.0035619973},
                        {20, 0.00079056941},
                        {22, 0.00017782794},
                        {23, 3.3338034e-05},
                        {24, 2.4999999e-05},
                        {31, 3.3338035e-06}});
}

TEST(ReferenceRopeTest, UntruncatedYarnRampEndsBetweenDimensions) {
    Yarn yarn;
    yarn.factor = 40.0;
    yarn.truncate = false;
    expect_frequencies({10000.0, RopePairing::interleaved, yarn}, 64,
                       {{10, 0.056234129},
                        {11, 0.040367585},
                        {12, 0.027710859},
                        {14, 0.012703143},
                        {16, 0.0055240626},
                        {17, 0.0035352581},
                        {20, 0.00072263816},
                        {22, 0.00011838764},
                        {23, 3.3338034e-05}});
}

TEST(ReferenceRopeTest, YarnWithEqualBetasStepsAsInKimiK2) {
    Yarn yarn;
    yarn.factor = 32.0;
    yarn.beta_fast = 1.0;
    yarn.beta_slow = 1.0;
    expect_frequencies({50000.0, RopePairing::interleaved, yarn}, 64,
                       {{0, 1.0},
                        {1, 0.7131111},
                        {5, 0.18441062},
                        {10, 0.034007277},
                        {16, 0.004472136},
                        {17, 0.0031891298},
                        {20, 3.6140467e-05},
                        {22, 1.837842e-05},
                        {24, 9.3459303e-06},
                        {31, 8.7644128e-07}});
}

TEST(ReferenceRopeTest, YarnRampsAreClampedToTheDimensions) {
    const auto rope = [](double base, Index original_length, double beta_fast, bool truncate) {
        Yarn yarn;
        yarn.factor = 10.0;
        yarn.original_max_position = original_length;
        yarn.beta_fast = beta_fast;
        yarn.truncate = truncate;
        return Rope{base, RopePairing::interleaved, yarn};
    };
    // from −0.497, clamped to 0, to 1.008
    expect_frequencies(rope(10000.0, 64, 32.0, false), 8, {{0, 1.0}, {1, 0.010714299}, {2, 0.001}, {3, 9.9999997e-05}});
    // from 0.420 to 11.26, clamped to dim − 1 = 7
    expect_frequencies(rope(10.0, 4096, 512.0, true), 8, {{0, 1.0}, {1, 0.4900403}, {2, 0.23491207}, {3, 0.10923716}});
    // both ends at 0: a step
    expect_frequencies(rope(10000.0, 4, 32.0, true), 8, {{0, 1.0}, {1, 0.0099999998}, {2, 0.001}, {3, 9.9999997e-05}});
}

TEST(ReferenceRopeTest, LongRopeDividesEachFrequencyByItsFactor) {
    const Rope rope{10000.0, RopePairing::half_split, LongRope{{1.0, 1.1, 1.7, 4.5}, 1.2649110640673518}};
    expect_frequencies(rope, 8, {{0, 1.0}, {1, 0.090909094}, {2, 0.0058823531}, {3, 0.00022222222}});
    EXPECT_EQ(rope_magnitude(rope), 1.2649110640673518);
}

TEST(ReferenceRopeTest, MagnitudeFollowsTheMscaleFields) {
    // The values transformers gives for factor 40 (to its last digit, in double).
    const auto magnitude = [](auto mscale, auto all_dim) {
        Yarn yarn;
        yarn.factor = 40.0;
        yarn.mscale = mscale;
        yarn.mscale_all_dim = all_dim;
        return rope_magnitude({10000.0, RopePairing::interleaved, yarn});
    };
    EXPECT_EQ(rope_magnitude({}), 1.0);
    EXPECT_EQ(magnitude(0.707, 0.707), 1.0);
    EXPECT_NEAR(magnitude(1.3, 0.707), 1.1735008694842608, few_roundings);
    EXPECT_NEAR(magnitude(std::nullopt, std::nullopt), 1.3688879454113936, few_roundings);
    EXPECT_NEAR(magnitude(1.3, std::nullopt), 1.3688879454113936, few_roundings);
    EXPECT_NEAR(magnitude(1.3, 0.0), 1.3688879454113936, few_roundings);

    Yarn yarn;
    yarn.factor = 40.0;
    yarn.attention_factor = 0.9;
    EXPECT_EQ(rope_magnitude({10000.0, RopePairing::interleaved, yarn}), 0.9);
    std::vector<double> v{1, 0};
    rotate({10000.0, RopePairing::interleaved, yarn}, 2, 0, v.data());
    EXPECT_EQ(v, (std::vector<double>{0.9, 0.0}));
}

TEST(ReferenceRopeTest, SoftmaxScalesOfPublishedModels) {
    const auto scale = [](double factor, double all_dim, bool scales_softmax = true) {
        Config config;
        config.qk_nope_head_dim = 128;
        config.qk_rope_head_dim = 64;
        Yarn yarn;
        yarn.factor = factor;
        yarn.mscale = all_dim;
        yarn.mscale_all_dim = all_dim;
        yarn.scales_softmax = scales_softmax;
        config.rope.scaling = yarn;
        return softmax_scale(config);
    };
    // 192^(−1/2)·(0.1·a·ln(factor) + 1)², published to six digits
    EXPECT_NEAR(scale(40, 1.0), 0.135234, 5e-7);    // DeepSeek-V3
    EXPECT_NEAR(scale(40, 0.707), 0.114721, 5e-7);  // DeepSeek-V2-Lite
    EXPECT_NEAR(scale(32, 1.0), 0.130861, 5e-7);    // Kimi-K2
    EXPECT_NEAR(scale(40, 0.0), 1 / std::sqrt(192.0), few_roundings);
    EXPECT_NEAR(scale(40, 1.0, false), 1 / std::sqrt(192.0), few_roundings);
}

TEST(ReferenceRopeTest, PositionScaleGrowsAtEachPeriod) {
    // get_llama_4_attn_scale of transformers 5.23.0 (mistral4, in float) with beta 0.1 and period 8192
    Config config;
    config.position_scale = {0.1, 8192};
    EXPECT_EQ(position_scale(config, 0), 1.0);
    EXPECT_EQ(position_scale(config, 8191), 1.0);
    EXPECT_NEAR(position_scale(config, 8192), 1.06931471824646, 2 * unit_roundoff<float>);
    EXPECT_NEAR(position_scale(config, 1000000), 1.4812184572219849, 2 * unit_roundoff<float>);
}

// Attention ----------------------------------------------------------------------------------------------------------

TEST(ReferenceAttentionTest, HandWorkedSoftmaxMaskAndLse) {
    // Scores of the keys: 0 and ln 3, so exponentials 1 and 3. Query 0 sees key 0 only: o = 4, LSE = ln 1.
    // Query 1 sees both: o = (1·4 + 3·8) / 4 = 7, LSE = ln 4.
    const Matrix q(2, 1, {2, 2});
    const Matrix k(2, 1, {0, std::log(3.0)});
    const Matrix v(2, 1, {4, 8});
    const Attended result = attend_multi_head(q, k, v, 2, 1, 1, 0.5);
    EXPECT_EQ(result.output(0, 0), 4.0);
    EXPECT_EQ(result.lse(0, 0), 0.0);
    EXPECT_NEAR(result.output(1, 0), 7.0, few_roundings);
    EXPECT_NEAR(result.lse(1, 0), std::log(4.0), few_roundings);
}

TEST(ReferenceAttentionTest, QueryHeadsShareKeyAndValueHeadsInOrder) {
    // H = 4, G = 2, one key; the output is the value of the head's group.
    const Attended result = attend_multi_head(Matrix(4, 1), Matrix(1, 2), Matrix(1, 4, {1, 2, 3, 4}), 1, 4, 2, 1.0);
    EXPECT_EQ(result.output.values, (std::vector<double>{1, 2, 1, 2, 3, 4, 3, 4}));

    // Head h scores its group's key: q = 1, k = (0, ln 3) for group 0 and (ln 3, 0) for group 1.
    const double x = std::log(3.0);
    const Attended keyed =
        attend_multi_head(Matrix(2, 1, {1, 1}), Matrix(2, 2, {0, x, x, 0}), Matrix(2, 2, {0, 0, 4, 4}), 1, 2, 2, 1.0);
    EXPECT_NEAR(keyed.output(0, 0), 3.0, few_roundings);
    EXPECT_NEAR(keyed.output(1, 0), 1.0, few_roundings);
}

TEST(ReferenceAttentionTest, AbsorbedScoresTheWholeCacheRowAndAveragesItsLatent) {
    // Dc = 2, Dr = 1, rows [c | k_pe]. Scores: key 0: 0·1 + 0·2 + 1·0 = 0; key 1: 0·5 + 0·6 + 1·ln 3 = ln 3.
    const Matrix cache(2, 3, {1, 2, 0, 5, 6, std::log(3.0)});
    const Attended result = attend_absorbed(Matrix(1, 3, {0, 0, 1}), 1, 1, cache, 2, 1.0);
    EXPECT_NEAR(result.output(0, 0), (1 + 3 * 5) / 4.0, few_roundings);
    EXPECT_NEAR(result.output(0, 1), (2 + 3 * 6) / 4.0, few_roundings);
    EXPECT_NEAR(result.lse(0, 0), std::log(4.0), few_roundings);
}

TEST(ReferenceAttentionTest, RowsWithoutAVisibleKeyGiveZeroAndMinusInfinity) {
    Generator generator(2);
    for (const Index L : {0, 2}) {
        const Matrix k = random_matrix(generator, L, 5);
        const Attended result = attend_multi_head(random_matrix(generator, 4 * 3, 5), k, k, 4, 3, 1, 1.0);
        for (Index t = 0; t < 4; ++t)
            for (Index h = 0; h < 3; ++h) {
                const bool sees_none = t < 4 - L;
                EXPECT_EQ(result.lse(t, h) == -infinity, sees_none);
                EXPECT_EQ(result.output(t * 3 + h, 0) == 0.0, sees_none);
                EXPECT_TRUE(std::isfinite(result.output(t * 3 + h, 0)));
            }
    }
}

TEST(ReferenceAttentionTest, ScoresOfTenThousandDoNotOverflow) {
    for (const double offset : {1e4, -1e4}) {
        const Matrix k(2, 1, {offset, offset + std::log(3.0)});
        const Attended result = attend_multi_head(Matrix(1, 1, {1}), k, Matrix(2, 1, {4, 8}), 1, 1, 1, 1.0);
        // offset + ln 3 is rounded by 1e4·u, which enters the probabilities
        EXPECT_NEAR(result.output(0, 0), 7.0, 8 * 1e4 * unit_roundoff<double>);
        EXPECT_NEAR(result.lse(0, 0), offset + std::log(4.0), 2 * 1e4 * unit_roundoff<double>);
    }
}

TEST(ReferenceAttentionTest, ANanQueryReachesItsOwnRowOnly) {
    Generator generator(3);
    const Matrix k = random_matrix(generator, 6, 4);
    Matrix q = random_matrix(generator, 3 * 2, 4);
    const Attended clean = attend_multi_head(q, k, k, 3, 2, 1, 0.5);
    q(3, 1) = not_a_number;  // token 1, head 1
    const Attended result = attend_multi_head(q, k, k, 3, 2, 1, 0.5);
    for (Index row = 0; row < 6; ++row)
        for (Index j = 0; j < 4; ++j) {
            if (row == 3)
                EXPECT_TRUE(std::isnan(result.output(row, j)));
            else
                EXPECT_EQ(result.output(row, j), clean.output(row, j));
        }
    EXPECT_TRUE(std::isnan(result.lse(1, 1)));
}

// Merge --------------------------------------------------------------------------------------------------------------

TEST(ReferenceMergeTest, PartsOfTheKeysMergeToTheWholeWhereverTheyAreCut) {
    constexpr Index H = 3;
    constexpr Index L = 7;
    constexpr Index D = 4;
    Generator generator(4);
    const Matrix q = random_matrix(generator, H, D);
    const Matrix k = random_matrix(generator, L, D);
    const Matrix v = random_matrix(generator, L, D);
    const auto attend = [&](Index begin, Index count) {
        return attend_multi_head(q, row_range(k, begin, count), row_range(v, begin, count), 1, H, 1, 1.0);
    };
    const Attended whole = attend(0, L);
    for (Index cut = 0; cut <= L; ++cut) {  // at 0 and L one side has LSE −inf
        const Attended merged = merge(attend(0, cut), attend(cut, L - cut));
        const Attended swapped = merge(attend(cut, L - cut), attend(0, cut));
        EXPECT_TRUE(within(compare(merged.output.values, whole.output.values), sum_tolerance<double>(L))) << cut;
        EXPECT_TRUE(within(compare(merged.lse.values, whole.lse.values), sum_tolerance<double>(L))) << cut;
        // Not the same bits: a compiler may fuse either product into the sum.
        EXPECT_TRUE(within(compare(merged.output.values, swapped.output.values), sum_tolerance<double>(2))) << cut;
        EXPECT_TRUE(within(compare(merged.lse.values, swapped.lse.values), sum_tolerance<double>(2))) << cut;
    }
    const Attended with_empty = merge(whole, attend(0, 0));
    EXPECT_EQ(with_empty.output.values, whole.output.values);
    EXPECT_EQ(with_empty.lse.values, whole.lse.values);
}

TEST(ReferenceMergeTest, TwoEmptyPartsStayEmpty) {
    const Attended empty{Matrix(1, 2), Matrix(1, 1, {-infinity})};
    const Attended merged = merge(empty, empty);
    EXPECT_EQ(merged.output.values, (std::vector<double>{0, 0}));
    EXPECT_EQ(merged.lse(0, 0), -infinity);
}

TEST(ReferenceMergeTest, WeighsByTheExponentialsOfTheLse) {
    // 1 and 3 exponentials: o = (1·4 + 3·8) / 4
    const Attended first{Matrix(1, 1, {4}), Matrix(1, 1, {500.0})};
    const Attended second{Matrix(1, 1, {8}), Matrix(1, 1, {500.0 + std::log(3.0)})};
    const Attended merged = merge(first, second);
    EXPECT_NEAR(merged.output(0, 0), 7.0, 8 * 500 * unit_roundoff<double>);  // ln 3 is rounded with 500
    EXPECT_NEAR(merged.lse(0, 0), 500.0 + std::log(4.0), 2 * 500 * unit_roundoff<double>);
}

}  // namespace
