// Weights as the reference reads them: values worked out by hand, and for every type, block and cut the library's own.
#include "mla/reference/weights.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "mla/core/tensor_ref.hpp"
#include "mla/testing/random.hpp"

namespace mla {
namespace {

using reference::Matrix;
using reference::to_matrix;
using Bytes = std::vector<std::uint8_t>;
constexpr double infinity = std::numeric_limits<double>::infinity();

Matrix read(DType type, const Bytes& bytes, Index rows, Index cols, const BlockScales& scales = {}) {
    return to_matrix(TensorRef(bytes.data(), type, rows, cols, cols, scales));
}

TEST(ReferenceWeightsTest, FloatsAreWhatTheirBitsSay) {
    EXPECT_EQ(read(DType::f64, {0, 0, 0, 0, 0, 0, 0xf8, 0xbf}, 1, 1).values, std::vector<double>{-1.5});
    EXPECT_EQ(read(DType::f32, {0, 0, 0x20, 0x40, 1, 0, 0, 0}, 1, 2).values, (std::vector<double>{2.5, 0x1p-149}));
    EXPECT_EQ(read(DType::bf16, {0x20, 0x40, 0x01, 0x80, 0x80, 0xff}, 1, 3).values,
              (std::vector<double>{2.5, -0x1p-133, -infinity}));
    EXPECT_EQ(read(DType::f16, {0x00, 0x41, 0x01, 0x80, 0xff, 0x7b, 0x00, 0x7c}, 1, 4).values,
              (std::vector<double>{2.5, -0x1p-24, 65504, infinity}));
}

// Micikevicius et al. 2022, table 1; OCP Microscaling Formats 1.0, section 5.4.1.
TEST(ReferenceWeightsTest, Fp8MeetsTheScaleOfItsBlock) {
    const Bytes bytes = {0x38, 0x7e, 0x01, 0x08, 0xb8, 0x7f};  // 1, 448, 2^-9, 2^-6, −1, NaN
    const std::uint8_t exponents[] = {127, 128, 0};
    const Matrix scaled = read(DType::f8_e4m3, bytes, 2, 3, {exponents, DType::f8_e8m0, 1, 2, 1});
    EXPECT_EQ(scaled(0, 0), 1);
    EXPECT_EQ(scaled(0, 1), 448);
    EXPECT_EQ(scaled(0, 2), 0x1p-8);
    EXPECT_EQ(scaled(1, 0), 0x1p-5);
    EXPECT_EQ(scaled(1, 1), -2);
    EXPECT_TRUE(std::isnan(scaled(1, 2)));
    const float scale = -0x1.8p-3F;
    EXPECT_EQ(read(DType::f8_e4m3, {0x38}, 1, 1, BlockScales::per_tensor(&scale, DType::f32))(0, 0), -0.1875);
    const std::uint8_t none = 255;
    EXPECT_TRUE(std::isnan(read(DType::f8_e4m3, {0x38}, 1, 1, BlockScales::per_tensor(&none, DType::f8_e8m0))(0, 0)));
}

TEST(ReferenceWeightsTest, IntegersAreMultiplesOfTheirScales) {
    const std::uint16_t rows[] = {0x3f80, 0xbf00};  // bf16: 1, −1/2
    EXPECT_EQ(read(DType::i8, {127, 0x80, 3, 0xff}, 2, 2, BlockScales::per_row(rows, DType::bf16)).values,
              (std::vector<double>{127, -128, -1.5, 0.5}));
    const std::uint16_t groups[] = {0x3c00, 0x4000, 0x3800, 0x0001};  // fp16: 1, 2, 1/2, 2^-24
    // The lower half of a byte comes first, and 8 is 0.
    EXPECT_EQ(read(DType::i4, {0xf0, 0x98, 0x7a, 0x21}, 2, 4, BlockScales::per_group(groups, DType::f16, 2, 2)).values,
              (std::vector<double>{-8, 7, 0, 2, 1, -0.5, -7 * 0x1p-24, -6 * 0x1p-24}));
}

TEST(ReferenceWeightsTest, AProductIsNotRounded) {
    const float scale = 0x1.fffffep-1F;
    EXPECT_EQ(read(DType::i8, {127}, 1, 1, BlockScales::per_tensor(&scale, DType::f32))(0, 0), 127 * 0x1.fffffep-1);
}

/// A matrix of a type, with scales of another in blocks, from random bytes that are neither NaN nor infinite.
struct Stored {
    static constexpr Index rows = 11;
    static constexpr Index cols = 13;
    static constexpr Index stride = 16;
    Bytes bytes = Bytes(rows * stride * 8);
    Bytes scales = Bytes(rows * cols * 4);

    explicit Stored(std::uint64_t seed) {
        testing::Generator generator(seed);
        for (auto* const part : {&bytes, &scales})
            for (std::uint8_t& byte : *part) byte = static_cast<std::uint8_t>(generator() % 120);
    }
    [[nodiscard]] TensorRef ref(DType type, DType scale, Index block_rows, Index block_cols) const {
        if (!is_quantised(type)) return {bytes.data(), type, rows, cols, stride};
        const Index across = block_cols == BlockScales::all ? 1 : divide_up(cols, block_cols);
        return {bytes.data(), type, rows, cols, stride, {scales.data(), scale, block_rows, block_cols, across}};
    }
};

void expect_as_visited(const TensorRef& tensor, const std::string& what) {
    const Matrix found = to_matrix(tensor);
    tensor.visit([&](const auto& element) {
        for (Index r = 0; r < tensor.rows; ++r)
            for (Index c = 0; c < tensor.cols; ++c)
                ASSERT_EQ(found(r, c), static_cast<double>(element(r, c))) << what << ' ' << r << ' ' << c;
    });
}

TEST(ReferenceWeightsTest, EveryTypeBlockAndCutIsAsTheLibraryReadsIt) {
    const Stored stored(1);
    constexpr Index all = BlockScales::all;
    const Index blocks[][2] = {{1, all}, {all, all}, {1, 4}, {4, 4}, {3, 5}, {128, 128}};
    for (const DType type : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::f8_e4m3, DType::i8, DType::i4})
        for (const DType scale : {DType::f32, DType::bf16, DType::f16, DType::f8_e8m0})
            for (const auto& [down, across] : blocks) {
                const TensorRef whole = stored.ref(type, scale, down, across);
                const Matrix values = to_matrix(whole);
                const std::string what = std::string(name(type)) + ' ' + name(scale);
                expect_as_visited(whole, what);
                for (Index row = 0; row < Stored::rows; row += 2)
                    for (Index col = 0; col < Stored::cols; ++col) {
                        const TensorRef part =
                            whole.row_range(row, Stored::rows - row).column_range(col, Stored::cols - col).row_range(0, 1);
                        expect_as_visited(part, what);
                        ASSERT_EQ(to_matrix(part).values, columns(row_range(values, row, 1), col, Stored::cols - col).values);
                    }
            }
}

}  // namespace
}  // namespace mla
