// The packed dot products against the same sums written out.
#include "mla/simd/dot.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "mla/simd/bf16_pair.hpp"

namespace mla::simd {
namespace {

using Arch = DefaultArch;
constexpr auto lane_count = static_cast<std::size_t>(lanes<Arch, float>);

template <class Value, std::size_t Count>
PackedBatch<Arch> packed(const std::array<Value, Count>& values) {
    static_assert(sizeof values == lane_count * 4);
    std::array<std::uint32_t, lane_count> words;
    std::memcpy(words.data(), values.data(), sizeof values);
    return PackedBatch<Arch>::load_unaligned(words.data());
}

TEST(DotTest, Bf16AddsTheTwoProductsOfEachLaneToItsSum) {
#if defined(__AVX512BF16__)
    // Small whole numbers: every product and sum is exact, in whatever order.
    std::mt19937 generator(1);
    std::uniform_int_distribution<int> draw(-100, 100);
    std::array<bf16, 2 * lane_count> a;
    std::array<bf16, 2 * lane_count> b;
    std::array<float, lane_count> expected;
    for (std::size_t lane = 0; lane < lane_count; ++lane) {
        expected[lane] = static_cast<float>(draw(generator));
        for (std::size_t i = 2 * lane; i < 2 * lane + 2; ++i) {
            a[i] = bf16(static_cast<float>(draw(generator)));
            b[i] = bf16(static_cast<float>(draw(generator)));
        }
    }
    std::array<float, lane_count> sums;
    dot_bf16<Arch>(Batch<Arch, float>::load_unaligned(expected.data()), packed(a), packed(b)).store_unaligned(sums.data());
    for (std::size_t lane = 0; lane < lane_count; ++lane)
        for (std::size_t i = 2 * lane; i < 2 * lane + 2; ++i) expected[lane] += float{a[i]} * float{b[i]};
    EXPECT_EQ(sums, expected);
#else
    GTEST_SKIP() << "built without AVX512-BF16";
#endif
}

TEST(DotTest, RoundsARowOfAnyLengthToPairsAndNothingBehindIt) {
#if defined(__AVX512BF16__)
    std::mt19937 generator(4);
    std::uniform_real_distribution<float> draw(-3.0F, 3.0F);
    for (Index count = 0; count <= 70; ++count) {
        std::vector<float> values(static_cast<std::size_t>(count));  // a checked build sees a read behind it
        for (float& value : values) value = draw(generator);
        constexpr Bf16Pair untouched{0x12345678U};
        std::vector<Bf16Pair> pairs(static_cast<std::size_t>((count + 1) / 2 + 1), untouched);
        round_row<Arch>(values.data(), count, pairs.data());
        EXPECT_EQ(pairs.back().bits, untouched.bits) << count;
        values.push_back(0.0F);  // beside an odd last one
        for (std::size_t i = 0; i < static_cast<std::size_t>((count + 1) / 2); ++i) {
            const std::uint32_t expected = bf16(values[2 * i]).bits | std::uint32_t{bf16(values[2 * i + 1]).bits} << 16U;
            EXPECT_EQ(pairs[i].bits, expected) << i << " of " << count;
        }
    }
#else
    GTEST_SKIP() << "built without AVX512-BF16";
#endif
}

TEST(DotTest, Int16AddsTheTwoProductsOfEachLaneToItsSum) {
#if defined(__AVX2__)
    std::mt19937 generator(3);
    std::uniform_int_distribution<int> draw(-32767, 32767);
    std::array<std::int16_t, 2 * lane_count> a;
    std::array<std::int16_t, 2 * lane_count> b;
    std::array<std::int32_t, lane_count> expected;
    for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<std::int16_t>(draw(generator) / 2);
        b[i] = static_cast<std::int16_t>(draw(generator) / 2);
    }
    for (std::int32_t& sum : expected) sum = draw(generator);
    // The largest pair that a lane holds.
    for (std::size_t i = 0; i < 2; ++i) a[i] = b[i] = 32767;
    expected[0] = 0;
    std::array<std::int32_t, lane_count> sums;
    dot_s16<Arch>(xsimd::batch<std::int32_t, Arch>::load_unaligned(expected.data()), packed(a), packed(b))
        .store_unaligned(sums.data());
    for (std::size_t i = 0; i < a.size(); ++i) expected[i / 2] += a[i] * b[i];
    EXPECT_EQ(sums, expected);
#else
    GTEST_SKIP() << "built without AVX2";
#endif
}

TEST(DotTest, Int8MultipliesUnsignedWithSignedBytesAndAddsFourToEachLane) {
#if defined(__AVX512VNNI__)
    std::mt19937 generator(2);
    std::uniform_int_distribution<int> draw(0, 255);
    std::array<std::uint8_t, 4 * lane_count> a;
    std::array<std::int8_t, 4 * lane_count> b;
    std::array<std::int32_t, lane_count> expected;
    for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<std::uint8_t>(draw(generator));
        b[i] = static_cast<std::int8_t>(draw(generator) - 128);
    }
    for (std::int32_t& sum : expected) sum = 1000 * draw(generator);
    // The ends of both ranges, where an instruction that saturates pairs to 16 bits would differ.
    for (std::size_t i = 0; i < 4; ++i) a[i] = 255, b[i] = -128;
    // A sum that overflows: it wraps around.
    for (std::size_t i = 4; i < 8; ++i) b[i] = 127;
    a[4] = 1;
    expected[1] = std::numeric_limits<std::int32_t>::max();
    std::array<std::int32_t, lane_count> sums;
    dot_u8s8<Arch>(xsimd::batch<std::int32_t, Arch>::load_unaligned(expected.data()), packed(a), packed(b))
        .store_unaligned(sums.data());
    for (std::size_t i = 0; i < a.size(); ++i)
        expected[i / 4] =
            static_cast<std::int32_t>(static_cast<std::uint32_t>(expected[i / 4]) + static_cast<std::uint32_t>(a[i] * b[i]));
    EXPECT_EQ(sums, expected);
#else
    GTEST_SKIP() << "built without AVX512-VNNI";
#endif
}

}  // namespace
}  // namespace mla::simd
