// Rows of whole numbers: what they stand for, and how bytes become pairs.
#include "mla/simd/int16_pair.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mla/testing/random.hpp"

namespace mla::simd {
namespace {

#if defined(__AVX2__)

using Arch = DefaultArch;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Lengths around those of a vector, and of none.
const std::vector<Index> lengths = {0, 1, 7, 8, 15, 16, 17, 31, 33, 64, 67};

TEST(Int16PairTest, RoundsToTheNearestMultipleOfAStepThatTheLargestValueSets) {
    for (const Index count : lengths) {
        testing::Generator generator(static_cast<std::uint64_t>(count) + 1);
        const auto values = testing::gaussian_values<bf16>(generator, count);
        std::vector<std::int16_t> numbers(static_cast<std::size_t>(count) + 1, 12345);
        const auto steps = Steps::of<Arch>(values.data(), count, 4095.0F);
        const float step = steps.step;
        quantise<Arch>(values.data(), count, steps, numbers.data());
        float largest = 0.0F;
        for (const bf16 value : values) largest = std::max(largest, std::abs(float{value}));
        EXPECT_FLOAT_EQ(step, count == 0 ? 1.0F : largest / 4095.0F);
        for (std::size_t i = 0; i < values.size(); ++i)
            EXPECT_LE(std::abs(static_cast<float>(numbers[i]) * step - float{values[i]}), 0.501F * step) << i << " of " << count;
        EXPECT_EQ(numbers.back(), 12345) << "written beyond " << count;
    }
}

TEST(Int16PairTest, ZerosStayZerosAndHaveAStep) {
    const std::vector<float> zeros(20, 0.0F);
    std::vector<std::int16_t> numbers(20, 1);
    const auto steps = Steps::of<Arch>(zeros.data(), 20, 4095.0F);
    EXPECT_EQ(steps.step, 1.0F);
    quantise<Arch>(zeros.data(), 20, steps, numbers.data());
    EXPECT_EQ(numbers, std::vector<std::int16_t>(20, 0));
}

TEST(Int16PairTest, ANaNOrAnInfinityAnywhereMakesTheStepNaN) {
    for (const float bad : {nan, infinity, -infinity})
        for (Index at = 0; at < 19; ++at) {
            std::vector<float> values(19, 1.0F);
            values[static_cast<std::size_t>(at)] = bad;
            EXPECT_TRUE(std::isnan(Steps::of<Arch>(values.data(), 19, 8191.0F).step)) << bad << " at " << at;
        }
}

TEST(Int16PairTest, BytesAreWidenedAndInterleavedWithTheirNeighbours) {
    for (const Index count : lengths) {
        std::vector<int8> first, second;
        for (Index i = 0; i < count; ++i) {
            first.emplace_back(static_cast<std::int8_t>(i * 37 - 128));
            second.emplace_back(static_cast<std::int8_t>(127 - i * 53));
        }
        std::vector<std::int16_t> wide(static_cast<std::size_t>(count) + 1, 12345);
        widen<Arch>(first.data(), count, wide.data());
        std::vector<Int16Pair> pairs(static_cast<std::size_t>(count) + 1, Int16Pair(1, 2));
        interleave<Arch>(first.data(), second.data(), count, pairs.data());
        for (std::size_t i = 0; i < first.size(); ++i) {
            EXPECT_EQ(wide[i], first[i].bits);
            EXPECT_EQ(pairs[i].bits, Int16Pair(first[i].bits, second[i].bits).bits);
        }
        EXPECT_EQ(wide.back(), 12345);
        EXPECT_EQ(pairs.back().bits, Int16Pair(1, 2).bits);
    }
}

TEST(Int16PairTest, LanesArePairedFirstInTheLowHalf) {
    constexpr auto width = static_cast<std::size_t>(lanes<Arch, float>);
    float first[width], second[width];
    for (std::size_t i = 0; i < width; ++i) first[i] = static_cast<float>(i) - 3.5F, second[i] = static_cast<float>(i) - 32766.0F;
    std::uint32_t pairs[width];
    pair_lanes<Arch>(Batch<Arch, float>::load_unaligned(first), Batch<Arch, float>::load_unaligned(second))
        .store_unaligned(pairs);
    for (std::size_t i = 0; i < width; ++i)
        EXPECT_EQ(pairs[i],
                  Int16Pair(static_cast<std::int16_t>(std::nearbyint(first[i])), static_cast<std::int16_t>(second[i])).bits);
}

#else
TEST(Int16PairTest, NeedsAVX2) { GTEST_SKIP() << "built without AVX2"; }
#endif

}  // namespace
}  // namespace mla::simd
