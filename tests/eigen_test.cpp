// Weights in Eigen matrices as the library sees them.
#include "mla/eigen.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "mla/linear/packed_matrix.hpp"
#include "mla/reference/weights.hpp"
#include "support/thrown.hpp"

namespace {

using mla::DType;
using mla::Index;
using mla::RowMatrix;
using mla::tensor_ref;
using mla::TensorRef;
using mla::testing::thrown;

template <class S>
class EigenTest : public ::testing::Test {};
using Scalars = ::testing::Types<double, float, Eigen::bfloat16, Eigen::half, mla::bf16, mla::fp16>;
TYPED_TEST_SUITE(EigenTest, Scalars, );

/// Element (r, c) is 8·r + c + 1: exact in every type.
template <class Matrix>
void fill(Matrix&& matrix) {
    for (Eigen::Index r = 0; r < matrix.rows(); ++r)
        for (Eigen::Index c = 0; c < matrix.cols(); ++c)
            matrix.coeffRef(r, c) = static_cast<typename std::decay_t<Matrix>::Scalar>(static_cast<float>(8 * r + c + 1));
}

/// The tensor is [rows, cols] and holds the elements of `fill` from (first_row, first_col) on.
void expect_filled(const TensorRef& tensor, Index rows, Index cols, Index first_row = 0, Index first_col = 0) {
    ASSERT_EQ(tensor.rows, rows);
    ASSERT_EQ(tensor.cols, cols);
    const mla::reference::Matrix values = mla::reference::to_matrix(tensor);
    for (Index r = 0; r < rows; ++r)
        for (Index c = 0; c < cols; ++c)
            EXPECT_EQ(values(r, c), static_cast<double>(8 * (first_row + r) + first_col + c + 1)) << r << ", " << c;
}

TYPED_TEST(EigenTest, AMatrixIsSeenAsItLies) {
    RowMatrix<TypeParam> matrix(3, 5);
    fill(matrix);
    const TensorRef tensor = tensor_ref(matrix);
    EXPECT_EQ(tensor.data, matrix.data());
    EXPECT_EQ(mla::bits_of(tensor.dtype), static_cast<Index>(8 * sizeof(TypeParam)));
    expect_filled(tensor, 3, 5);
}

TYPED_TEST(EigenTest, ABlockAndAStridedMapKeepTheirRowStride) {
    RowMatrix<TypeParam> matrix(6, 8);
    fill(matrix);
    expect_filled(tensor_ref(matrix.block(2, 3, 4, 5)), 4, 5, 2, 3);
    using Strided = Eigen::Map<const RowMatrix<TypeParam>, 0, Eigen::OuterStride<>>;
    expect_filled(tensor_ref(Strided(matrix.data(), 6, 7, Eigen::OuterStride<>(8))), 6, 7);
}

TYPED_TEST(EigenTest, AVectorIsOneRow) {
    Eigen::Matrix<TypeParam, Eigen::Dynamic, 1> column(7);
    fill(column.transpose());
    expect_filled(tensor_ref(column), 1, 7);
    const Eigen::Matrix<TypeParam, 1, Eigen::Dynamic> row = column.transpose();
    expect_filled(tensor_ref(row), 1, 7);
    expect_filled(tensor_ref(column.segment(2, 3)), 1, 3, 0, 2);
}

TYPED_TEST(EigenTest, AVectorOfScatteredElementsIsRejected) {
    RowMatrix<TypeParam> matrix(6, 8);
    fill(matrix);
    EXPECT_EQ(thrown<std::invalid_argument>([&] { static_cast<void>(tensor_ref(matrix.col(2))); }),
              "mla: weight inner stride is 8, must be one element = 1");
}

TYPED_TEST(EigenTest, PacksWhatWasWrittenThroughEigen) {
    RowMatrix<TypeParam> matrix(5, 4);
    fill(matrix);
    const mla::PackedMatrix<float> packed(tensor_ref(matrix));
    for (Index out = 0; out < 5; ++out)
        for (Index in = 0; in < 4; ++in)
            EXPECT_EQ(packed.panel(0, 0)[in * mla::panel_columns<float> + out], static_cast<float>(8 * out + in + 1));
}

TEST(EigenTest, TypesAreThoseOfTheScalars) {
    EXPECT_EQ(tensor_ref(RowMatrix<double>(1, 1)).dtype, DType::f64);
    EXPECT_EQ(tensor_ref(RowMatrix<float>(1, 1)).dtype, DType::f32);
    EXPECT_EQ(tensor_ref(RowMatrix<Eigen::bfloat16>(1, 1)).dtype, DType::bf16);
    EXPECT_EQ(tensor_ref(RowMatrix<mla::bf16>(1, 1)).dtype, DType::bf16);
    EXPECT_EQ(tensor_ref(RowMatrix<Eigen::half>(1, 1)).dtype, DType::f16);
    EXPECT_EQ(tensor_ref(RowMatrix<mla::fp16>(1, 1)).dtype, DType::f16);
}

}  // namespace
