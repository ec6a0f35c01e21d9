// The atoms, by each way of converting that the compiler's flags allow: conversions beside the scalar ones, and the product
// tile on small whole numbers, whose sums are exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "mla/simd/convert.hpp"
#include "mla/simd/tile.hpp"
#include "mla/testing/random.hpp"

namespace {

using mla::bf16;
using mla::Compute;
using mla::fp16;
using mla::Index;
using mla::Storage;
using mla::simd::Batch;
using mla::simd::convert;
using mla::simd::lanes;
using mla::testing::Generator;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Equal bit for bit, and any NaN like any other: hardware makes a signalling one quiet, the scalar conversions need not.
template <class S>
bool same(S a, S b) {
    if (std::isnan(static_cast<double>(a)) || std::isnan(static_cast<double>(b)))
        return std::isnan(static_cast<double>(a)) && std::isnan(static_cast<double>(b));
    return std::memcmp(&a, &b, sizeof(S)) == 0;
}

// AVX-512, AVX2 with F16C, and any other set element by element.
#if XSIMD_WITH_AVX512F
using Archs = ::testing::Types<xsimd::default_arch, xsimd::fma3<xsimd::avx2>, xsimd::sse2>;
#elif XSIMD_WITH_AVX2
using Archs = ::testing::Types<xsimd::default_arch, xsimd::sse2>;
#else
using Archs = ::testing::Types<xsimd::default_arch>;
#endif

template <class Arch>
class SimdTest : public ::testing::Test {};
TYPED_TEST_SUITE(SimdTest, Archs, );

// Conversions ---------------------------------------------------------------------------------------------------------

/// What conversions trip over, and values all over the range: ties, subnormals, overflow, infinities, zeros and NaN.
std::vector<double> awkward_values(Index count) {
    const double special[] = {0.0,      -0.0,      1.0,       -1.0,        infinity,   -infinity,  not_a_number,
                              65504.0,  65519.99,  65520.0,   -65520.0,    1e300,      -1e300,     3.4e38,
                              3.39e38,  0x1p-14,   0x1.ffcp-15, 0x1p-24,   0x1p-25,    0x1.8p-25,  -0x1p-26,
                              0x1p-126, 0x1p-133,  0x1p-134,  -0x1.8p-134, 0x1p-149,   0x1p-150,   1e-310,
                              1.0 + 0x1p-8, 1.0 + 0x1.8p-7, 1.0 + 0x1p-11, 1.0 + 0x1.8p-10, 1.0 + 0x1p-24, 2049.0, 2051.0};
    Generator generator(1);
    std::vector<double> values(std::begin(special), std::end(special));
    while (static_cast<Index>(values.size()) < count)
        values.push_back(mla::testing::gaussian(generator) * std::exp2(30.0 * mla::testing::gaussian(generator)));
    std::shuffle(values.begin(), values.end(), generator);  // so that all meet every lane and the tail
    values.resize(static_cast<std::size_t>(count));
    return values;
}

/// Loads of S in the type A against scalar conversion, from every address that S allows.
template <class Arch, Compute A, Storage S>
void expect_loads_convert(const std::vector<S>& source) {
    constexpr Index width = lanes<Arch, A>;
    std::array<A, static_cast<std::size_t>(width)> loaded;
    for (Index begin = 0; begin + width <= static_cast<Index>(source.size()); ++begin) {
        mla::simd::load<Arch, A>(source.data() + begin).store_unaligned(loaded.data());
        for (Index i = 0; i < width; ++i) {
            const S value = source[static_cast<std::size_t>(begin + i)];
            ASSERT_TRUE(same(loaded[static_cast<std::size_t>(i)], static_cast<A>(value))) << static_cast<double>(value);
        }
    }
}

template <class S>
std::vector<S> all_patterns() {
    std::vector<S> values(65536);
    for (std::size_t bits = 0; bits < values.size(); ++bits) values[bits].bits = static_cast<std::uint16_t>(bits);
    return values;
}

TYPED_TEST(SimdTest, LoadsWidenEveryPatternAsTheScalarTypesDo) {
    expect_loads_convert<TypeParam, float>(all_patterns<bf16>());
    expect_loads_convert<TypeParam, float>(all_patterns<fp16>());
    expect_loads_convert<TypeParam, double>(all_patterns<bf16>());
    expect_loads_convert<TypeParam, double>(all_patterns<fp16>());
}

template <class To>
std::vector<To> converted(const std::vector<double>& values) {
    std::vector<To> result;
    for (const double value : values) result.push_back(convert<To>(value));
    return result;
}

TYPED_TEST(SimdTest, LoadsConvertFloatAndDouble) {
    const std::vector<double> values = awkward_values(400);
    expect_loads_convert<TypeParam, float>(converted<float>(values));
    expect_loads_convert<TypeParam, double>(converted<float>(values));
    expect_loads_convert<TypeParam, double>(values);
}

/// Stores of A as S against scalar conversion, to every address that S allows; nothing beside the vector changes.
template <class Arch, Storage S, Compute A>
void expect_stores_convert(const std::vector<A>& source) {
    constexpr Index width = lanes<Arch, A>;
    const S untouched = convert<S>(-77.0F);
    for (Index begin = 0; begin + width <= static_cast<Index>(source.size()); ++begin) {
        std::vector<S> stored(static_cast<std::size_t>(3 * width), untouched);
        const Index offset = begin % width + 1;
        mla::simd::store<Arch, A>(stored.data() + offset, Batch<Arch, A>::load_unaligned(source.data() + begin));
        for (Index i = 0; i < 3 * width; ++i) {
            const bool inside = i >= offset && i < offset + width;
            const S expected = inside ? convert<S>(source[static_cast<std::size_t>(begin + i - offset)]) : untouched;
            ASSERT_TRUE(same(stored[static_cast<std::size_t>(i)], expected)) << static_cast<double>(expected) << " at " << i;
        }
    }
}

TYPED_TEST(SimdTest, StoresRoundAsTheScalarTypesDo) {
    const std::vector<double> doubles = awkward_values(2000);
    const std::vector<float> floats = converted<float>(doubles);
    expect_stores_convert<TypeParam, bf16>(floats);
    expect_stores_convert<TypeParam, fp16>(floats);
    expect_stores_convert<TypeParam, float>(floats);
    expect_stores_convert<TypeParam, bf16>(doubles);
    expect_stores_convert<TypeParam, fp16>(doubles);
    expect_stores_convert<TypeParam, float>(doubles);
    expect_stores_convert<TypeParam, double>(doubles);
}

TYPED_TEST(SimdTest, StoresRoundToEvenBetweenAllNeighbours) {
    // Above each positive number of the narrow type the float half-way to the next one, and the floats beside that.
    const auto middles = []<class S>(const std::vector<S>& patterns) {
        std::vector<float> values;
        for (std::size_t bits = 0; std::isfinite(static_cast<float>(patterns[bits + 1])); ++bits) {
            const float middle = (static_cast<float>(patterns[bits]) + static_cast<float>(patterns[bits + 1])) / 2.0F;
            for (const float value : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e38F)})
                values.push_back(bits % 2 == 0 ? value : -value);
        }
        return values;
    };
    expect_stores_convert<TypeParam, bf16>(middles(all_patterns<bf16>()));
    expect_stores_convert<TypeParam, fp16>(middles(all_patterns<fp16>()));
}

/// Rows of every length from and to addresses off the alignment of vectors. The source has no element too many, so that a
/// checked build sees a read beyond its end.
template <class Arch, Storage To, Storage From>
void expect_rows_convert(const std::vector<double>& values) {
    const To untouched = convert<To>(-77.0F);
    for (Index count = 0; count <= 70; ++count)
        for (const Index offset : {0, 1, 3}) {
            std::vector<From> source = converted<From>(values);
            source.resize(static_cast<std::size_t>(offset + count));
            std::vector<To> target(static_cast<std::size_t>(count + 9), untouched);
            const Index begin = 4 - offset;
            mla::simd::convert_row<Arch>(target.data() + begin, source.data() + offset, count);
            for (Index i = 0; i < count + 9; ++i) {
                const bool inside = i >= begin && i < begin + count;
                const To expected = inside ? convert<To>(source[static_cast<std::size_t>(offset + i - begin)]) : untouched;
                ASSERT_TRUE(same(target[static_cast<std::size_t>(i)], expected)) << i << " of " << count;
            }
        }
}

template <class Arch, Storage From>
void expect_rows_convert_from(const std::vector<double>& values) {
    expect_rows_convert<Arch, double, From>(values);
    expect_rows_convert<Arch, float, From>(values);
    expect_rows_convert<Arch, bf16, From>(values);
    expect_rows_convert<Arch, fp16, From>(values);
}

TYPED_TEST(SimdTest, RowsConvertBetweenAllTypesAtEveryLength) {
    const std::vector<double> values = awkward_values(80);
    expect_rows_convert_from<TypeParam, double>(values);
    expect_rows_convert_from<TypeParam, float>(values);
    expect_rows_convert_from<TypeParam, bf16>(values);
    expect_rows_convert_from<TypeParam, fp16>(values);
}

TEST(ConvertTest, WidensExactlyAndRoundsThroughFloat) {
    EXPECT_EQ(convert<double>(bf16(1.5F)), 1.5);
    EXPECT_EQ(convert<double>(0.1F), static_cast<double>(0.1F));
    EXPECT_EQ(convert<float>(0.1), 0.1F);
    EXPECT_EQ(convert<fp16>(bf16(1.5F)).bits, fp16(1.5F).bits);
    EXPECT_EQ(convert<bf16>(fp16(1.0F + 0x1.8p-7F)).bits, bf16(1.0F + 0x1p-6F).bits);  // a tie, to even
    EXPECT_EQ(convert<fp16>(1e300).bits, 0x7c00);
    bf16 signalling;
    signalling.bits = 0x7f81;
    EXPECT_EQ(convert<bf16>(signalling).bits, 0x7f81);  // the same type: nothing happens
}
static_assert(convert<bf16>(1.0).bits == 0x3f80 && convert<double>(fp16(-2.0F)) == -2.0);

// Tile ----------------------------------------------------------------------------------------------------------------

constexpr Index tile_padding = 3;

/// Whole numbers from −8 to 8: sums of up to 2^14 products of two, and what follows here, are exact in float.
template <class S>
std::vector<S> whole_numbers(Generator& generator, Index count) {
    std::vector<S> values;
    for (Index i = 0; i < count; ++i) values.push_back(convert<S>(static_cast<float>(generator() % 17U) - 8.0F));
    return values;
}

/// C [M, columns] in rows that lie `stride` apart, and a copy on which the expected values are worked out.
template <class Arch, Compute A, int M, int N, Storage S>
void expect_tile_multiplies(Index depth) {
    using Tile = mla::simd::Tile<Arch, A, M, N>;
    constexpr Index columns = Tile::columns;
    constexpr Index c_stride = columns + tile_padding;
    const Index b_stride = columns + 1;
    const Index a_stride = depth + 2;
    Generator generator(static_cast<std::uint64_t>(depth + 1));
    const auto a = whole_numbers<A>(generator, M * a_stride);
    const auto b = whole_numbers<S>(generator, depth * b_stride);
    const auto factor = whole_numbers<A>(generator, M);
    const auto before = whole_numbers<A>(generator, M * c_stride);
    std::vector<A> transposed(static_cast<std::size_t>(depth * (M + 1)));  // [depth, M] in rows of M + 1
    std::vector<A> product(static_cast<std::size_t>(M * c_stride));
    for (Index m = 0; m < M; ++m)
        for (Index k = 0; k < depth; ++k) {
            const A left = a[static_cast<std::size_t>(m * a_stride + k)];
            transposed[static_cast<std::size_t>(k * (M + 1) + m)] = left;
            for (Index n = 0; n < columns; ++n)
                product[static_cast<std::size_t>(m * c_stride + n)] += left * static_cast<A>(b[static_cast<std::size_t>(k * b_stride + n)]);
        }

    /// `after(old, product, factor)` of every cell in the tile; the padding stays.
    const auto expect_cells = [&](const std::vector<A>& c, auto after) {
        for (Index m = 0; m < M; ++m)
            for (Index n = 0; n < c_stride; ++n) {
                const auto cell = static_cast<std::size_t>(m * c_stride + n);
                const A expected = n < columns ? after(before[cell], product[cell], factor[static_cast<std::size_t>(m)]) : before[cell];
                ASSERT_EQ(c[cell], expected) << "row " << m << ", column " << n << ", depth " << depth;
            }
    };
    const auto expect_operand = [&](auto operand) {
        Tile tile;
        tile.clear();
        tile.multiply(depth, operand, b.data(), b_stride);
        std::vector<A> c = before;
        tile.store(c.data(), c_stride);
        expect_cells(c, [](A, A sum, A) { return sum; });
        c = before;
        tile.add_to(c.data(), c_stride);
        expect_cells(c, [](A old, A sum, A) { return old + sum; });
        c = before;
        tile.add_to_scaled(c.data(), c_stride, factor.data());
        expect_cells(c, [](A old, A sum, A scale) { return old * scale + sum; });

        const Index half = depth / 2;  // two products into one tile, the second from the middle of the operand
        tile.clear();
        tile.multiply(half, operand, b.data(), b_stride);
        tile.multiply(depth - half, operand.advance_k(half), b.data() + half * b_stride, b_stride);
        tile.store(c.data(), c_stride);
        expect_cells(c, [](A, A sum, A) { return sum; });
    };
    expect_operand(mla::simd::RowOperand<A>{a.data(), a_stride});
    expect_operand(mla::simd::ColumnOperand<A>{transposed.data(), M + 1});
}

template <class Arch, Compute A, Storage S>
void expect_tiles_multiply() {
    for (const Index depth : {0, 1, 2, 7, 33}) {
        expect_tile_multiplies<Arch, A, 1, 1, S>(depth);
        expect_tile_multiplies<Arch, A, 3, 2, S>(depth);
        expect_tile_multiplies<Arch, A, 1, 4, S>(depth);
    }
}

TYPED_TEST(SimdTest, TilesMultiplyExactlyInFloat) {
    expect_tiles_multiply<TypeParam, float, float>();
    expect_tiles_multiply<TypeParam, float, bf16>();
    expect_tiles_multiply<TypeParam, float, fp16>();
}

TYPED_TEST(SimdTest, TilesMultiplyExactlyInDouble) {
    expect_tiles_multiply<TypeParam, double, double>();
    expect_tiles_multiply<TypeParam, double, bf16>();
}

TEST(OperandTest, AdvancesInBothDirections) {
    std::vector<float> values(12);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    const auto row = mla::simd::RowOperand<float>{values.data(), 4}.advance_m(1).advance_k(2);
    EXPECT_EQ(row.at(0, 0), 6.0F);
    EXPECT_EQ(row.at(1, 1), 11.0F);
    const auto column = mla::simd::ColumnOperand<float>{values.data(), 4}.advance_k(1).advance_m(2);
    EXPECT_EQ(column.at(0, 0), 6.0F);
    EXPECT_EQ(column.at(1, 1), 11.0F);
}

TEST(UnrollTest, CallsEachIndexInOrder) {
    std::vector<int> seen;
    mla::simd::unroll<5>([&](auto i) { seen.push_back(i); });
    EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4}));
    mla::simd::unroll<0>([&](auto i) { seen.push_back(i); });
    EXPECT_EQ(seen.size(), 5U);
}

}  // namespace
