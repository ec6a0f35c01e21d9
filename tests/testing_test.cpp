// The helpers that other tests stand on: comparison, tolerances, random data.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "mla/reference/matrix.hpp"
#include "mla/reference/weights.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace {

using mla::Config;
using mla::Index;
using mla::reference::dot;
using mla::reference::Matrix;
using mla::reference::to_matrix;
using mla::testing::compare;
using mla::testing::Generator;
using mla::testing::layer_tolerance;
using mla::testing::NamedConfig;
using mla::testing::RandomWeights;
using mla::testing::sum_tolerance;
using mla::testing::unit_roundoff;
using mla::testing::within;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Hand-worked values take fewer than ten roundings on numbers below 8.
constexpr double few_roundings = 10 * 8 * unit_roundoff<double>;

TEST(CompareTest, MeasuresNormAndElements) {
    const auto error = compare(std::vector<float>{3, 4, 0, 1}, {3, 4, 0, 0});
    EXPECT_NEAR(error.relative_norm, 1.0 / 5.0, few_roundings);
    EXPECT_EQ(error.max_abs, 1.0);
    EXPECT_NEAR(error.max_element, 1.0 / 2.5, few_roundings);  // rms = sqrt(25/4)
    EXPECT_EQ(compare(std::vector<double>{0, 0}, {0, 0}).relative_norm, 0.0);
    EXPECT_EQ(compare(std::vector<double>{0, 1}, {0, 0}).relative_norm, infinity);
}

TEST(CompareTest, NanAndInfinitiesMustMatchInPlaceAndSign) {
    const auto norm = [](std::vector<double> out, const std::vector<double>& ref) { return compare(out, ref).relative_norm; };
    EXPECT_EQ(norm({not_a_number, 1}, {not_a_number, 1}), 0.0);
    EXPECT_EQ(norm({infinity, -infinity, 1}, {infinity, -infinity, 1}), 0.0);
    EXPECT_EQ(norm({not_a_number, 1}, {2, 1}), infinity);
    EXPECT_EQ(norm({2, 1}, {not_a_number, 1}), infinity);
    EXPECT_EQ(norm({infinity, 1}, {2, 1}), infinity);
    EXPECT_EQ(norm({infinity, 1}, {-infinity, 1}), infinity);
    EXPECT_EQ(norm({2, 1}, {infinity, 1}), infinity);
    EXPECT_NEAR(norm({not_a_number, 3, 5}, {not_a_number, 3, 4}), 0.2, few_roundings);
}

TEST(CompareTest, RejectsDifferentAndEmptySizes) {
    EXPECT_THROW(static_cast<void>(compare(std::vector<double>{1}, {1, 2})), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(compare(std::vector<double>{}, {})), std::invalid_argument);
}

TEST(CompareTest, WithinFailsOnNanAndOnOneBadElement) {
    EXPECT_TRUE(within({1e-7, 1.0, 1e-6}, 1e-7));
    EXPECT_FALSE(within({1.1e-7, 0.0, 0.0}, 1e-7));
    EXPECT_FALSE(within({0.0, 0.0, 33e-7}, 1e-7));
    EXPECT_FALSE(within({not_a_number, 0.0, 0.0}, 1e-7));
    EXPECT_FALSE(within({0.0, 0.0, not_a_number}, 1e-7));
    EXPECT_FALSE(within({0.0, 0.0, 0.0}, not_a_number));
}

TEST(ToleranceTest, UnitRoundoffIsTheLargestErrorOfRounding) {
    // 1 + u lies half-way and rounds to even, which is 1; just above it rounds up to 1 + 2u.
    const auto expect_unit = []<class S>(S) {
        const double u = unit_roundoff<S>;
        EXPECT_EQ(static_cast<double>(mla::testing::round_to<S>(1.0 + u)), 1.0);
        EXPECT_EQ(static_cast<double>(mla::testing::round_to<S>(1.0 + 1.5 * u)), 1.0 + 2.0 * u);
    };
    expect_unit(double{});
    expect_unit(float{});
    expect_unit(mla::bf16{});
    expect_unit(mla::fp16{});
}

TEST(ToleranceTest, AFloatSumStaysWithinItsTolerance) {
    Generator generator(13);
    for (const Index length : {1, 10, 1000, 100000}) {
        const auto a = mla::testing::gaussian_values<float>(generator, 32 * length);
        const auto b = mla::testing::gaussian_values<float>(generator, 32 * length);
        std::vector<float> sums(32);
        std::vector<double> exact(32);
        for (std::size_t i = 0; i < a.size(); ++i) {
            sums[i % 32] += a[i] * b[i];
            exact[i % 32] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        }
        const auto error = compare(sums, exact);
        EXPECT_TRUE(within(error, sum_tolerance<float>(length))) << error;
        EXPECT_GT(error.relative_norm, sum_tolerance<float>(length) / 20) << "the tolerance is no order too wide";
    }
}

TEST(ToleranceTest, ALayerToleranceNeverExceedsItsGoal) {
    Config config = mla::testing::small_config();
    EXPECT_LT(layer_tolerance<float>(config, 700), mla::testing::layer_goal<float>);
    config.num_attention_heads = 1 << 16;
    EXPECT_EQ(layer_tolerance<float>(config, 700), 2e-6);
    EXPECT_LT(layer_tolerance<double>(config, 700), 1e-13 + 1e-20);
}

TEST(RandomTest, WeightsAreCompleteReproducibleAndOfUnitGain) {
    for (const NamedConfig& named : mla::testing::small_configs()) {
        const RandomWeights<mla::bf16> weights(named.config, 14);
        EXPECT_NO_THROW(mla::validate(named.config, weights.refs())) << named;
        const Matrix o_proj = to_matrix(weights.refs().o_proj);
        EXPECT_EQ(o_proj.values, to_matrix(RandomWeights<mla::bf16>(named.config, 14).refs().o_proj).values);
        EXPECT_NE(o_proj.values, to_matrix(RandomWeights<mla::bf16>(named.config, 15).refs().o_proj).values);
        // Mean square of n draws is off by sqrt(2/n): six of those.
        const double n = static_cast<double>(o_proj.values.size());
        const double gain = dot(o_proj.row(0), o_proj.row(0), o_proj.rows * o_proj.cols) / n * static_cast<double>(o_proj.cols);
        EXPECT_NEAR(gain, 1.0, 6 * std::sqrt(2 / n)) << named;
        for (const double weight : to_matrix(weights.refs().kv_a_layernorm).values) EXPECT_NEAR(weight, 1.0, 6 * 0.1) << named;
    }
}

TEST(RandomTest, GaussianHasTheMomentsOfTheNormalDistribution) {
    Generator generator(16);
    constexpr int count = 100000;
    double moments[5] = {};
    for (int i = 0; i < count; ++i) {
        const double value = mla::testing::gaussian(generator);
        for (int m = 1; m <= 4; ++m) moments[m] += std::pow(value, m) / count;
    }
    // Standard errors sqrt((E x^2m − (E x^m)²)/count): sqrt(1, 2, 15, 96)/316; five of those.
    EXPECT_NEAR(moments[1], 0.0, 5 * std::sqrt(1.0 / count));
    EXPECT_NEAR(moments[2], 1.0, 5 * std::sqrt(2.0 / count));
    EXPECT_NEAR(moments[3], 0.0, 5 * std::sqrt(15.0 / count));
    EXPECT_NEAR(moments[4], 3.0, 5 * std::sqrt(96.0 / count));
}

}  // namespace
