// Errors and views.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/tensor_ref.hpp"
#include "mla/core/views.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace {

using mla::DType;
using mla::HeadsView;
using mla::Index;
using mla::MatrixView;
using mla::TensorRef;
using mla::testing::thrown;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// Errors ------------------------------------------------------------------------------------------------------------

TEST(ErrorsTest, MessagesNameTheArgumentItsValueAndTheRule) {
    using std::invalid_argument;
    EXPECT_EQ(thrown<invalid_argument>([] { mla::throw_invalid("color", "red", "green"); }), "mla: color is red, must be green");
    EXPECT_EQ(thrown<invalid_argument>([] { mla::require(false, "eps", -0.5, "not negative"); }),
              "mla: eps is -0.5, must be not negative");
    EXPECT_EQ(thrown<invalid_argument>([] { mla::require_equal("x.cols", 3, "hidden_size", 45); }),
              "mla: x.cols is 3, must be hidden_size = 45");
    EXPECT_EQ(thrown<invalid_argument>([] { mla::require_at_least("rows", -1, 0); }), "mla: rows is -1, must be at least 0");
    EXPECT_EQ(thrown<invalid_argument>([] { mla::require_in_range("page", 7, 0, 6); }), "mla: page is 7, must be in [0, 6]");
    EXPECT_EQ(thrown<std::length_error>([] { mla::require_capacity("tokens", 9, 8); }), "mla: tokens is 9, must be at most 8");
}

TEST(ErrorsTest, RangesIncludeTheirEnds) {
    for (const int value : {2, 3, 4}) EXPECT_NO_THROW(mla::require_in_range("value", value, 2, 4));
    for (const int value : {1, 5}) EXPECT_THROW(mla::require_in_range("value", value, 2, 4), std::invalid_argument);
    EXPECT_NO_THROW(mla::require_at_least("value", 2, 2));
    EXPECT_THROW(mla::require_at_least("value", 1, 2), std::invalid_argument);
    EXPECT_NO_THROW(mla::require_capacity("value", 2, 2));
    EXPECT_THROW(mla::require_capacity("value", 3, 2), std::length_error);
    EXPECT_NO_THROW(mla::require_equal("value", 2, "two", 2));
    EXPECT_NO_THROW(mla::require(true, "value", 2, "two"));
}

TEST(ErrorsTest, NanIsInNoRange) {
    EXPECT_THROW(mla::require_at_least("value", not_a_number, 0.0), std::invalid_argument);
    EXPECT_THROW(mla::require_in_range("value", not_a_number, -1.0, 1.0), std::invalid_argument);
    EXPECT_THROW(mla::require_equal("value", not_a_number, "itself", not_a_number), std::invalid_argument);
    EXPECT_THROW(mla::require_capacity("value", not_a_number, 1.0), std::length_error);
}

TEST(ErrorsTest, LargeNumbersAreWrittenOut) {
    const Index large = (Index{1} << 53) + 1;
    EXPECT_EQ(thrown<std::length_error>([&] { mla::require_capacity("bytes", large, large - 1); }),
              "mla: bytes is 9007199254740993, must be at most 9007199254740992");
}

// Views -------------------------------------------------------------------------------------------------------------

std::vector<int> counting(int count) {
    std::vector<int> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), 0);
    return values;
}

TEST(MatrixViewTest, AddressesRowsByTheStride) {
    std::vector<int> values = counting(3 * 7);
    const MatrixView<int> view(values.data(), 3, 5, 7);
    for (Index r = 0; r < 3; ++r) {
        EXPECT_EQ(view.row(r), values.data() + 7 * r);
        for (Index c = 0; c < 5; ++c) EXPECT_EQ(view(r, c), 7 * r + c);
    }
    view(2, 4) = -1;
    EXPECT_EQ(values[18], -1);
    EXPECT_EQ(MatrixView<int>(values.data(), 3, 5).stride, 5);
}

TEST(MatrixViewTest, RangesOfRowsAndColumnsKeepTheStride) {
    std::vector<int> values = counting(4 * 7);
    const MatrixView<int> part = MatrixView<int>(values.data(), 4, 6, 7).row_range(1, 3).columns(2, 4);
    EXPECT_EQ(part.rows, 3);
    EXPECT_EQ(part.cols, 4);
    for (Index r = 0; r < part.rows; ++r)
        for (Index c = 0; c < part.cols; ++c) EXPECT_EQ(part(r, c), 7 * (r + 1) + c + 2);
}

static_assert(std::is_convertible_v<MatrixView<int>, MatrixView<const int>>);
static_assert(!std::is_convertible_v<MatrixView<const int>, MatrixView<int>>);
static_assert(std::is_convertible_v<HeadsView<int>, HeadsView<const int>>);
static_assert(!std::is_convertible_v<HeadsView<const int>, HeadsView<int>>);
static_assert(MatrixView<int>().data == nullptr && MatrixView<int>().rows == 0 && HeadsView<int>().tokens == 0);

TEST(HeadsViewTest, AddressesTokensAndHeadsByTheirStrides) {
    std::vector<int> values = counting(2 * 40);
    const HeadsView<int> view(values.data(), 2, 3, 4, 40, 10);
    for (Index t = 0; t < 2; ++t)
        for (Index h = 0; h < 3; ++h)
            for (Index i = 0; i < 4; ++i) {
                EXPECT_EQ(view.at(t, h)[i], 40 * t + 10 * h + i);
                EXPECT_EQ(view.head(h)(t, i), 40 * t + 10 * h + i);
            }
    EXPECT_EQ(view.head(1).rows, 2);
    EXPECT_EQ(view.head(1).cols, 4);
}

TEST(HeadsViewTest, AreDenseUnlessToldOtherwise) {
    std::vector<int> values = counting(2 * 3 * 4);
    const HeadsView<int> view(values.data(), 2, 3, 4);
    EXPECT_EQ(view.at(1, 2)[3], 23);
    EXPECT_EQ(view.at(1, 0)[0], 12);
}

TEST(HeadsViewTest, TokenRangesAndSlicesKeepTheStrides) {
    std::vector<int> values = counting(5 * 40);
    const HeadsView<const int> whole = HeadsView<int>(values.data(), 5, 3, 8, 40, 10);
    const HeadsView<const int> part = whole.token_range(2, 3).slice(5, 3);
    EXPECT_EQ(part.tokens, 3);
    EXPECT_EQ(part.heads, 3);
    EXPECT_EQ(part.dim, 3);
    EXPECT_EQ(part.at(1, 2)[1], 40 * 3 + 10 * 2 + 6);
}

template <class S>
class TensorRefTest : public ::testing::Test {};
TYPED_TEST_SUITE(TensorRefTest, mla::TestTypes<mla::StorageTypes>, );

TYPED_TEST(TensorRefTest, RemembersTheTypeOfItsPointer) {
    std::vector<TypeParam> values(6);
    const TensorRef tensor(values.data(), 2, 3);
    EXPECT_EQ(tensor.dtype, mla::dtype_of<TypeParam>);
    EXPECT_EQ(tensor.stride, 3);
    EXPECT_FALSE(tensor.empty());
    values[5] = TypeParam(7.0F);
    tensor.visit([&](const auto& element) {
        EXPECT_TRUE((std::is_same_v<decltype(element(0, 0)), TypeParam>));
        EXPECT_EQ(static_cast<float>(element(1, 2)), 7.0F);
    });
}

TYPED_TEST(TensorRefTest, RowRangesStartAtTheRow) {
    std::vector<TypeParam> values(4 * 5);
    const TensorRef part = TensorRef(values.data(), mla::dtype_of<TypeParam>, 4, 3, 5).row_range(2, 2);
    EXPECT_EQ(part.data, values.data() + 10);
    EXPECT_EQ(part.dtype, mla::dtype_of<TypeParam>);
    EXPECT_EQ(part.rows, 2);
    EXPECT_EQ(part.cols, 3);
    EXPECT_EQ(part.stride, 5);
}

/// Rows 130, 300 columns: two rows of three blocks, of which the last ones are cut off. Every scale is a power of two of its own.
struct Fp8Matrix {
    std::vector<mla::fp8> values = std::vector<mla::fp8>(130 * 300);
    std::vector<float> scales = {1.0F, 2.0F, 4.0F, 8.0F, 16.0F, 32.0F};

    Fp8Matrix() {
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = mla::fp8(static_cast<float>(i % 13) - 6.0F);
    }
    [[nodiscard]] TensorRef ref() const { return {values.data(), 130, 300, {scales.data(), 3}}; }
    [[nodiscard]] float expected(Index r, Index c) const {
        const auto scale = static_cast<std::size_t>(r / 128 * 3 + c / 128);
        return (static_cast<float>((r * 300 + c) % 13) - 6.0F) * scales[scale];
    }
};

TEST(TensorRefTest, MultipliesEveryFp8ElementByTheScaleOfItsBlock) {
    const Fp8Matrix matrix;
    const TensorRef tensor = matrix.ref();
    EXPECT_EQ(tensor.dtype, mla::DType::f8_e4m3);
    tensor.visit([&](const auto& element) {
        for (Index r = 0; r < 130; ++r)
            for (Index c = 0; c < 300; ++c) ASSERT_EQ(static_cast<float>(element(r, c)), matrix.expected(r, c)) << r << ", " << c;
    });
}

TEST(TensorRefTest, RowRangesOfFp8KeepTheirBlocks) {
    const Fp8Matrix matrix;
    const TensorRef part = matrix.ref().row_range(50, 80).row_range(50, 30);  // rows 100 to 129, across the edge of two blocks
    part.visit([&](const auto& element) {
        for (Index r = 0; r < 30; ++r)
            for (Index c = 0; c < 300; ++c)
                ASSERT_EQ(static_cast<float>(element(r, c)), matrix.expected(100 + r, c)) << r << ", " << c;
    });
}

/// Every element of ranges cut out of a matrix, some at odd places, is the whole matrix's.
void expect_ranges(const TensorRef& whole) {
    for (const auto& [row, col] : {std::pair<Index, Index>{0, 0}, {3, 64}, {50, 1}, {100, 127}, {129, 255}}) {
        const TensorRef part = whole.column_range(col / 2, whole.cols - col / 2)
                                   .row_range(row, whole.rows - row)
                                   .column_range(col - col / 2, whole.cols - col);
        whole.visit([&, r0 = row, c0 = col](const auto& of_whole) {
            part.visit([&](const auto& of_part) {
                for (Index r = 0; r < part.rows; ++r)
                    for (Index c = 0; c < part.cols; ++c)
                        ASSERT_EQ(static_cast<double>(of_part(r, c)), static_cast<double>(of_whole(r0 + r, c0 + c)))
                            << r << ", " << c;
            });
        });
    }
}

TEST(TensorRefTest, RangesOfEveryTypeKeepTheirScales) {
    std::vector<std::uint8_t> bytes(130 * 300 * 8);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 % 61);
    std::vector<float> scales(130 * 300);
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i % 97) + 0.5F;
    for (const auto type : {mla::DType::f64, mla::DType::f32, mla::DType::bf16, mla::DType::f16})
        expect_ranges(TensorRef(bytes.data(), type, 130, 300, 300));
    using mla::BlockScales;
    const auto f32 = mla::DType::f32;
    for (const BlockScales& each :
         {BlockScales(scales.data(), 3), BlockScales(scales.data(), f32, 32, 48, 7), BlockScales::per_row(scales.data(), f32),
          BlockScales::per_tensor(scales.data(), f32), BlockScales::per_group(scales.data(), f32, 32, 10)})
        for (const auto type : {mla::DType::f8_e4m3, mla::DType::i8, mla::DType::i4})
            expect_ranges(TensorRef(bytes.data(), type, 130, 300, 300, each));
}

TEST(TensorRefTest, ReadsScalesOfEveryType) {
    const float f32 = 0.375F;
    const mla::bf16 narrow(0.375F);
    const mla::fp16 half(0.375F);
    const auto power = mla::ue8m0::at_least(0.2F);
    EXPECT_EQ(mla::BlockScales::per_tensor(&f32, mla::DType::f32)(7, 9), 0.375F);
    EXPECT_EQ(mla::BlockScales::per_tensor(&narrow, mla::DType::bf16)(7, 9), 0.375F);
    EXPECT_EQ(mla::BlockScales::per_tensor(&half, mla::DType::f16)(7, 9), 0.375F);
    EXPECT_EQ(mla::BlockScales::per_tensor(&power, mla::DType::f8_e8m0)(7, 9), 0.25F);
}

TEST(TensorRefTest, Int4IsTwoInAByteTheFirstInItsLowerHalf) {
    const std::uint8_t bytes[2] = {0xF0, 0x87};
    const float scale = 0.5F;
    const TensorRef tensor(bytes, mla::DType::i4, 1, 4, 4, mla::BlockScales::per_tensor(&scale, mla::DType::f32));
    tensor.visit([](const auto& element) {
        const double expected[] = {-4.0, 3.5, -0.5, 0.0};
        for (Index c = 0; c < 4; ++c) EXPECT_EQ(static_cast<double>(element(0, c)), expected[c]);
    });
}

TEST(TensorRefTest, IsEmptyByDefault) { EXPECT_TRUE(TensorRef().empty()); }

}  // namespace
