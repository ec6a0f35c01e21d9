// Scalar types: bf16 and fp16 by the definition of their formats and beside Eigen's own.
#include "mla/core/types.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

namespace {

using mla::bf16;
using mla::DType;
using mla::fp16;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The 16 bits of a format: a sign, an exponent and `fraction_bits`.
template <class S>
struct Format;
template <>
struct Format<bf16> {
    using Eigen = ::Eigen::bfloat16;
    static constexpr int fraction_bits = 7;
    static constexpr int bias = 127;
};
template <>
struct Format<fp16> {
    using Eigen = ::Eigen::half;
    static constexpr int fraction_bits = 10;
    static constexpr int bias = 15;
};

template <class S>
constexpr unsigned fraction_mask = (1U << static_cast<unsigned>(Format<S>::fraction_bits)) - 1U;
template <class S>
constexpr unsigned infinity_bits = 0x7fffU & ~fraction_mask<S>;

template <class S>
S from_bits(unsigned bits) {
    S value;
    value.bits = static_cast<std::uint16_t>(bits);
    return value;
}

template <class S>
bool is_nan_pattern(unsigned bits) {
    return (bits & 0x7fffU) > infinity_bits<S>;
}

/// The value of a finite pattern: (−1)^s · 1.fraction · 2^(e − bias), and 0.fraction · 2^(1 − bias) where e is 0.
template <class S>
double defined_value(unsigned bits) {
    constexpr auto fraction_bits = static_cast<unsigned>(Format<S>::fraction_bits);
    const unsigned exponent = (bits & 0x7fffU) >> fraction_bits;
    const unsigned fraction = bits & fraction_mask<S>;
    const unsigned significand = exponent == 0 ? fraction : fraction + fraction_mask<S> + 1U;
    const int scale = static_cast<int>(exponent == 0 ? 1U : exponent) - Format<S>::bias - Format<S>::fraction_bits;
    return std::ldexp(static_cast<double>(significand), scale) * ((bits & 0x8000U) != 0 ? -1.0 : 1.0);
}

/// Equal with the sign of zeros, and any NaN like any other.
bool same(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

template <class S>
class HalfTypeTest : public ::testing::Test {};
using HalfTypes = ::testing::Types<bf16, fp16>;
TYPED_TEST_SUITE(HalfTypeTest, HalfTypes, );

TYPED_TEST(HalfTypeTest, WidensEveryPatternToTheValueItDefines) {
    using S = TypeParam;
    for (unsigned bits = 0; bits < 65536; ++bits) {
        const float value = from_bits<S>(bits);
        const auto peer = static_cast<float>(std::bit_cast<typename Format<S>::Eigen>(static_cast<std::uint16_t>(bits)));
        ASSERT_TRUE(same(value, peer)) << bits;
        ASSERT_EQ(std::signbit(value), bits >= 0x8000U) << bits;
        ASSERT_EQ(std::isnan(value), is_nan_pattern<S>(bits)) << bits;
        ASSERT_EQ(std::isinf(value), (bits & 0x7fffU) == infinity_bits<S>) << bits;
        if (std::isfinite(value)) {
            ASSERT_EQ(static_cast<double>(value), defined_value<S>(bits)) << bits;
        }
    }
}

TYPED_TEST(HalfTypeTest, EveryPatternRoundTrips) {
    using S = TypeParam;
    constexpr unsigned quiet = (fraction_mask<S> + 1U) / 2U;  // a signalling NaN comes back quiet, with its sign and payload
    for (unsigned bits = 0; bits < 65536; ++bits) {
        const S again{static_cast<float>(from_bits<S>(bits))};
        ASSERT_EQ(again.bits, is_nan_pattern<S>(bits) ? bits | quiet : bits) << bits;
    }
}

// Between two neighbours lies one point where rounding changes. With it, and the values beside it, right for every pair of
// neighbours, rounding is right everywhere, because it is monotonic.
TYPED_TEST(HalfTypeTest, RoundsToNearestAndTiesToEvenBetweenAllNeighbours) {
    using S = TypeParam;
    for (unsigned below = 0; below < infinity_bits<S>; ++below) {
        // The last pair is the largest number and infinity, which stands where the next number would.
        const double spacing = below == 0 ? defined_value<S>(1) : defined_value<S>(below) - defined_value<S>(below - 1);
        const double next = below + 1 == infinity_bits<S> ? defined_value<S>(below) + spacing : defined_value<S>(below + 1);
        const auto middle = static_cast<float>((defined_value<S>(below) + next) / 2.0);
        const unsigned even = below + (below & 1U);
        for (const unsigned sign : {0U, 0x8000U}) {
            const float factor = sign == 0 ? 1.0F : -1.0F;
            ASSERT_EQ(S(factor * middle).bits, sign | even) << below;
            ASSERT_EQ(S(factor * std::nextafter(middle, 0.0F)).bits, sign | below) << below;
            ASSERT_EQ(S(factor * std::nextafter(middle, infinity)).bits, sign | (below + 1U)) << below;
        }
    }
}

TYPED_TEST(HalfTypeTest, RoundsAsEigenDoesOverTheWholeRangeOfFloat) {
    using S = TypeParam;
    const auto rounds_alike = [](float value) {
        return same(S(value), static_cast<float>(static_cast<typename Format<S>::Eigen>(value)));
    };
    for (std::uint64_t bits = 0; bits <= 0xffffffffU; bits += 1021)
        ASSERT_TRUE(rounds_alike(std::bit_cast<float>(static_cast<std::uint32_t>(bits)))) << bits;
    for (const float special :
         {0.0F, -0.0F, infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::signaling_NaN(),
          std::numeric_limits<float>::max(), std::numeric_limits<float>::min(), std::numeric_limits<float>::denorm_min()})
        ASSERT_TRUE(rounds_alike(special)) << special;
}

TYPED_TEST(HalfTypeTest, ANanKeepsItsSignAndTheTopOfItsPayloadAndBecomesQuiet) {
    using S = TypeParam;
    constexpr auto dropped = static_cast<unsigned>(23 - Format<S>::fraction_bits);
    constexpr unsigned quiet = (fraction_mask<S> + 1U) / 2U;
    // A payload whose high bits are 0 must not become an infinity.
    for (const std::uint32_t payload : {0x1U, 0x1fffU, 0x200000U, 0x3fffffU, 0x400000U, 0x400001U, 0x7fffffU})
        for (const std::uint32_t sign : {0U, 0x80000000U}) {
            const unsigned bits = S(std::bit_cast<float>(sign | 0x7f800000U | payload)).bits;
            EXPECT_EQ(bits, (sign >> 16U) | infinity_bits<S> | (payload >> dropped) | quiet) << payload;
        }
}

TYPED_TEST(HalfTypeTest, IsZeroByDefault) {
    EXPECT_EQ(TypeParam().bits, 0);
    EXPECT_EQ(static_cast<float>(TypeParam{}), 0.0F);
}

// All of it works at compile time, subnormals, ties, overflow and NaN included.
static_assert(bf16(1.0F).bits == 0x3f80 && bf16(1.00390625F).bits == 0x3f80 && bf16(1.01171875F).bits == 0x3f82);
static_assert(bf16(-0.0F).bits == 0x8000 && bf16(0x1p-133F).bits == 1 && bf16(0x1.ffp127F).bits == 0x7f80);
static_assert(float(bf16(-2.5F)) == -2.5F && float(bf16(0x1p-133F)) == 0x1p-133F);
static_assert(bf16(std::numeric_limits<float>::quiet_NaN()).bits == 0x7fc0);
static_assert(fp16(1.0F).bits == 0x3c00 && fp16(1.00048828125F).bits == 0x3c00 && fp16(1.00146484375F).bits == 0x3c02);
static_assert(fp16(65519.0F).bits == 0x7bff && fp16(65520.0F).bits == 0x7c00 && fp16(-65536.0F).bits == 0xfc00);
static_assert(fp16(0x1p-24F).bits == 1 && fp16(0x1p-25F).bits == 0 && fp16(0x1.8p-25F).bits == 1 &&
              fp16(-0x1p-14F).bits == 0x8400);
static_assert(float(fp16(-2.5F)) == -2.5F && float(fp16(0x1p-24F)) == 0x1p-24F && float(fp16(infinity)) == infinity);
static_assert(fp16(std::numeric_limits<float>::quiet_NaN()).bits == 0x7e00);

static_assert(mla::Storage<double> && mla::Storage<float> && mla::Storage<bf16> && mla::Storage<fp16>);
static_assert(!mla::Storage<int> && !mla::Storage<const float> && !mla::Storage<long double>);
static_assert(mla::Compute<double> && mla::Compute<float> && !mla::Compute<bf16>);
static_assert(std::is_same_v<mla::compute_t<double>, double> && std::is_same_v<mla::compute_t<float>, float>);
static_assert(std::is_same_v<mla::compute_t<bf16>, float> && std::is_same_v<mla::compute_t<fp16>, float>);
static_assert(!std::is_convertible_v<float, bf16> && !std::is_convertible_v<float, fp16>);  // narrowing is spelt out

template <class S>
void expect_dtype(DType type, const std::string& name) {
    EXPECT_EQ(mla::dtype_of<S>, type);
    EXPECT_EQ(mla::name(type), name);
    EXPECT_EQ(mla::bits_of(type), static_cast<mla::Index>(8 * sizeof(S)));
}

TEST(DTypeTest, NamesAndSizesFollowTheStorageType) {
    expect_dtype<double>(DType::f64, "fp64");
    expect_dtype<float>(DType::f32, "fp32");
    expect_dtype<bf16>(DType::bf16, "bf16");
    expect_dtype<fp16>(DType::f16, "fp16");
    EXPECT_EQ(mla::name(DType::f8_e4m3), std::string("fp8"));
    EXPECT_EQ(mla::bits_of(DType::f8_e4m3), 8);
}

TEST(RoundingTest, RoundsUpToWholeSteps) {
    for (mla::Index value = 0; value <= 200; ++value)
        for (mla::Index step = 1; step <= 70; ++step) {
            const mla::Index steps = mla::divide_up(value, step);
            EXPECT_TRUE(steps * step >= value && (steps - 1) * step < value) << value << ", " << step;
            EXPECT_EQ(mla::round_up(value, step), steps * step);
        }
}

}  // namespace
