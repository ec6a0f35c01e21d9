// The atoms of every target that the compiler's flags allow, and of emulated ones: conversions and roundings beside the scalar
// ones, and the product tile on small integers, whose sums are exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "mla/core/float_environment.hpp"
#include "mla/simd/exp.hpp"
#include "mla/simd/rows.hpp"
#include "mla/simd/steps.hpp"
#include "mla/simd/tile.hpp"
#include "mla/simd/transpose.hpp"
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

template <class S>
::testing::AssertionResult all_same(const std::vector<S>& found, const std::vector<S>& expected) {
    if (found.size() != expected.size()) return ::testing::AssertionFailure() << "sizes differ";
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!same(found[i], expected[i]))
            return ::testing::AssertionFailure()
                   << "[" << i << "] is " << static_cast<double>(found[i]) << ", must be " << static_cast<double>(expected[i]);
    return ::testing::AssertionSuccess();
}

namespace targets = mla::targets;
using Targets = ::testing::Types<
#if MLA_HAS_AVX512_BF16
    targets::avx512_bf16, targets::avx512_vnni,
#endif
#if MLA_HAS_AVX512
    targets::avx512,
#endif
#if MLA_HAS_AVX2
    targets::avx2,
#endif
#if MLA_HAS_NEON_BF16
    targets::neon_bf16,
#endif
#if MLA_HAS_NEON
    targets::neon,
#endif
    targets::emulated<targets::avx2>, targets::emulated<targets::avx512_bf16>, targets::generic>;

template <class Target>
class AtomsTest : public ::testing::Test {};
TYPED_TEST_SUITE(AtomsTest, Targets, );

template <class Target>
inline constexpr bool is_emulated = false;
template <class Model>
inline constexpr bool is_emulated<targets::emulated<Model>> = true;

// Conversions ---------------------------------------------------------------------------------------------------------

/// What conversions trip over, and values all over the range: ties, subnormals, overflow, infinities, zeros and NaN.
std::vector<double> awkward_values(Index count) {
    const double special[] = {
        0.0,           -0.0,     1.0,      -1.0,      infinity,     -infinity,      not_a_number,  65504.0,
        65519.99,      65520.0,  -65520.0, 1e300,     -1e300,       3.4e38,         3.39e38,       0x1p-14,
        0x1.ffcp-15,   0x1p-24,  0x1p-25,  0x1.8p-25, -0x1p-26,     0x1p-126,       0x1p-133,      0x1p-134,
        -0x1.8p-134,   0x1p-149, 0x1p-150, 1e-310,    1.0 + 0x1p-8, 1.0 + 0x1.8p-7, 1.0 + 0x1p-11, 1.0 + 0x1.8p-10,
        1.0 + 0x1p-24, 2049.0,   2051.0};
    Generator generator(1);
    std::vector<double> values(std::begin(special), std::end(special));
    while (static_cast<Index>(values.size()) < count)
        values.push_back(mla::testing::gaussian(generator) * std::exp2(30.0 * mla::testing::gaussian(generator)));
    std::shuffle(values.begin(), values.end(), generator);  // so that all meet every lane and the tail
    values.resize(static_cast<std::size_t>(count));
    return values;
}

/// `values` one by one in another type.
template <Storage To, Storage From>
std::vector<To> converted(const std::vector<From>& values) {
    std::vector<To> result;
    for (const From value : values) result.push_back(convert<To>(value));
    return result;
}

/// Loads of S in the type A against scalar conversion, from every address that S allows.
template <class Target, Compute A, Storage S>
void expect_loads_convert(const std::vector<S>& source) {
    constexpr auto width = static_cast<std::size_t>(lanes<Target, A>);
    const std::vector<A> expected = converted<A>(source);
    std::vector<A> loaded(width);
    for (std::size_t begin = 0; begin + width <= source.size(); ++begin) {
        mla::simd::load<Target, A>(source.data() + begin).store_unaligned(loaded.data());
        ASSERT_TRUE(all_same(loaded, {&expected[begin], &expected[begin] + width}));
    }
}

template <class S>
std::vector<S> all_patterns() {
    std::vector<S> values(65536);
    for (std::size_t bits = 0; bits < values.size(); ++bits) values[bits].bits = static_cast<std::uint16_t>(bits);
    return values;
}

TYPED_TEST(AtomsTest, LoadsWidenEveryPatternAsTheScalarTypesDo) {
    expect_loads_convert<TypeParam, float>(all_patterns<bf16>());
    expect_loads_convert<TypeParam, float>(all_patterns<fp16>());
    expect_loads_convert<TypeParam, double>(all_patterns<bf16>());
    expect_loads_convert<TypeParam, double>(all_patterns<fp16>());
}

TYPED_TEST(AtomsTest, InterleavedLoadsWidenEveryPatternFirstOrSecondOfItsPair) {
    constexpr Index width = lanes<TypeParam, float>;
    for (std::uint32_t first = 0; first < 0x10000; first += static_cast<std::uint32_t>(width)) {
        std::vector<bf16> pairs(static_cast<std::size_t>(2 * width));
        for (Index i = 0; i < width; ++i) {
            pairs[static_cast<std::size_t>(2 * i)].bits = static_cast<std::uint16_t>(first + static_cast<std::uint32_t>(i));
            pairs[static_cast<std::size_t>(2 * i + 1)].bits =
                static_cast<std::uint16_t>(~(first + static_cast<std::uint32_t>(i)));
        }
        std::vector<float> found(static_cast<std::size_t>(2 * width));
        mla::simd::load_interleaved<TypeParam, 0>(pairs.data()).store_unaligned(found.data());
        mla::simd::load_interleaved<TypeParam, 1>(pairs.data()).store_unaligned(found.data() + width);
        for (Index i = 0; i < 2 * width; ++i) {
            const float expected = pairs[static_cast<std::size_t>(i < width ? 2 * i : 2 * (i - width) + 1)];
            ASSERT_EQ(std::memcmp(&found[static_cast<std::size_t>(i)], &expected, sizeof expected), 0) << first << ", " << i;
        }
    }
}

TYPED_TEST(AtomsTest, InterleavedLoadsTakeEachOfEightNumbersOfFourBitsWhateverItsNeighboursAre) {
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, float>);
    Generator generator(24);
    for (int trial = 0; trial < 100; ++trial) {
        std::vector<mla::int4x8> groups(width);
        for (mla::int4x8& group : groups) group.bits = static_cast<std::uint32_t>(generator());
        mla::simd::unroll<8>([&](auto part) {
            float found[width];
            mla::simd::load_interleaved<TypeParam, part>(groups.data()).store_unaligned(found);
            for (std::size_t i = 0; i < width; ++i) ASSERT_EQ(found[i], static_cast<float>(groups[i][part])) << part;
        });
    }
}

TYPED_TEST(AtomsTest, FourRowsOfCodesBecomePairsOfWhatTheyAreLoadedAs) {
    using mla::simd::Fp8Code;
    if constexpr (mla::simd::loads_rows_in_pairs<TypeParam, Fp8Code>) {
        constexpr int width = static_cast<int>(lanes<TypeParam, float>);
        for (int begin = 0; begin < 256; ++begin) {
            std::vector<Fp8Code> codes;
            for (int i = 0; i < 4 * width; ++i) {
                const auto bits = static_cast<std::uint8_t>(begin + 37 * i);
                codes.push_back({static_cast<std::uint8_t>((bits & 0x7fU) == 0x7fU ? 0U : bits)});  // no NaN
            }
            mla::simd::PackedBatch<TypeParam> pairs[2];
            mla::simd::Atoms<TypeParam>::load_rows_in_pairs(codes.data(), pairs[0], pairs[1]);
            for (int pair = 0; pair < 2; ++pair) {
                std::uint32_t found[static_cast<std::size_t>(width)];
                pairs[pair].store_unaligned(found);
                for (int i = 0; i < width; ++i) {
                    const auto first = static_cast<std::size_t>(2 * pair * width + i);
                    EXPECT_TRUE(same(std::bit_cast<float>(found[i] << 16U), float{codes[first]}));
                    EXPECT_TRUE(same(std::bit_cast<float>(found[i] & 0xffff0000U), float{codes[first + width]}));
                }
            }
        }
    } else {
        GTEST_SKIP() << "no instructions for it";
    }
}

TYPED_TEST(AtomsTest, LoadsConvertFloatAndDouble) {
    const std::vector<double> values = awkward_values(400);
    expect_loads_convert<TypeParam, float>(converted<float>(values));
    expect_loads_convert<TypeParam, double>(converted<float>(values));
    expect_loads_convert<TypeParam, double>(values);
}

/// Stores of A as S against scalar conversion, to every address that S allows; nothing beside the vector changes.
template <class Target, Storage S, Compute A>
void expect_stores_convert(const std::vector<A>& source) {
    constexpr auto width = static_cast<std::size_t>(lanes<Target, A>);
    const std::vector<S> converted_source = converted<S>(source);
    const std::vector<S> untouched(3 * width, S(-77.0F));
    for (std::size_t begin = 0; begin + width <= source.size(); ++begin) {
        const std::size_t offset = begin % width + 1;
        std::vector<S> stored = untouched;
        mla::simd::store<Target, A>(stored.data() + offset, Batch<Target, A>::load_unaligned(source.data() + begin));
        std::vector<S> expected = untouched;
        std::copy_n(&converted_source[begin], width, &expected[offset]);
        ASSERT_TRUE(all_same(stored, expected)) << "from " << begin;
    }
}

TYPED_TEST(AtomsTest, StoresRoundAsTheScalarTypesDo) {
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

TYPED_TEST(AtomsTest, StoresRoundToEvenBetweenAllNeighbours) {
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
template <class Target, Storage To, Storage From>
void expect_rows_convert(const std::vector<From>& values) {
    constexpr std::size_t margin = 9;
    for (std::size_t count = 0; count <= 70; ++count)
        for (const std::size_t offset : {0U, 1U, 3U}) {
            const std::vector<From> source(values.begin(), values.begin() + static_cast<Index>(offset + count));
            std::vector<To> target(count + margin, To(-77.0F));
            std::vector<To> expected = target;
            const std::size_t begin = 4 - offset;
            mla::simd::convert_row<Target>(target.data() + begin, source.data() + offset, static_cast<Index>(count));
            for (std::size_t i = 0; i < count; ++i) expected[begin + i] = convert<To>(source[offset + i]);
            ASSERT_TRUE(all_same(target, expected)) << count << " elements from " << offset << " to " << begin;
        }
}

template <class Target, Storage From>
void expect_rows_convert_from(const std::vector<From>& values) {
    expect_rows_convert<Target, double>(values);
    expect_rows_convert<Target, float>(values);
    expect_rows_convert<Target, bf16>(values);
    expect_rows_convert<Target, fp16>(values);
}

TYPED_TEST(AtomsTest, RowsConvertBetweenAllTypesAtEveryLength) {
    const std::vector<double> values = awkward_values(80);
    expect_rows_convert_from<TypeParam>(values);
    expect_rows_convert_from<TypeParam>(converted<float>(values));
    expect_rows_convert_from<TypeParam>(converted<bf16>(values));
    expect_rows_convert_from<TypeParam>(converted<fp16>(values));
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

// Shuffles ------------------------------------------------------------------------------------------------------------

TYPED_TEST(AtomsTest, BytesOfEightRowsAreTurnedInWholeSixteens) {
    constexpr Index row_stride = 51, stride = 11;
    for (const Index count : {0, 15, 16, 31, 48}) {
        // No byte too many, so that a checked build sees a read beyond the last row.
        std::vector<std::byte> rows(static_cast<std::size_t>(7 * row_stride + count));
        for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::byte>(i * 167 % 251);
        const Index whole = count / 16 * 16;
        std::vector<std::byte> found(static_cast<std::size_t>(count * stride + 8), std::byte{0xff});
        std::vector<std::byte> expected = found;
        for (Index k = 0; k < whole; ++k)
            for (Index r = 0; r < 8; ++r)
                expected[static_cast<std::size_t>(k * stride + r)] = rows[static_cast<std::size_t>(r * row_stride + k)];
        EXPECT_EQ(mla::simd::transpose_bytes<TypeParam>(rows.data(), row_stride, count, found.data(), stride), whole);
        EXPECT_EQ(found, expected) << count;
    }
}

// Tile ----------------------------------------------------------------------------------------------------------------

/// Integers from −8 to 8: sums of up to 2^14 products of three are exact in float.
template <class S>
std::vector<S> integers(Generator& generator, Index count) {
    std::vector<S> values;
    for (Index i = 0; i < count; ++i) values.push_back(convert<S>(static_cast<float>(generator() % 17U) - 8.0F));
    return values;
}

/// A product A·B and what the ways of storing it must make of C. Nothing lies dense: what is in between must stay.
template <Compute A, Storage S>
struct Product {
    Index a_stride;
    Index transposed_stride;
    Index b_stride;
    Index c_stride;
    std::vector<A> a;           // [rows, depth]
    std::vector<A> transposed;  // [depth, rows]
    std::vector<S> b;           // [depth, columns]
    std::vector<A> factor;      // [rows]
    std::vector<A> before;      // C [rows, columns]
    std::vector<A> stored;      // A·B
    std::vector<A> added;       // C + A·B
    std::vector<A> scaled;      // C·factor + A·B

    Product(Index rows, Index columns, Index depth)
        : a_stride(depth + 2), transposed_stride(rows + 1), b_stride(columns + 1), c_stride(columns + 3) {
        Generator generator(static_cast<std::uint64_t>(depth + 1));
        a = integers<A>(generator, rows * a_stride);
        transposed = integers<A>(generator, depth * transposed_stride);
        b = integers<S>(generator, depth * b_stride);
        factor = integers<A>(generator, rows);
        stored = added = scaled = before = integers<A>(generator, rows * c_stride);
        for (Index m = 0; m < rows; ++m) {
            for (Index k = 0; k < depth; ++k) at(transposed, k * transposed_stride + m) = at(a, m * a_stride + k);
            for (Index n = 0; n < columns; ++n) {
                A sum = 0;
                for (Index k = 0; k < depth; ++k) sum += at(a, m * a_stride + k) * static_cast<A>(at(b, k * b_stride + n));
                const Index cell = m * c_stride + n;
                at(stored, cell) = sum;
                at(added, cell) += sum;
                at(scaled, cell) = at(scaled, cell) * at(factor, m) + sum;
            }
        }
    }

    template <class T>
    static T& at(std::vector<T>& values, Index i) {
        return values.at(static_cast<std::size_t>(i));
    }
};

template <class Tile, class Operand, Compute A, Storage S>
void expect_tile_multiplies(Index depth, Operand operand, const Product<A, S>& expected) {
    Tile tile;
    tile.clear();
    mla::simd::StridedRows<S> rows{expected.b.data(), expected.b_stride};
    tile.multiply(depth, operand, rows);
    std::vector<A> c = expected.before;
    tile.store(c.data(), expected.c_stride);
    EXPECT_EQ(c, expected.stored) << "depth " << depth;
    c = expected.before;
    tile.add_to(c.data(), expected.c_stride);
    EXPECT_EQ(c, expected.added) << "depth " << depth;
    c = expected.before;
    tile.add_to_scaled(c.data(), expected.c_stride, expected.factor.data());
    EXPECT_EQ(c, expected.scaled) << "depth " << depth;
}

template <class Target, int M, int N, Compute A, Storage S>
void expect_tile_multiplies() {
    using Tile = mla::simd::Tile<Target, A, M, N>;
    for (const Index depth : {0, 1, 2, 7, 8, 33}) {
        const Product<A, S> product(M, Tile::columns, depth);
        expect_tile_multiplies<Tile>(depth, mla::simd::RowsOperand<A, M>(product.a.data(), product.a_stride), product);
        mla::simd::RowsOperand<A, M> listed;
        for (Index m = 0; m < M; ++m) listed.rows[m] = product.a.data() + m * product.a_stride;
        expect_tile_multiplies<Tile>(depth, listed, product);
        const mla::simd::ColumnOperand<A> columns{product.transposed.data(), product.transposed_stride};
        expect_tile_multiplies<Tile>(depth, columns, product);
    }
}

TYPED_TEST(AtomsTest, TilesMultiplyWithEveryOperandAndTouchNothingElse) {
    expect_tile_multiplies<TypeParam, 1, 1, float, float>();
    expect_tile_multiplies<TypeParam, 1, 4, float, float>();
    expect_tile_multiplies<TypeParam, 3, 2, float, float>();
    expect_tile_multiplies<TypeParam, 5, 1, float, float>();
    expect_tile_multiplies<TypeParam, 3, 2, float, bf16>();
    expect_tile_multiplies<TypeParam, 3, 2, float, fp16>();
    expect_tile_multiplies<TypeParam, 3, 2, double, double>();
}

TYPED_TEST(AtomsTest, TilesGoOnFromTheSumsTheyHold) {
    using Tile = mla::simd::Tile<TypeParam, float, 2, 2>;
    const Product<float, float> product(2, Tile::columns, 9);
    mla::simd::RowsOperand<float, 2> rows(product.a.data(), product.a_stride);
    mla::simd::StridedRows<float> b{product.b.data(), product.b_stride};
    Tile tile;
    tile.clear();
    tile.multiply(4, rows, b);
    tile.multiply(5, rows, b);
    std::vector<float> c = product.before;
    tile.store(c.data(), product.c_stride);
    EXPECT_EQ(c, product.stored);
}

/// Two vectors of S loaded at once, and put in order where they were split by parity.
template <class Target, Compute A, Storage S>
void expect_two_make_neighbours() {
    constexpr Index width = lanes<Target, A>;
    Generator generator(4);
    std::vector<A> values(static_cast<std::size_t>(2 * width));
    for (A& value : values) value = static_cast<A>(generator() % 255) - A(127);
    const auto stored = converted<S>(values);
    Batch<Target, A> first, second;
    mla::simd::load_two<Target, A>(stored.data(), first, second);
    if constexpr (mla::simd::loads_by_parity<A, S>) mla::simd::interleave_lanes<Target>(first, second);
    std::vector<A> found(values.size());
    first.store_unaligned(found.data());
    second.store_unaligned(found.data() + width);
    EXPECT_EQ(found, values);
}

TYPED_TEST(AtomsTest, TwoVectorsLoadedAtOnceMakeNeighbouringElements) {
    expect_two_make_neighbours<TypeParam, float, bf16>();
    expect_two_make_neighbours<TypeParam, float, fp16>();
    expect_two_make_neighbours<TypeParam, float, float>();
    expect_two_make_neighbours<TypeParam, double, double>();
}

template <class Target, Compute A>
void expect_lanes_sum() {
    constexpr auto width = static_cast<std::size_t>(lanes<Target, A>);
    Generator generator(3);
    const auto values = integers<A>(generator, static_cast<Index>(width * width));
    std::vector<A> expected(width);
    Batch<Target, A> vectors[width];
    for (std::size_t i = 0; i < width; ++i) {
        vectors[i] = Batch<Target, A>::load_unaligned(&values[i * width]);
        for (std::size_t lane = 0; lane < width; ++lane) expected[i] += values[i * width + lane];
    }
    std::vector<A> sums(width);
    mla::simd::sum_lanes_of_each<Target, A>(vectors).store_unaligned(sums.data());
    EXPECT_EQ(sums, expected);
}

TYPED_TEST(AtomsTest, SumsTheLanesOfEachVectorInOrder) {
    expect_lanes_sum<TypeParam, float>();
    expect_lanes_sum<TypeParam, double>();
}

TYPED_TEST(AtomsTest, FindsTheLargestLaneWhereverItIs) {
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, std::int32_t>);
    for (std::size_t place = 0; place < width; ++place) {
        std::vector<std::int32_t> values(width, -5);
        values[place] = -3;
        EXPECT_EQ(mla::simd::largest_lane<TypeParam>(Batch<TypeParam, std::int32_t>::load_unaligned(values.data())), -3)
            << "lane " << place;
    }
}

template <class Target, class U>
void expect_transposed(Index count) {
    constexpr Index rows = lanes<Target, float> * 4 / static_cast<Index>(sizeof(U));
    const Index row_stride = count + 3;
    const Index stride = rows + 5;
    std::vector<U> source(static_cast<std::size_t>(rows * row_stride));
    for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<U>(i + 1);
    std::vector<U> expected(static_cast<std::size_t>(count * stride), U(0));
    for (Index k = 0; k < count; ++k)
        for (Index r = 0; r < rows; ++r)
            expected[static_cast<std::size_t>(k * stride + r)] = source[static_cast<std::size_t>(r * row_stride + k)];
    std::vector<U> columns(expected.size(), U(0));
    mla::simd::transpose<Target>(source.data(), row_stride, count, columns.data(), stride);
    EXPECT_EQ(columns, expected) << count << " columns";
}

TYPED_TEST(AtomsTest, RowsBecomeColumnsAtEveryLengthAndNothingElseIsTouched) {
    for (const Index count : {0, 1, 7, 8, 15, 16, 17, 33, 64}) {
        expect_transposed<TypeParam, float>(count);
        expect_transposed<TypeParam, std::uint32_t>(count);
        expect_transposed<TypeParam, double>(count);
    }
}

/// (1 + e)² − (1 + 2e) is e² where it is rounded once, and 0 where the square is rounded before.
template <class Target, Compute A>
void expect_fused(bool tile_too) {
    using Vector = Batch<Target, A>;
    const A e = std::ldexp(A(1), -(std::numeric_limits<A>::digits + 2) / 2);
    volatile A factor = A(1) + e, whole = A(1) + 2 * e;  // volatile: compilers calculate constants exactly
    const Vector a(factor), c(whole);
    const auto first = [](const Vector& vector) {
        A values[mla::simd::extent<lanes<Target, A>>];
        vector.store_unaligned(values);
        return values[0];
    };
    EXPECT_EQ(first(mla::simd::fma<Target, A>(a, a, -c)), e * e);
    if (tile_too) {
        EXPECT_EQ(first(mla::simd::multiply_add<Target, A>(a, a, -c)), e * e);
    }
}

TYPED_TEST(AtomsTest, ProductsAndSumsAreRoundedOnceByEveryCompiler) {
    expect_fused<TypeParam, float>(TypeParam::fuses);
    expect_fused<TypeParam, double>(TypeParam::fuses);
}

// Operands ------------------------------------------------------------------------------------------------------------

TEST(OperandTest, IsRoundedToNearestEvenAndASubnormalIsZero) {
    using mla::simd::rounded_operand;
    EXPECT_EQ(rounded_operand(1.0F + 0x1p-8F), 1.0F);  // a tie, to even
    EXPECT_EQ(rounded_operand(1.0F + 0x1.8p-7F), 1.0F + 0x1p-6F);
    EXPECT_EQ(rounded_operand(0x1p-126F), 0x1p-126F);
    EXPECT_EQ(rounded_operand(0x1.fffffcp-127F), 0.0F);
    EXPECT_EQ(rounded_operand(3.4e38F), static_cast<float>(infinity));
    EXPECT_TRUE(std::isnan(rounded_operand(static_cast<float>(not_a_number))));
}

/// Floats that roundings trip over, and any.
std::vector<float> awkward_floats(Index count) {
    std::vector<float> values = converted<float>(awkward_values(count));
    Generator generator(21);
    for (std::size_t i = 0; i < values.size(); i += 3) {
        const auto bits = static_cast<std::uint32_t>(generator());
        std::memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
}

TYPED_TEST(AtomsTest, RowsOfEveryLengthAreRoundedAsOneOperandIs) {
    const mla::FloatEnvironment environment;
    const std::vector<float> values = awkward_floats(70);
    for (Index count = 0; count <= 70; ++count) {
        const std::vector<float> source(values.begin(), values.begin() + count);  // a checked build sees a read behind it
        std::vector<bf16> narrow(static_cast<std::size_t>(count + 1), bf16(-77.0F));
        std::vector<float> wide(static_cast<std::size_t>(count + 1), -77.0F);
        mla::simd::round_row<TypeParam>(source.data(), count, narrow.data());
        mla::simd::round_row<TypeParam>(source.data(), count, wide.data());
        for (std::size_t i = 0; i < source.size(); ++i) {
            const float expected = mla::simd::rounded_operand(source[i]);
            ASSERT_TRUE(std::isnan(expected) ? std::isnan(static_cast<float>(narrow[i]))
                                             : static_cast<float>(narrow[i]) == expected)
                << source[i] << " became " << static_cast<float>(narrow[i]);
            ASSERT_TRUE(std::isnan(expected) ? std::isnan(wide[i]) : wide[i] == expected) << source[i] << " became " << wide[i];
        }
        EXPECT_EQ(narrow.back().bits, bf16(-77.0F).bits);
        EXPECT_EQ(wide.back(), -77.0F);
    }
}

TYPED_TEST(AtomsTest, TwoVectorsAreRoundedAndPairedLaneByLane) {
    const mla::FloatEnvironment environment;
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, float>);
    const std::vector<float> values = awkward_floats(2048);
    for (std::size_t begin = 0; begin + 2 * width <= values.size(); begin += 2 * width) {
        auto first = Batch<TypeParam, float>::load_unaligned(&values[begin]);
        auto second = Batch<TypeParam, float>::load_unaligned(&values[begin + width]);
        std::uint32_t pairs[width];
        float kept[2 * width];
        mla::simd::Atoms<TypeParam>::round_to_pairs(first, second).store_unaligned(pairs);
        first.store_unaligned(kept);
        second.store_unaligned(kept + width);
        for (std::size_t i = 0; i < 2 * width; ++i) {
            const std::uint32_t half = i < width ? pairs[i] << 16U : pairs[i - width] & 0xffff0000U;
            float paired = 0.0F;
            std::memcpy(&paired, &half, sizeof paired);
            const float expected = mla::simd::rounded_operand(values[begin + i]);
            ASSERT_TRUE(std::isnan(expected) ? std::isnan(paired) && std::isnan(kept[i])
                                             : paired == expected && kept[i] == expected)
                << values[begin + i] << " became " << paired << " and " << kept[i];
        }
    }
}

/// a + b as BFDOT rounds it: what is inexact becomes the odd one of its two neighbours, a subnormal 0, an overflow infinite.
[[maybe_unused]] float sum_to_odd(float a, float b) {
    const double x{a}, y{b}, sum = x + y;
    if (!std::isfinite(sum)) return static_cast<float>(sum);
    const double rest = (x - (sum - (sum - x))) + (y - (sum - x));  // sum + rest is exact
    auto bits = std::bit_cast<std::uint64_t>(sum);
    if (rest != 0.0 && (rest < 0.0) == (sum > 0.0)) --bits;  // sum went away from zero
    constexpr std::uint64_t beyond_float = 0x1fffffff;
    const bool inexact = rest != 0.0 || (bits & beyond_float) != 0;
    const auto truncated = static_cast<float>(std::bit_cast<double>(bits & ~beyond_float));
    if (!std::isfinite(truncated) || std::abs(truncated) < 0x1p-126F) return std::isfinite(truncated) ? 0.0F : truncated;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(truncated) | (inexact ? 1U : 0U));
}

/// sum + a·b of two pairs of bf16, the first in the low half. As VDPBF16PS defines it: the second first, each sum rounded once,
/// subnormals 0. BFDOT adds the products first, and rounds to odd.
template <class Target>
float pair_sum(float sum, std::uint32_t a, std::uint32_t b) {
    const auto value = [](std::uint32_t high) { return std::bit_cast<float>((high & 0x7f800000U) == 0 ? 0U : high); };
    const float a0 = value(a << 16U), a1 = value(a & 0xffff0000U), b0 = value(b << 16U), b1 = value(b & 0xffff0000U);
    if constexpr (std::is_same_v<Target, targets::neon_bf16>) return sum_to_odd(sum, sum_to_odd(a0 * b0, a1 * b1));
    return std::fma(a0, b0, std::fma(a1, b1, sum));
}

TYPED_TEST(AtomsTest, PairsOfBf16AreAddedToTheBitsThatTheInstructionDefines) {
    const mla::FloatEnvironment environment;
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, float>);
    Generator generator(22);
    for (int trial = 0; trial < 2000; ++trial) {
        std::uint32_t a[width], b[width];
        float sum[width], found[width];
        for (std::size_t i = 0; i < width; ++i) {
            a[i] = static_cast<std::uint32_t>(generator());
            b[i] = static_cast<std::uint32_t>(generator());
            if (trial % 2 == 0) {  // moderate exponents, so that the sums round
                a[i] = (a[i] & 0x87ff87ffU) | 0x38003c00U;
                b[i] = (b[i] & 0x87ff87ffU) | 0x3c003800U;
            }
            sum[i] = static_cast<float>(mla::testing::gaussian(generator));
        }
        mla::simd::Atoms<TypeParam>::dot_bf16(Batch<TypeParam, float>::load_unaligned(sum),
                                              mla::simd::PackedBatch<TypeParam>::load_unaligned(a),
                                              mla::simd::PackedBatch<TypeParam>::load_unaligned(b))
            .store_unaligned(found);
        for (std::size_t i = 0; i < width; ++i) {
            const float expected = pair_sum<TypeParam>(sum[i], a[i], b[i]);
            ASSERT_TRUE(std::isnan(expected) ? std::isnan(found[i]) : found[i] == expected)
                << std::hex << a[i] << " · " << b[i] << ": " << found[i] << ", must be " << expected;
        }
    }
}

TYPED_TEST(AtomsTest, PairsOfInt16AddTheirTwoProductsToTheSum) {
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, float>);
    Generator generator(23);
    for (int trial = 0; trial < 200; ++trial) {
        std::int16_t a[2 * width], b[2 * width];
        std::int32_t expected[width], found[width];
        for (std::size_t i = 0; i < 2 * width; ++i) {
            a[i] = static_cast<std::int16_t>(static_cast<std::int64_t>(generator() % 65535) - 32767);
            b[i] = static_cast<std::int16_t>((static_cast<std::int64_t>(generator() % 65535) - 32767) / 2);
        }
        for (std::int32_t& sum : expected) sum = static_cast<std::int32_t>(generator() % 1000);
        std::uint32_t left[width], right[width];
        std::memcpy(left, a, sizeof a);
        std::memcpy(right, b, sizeof b);
        mla::simd::Atoms<TypeParam>::dot_s16(Batch<TypeParam, std::int32_t>::load_unaligned(expected),
                                             mla::simd::PackedBatch<TypeParam>::load_unaligned(left),
                                             mla::simd::PackedBatch<TypeParam>::load_unaligned(right))
            .store_unaligned(found);
        for (std::size_t i = 0; i < 2 * width; ++i) expected[i / 2] += a[i] * b[i];
        for (std::size_t i = 0; i < width; ++i) ASSERT_EQ(found[i], expected[i]) << i;
    }
}

// Exponential ---------------------------------------------------------------------------------------------------------

template <class Target, Compute A>
A exp_of(A x) {
    A values[mla::simd::extent<lanes<Target, A>>];
    mla::simd::exp<Target, A>(Batch<Target, A>(x)).store_unaligned(values);
    return values[0];
}

TYPED_TEST(AtomsTest, ExponentialErrsByAtMostOneUnitInTheLastPlace) {
    constexpr int steps = is_emulated<TypeParam> ? 20'011 : 1'000'003;
    for (int i = 0; i <= steps; ++i) {
        const float x = -87.3F + static_cast<float>(i) * (175.0F / steps);
        const double exact = std::exp(static_cast<double>(x));
        const float rounded = static_cast<float>(exact);
        const double unit = static_cast<double>(std::nextafter(rounded, std::numeric_limits<float>::infinity()) - rounded);
        ASSERT_LE(std::abs(static_cast<double>(exp_of<TypeParam>(x)) - exact), 1.0 * unit) << x;
        ASSERT_NEAR(exp_of<TypeParam>(static_cast<double>(x)), exact, 1e-15 * exact) << x;
    }
}

TYPED_TEST(AtomsTest, ExponentialOfTheMaximumIsOneAndOfNothingZero) {
    const auto expect = []<class A>(A) {
        EXPECT_EQ((exp_of<TypeParam, A>(A(0))), A(1));
        EXPECT_EQ((exp_of<TypeParam, A>(A(-0.0))), A(1));
        EXPECT_EQ((exp_of<TypeParam, A>(-std::numeric_limits<A>::infinity())), A(0));
        EXPECT_EQ((exp_of<TypeParam, A>(A(-1e30))), A(0));
        EXPECT_TRUE(std::isnan(exp_of<TypeParam, A>(std::numeric_limits<A>::quiet_NaN())));
    };
    expect(1.0F);
    expect(1.0);
    EXPECT_EQ(exp_of<TypeParam>(-87.31F), 0.0F);
    EXPECT_GT(exp_of<TypeParam>(-87.3F), std::numeric_limits<float>::min());
}

TYPED_TEST(AtomsTest, PowersOfTwoAreExactAndZeroBelowTheSmallest) {
    const auto power = []<class A>(A n) {
        A values[mla::simd::extent<lanes<TypeParam, A>>];
        mla::simd::power_of_two<TypeParam, A>(Batch<TypeParam, A>(n)).store_unaligned(values);
        return values[0];
    };
    for (int n = -126; n <= 127; ++n) {
        EXPECT_EQ(power(static_cast<float>(n)), std::ldexp(1.0F, n)) << n;
        EXPECT_EQ(power(static_cast<double>(n)), std::ldexp(1.0, n)) << n;
    }
    for (const float n : {-127.0F, -1e30F, -std::numeric_limits<float>::infinity()}) EXPECT_EQ(power(n), 0.0F) << n;
    EXPECT_EQ(power(-std::numeric_limits<double>::infinity()), 0.0);
}

// Integers with a step -------------------------------------------------------------------------------------------------

/// Lengths around those of a vector, and of none.
const std::vector<Index> lengths = {0, 1, 7, 8, 15, 16, 17, 31, 33, 64, 67};

TYPED_TEST(AtomsTest, RoundsToTheNearestMultipleOfAStepThatTheLargestValueSets) {
    for (const Index count : lengths) {
        Generator generator(static_cast<std::uint64_t>(count) + 1);
        const auto values = mla::testing::gaussian_values<bf16>(generator, count);
        std::vector<std::int16_t> numbers(static_cast<std::size_t>(count) + 1, 12345);
        const auto steps = mla::simd::Steps::of<TypeParam>(values.data(), count, 4095.0F);
        const float step = steps.step;
        mla::simd::quantise<TypeParam>(values.data(), count, steps, numbers.data());
        float largest = 0.0F;
        for (const bf16 value : values) largest = std::max(largest, std::abs(float{value}));
        EXPECT_FLOAT_EQ(step, count == 0 ? 1.0F : largest / 4095.0F);
        for (std::size_t i = 0; i < values.size(); ++i)
            EXPECT_LE(std::abs(static_cast<float>(numbers[i]) * step - float{values[i]}), 0.501F * step) << i << " of " << count;
        EXPECT_EQ(numbers.back(), 12345) << "written beyond " << count;
    }
}

TYPED_TEST(AtomsTest, ZerosStayZerosAndHaveAStep) {
    const std::vector<float> zeros(20, 0.0F);
    std::vector<std::int16_t> numbers(20, 1);
    const auto steps = mla::simd::Steps::of<TypeParam>(zeros.data(), 20, 4095.0F);
    EXPECT_EQ(steps.step, 1.0F);
    mla::simd::quantise<TypeParam>(zeros.data(), 20, steps, numbers.data());
    EXPECT_EQ(numbers, std::vector<std::int16_t>(20, 0));
}

TYPED_TEST(AtomsTest, ANaNOrAnInfinityAnywhereMakesTheStepNaN) {
    for (const float bad : {static_cast<float>(not_a_number), static_cast<float>(infinity), -static_cast<float>(infinity)})
        for (Index at = 0; at < 19; ++at) {
            std::vector<float> values(19, 1.0F);
            values[static_cast<std::size_t>(at)] = bad;
            EXPECT_TRUE(std::isnan(mla::simd::Steps::of<TypeParam>(values.data(), 19, 8191.0F).step)) << bad << " at " << at;
        }
}

TYPED_TEST(AtomsTest, ValuesOfTwoRowsArePaired) {
    for (const Index count : {0, 1, 15, 16, 17, 31, 32, 47, 48, 49, 64, 80}) {
        std::vector<bf16> first, second;
        for (Index i = 0; i < count; ++i) {
            first.emplace_back(static_cast<float>(i));
            second.emplace_back(static_cast<float>(-3 * i));
        }
        const mla::simd::Bf16Pair untouched{0x12345678U};
        std::vector<mla::simd::Bf16Pair> pairs(static_cast<std::size_t>(count) + 1, untouched);
        mla::simd::interleave<TypeParam>(first.data(), second.data(), count, pairs.data());
        for (std::size_t i = 0; i < first.size(); ++i)
            EXPECT_EQ(pairs[i].bits, first[i].bits | std::uint32_t{second[i].bits} << 16U) << i << " of " << count;
        EXPECT_EQ(pairs.back().bits, untouched.bits);
    }
}

TYPED_TEST(AtomsTest, BytesAreWidenedAndInterleavedWithTheirNeighbours) {
    for (const Index count : lengths) {
        std::vector<mla::int8> first, second;
        for (Index i = 0; i < count; ++i) {
            first.emplace_back(static_cast<std::int8_t>(i * 37 - 128));
            second.emplace_back(static_cast<std::int8_t>(127 - i * 53));
        }
        std::vector<std::int16_t> wide(static_cast<std::size_t>(count) + 1, 12345);
        mla::simd::widen<TypeParam>(first.data(), count, wide.data());
        std::vector<mla::simd::Int16Pair> pairs(static_cast<std::size_t>(count) + 1, mla::simd::Int16Pair(1, 2));
        mla::simd::interleave<TypeParam>(first.data(), second.data(), count, pairs.data());
        for (std::size_t i = 0; i < first.size(); ++i) {
            EXPECT_EQ(wide[i], first[i].bits);
            EXPECT_EQ(pairs[i].bits, mla::simd::Int16Pair(first[i].bits, second[i].bits).bits);
        }
        EXPECT_EQ(wide.back(), 12345);
        EXPECT_EQ(pairs.back().bits, mla::simd::Int16Pair(1, 2).bits);
    }
}

TYPED_TEST(AtomsTest, BytesOfFourRowsAreInterleavedAtEveryLength) {
    Generator generator(21);
    for (const Index count : {0, 1, 15, 16, 63, 64, 65, 130}) {
        std::vector<mla::int8> bytes;
        for (Index i = 0; i < 4 * count; ++i) bytes.emplace_back(static_cast<std::int8_t>(generator()));
        const mla::int8* const rows[4] = {bytes.data(), bytes.data() + count, bytes.data() + 2 * count, bytes.data() + 3 * count};
        std::vector<mla::simd::ByteQuad> quads(static_cast<std::size_t>(count) + 1, mla::simd::ByteQuad{0xabababab});
        mla::simd::interleave<TypeParam>(rows, count, quads.data());
        for (Index i = 0; i < count; ++i)
            for (unsigned r = 0; r < 4; ++r)
                ASSERT_EQ(static_cast<std::int8_t>(quads.data()[i].bits >> 8 * r), rows[r][i].bits) << i << " of " << count;
        EXPECT_EQ(quads.back().bits, 0xabababab) << count;
    }
}

TYPED_TEST(AtomsTest, NumbersOfSixteenBitsAreSplitIntoASignedAndAnUnsignedByte) {
    std::vector<std::int16_t> numbers;
    for (int i = -32768; i < 32768; ++i) numbers.push_back(static_cast<std::int16_t>(i));
    for (const std::size_t count : {std::size_t{31}, std::size_t{33}, numbers.size()}) {
        const std::int16_t* const first = numbers.data() + (numbers.size() - count) / 2;
        std::vector<std::byte> upper(count + 1, std::byte{7}), lower(count + 1, std::byte{7});
        mla::simd::split<TypeParam>(first, static_cast<Index>(count), upper.data(), lower.data());
        for (std::size_t i = 0; i < count; ++i)
            ASSERT_EQ(256 * static_cast<std::int8_t>(upper[i]) + static_cast<int>(lower[i]), first[i]) << i << " of " << count;
        EXPECT_EQ(upper.back(), std::byte{7}) << count;
        EXPECT_EQ(lower.back(), std::byte{7}) << count;
    }
}

TYPED_TEST(AtomsTest, EveryE4m3TimesAPowerOfTwoIsWidenedAsProductsTakeIt) {
    std::vector<mla::fp8> codes(256);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i].bits = static_cast<std::uint8_t>(i);
    for (int exponent = -126; exponent <= 127; ++exponent)
        for (const Index count : {256, 77}) {
            std::vector<bf16> wide(257, bf16(7.0F));
            const float power = std::ldexp(1.0F, exponent);
            mla::simd::widen<TypeParam>(codes.data(), count, power, wide.data());
            for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
                const float product = static_cast<float>(codes[i]) * power;
                if (std::isnan(product)) {
                    EXPECT_TRUE(std::isnan(static_cast<float>(wide[i]))) << i << ' ' << exponent;
                } else if (std::abs(product) >= 0x1p-126F) {
                    EXPECT_EQ(static_cast<float>(wide[i]), product) << i << ' ' << exponent;
                } else {
                    EXPECT_EQ(mla::simd::rounded_operand(static_cast<float>(wide[i])), 0.0F) << i << ' ' << exponent;
                }
            }
            EXPECT_EQ(static_cast<float>(wide[static_cast<std::size_t>(count)]), 7.0F);
        }
}

TYPED_TEST(AtomsTest, LanesArePairedFirstInTheLowHalf) {
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, float>);
    float first[width], second[width];
    for (std::size_t i = 0; i < width; ++i) first[i] = static_cast<float>(i) - 3.5F, second[i] = static_cast<float>(i) - 32766.0F;
    std::uint32_t pairs[width];
    mla::simd::pair_lanes<TypeParam>(Batch<TypeParam, float>::load_unaligned(first),
                                     Batch<TypeParam, float>::load_unaligned(second))
        .store_unaligned(pairs);
    for (std::size_t i = 0; i < width; ++i)
        EXPECT_EQ(
            pairs[i],
            mla::simd::Int16Pair(static_cast<std::int16_t>(std::nearbyint(first[i])), static_cast<std::int16_t>(second[i])).bits);
}

TYPED_TEST(AtomsTest, LanesThatBf16HoldsArePairedAsTheyAre) {
    constexpr auto width = static_cast<std::size_t>(lanes<TypeParam, float>);
    float first[width], second[width];
    for (std::size_t i = 0; i < width; ++i)
        first[i] = 0.5F - static_cast<float>(i), second[i] = 448.0F - 32.0F * static_cast<float>(i);
    std::uint32_t pairs[width];
    mla::simd::pair_lanes_exactly<TypeParam>(Batch<TypeParam, float>::load_unaligned(first),
                                             Batch<TypeParam, float>::load_unaligned(second))
        .store_unaligned(pairs);
    for (std::size_t i = 0; i < width; ++i) {
        EXPECT_EQ(std::bit_cast<float>(pairs[i] << 16U), first[i]);
        EXPECT_EQ(std::bit_cast<float>(pairs[i] & 0xffff0000U), second[i]);
    }
}

TEST(UnrollTest, CallsEachIndexInOrder) {
    std::vector<int> seen;
    mla::simd::unroll<5>([&](auto i) { seen.push_back(i); });
    EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4}));
    mla::simd::unroll<0>([&](auto i) { seen.push_back(i); });
    EXPECT_EQ(seen.size(), 5U);
}

}  // namespace
