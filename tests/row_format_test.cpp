// The bytes of a cached row, and what is left of a token that was stored in them.
#include "mla/formats/row_kernels.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mla/cache/flashmla_pages.hpp"
#include "mla/cache/latent_cache.hpp"
#include "mla/presets.hpp"
#include "mla/reference/formats.hpp"
#include "mla/testing/random.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::Generator;

// fp8 ---------------------------------------------------------------------------------------------------------------

/// By the definition of e4m3: bias 7, no infinities, all ones NaN.
[[nodiscard]] double e4m3(int bits) {
    const int exponent = bits >> 3 & 15;
    const int mantissa = bits & 7;
    if ((bits & 127) == 127) return std::numeric_limits<double>::quiet_NaN();
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    return bits < 128 ? magnitude : -magnitude;
}

[[nodiscard]] fp8 from_bits(int bits) {
    fp8 value;
    value.bits = static_cast<std::uint8_t>(bits);
    return value;
}

TEST(Fp8Test, EveryValueIsThatOfItsDefinition) {
    for (int bits = 0; bits < 256; ++bits) {
        const auto value = static_cast<double>(static_cast<float>(from_bits(bits)));
        if (std::isnan(e4m3(bits))) {
            EXPECT_TRUE(std::isnan(value)) << bits;
        } else {
            EXPECT_EQ(value, e4m3(bits)) << bits;
            EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
        }
    }
}

TEST(Fp8Test, EveryValueSurvivesTheWayThroughFloat) {
    for (int bits = 0; bits < 256; ++bits) {
        const fp8 back(static_cast<float>(from_bits(bits)));
        if ((bits & 127) == 127) {
            EXPECT_EQ(back.bits & 127, 127);
        } else {
            EXPECT_EQ(back.bits, bits);
        }
    }
}

TEST(Fp8Test, RoundsToNearestEven) {
    for (int bits = 0; bits < 126; ++bits) {
        const double low = e4m3(bits);
        const double high = e4m3(bits + 1);
        const auto middle = static_cast<float>((low + high) / 2);
        const int even = bits % 2 == 0 ? bits : bits + 1;
        for (const float sign : {1.0F, -1.0F}) {
            const int top = sign > 0 ? 0 : 128;
            EXPECT_EQ(fp8(sign * middle).bits, even + top) << bits;
            EXPECT_EQ(fp8(sign * std::nextafter(middle, 0.0F)).bits, bits + top) << bits;
            EXPECT_EQ(fp8(sign * std::nextafter(middle, 1000.0F)).bits, bits + 1 + top) << bits;
        }
    }
}

TEST(Fp8Test, SaturatesAndKeepsNaN) {
    for (const float large : {449.0F, 464.0F, 465.0F, 1e30F, std::numeric_limits<float>::infinity()}) {
        EXPECT_EQ(static_cast<float>(fp8(large)), 448.0F) << large;
        EXPECT_EQ(static_cast<float>(fp8(-large)), -448.0F) << large;
    }
    EXPECT_TRUE(std::isnan(static_cast<float>(fp8(std::numeric_limits<float>::quiet_NaN()))));
    EXPECT_EQ(fp8(std::numeric_limits<float>::denorm_min()).bits, 0);
}

TEST(Ue8m0Test, EveryScaleIsAPowerOfTwoOrNaN) {
    for (int bits = 0; bits < 256; ++bits) {
        ue8m0 scale;
        scale.bits = static_cast<std::uint8_t>(bits);
        const auto value = static_cast<double>(static_cast<float>(scale));
        if (bits == 255) {
            EXPECT_TRUE(std::isnan(value));
        } else {
            EXPECT_EQ(value, std::ldexp(1.0, bits - 127)) << bits;
        }
    }
}

TEST(Ue8m0Test, IsTheLeastThatIsNotBelow) {
    for (int exponent = -126; exponent < 127; ++exponent) {
        const float power = std::ldexp(1.0F, exponent);
        EXPECT_EQ(static_cast<float>(ue8m0::at_least(power)), power);
        EXPECT_EQ(static_cast<float>(ue8m0::at_least(std::nextafter(power, std::numeric_limits<float>::max()))), 2.0F * power);
    }
    EXPECT_EQ(static_cast<float>(ue8m0::at_least(0.0F)), 1.0F);
    EXPECT_EQ(static_cast<float>(ue8m0::at_least(0x1p-140F)), 0x1p-126F);
    EXPECT_EQ(static_cast<float>(ue8m0::at_least(std::numeric_limits<float>::max())), 0x1p127F);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        EXPECT_TRUE(std::isnan(static_cast<float>(ue8m0::at_least(bad))));
}

template <class S>
class EightBitLoadTest : public ::testing::Test {};
using EightBits = ::testing::Types<int8, fp8>;
TYPED_TEST_SUITE(EightBitLoadTest, EightBits);

TYPED_TEST(EightBitLoadTest, VectorsHoldTheValuesOfTheScalars) {
    std::vector<TypeParam> source(256);
    for (int i = 0; i < 256; ++i) std::memset(static_cast<void*>(&source[static_cast<std::size_t>(i)]), i, 1);
    for (const Index count : {256, 255, 3}) {
        std::vector<float> found(256, 7.0F);
        simd::scale_row<targets::native>(found.data(), source.data(), count, 0.5F);
        for (std::size_t i = 0; i < 256; ++i) {
            const float expected = static_cast<Index>(i) < count ? 0.5F * static_cast<float>(source[i]) : 7.0F;
            if (std::isnan(expected)) {
                EXPECT_TRUE(std::isnan(found[i])) << i;
            } else {
                EXPECT_EQ(found[i], expected) << i;
            }
        }
    }
}

// Rows --------------------------------------------------------------------------------------------------------------

template <class C>
[[nodiscard]] std::vector<std::uint8_t> bytes_of(const RowFormat<C>& format, const std::vector<float>& token) {
    alignas(64) std::array<C, 1024> row{};
    write_row(format, token.data(), row.data());
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(format.elements()) * sizeof(C));
    std::memcpy(bytes.data(), row.data(), bytes.size());
    return bytes;
}

[[nodiscard]] float float_at(const std::vector<std::uint8_t>& bytes, std::size_t offset) {
    float value = 0.0F;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

[[nodiscard]] std::uint16_t half_at(const std::vector<std::uint8_t>& bytes, std::size_t offset) {
    std::uint16_t value = 0;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

TEST(RowFormatTest, AnFp8RowOfDeepSeeksIsFlashMlas656Bytes) {
    const RowFormat<fp8> format{512, 64};
    ASSERT_EQ(format.elements(), 656);
    std::vector<float> token(576);
    // The largest magnitude of each group of 128 is 448 times a power of two, which is then the scale.
    for (std::size_t i = 0; i < 512; ++i)
        token[i] = static_cast<float>(e4m3(static_cast<int>(i % 126))) * std::ldexp(1.0F, static_cast<int>(i / 128) - 2);
    for (std::size_t group = 0; group < 4; ++group)
        token[group * 128 + 127] = -448.0F * std::ldexp(1.0F, static_cast<int>(group) - 2);
    for (std::size_t i = 0; i < 64; ++i) token[512 + i] = 1.0F + static_cast<float>(i) / 256.0F;
    const auto bytes = bytes_of(format, token);
    for (std::size_t i = 0; i < 512; ++i) {
        const std::size_t in_group = i % 128;
        EXPECT_EQ(bytes[i], in_group == 127 ? 0xfe : i % 126) << i;
    }
    for (std::size_t group = 0; group < 4; ++group)
        EXPECT_EQ(float_at(bytes, 512 + 4 * group), std::ldexp(1.0F, static_cast<int>(group) - 2));
    for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(half_at(bytes, 528 + 2 * i), bf16(token[512 + i]).bits) << i;
}

/// A token of 512 values whose groups of 64 have, up to the 448th, 448 times 2^(group − 3) for their largest magnitude.
[[nodiscard]] std::vector<float> token_of_v4() {
    std::vector<float> token(512);
    for (std::size_t i = 0; i < 448; ++i)
        token[i] = static_cast<float>(e4m3(static_cast<int>(i % 126))) * std::ldexp(1.0F, static_cast<int>(i / 64) - 3);
    for (std::size_t group = 0; group < 7; ++group)
        token[group * 64 + 63] = -448.0F * std::ldexp(1.0F, static_cast<int>(group) - 3);
    for (std::size_t i = 448; i < 512; ++i) token[i] = 1.0F + static_cast<float>(i) / 256.0F;
    return token;
}

TEST(RowFormatTest, AV4RowOfDeepSeeksIsFlashMlas584Bytes) {
    const RowFormat<fp8_v4> format{512, 0};
    ASSERT_EQ(format.elements(), 584);
    const std::vector<float> token = token_of_v4();
    const auto bytes = bytes_of(format, token);
    for (std::size_t i = 0; i < 448; ++i) EXPECT_EQ(bytes[i], i % 64 == 63 ? 0xfe : i % 126) << i;
    for (std::size_t i = 448; i < 512; ++i) EXPECT_EQ(half_at(bytes, 448 + 2 * (i - 448)), bf16(token[i]).bits) << i;
    for (std::size_t group = 0; group < 7; ++group) EXPECT_EQ(bytes[576 + group], 127 + group - 3);
    EXPECT_EQ(bytes[583], 0);
}

TEST(RowFormatTest, AV4RowTakesTheNextPowerOfTwoForItsScale) {
    const RowFormat<fp8_v4> format{128, 2};
    ASSERT_EQ(format.elements(), 64 + 128 + 4 + 4);  // one scale and three zeros
    std::vector<float> token(130);
    token[5] = 449.0F;
    token[6] = 17.0F;
    const auto bytes = bytes_of(format, token);
    EXPECT_EQ(bytes[196], 128);  // 2: at 1 the largest would have to be clipped
    EXPECT_EQ(bytes[5], fp8(224.5F).bits);
    EXPECT_EQ(bytes[6], fp8(8.5F).bits);
}

TEST(RowFormatTest, PagesOfFlashMlasHoldTheScalesOfTheirTokensLast) {
    constexpr Index page_size = 64, tokens = 5, row = 584;
    EXPECT_EQ(flashmla_page_bytes(page_size), 65 * 576);
    EXPECT_EQ(flashmla_page_bytes(72), 73 * 576);
    std::vector<std::uint8_t> page(static_cast<std::size_t>(flashmla_page_bytes(page_size)));
    for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::uint8_t>(i % 251);
    std::vector<fp8_v4> rows(static_cast<std::size_t>(tokens * 600));
    read_flashmla_page(page.data(), page_size, MatrixView<fp8_v4>(rows.data(), tokens, row, 600));
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t i = 0; i < row; ++i)
            EXPECT_EQ(rows[t * 600 + i].bits, page[i < 576 ? t * 576 + i : page_size * 576 + t * 8 + i - 576]) << t << ' ' << i;
    std::vector<std::uint8_t> back(page.size(), 255);
    write_flashmla_page(MatrixView<const fp8_v4>(rows.data(), tokens, row, 600), page_size, back.data());
    for (std::size_t i = 0; i < page.size(); ++i) {
        const bool written = i < tokens * 576 || (i >= page_size * 576 && i < page_size * 576 + tokens * 8);
        EXPECT_EQ(back[i], written ? page[i] : 255) << i;
    }
}

TEST(RowFormatTest, PagesOfFlashMlasTakeNoOtherRows) {
    std::vector<std::uint8_t> page(static_cast<std::size_t>(flashmla_page_bytes(2)));
    std::vector<fp8_v4> rows(std::size_t{3 * 584});
    EXPECT_THROW(read_flashmla_page(page.data(), 2, MatrixView<fp8_v4>(rows.data(), 3, 584)), std::invalid_argument);
    EXPECT_THROW(read_flashmla_page(page.data(), 2, MatrixView<fp8_v4>(rows.data(), 2, 583)), std::invalid_argument);
    EXPECT_THROW(write_flashmla_page(MatrixView<const fp8_v4>(rows.data(), 3, 584), 2, page.data()), std::invalid_argument);
}

TEST(RowFormatTest, AnInt8RowHasOneScaleBehindWholeWords) {
    const RowFormat<int8> format{5, 2};
    ASSERT_EQ(format.elements(), 8 + 4 + 4);
    // Scale 2; 2.5 and 3.5 scales are ties, which go to the even multiple.
    const auto bytes = bytes_of(format, {254.0F, -254.0F, 5.0F, 7.0F, -1.9F, 1.0F, -2.0F});
    const std::array<std::uint8_t, 8> latent = {127, static_cast<std::uint8_t>(-127), 2, 4, static_cast<std::uint8_t>(-1), 0, 0,
                                                0};
    for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(bytes[i], latent[i]) << i;
    EXPECT_EQ(float_at(bytes, 8), 2.0F);
    EXPECT_EQ(half_at(bytes, 12), 0x3f80);
    EXPECT_EQ(half_at(bytes, 14), 0xc000);
}

TEST(RowFormatTest, ReadsAnyScaleThatAWriterChose) {
    const RowFormat<fp8> format{130, 2};
    ASSERT_EQ(format.elements(), 132 + 8 + 4);
    alignas(4) std::array<fp8, 144> row{};
    row[0].bits = 0x38;    // 1
    row[129].bits = 0xb8;  // −1
    const std::array<float, 2> scales = {0x1p-120F, 3e30F};
    std::memcpy(static_cast<void*>(row.data() + 132), scales.data(), sizeof scales);
    std::array<float, 132> token{};
    read_row(format, row.data(), token.data());
    EXPECT_EQ(token[0], 0x1p-120F);
    EXPECT_EQ(token[129], -3e30F);
    EXPECT_EQ(token[128], 0.0F);
}

template <class C>
[[nodiscard]] std::vector<float> round_trip(const RowFormat<C>& format, const std::vector<float>& token) {
    alignas(64) std::array<C, 1024> row{};
    std::vector<float> back(token.size());
    write_row(format, token.data(), row.data());
    read_row(format, row.data(), back.data());
    return back;
}

/// Values of a latent that a row keeps in eight bits.
template <class C>
[[nodiscard]] Index narrow_values(Index latent_dim) {
    return std::is_same_v<C, fp8_v4> ? std::max<Index>(latent_dim - 64, 0) : latent_dim;
}

template <class C>
class QuantisedRowTest : public ::testing::Test {};
TYPED_TEST_SUITE(QuantisedRowTest, TestTypes<QuantisedTypes>);

TYPED_TEST(QuantisedRowTest, ErrsByHalfAStepAtMost) {
    Generator generator(1);
    for (const Index latent_dim : {1, 31, 128, 129, 512}) {
        const RowFormat<TypeParam> format{latent_dim, 8};
        const auto token = testing::gaussian_values<float>(generator, latent_dim + 8);
        const auto back = round_trip(format, token);
        const float largest = std::abs(*std::max_element(token.begin(), token.begin() + latent_dim,
                                                         [](float a, float b) { return std::abs(a) < std::abs(b); }));
        for (std::size_t i = 0; i < token.size(); ++i) {
            const float error = std::abs(back[i] - token[i]);
            if (static_cast<Index>(i) >= narrow_values<TypeParam>(latent_dim)) {
                EXPECT_EQ(back[i], static_cast<float>(bf16(token[i])));
            } else if (std::is_same_v<TypeParam, int8>) {
                EXPECT_LE(error, largest / 127.0F * 0.5001F);
            } else {
                // Half of the last of three bits, or of the smallest step, 2^-9 of a scale, which may be rounded up.
                const float scale = largest / 448.0F * (std::is_same_v<TypeParam, fp8_v4> ? 2.0F : 1.0F);
                EXPECT_LE(error, std::max(std::abs(token[i]) * 0x1p-4F, scale * 0x1p-10F) * 1.0001F);
            }
        }
    }
}

TYPED_TEST(QuantisedRowTest, ZerosStayZeros) {
    const RowFormat<TypeParam> format{200, 4};
    for (const float value : round_trip(format, std::vector<float>(204))) EXPECT_EQ(value, 0.0F);
}

TYPED_TEST(QuantisedRowTest, ANaNOrAnInfinityIsNotLost) {
    const RowFormat<TypeParam> format{256, 4};
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        std::vector<float> token(260, 1.0F);
        token[130] = bad;
        const auto back = round_trip(format, token);
        EXPECT_TRUE(std::isnan(back[130]));
        EXPECT_EQ(back[259], 1.0F);
        if constexpr (!std::is_same_v<TypeParam, int8>) {
            EXPECT_EQ(back[0], 1.0F);  // a group of its own
        }
    }
}

TYPED_TEST(QuantisedRowTest, ACacheHoldsRowsInAsManyBytesAsTheirFormatTakes) {
    const Config config = presets::deepseek_v3();
    LatentCache<TypeParam> cache(config, 3);
    const Index row = std::is_same_v<TypeParam, fp8> ? 656 : std::is_same_v<TypeParam, int8> ? 644 : 711;
    EXPECT_EQ(cache.bytes_per_token(), round_up(row, Index{8}));
    Generator generator(2);
    const auto tokens = testing::gaussian_values<float>(generator, 3 * 576);
    cache.append(MatrixView<const float>(tokens.data(), 3, 576));
    const RowFormat<TypeParam> format{512, 64};
    for (Index t = 0; t < 3; ++t) {
        const std::vector<float> token(tokens.begin() + t * 576, tokens.begin() + (t + 1) * 576);
        const auto expected = bytes_of(format, token);
        EXPECT_EQ(std::memcmp(cache.view().row(t), expected.data(), expected.size()), 0) << t;
    }
}

// The oracle's formats, which share nothing with ours ------------------------------------------------------------------

template <class C>
class ReferenceRowTest : public ::testing::Test {};
TYPED_TEST_SUITE(ReferenceRowTest, TestTypes<CacheTypes>);

template <CacheElement C>
[[nodiscard]] reference::RowKind kind_of() {
    for (const reference::RowKind kind : reference::row_kinds)
        if (name(kind) == cache_type_name<C>()) return kind;
    throw std::logic_error("no kind of row of this name");
}

TYPED_TEST(ReferenceRowTest, HasTheSameBytesAndValues) {
    Generator generator(3);
    for (const auto& [latent_dim, rope_dim] :
         {std::pair<Index, Index>{512, 64}, {512, 0}, {1, 2}, {31, 8}, {65, 0}, {130, 6}, {257, 64}}) {
        const RowFormat<TypeParam> format{latent_dim, rope_dim};
        const reference::RowGeometry row{kind_of<TypeParam>(), latent_dim, rope_dim};
        ASSERT_EQ(row.bytes(), format.elements() * static_cast<Index>(sizeof(TypeParam)));
        for (const double sigma : {1.0, 1e-3, 3e4}) {
            const auto token = testing::gaussian_values<float>(generator, format.values(), sigma);
            const std::vector<std::uint8_t> ours = bytes_of(format, token);
            std::vector<std::byte> theirs(ours.size());
            reference::write_row(row, std::vector<double>(token.begin(), token.end()), theirs.data());
            EXPECT_EQ(std::memcmp(ours.data(), theirs.data(), ours.size()), 0) << latent_dim << ' ' << rope_dim << ' ' << sigma;
            std::vector<double> values(token.size());
            read_row(format, reinterpret_cast<const TypeParam*>(theirs.data()), values.data());
            EXPECT_EQ(values, reference::read_row(row, theirs.data())) << latent_dim << ' ' << rope_dim << ' ' << sigma;
        }
    }
}

TEST(ReferenceFloatTest, EveryValueIsNearestToItself) {
    for (const reference::FloatLayout layout : {reference::bf16_layout, reference::fp16_layout, reference::e4m3_layout})
        for (std::uint32_t bits = 0; bits < 1U << layout.bits(); ++bits) {
            const double value = reference::value_of(layout, bits);
            if (std::isnan(value)) continue;
            ASSERT_EQ(reference::nearest(layout, value), bits) << layout.mantissa;
        }
}

}  // namespace
}  // namespace mla
