// The model of the tile registers against what Intel's manual says of them, formulated anew with plain loops over plain matrices;
// and the product that kernels make of them.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "mla/simd/prefetch.hpp"
#include "mla/simd/tile_registers.hpp"
#include "mla/testing/random.hpp"
#include "support/tile_shapes.hpp"

namespace mla {
namespace {

using simd::ModelTileRegisters;
using Registers = simd::WholeTiles<ModelTileRegisters>;
using simd::TileConfig;
using testing::config_of;
using testing::TileShape;

/// A float whose subnormals are zeros, as operands and as results of products are.
[[nodiscard]] float flushed(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return (bits & 0x7f800000U) == 0 ? std::bit_cast<float>(bits & 0x80000000U) : value;
}

template <class U>
[[nodiscard]] std::vector<U> random_units(testing::Generator& generator, Index count) {
    std::vector<U> units(static_cast<std::size_t>(count));
    for (U& unit : units) unit = static_cast<U>(generator());
    return units;
}

/// c[m, n] after C += A · B with A [rows, 2·groups] and B [groups, columns, 2] of bf16.
[[nodiscard]] float expected_bf16(const TileShape& s, float c, const std::vector<std::uint16_t>& a,
                                  const std::vector<std::uint16_t>& b, Index m, Index n) {
    const auto value = [](std::uint16_t bits) { return flushed(std::bit_cast<float>(std::uint32_t{bits} << 16U)); };
    float sums[2] = {0.0F, 0.0F};
    for (Index k = 0; k < 2 * s.groups; ++k) {
        const float left = value(a[static_cast<std::size_t>(m * 2 * s.groups + k)]);
        const float right = value(b[static_cast<std::size_t>((k / 2 * s.columns + n) * 2 + k % 2)]);
        sums[k % 2] = flushed(std::fma(left, right, sums[k % 2]));
    }
    return flushed(flushed(c) + flushed(sums[0] + sums[1]));
}

/// The bits of a number, and of any NaN the same.
[[nodiscard]] std::uint32_t bits_of(float value) { return std::isnan(value) ? 0x7fc00000U : std::bit_cast<std::uint32_t>(value); }

void expect_product_bf16(const TileShape& s, const std::vector<float>& c, const std::vector<std::uint16_t>& a,
                         const std::vector<std::uint16_t>& b) {
    Registers registers;
    registers.configure(config_of(s));
    registers.load<0>(c.data(), s.columns * 4);
    registers.load<1>(a.data(), s.groups * 4);
    registers.load<2>(b.data(), s.columns * 4);
    registers.dot_bf16<0, 1, 2>();
    std::vector<float> found(c.size());
    registers.store<0>(found.data(), s.columns * 4);
    for (Index m = 0; m < s.rows; ++m)
        for (Index n = 0; n < s.columns; ++n) {
            const auto i = static_cast<std::size_t>(m * s.columns + n);
            ASSERT_EQ(bits_of(found[i]), bits_of(expected_bf16(s, c[i], a, b, m, n)))
                << found[i] << " at " << m << ", " << n << " of " << s.rows << " x " << s.columns << " x " << s.groups;
        }
}

// Configurations ------------------------------------------------------------------------------------------------------

TEST(TileConfigTest, EightRegistersOfSixteenRowsOfSixtyFourBytesAreTheMost) {
    EXPECT_TRUE(TileConfig::whole().is_valid());
    for (int tile = 0; tile < 16; ++tile)
        for (const int rows : {0, 1, 16, 17})
            for (const int bytes : {0, 1, 64, 65}) {
                TileConfig config;
                config.rows[tile] = static_cast<std::uint8_t>(rows);
                config.row_bytes[tile] = static_cast<std::uint16_t>(bytes);
                const bool unused = rows == 0 && bytes == 0;
                const bool fits = tile < 8 && rows >= 1 && rows <= 16 && bytes >= 1 && bytes <= 64;
                EXPECT_EQ(config.is_valid(), unused || fits) << tile << ": " << rows << " x " << bytes;
            }
}

TEST(TileConfigTest, OtherPalettesAndReservedBytesAreFaults) {
    TileConfig config = TileConfig::whole();
    config.palette = 2;
    EXPECT_FALSE(config.is_valid());
    config.palette = 0;
    EXPECT_TRUE(config.is_valid());
    EXPECT_FALSE(config.has(0));
    config = TileConfig::whole();
    config.reserved[13] = 1;
    EXPECT_FALSE(config.is_valid());
}

TEST(TileConfigTest, AProductTakesThreeRegistersThatFitOneAnother) {
    const TileConfig config = config_of({5, 7, 9});
    EXPECT_TRUE(config.can_multiply(0, 1, 2));
    EXPECT_FALSE(config.can_multiply(0, 2, 1));
    EXPECT_FALSE(config.can_multiply(0, 1, 3)) << "3 is not configured";
    EXPECT_FALSE(TileConfig::whole().can_multiply(0, 1, 1));
    EXPECT_FALSE(TileConfig::whole().can_multiply(0, 0, 1));
    for (const int tile : {0, 1, 2}) {
        TileConfig cut = config;
        --cut.rows[tile];
        EXPECT_FALSE(cut.can_multiply(0, 1, 2)) << tile;
        cut = config;
        cut.row_bytes[tile] = static_cast<std::uint16_t>(cut.row_bytes[tile] - 2);
        EXPECT_FALSE(cut.can_multiply(0, 1, 2)) << tile;
    }
}

TEST(WholeTilesTest, AreConfiguredOnceHoweverManyLiveAtATime) {
    const Index before = ModelTileRegisters::times_configured();
    {
        const Registers item;
        for (int kernel = 0; kernel < 3; ++kernel) const Registers inner;
        EXPECT_TRUE(ModelTileRegisters::configuration().can_multiply(0, 6, 7));
    }
    EXPECT_EQ(ModelTileRegisters::times_configured(), before + 1);
}

TEST(WholeTilesTest, LeaveTheRegistersReleasedOrAsAHostConfiguredThem) {
    { const Registers released; }
    EXPECT_EQ(ModelTileRegisters::configuration().palette, 0);
    const TileConfig hosts = config_of({3, 5, 7});
    ModelTileRegisters::configure(hosts);
    { const Registers between; }
    const TileConfig after = ModelTileRegisters::configuration();
    ModelTileRegisters::release();
    EXPECT_EQ(std::memcmp(&after, &hosts, sizeof after), 0);
}

// Loads and stores ----------------------------------------------------------------------------------------------------

TEST(TileModelTest, RowsAreLoadedAndStoredAStrideApartAndNothingElseIsTouched) {
    testing::Generator generator(1);
    for (const TileShape& s : testing::tile_shapes) {
        const Index bytes = 4 * s.groups;
        const Index stride = bytes + 12;
        const auto from = random_units<std::uint8_t>(generator, 16 * stride);
        std::vector<std::uint8_t> to(from.size(), 0xee);
        Registers registers;
        registers.configure(config_of(s));
        registers.load<1>(from.data(), stride);
        registers.store<1>(to.data(), stride);
        for (Index i = 0; i < 16 * stride; ++i) {
            const bool stored = i / stride < s.rows && i % stride < bytes;
            ASSERT_EQ(to[static_cast<std::size_t>(i)], stored ? from[static_cast<std::size_t>(i)] : 0xee) << i;
        }
    }
}

TEST(TileModelTest, ConfiguringAndZeroingLeaveZeros) {
    testing::Generator generator(2);
    const auto from = random_units<std::uint8_t>(generator, 1024);
    const std::vector<std::uint8_t> zeros(1024, 0);
    std::vector<std::uint8_t> to(1024, 0xee);
    Registers registers;
    registers.load<7>(from.data(), 64);
    registers.zero<7>();
    registers.store<7>(to.data(), 64);
    EXPECT_EQ(to, zeros);
    registers.load<7>(from.data(), 64);
    registers.configure(TileConfig::whole());
    registers.store<7>(to.data(), 64);
    EXPECT_EQ(to, zeros);
}

// Products of bf16 ----------------------------------------------------------------------------------------------------

TEST(TileModelTest, ProductsOfBf16AreThoseOfPlainLoopsInEveryShape) {
    testing::Generator generator(3);
    for (const TileShape& s : testing::tile_shapes) {
        const auto c = testing::gaussian_values<float>(generator, s.rows * s.columns);
        std::vector<std::uint16_t> a, b;
        for (const float value : testing::gaussian_values<float>(generator, s.rows * 2 * s.groups)) a.push_back(bf16(value).bits);
        for (const float value : testing::gaussian_values<float>(generator, s.columns * 2 * s.groups))
            b.push_back(bf16(value).bits);
        expect_product_bf16(s, c, a, b);
    }
}

/// Any bits: subnormals, infinities and NaN among them, sums that overflow and vanish.
TEST(TileModelTest, ProductsOfAnyBitsAreThoseOfPlainLoops) {
    testing::Generator generator(4);
    for (int i = 0; i < 50; ++i)
        for (const TileShape& s : testing::tile_shapes) {
            const auto bits = random_units<std::uint32_t>(generator, s.rows * s.columns);
            std::vector<float> c;
            for (const std::uint32_t each : bits) c.push_back(std::bit_cast<float>(each));
            expect_product_bf16(s, c, random_units<std::uint16_t>(generator, s.rows * 2 * s.groups),
                                random_units<std::uint16_t>(generator, s.columns * 2 * s.groups));
        }
}

/// One dot product, of pairs a[k] and 1.
[[nodiscard]] float sum_of(float c, const std::vector<std::pair<float, float>>& pairs, float factor = 1.0F) {
    const TileShape s{1, 1, static_cast<Index>(pairs.size())};
    std::vector<std::uint16_t> a;
    for (const auto& [first, second] : pairs) {
        a.push_back(bf16(first).bits);
        a.push_back(bf16(second).bits);
    }
    const std::vector<std::uint16_t> b(a.size(), bf16(factor).bits);
    Registers registers;
    registers.configure(config_of(s));
    registers.load<0>(&c, 4);
    registers.load<1>(a.data(), 64);
    registers.load<2>(b.data(), 4);
    registers.dot_bf16<0, 1, 2>();
    registers.store<0>(&c, 4);
    return c;
}

TEST(TileModelTest, SumsBeginAtZeroAndJoinTheRegisterLast) {
    EXPECT_EQ(sum_of(1.0F, {{0x1p25F, 0.0F}, {-0x1p25F, 0.0F}}), 1.0F);  // from 1 on they would lose it
}

TEST(TileModelTest, FirstsAndSecondsOfPairsHaveSumsOfTheirOwn) {
    EXPECT_EQ(sum_of(0.0F, {{0x1p25F, 1.0F}, {-0x1p25F, 0.0F}}), 1.0F);
    EXPECT_EQ(sum_of(0.0F, {{0x1p25F, 0.0F}, {1.0F, 0.0F}, {-0x1p25F, 0.0F}}), 0.0F);  // in the order of k
}

TEST(TileModelTest, TiesGoToEven) {
    EXPECT_EQ(sum_of(0.0F, {{0x1p24F, 0.0F}, {1.0F, 0.0F}}), 0x1p24F);
    EXPECT_EQ(sum_of(0.0F, {{0x1p24F, 0.0F}, {2.0F, 0.0F}, {1.0F, 0.0F}}), 0x1p24F + 4.0F);
}

/// 2^-128 and more by half is no float that counts, but in a fused sum it is more than half of 2^-104's last place.
TEST(TileModelTest, AProductIsNotRoundedBeforeItIsAdded) {
    EXPECT_EQ(sum_of(0.0F, {{0x1p-40F, 0.0F}, {0x1.8p-64F, 0.0F}}, 0x1p-64F), 0x1p-104F + 0x1p-127F);
}

TEST(TileModelTest, SubnormalsAreZeroAsOperandsAndAsResults) {
    EXPECT_EQ(sum_of(0.0F, {{0x1p-127F, 0x1p-130F}}, 0x1p100F), 0.0F);
    EXPECT_EQ(sum_of(0x1p-130F, {{0.0F, 0.0F}}), 0.0F);
    EXPECT_EQ(sum_of(0.0F, {{0x1p-70F, 0.0F}}, 0x1p-70F), 0.0F);
    EXPECT_EQ(sum_of(-0x1.8p-126F, {{0x1p-126F, 0.0F}}), 0.0F);
}

#if defined(__x86_64__)
TEST(TileModelTest, TheThreadsRoundingModeChangesNothing) {
    const unsigned before = _mm_getcsr();
    for (const unsigned mode : {0x1f80U, 0x1f80U | 0x2000U, 0x1f80U | 0x4000U, 0x1f80U | 0x8040U}) {
        _mm_setcsr(mode);
        const float tie = sum_of(0.0F, {{0x1p24F, 0.0F}, {1.0F, 0.0F}});
        const float small = sum_of(0x1p-126F, {{-0x1.8p-126F, 0.0F}});
        const unsigned after = _mm_getcsr() & ~0x3fU;
        _mm_setcsr(before);
        EXPECT_EQ(tie, 0x1p24F);
        EXPECT_EQ(std::bit_cast<std::uint32_t>(small) & 0x7fffffffU, 0U);
        EXPECT_EQ(after, mode);
    }
}
#endif

// Products of bytes ---------------------------------------------------------------------------------------------------

template <bool SignedA, bool SignedB>
void expect_products_of_bytes(const TileShape& s) {
    using A = std::conditional_t<SignedA, std::int8_t, std::uint8_t>;
    using B = std::conditional_t<SignedB, std::int8_t, std::uint8_t>;
    testing::Generator generator(5);
    const auto c = random_units<std::uint32_t>(generator, s.rows * s.columns);
    const auto a = random_units<A>(generator, s.rows * 4 * s.groups);
    const auto b = random_units<B>(generator, s.columns * 4 * s.groups);
    Registers registers;
    registers.configure(config_of(s));
    registers.load<0>(c.data(), s.columns * 4);
    registers.load<1>(a.data(), s.groups * 4);
    registers.load<2>(b.data(), s.columns * 4);
    registers.dot_bytes<0, 1, 2, SignedA, SignedB>();
    std::vector<std::uint32_t> found(c.size());
    registers.store<0>(found.data(), s.columns * 4);
    for (Index m = 0; m < s.rows; ++m)
        for (Index n = 0; n < s.columns; ++n) {
            std::int64_t sum = c[static_cast<std::size_t>(m * s.columns + n)];
            for (Index k = 0; k < 4 * s.groups; ++k)
                sum += a[static_cast<std::size_t>(m * 4 * s.groups + k)] *
                       b[static_cast<std::size_t>((k / 4 * s.columns + n) * 4 + k % 4)];
            ASSERT_EQ(found[static_cast<std::size_t>(m * s.columns + n)], static_cast<std::uint32_t>(sum));
        }
}

TEST(TileModelTest, ProductsOfBytesOfEitherSignAreThoseOfPlainLoopsAndWrapAround) {
    for (const TileShape& s : testing::tile_shapes) {
        expect_products_of_bytes<true, true>(s);
        expect_products_of_bytes<true, false>(s);
        expect_products_of_bytes<false, true>(s);
        expect_products_of_bytes<false, false>(s);
    }
}

// The product of kernels ----------------------------------------------------------------------------------------------

/// Every k and every register at its place: products of small integers are exact, in any order.
template <int M, int N>
void expect_product_of_registers(Index steps) {
    testing::Generator generator(6);
    const Index depth = 32 * steps, rows = 16 * M, columns = 16 * N;
    const auto integers = [&](Index count) {
        std::vector<bf16> values;
        for (const auto unit : random_units<std::uint16_t>(generator, count))
            values.emplace_back(static_cast<float>(unit % 17) - 8.0F);
        return values;
    };
    const auto a = integers(rows * depth);
    const auto b = integers(depth * columns);  // [pair of k][column][2]
    std::vector<float> c(static_cast<std::size_t>(rows * columns), 3.0F);
    simd::TileRows left[simd::extent<M>], right[simd::extent<N>];
    for (Index m = 0; m < M; ++m) left[m] = {a.data() + 16 * m * depth, 2 * depth, 64};
    for (Index n = 0; n < N; ++n) right[n] = {b.data() + 32 * n, 4 * columns, 64 * columns};
    using Target = targets::emulated<targets::amx>;
    simd::TileRegisters<Target> registers;
    simd::TileProduct<Target, M, N> product(registers);
    simd::Prefetch nothing;
    product.load(c.data(), columns);
    product.multiply(steps, left, right, nothing);
    product.store(c.data(), columns);
    for (Index m = 0; m < rows; ++m)
        for (Index n = 0; n < columns; ++n) {
            float sum = 3.0F;
            for (Index k = 0; k < depth; ++k)
                sum += static_cast<float>(a[static_cast<std::size_t>(m * depth + k)]) *
                       static_cast<float>(b[static_cast<std::size_t>((k / 2 * columns + n) * 2 + k % 2)]);
            ASSERT_EQ(c[static_cast<std::size_t>(m * columns + n)], sum) << M << " x " << N << ", " << steps << " steps";
        }
}

TEST(TileProductTest, AddsTheProductOfEveryKInEveryShapeAndDepth) {
    for (Index steps = 0; steps < 6; ++steps) {
        expect_product_of_registers<2, 2>(steps);
        expect_product_of_registers<3, 1>(steps);
        expect_product_of_registers<2, 1>(steps);
        expect_product_of_registers<1, 1>(steps);
        expect_product_of_registers<1, 2>(steps);
        expect_product_of_registers<1, 3>(steps);
    }
}

/// Numbers of 16 bits on either side, put together from the sums of their bytes, or of bytes as they are.
template <bool Rows, bool Columns>
void expect_products_of_halves() {
    testing::Generator generator(7);
    constexpr Index depth = 64, side = 16;
    const auto numbers = [&](bool wide, Index count) {
        std::vector<std::int16_t> values;
        for (const auto unit : random_units<std::int16_t>(generator, count))
            values.push_back(wide ? unit : static_cast<std::int8_t>(unit));
        return values;
    };
    // Two registers of either side: upper and lower bytes of the same numbers, or others.
    const auto a = numbers(Rows, (Rows ? 1 : 2) * side * depth);
    const auto b = numbers(Columns, (Columns ? 1 : 2) * side * depth);
    std::uint8_t left[2 * side * depth], right[2 * side * depth];
    const auto place_of = [](Index column, Index k) { return k / 4 * 4 * side + column * 4 + k % 4; };
    for (Index r = 0; r < 2; ++r)
        for (Index i = 0; i < side; ++i)
            for (Index k = 0; k < depth; ++k) {
                const auto part = [&](bool wide, const std::vector<std::int16_t>& of) {
                    const auto place = static_cast<std::size_t>((wide ? 0 : r) * side * depth + i * depth + k);
                    return static_cast<std::uint8_t>(wide && r == 0 ? of[place] >> 8 : of[place]);
                };
                left[r * side * depth + i * depth + k] = part(Rows, a);
                right[r * side * depth + place_of(i, k)] = part(Columns, b);
            }
    const auto sums = testing::product_of_bytes<targets::emulated<targets::amx>, Rows, Columns>(left, right);
    const auto at = [&](Index m, Index n) { return sums[static_cast<std::size_t>(2 * side * m + n)]; };
    for (Index m = 0; m < (Rows ? side : 2 * side); ++m)
        for (Index n = 0; n < (Columns ? side : 2 * side); ++n) {
            std::uint32_t expected = 0;
            for (Index k = 0; k < depth; ++k)
                expected += static_cast<std::uint32_t>(a[static_cast<std::size_t>(m * depth + k)] *
                                                       b[static_cast<std::size_t>(n * depth + k)]);
            const auto row = [&](Index i) { return Columns ? (at(i, n) << 8U) + at(i, n + side) : at(i, n); };
            ASSERT_EQ(Rows ? (row(m) << 8U) + row(m + side) : row(m), expected) << m << ", " << n;
        }
}

TEST(TileProductTest, NumbersOfSixteenBitsAreTheirBytesPutTogether) {
    expect_products_of_halves<false, false>();
    expect_products_of_halves<false, true>();
    expect_products_of_halves<true, false>();
    expect_products_of_halves<true, true>();
}

}  // namespace
}  // namespace mla
