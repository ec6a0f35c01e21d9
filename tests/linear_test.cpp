// Packed weights and their products: against the fp64 reference, and the same bits however the work is cut.
#include "mla/linear/linear.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "mla/core/eigen_executor.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/allocations.hpp"
#include "support/executors.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace {

using mla::bf16;
using mla::Compute;
using mla::compute_t;
using mla::ExecutorRef;
using mla::fp16;
using mla::HeadsView;
using mla::Index;
using mla::MatrixView;
using mla::PackedMatrix;
using mla::panel_columns;
using mla::Storage;
using mla::TensorRef;
using mla::reference::Matrix;
using mla::testing::gaussian_values;
using mla::testing::Generator;
using mla::testing::thrown;
using mla::testing::widened;

mla::SerialExecutor serial;

template <class S>
class LinearTest : public ::testing::Test {};
TYPED_TEST_SUITE(LinearTest, mla::TestTypes<mla::StorageTypes>, );

/// N(0, 1/in), which keeps the size of activations.
template <Storage S>
std::vector<S> random_weight(Generator& generator, Index out, Index in) {
    return gaussian_values<S>(generator, out * in, 1.0 / std::sqrt(static_cast<double>(in)));
}

/// Sums in the type computed in; in double the reference errs as much.
template <Compute A>
double product_tolerance(Index in) {
    return (std::is_same_v<A, double> ? 2.0 : 1.0) * mla::testing::sum_tolerance<A>(in);
}

/// Of products of rows of [in] with weights S, which are rounded to bf16 where the weights are.
template <Storage S>
double operand_tolerance(Index in) {
    return product_tolerance<compute_t<S>>(in) + (std::is_same_v<S, bf16> ? mla::testing::unit_roundoff<bf16> : 0.0);
}

template <class A>
bool same_bits(const A* a, const A* b, Index count) {
    return std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(A)) == 0;
}

// Packing -------------------------------------------------------------------------------------------------------------

/// Panels [panel][in][panel_columns] of the weight, zeros behind its last column: from `element(in, out)`.
template <Storage S, class Element>
void expect_packed(const PackedMatrix<S>& packed, Index index, Element element) {
    for (Index p = 0; p < packed.panels(); ++p)
        for (Index k = 0; k < packed.in(); ++k)
            for (Index n = 0; n < panel_columns<S>; ++n) {
                const Index column = p * panel_columns<S> + n;
                const double expected = column < packed.out() ? element(k, column) : 0.0;
                ASSERT_EQ(static_cast<double>(packed.panel(index, p)[packed.place(k, n)]), expected) << k << ", " << column;
            }
}

/// Every type of weight goes into every type of panel, rounded to it, from rows that lie apart.
template <Storage S, Storage From>
void expect_packs_from() {
    Generator generator(1);
    for (const Index out : {1, 31, 32, 33, 70})
        for (const Index in : {1, 63, 64, 65, 130}) {
            const Index stride = in + 3;
            const auto weight = gaussian_values<From>(generator, out * stride);
            PackedMatrix<S> packed(1, in, out);
            packed.pack(0, TensorRef(weight.data(), mla::dtype_of<From>, out, in, stride));
            expect_packed(packed, 0, [&](Index k, Index n) {
                const auto value = static_cast<double>(weight[static_cast<std::size_t>(n * stride + k)]);
                return static_cast<double>(mla::testing::round_to<S>(value));
            });
        }
}

TYPED_TEST(LinearTest, PacksWeightsOfEveryTypeIntoPanelsFilledUpWithZeros) {
    expect_packs_from<TypeParam, double>();
    expect_packs_from<TypeParam, float>();
    expect_packs_from<TypeParam, bf16>();
    expect_packs_from<TypeParam, fp16>();
}

/// Weights in fp8 are packed as what their scales make of them, rounded once.
TYPED_TEST(LinearTest, PacksScaledFp8FromAnyRowsOn) {
    constexpr Index rows = 300;
    constexpr Index in = 200;
    Generator generator(6);
    std::vector<mla::fp8> weight;
    for (const float value : gaussian_values<float>(generator, rows * in)) weight.emplace_back(value);
    const std::vector<float> scales = {0.3F, 1.7F, 0.01F, 30.0F, 1e-4F, 5.5F};
    const Index first = 100;  // within the first of three blocks
    const TensorRef part = TensorRef(weight.data(), rows, in, {scales.data(), 2}).row_range(first, rows - first);
    const auto expected = [&](Index k, Index n) {
        const float scale = scales[static_cast<std::size_t>((first + n) / 128 * 2 + k / 128)];
        using A = compute_t<TypeParam>;
        const A value = static_cast<A>(weight[static_cast<std::size_t>((first + n) * in + k)]) * static_cast<A>(scale);
        return static_cast<double>(mla::testing::round_to<TypeParam>(static_cast<double>(value)));
    };
    expect_packed(PackedMatrix<TypeParam>(part), 0, expected);
    PackedMatrix<TypeParam> transposed(1, rows - first, in);
    transposed.pack_transposed(0, part);
    expect_packed(transposed, 0, [&](Index k, Index n) { return expected(n, k); });
}

/// Values of weights that have scales are codes times scales, rounded once, from whatever element on and however many.
TEST(ReadValuesTest, MultipliesCodesOfEveryTypeByTheirScales) {
    constexpr Index rows = 5, cols = 301;
    Generator generator(7);
    std::vector<std::uint8_t> codes(rows * cols);
    for (std::uint8_t& code : codes) {
        code = static_cast<std::uint8_t>(generator());
        if ((code & 0x7fU) == 0x7fU) code ^= 1U;  // a NaN of e4m3
    }
    const std::vector<float> floats = gaussian_values<float>(generator, rows * cols);
    const std::vector<bf16> narrow = gaussian_values<bf16>(generator, rows * cols);
    for (const mla::BlockScales& scales : {mla::BlockScales(floats.data(), mla::DType::f32, 2, 32, 10),
                                           mla::BlockScales::per_group(narrow.data(), mla::DType::bf16, 24, 13),
                                           mla::BlockScales::per_row(floats.data(), mla::DType::f32),
                                           mla::BlockScales::per_tensor(narrow.data(), mla::DType::bf16)})
        for (const mla::DType type : {mla::DType::f8_e4m3, mla::DType::i8, mla::DType::i4}) {
            const TensorRef weight(codes.data(), type, rows, cols, cols, scales);
            weight.visit([&](const auto& element) {
                for (const Index begin : {0, 1, 7, 24, 150})
                    for (const Index count : {0, 1, 8, 17, 130, 151}) {
                        std::vector<float> values(static_cast<std::size_t>(count) + 1, -77.0F);
                        mla::detail::read_values(weight, Index{3}, begin, count, values.data());
                        EXPECT_EQ(values.back(), -77.0F);
                        for (Index i = 0; i < count; ++i)
                            ASSERT_EQ(values[static_cast<std::size_t>(i)], static_cast<float>(element(3, begin + i)))
                                << mla::name(type) << ", " << count << " from " << begin << ": " << i;
                    }
            });
        }
}

TYPED_TEST(LinearTest, PackingATransposeGivesTheSamePanels) {
    Generator generator(2);
    constexpr Index in = 67;
    constexpr Index out = 45;
    const auto weight = gaussian_values<float>(generator, out * in);
    std::vector<float> transposed(weight.size());
    for (Index n = 0; n < out; ++n)
        for (Index k = 0; k < in; ++k)
            transposed[static_cast<std::size_t>(k * out + n)] = weight[static_cast<std::size_t>(n * in + k)];
    PackedMatrix<TypeParam> packed(2, in, out);
    packed.pack(0, TensorRef(weight.data(), out, in));
    packed.pack_transposed(1, TensorRef(transposed.data(), in, out));
    for (Index p = 0; p < packed.panels(); ++p)
        EXPECT_EQ(std::memcmp(packed.panel(0, p), packed.panel(1, p), sizeof(TypeParam) * in * panel_columns<TypeParam>), 0);
}

TEST(PackedMatrixTest, KeepsMatricesApartAndStatesItsSize) {
    const std::vector<float> ones(33 * 5, 1.0F);
    PackedMatrix<bf16> packed(3, 5, 33);
    for (const Index index : {2, 0, 1}) {
        std::vector<float> weight = ones;
        for (float& value : weight) value = static_cast<float>(index + 1);
        packed.pack(index, TensorRef(weight.data(), 33, 5));
    }
    for (Index index = 0; index < 3; ++index)
        expect_packed(packed, index, [&](Index, Index) { return static_cast<double>(index + 1); });
    EXPECT_EQ(packed.count(), 3);
    EXPECT_EQ(packed.panels(), 3);
    EXPECT_EQ(packed.bytes(), 3U * 3U * 6U * 16U * 2U);  // rows of k come in pairs

    const PackedMatrix<float> single(TensorRef(ones.data(), 33, 5));
    EXPECT_EQ(single.count(), 1);
    EXPECT_EQ(single.in(), 5);
    EXPECT_EQ(single.out(), 33);
}

TEST(PackedMatrixTest, RejectsAWeightOfAnotherShape) {
    const std::vector<float> weight(64);
    PackedMatrix<float> packed(1, 3, 4);
    using std::invalid_argument;
    EXPECT_EQ(thrown<invalid_argument>([&] { packed.pack(0, TensorRef(weight.data(), 5, 3)); }),
              "mla: packed weight rows is 5, must be rows = 4");
    EXPECT_EQ(thrown<invalid_argument>([&] { packed.pack(0, TensorRef(weight.data(), 4, 2)); }),
              "mla: packed weight columns is 2, must be columns = 3");
    EXPECT_EQ(thrown<invalid_argument>([&] { packed.pack_transposed(0, TensorRef(weight.data(), 4, 3)); }),
              "mla: packed weight rows is 4, must be rows = 3");
}

// Products ------------------------------------------------------------------------------------------------------------

/// y [T, out] = x·W in rows that lie apart, with the memory between and behind them watched.
template <Storage S>
class Product {
  public:
    using A = compute_t<S>;
    static constexpr A untouched = A(-77);

    Product(Index tokens, Index in, Index out) : tokens_(tokens), in_(in), out_(out) {
        Generator generator(static_cast<std::uint64_t>(in * 1000 + out));
        weight_ = random_weight<S>(generator, out, in);
        x_ = gaussian_values<A>(generator, tokens * x_stride());
        packed_ = PackedMatrix<S>(TensorRef(weight_.data(), out, in));
    }

    [[nodiscard]] MatrixView<const A> x() const { return {x_.data(), tokens_, in_, x_stride()}; }
    [[nodiscard]] const PackedMatrix<S>& packed() const { return packed_; }

    /// Rows [first, first + count) of y, computed by themselves; dense.
    [[nodiscard]] std::vector<A> rows(Index first, Index count, ExecutorRef executor, const A* bias = nullptr) const {
        const Index stride = out_ + 2;
        std::vector<A> y(static_cast<std::size_t>(count * stride), untouched);
        mla::linear<>(x().row_range(first, count), packed_, bias, MatrixView<A>(y.data(), count, out_, stride), executor);
        std::vector<A> dense;
        for (Index t = 0; t < count; ++t) {
            const A* row = y.data() + t * stride;
            dense.insert(dense.end(), row, row + out_);
            EXPECT_TRUE(row[out_] == untouched && row[out_ + 1] == untouched) << "wrote behind row " << t;
        }
        return dense;
    }

    [[nodiscard]] std::vector<double> reference() const {
        const Matrix x = mla::reference::columns(widened(x_, tokens_, x_stride()), 0, in_);
        return mla::reference::linear(x, widened(weight_, out_, in_)).values;
    }

  private:
    [[nodiscard]] Index x_stride() const { return in_ + 5; }

    Index tokens_;
    Index in_;
    Index out_;
    std::vector<S> weight_;
    std::vector<A> x_;
    PackedMatrix<S> packed_;
};

/// All T from 1 to 30, which meets every mix of tiles: T = 30 against the reference, the others and each row by itself against
/// its rows, bit for bit.
template <Storage S>
void expect_every_token_count(Index in, Index out) {
    constexpr Index most = 30;
    const Product<S> product(most, in, out);
    const auto all = product.rows(0, most, serial);
    const auto error = mla::testing::compare(all, product.reference());
    EXPECT_TRUE(mla::testing::within(error, operand_tolerance<S>(in))) << error << " for " << in << " x " << out;
    for (Index T = 1; T < most; ++T) {
        ASSERT_TRUE(same_bits(product.rows(0, T, serial).data(), all.data(), T * out)) << T << " rows of " << in << " x " << out;
        ASSERT_TRUE(same_bits(product.rows(T, 1, serial).data(), all.data() + T * out, out))
            << "row " << T << " of " << in << " x " << out;
    }
}

TYPED_TEST(LinearTest, MatchesTheReferenceAndGivesARowTheSameBitsInEveryBatch) {
    for (const Index in : {1, 3, 31, 100, 511, 512, 513, 1030})
        for (const Index out : {1, 5, 31, 32, 33, 63, 97}) expect_every_token_count<TypeParam>(in, out);
}

// From 1024 columns on an item of work is more than one panel, from 4096 on eight; the last one here has fewer.
/// 8192 values of few rows are rounded at a time: one, two and four rows take more than once.
TYPED_TEST(LinearTest, MatchesTheReferenceWhereFewRowsAreRoundedInParts) {
    for (const Index in : {2050, 4100, 8193}) expect_every_token_count<TypeParam>(in, 33);
}

TYPED_TEST(LinearTest, MatchesTheReferenceWhereAnItemIsSeveralPanels) {
    for (const Index out : {1100, 4200}) expect_every_token_count<TypeParam>(7, out);
}

TYPED_TEST(LinearTest, GivesTheSameBitsOnAnyNumberOfThreads) {
    Eigen::ThreadPool pool(2);
    for (const Index out : {33, 300, 1100})
        for (const Index T : {1, 13, 30}) {
            const Product<TypeParam> product(T, 530, out);
            const auto expected = product.rows(0, T, serial);
            const auto expect_same = [&](ExecutorRef executor) {
                const auto found = product.rows(0, T, executor);
                EXPECT_TRUE(same_bits(found.data(), expected.data(), T * out)) << T << " rows, " << out << " columns";
            };
            for (const Index threads : {1, 2, 3}) {
                expect_same(mla::ThreadExecutor(threads));
                expect_same(mla::BackwardExecutor(threads));
            }
            expect_same(mla::EigenExecutor(pool));
        }
}

TYPED_TEST(LinearTest, AddsTheBiasOnceToEveryRow) {
    using A = compute_t<TypeParam>;
    Generator generator(3);
    for (const Index in : {7, 1030})  // one block of k, and three
        for (const Index out : {31, 33, 1100}) {
            const Product<TypeParam> product(5, in, out);
            const auto bias = gaussian_values<A>(generator, out);
            auto expected = product.rows(0, 5, serial);
            for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % bias.size()];
            EXPECT_EQ(product.rows(0, 5, serial, bias.data()), expected);
            EXPECT_EQ(product.rows(0, 5, mla::ThreadExecutor(3), bias.data()), expected);
        }
}

// A checked build sees the smallest read or write past the end.
TYPED_TEST(LinearTest, ReadsAndWritesNothingBehindDenseRows) {
    using A = compute_t<TypeParam>;
    constexpr Index in = 9;
    for (const Index T : {1, 2, 13})
        for (const Index out : {1, 33, 50}) {
            std::vector<TypeParam> weight;  // row n is all n + 1, so that column n of y is in·(n + 1), exactly
            for (Index i = 0; i < out * in; ++i)
                weight.push_back(mla::testing::round_to<TypeParam>(static_cast<double>(i / in + 1)));
            const std::vector<A> x(static_cast<std::size_t>(T * in), A(1));
            std::vector<A> y(static_cast<std::size_t>(T * out));
            mla::linear<>(MatrixView<const A>(x.data(), T, in), PackedMatrix<TypeParam>(TensorRef(weight.data(), out, in)),
                          static_cast<const A*>(nullptr), MatrixView<A>(y.data(), T, out), serial);
            for (std::size_t i = 0; i < y.size(); ++i)
                ASSERT_EQ(y[i], static_cast<A>(in * (static_cast<Index>(i) % out + 1))) << i << " of " << T << " x " << out;
        }
}

TYPED_TEST(LinearTest, NoRowsAreNoWork) {
    const Product<TypeParam> product(3, 20, 40);
    EXPECT_TRUE(product.rows(1, 0, serial).empty());
    EXPECT_TRUE(product.rows(1, 0, mla::ThreadExecutor(2)).empty());
}

TYPED_TEST(LinearTest, ARangeOfPanelsLeavesTheOtherColumnsAlone) {
    using A = typename Product<TypeParam>::A;
    constexpr Index out = 150;  // the last panel is ragged
    const Product<TypeParam> product(14, 40, out);
    const Index panels = product.packed().panels();
    for (const Index T : {3, 14}) {
        const auto all = product.rows(0, T, serial);
        for (Index begin = 0; begin <= panels; ++begin)
            for (Index end = begin; end <= panels; ++end) {
                std::vector<A> y(static_cast<std::size_t>(T * out), product.untouched);
                mla::linear_panels<>(product.x().row_range(0, T), product.packed(), 0, begin, end,
                                     MatrixView<A>(y.data(), T, out));
                std::vector<A> expected(y.size(), product.untouched);
                for (Index t = 0; t < T; ++t)
                    for (Index n = begin * panel_columns<TypeParam>; n < std::min(end * panel_columns<TypeParam>, out); ++n) {
                        const auto cell = static_cast<std::size_t>(t * out + n);
                        expected[cell] = all[cell];
                    }
                ASSERT_EQ(y, expected) << "panels " << begin << " to " << end;
            }
    }
}

TYPED_TEST(LinearTest, ANanStaysInItsRowAndItsColumn) {
    using A = compute_t<TypeParam>;
    constexpr Index T = 15;
    constexpr Index in = 20;
    constexpr Index out = 45;
    const TypeParam not_a_number(std::numeric_limits<float>::quiet_NaN());
    std::vector<TypeParam> weight(out * in, TypeParam(1.0F));
    weight[33 * in + 7] = not_a_number;
    std::vector<A> x(T * in, A(1));
    x[13 * in + 2] = static_cast<A>(not_a_number);
    std::vector<A> y(T * out);
    mla::linear<>(MatrixView<const A>(x.data(), T, in), PackedMatrix<TypeParam>(TensorRef(weight.data(), out, in)),
                  static_cast<const A*>(nullptr), MatrixView<A>(y.data(), T, out), serial);
    for (Index t = 0; t < T; ++t)
        for (Index n = 0; n < out; ++n)
            EXPECT_EQ(std::isnan(y[static_cast<std::size_t>(t * out + n)]), t == 13 || n == 33) << t << ", " << n;
}

TYPED_TEST(LinearTest, AllocatesNothing) {
    using A = compute_t<TypeParam>;
    const Product<TypeParam> product(13, 530, 1100);
    std::vector<A> y(13 * 1100);
    Eigen::ThreadPool pool(2);
    const mla::EigenExecutor executor(pool);
    const auto step = [&](ExecutorRef on) {
        mla::linear<>(product.x(), product.packed(), static_cast<const A*>(nullptr), MatrixView<A>(y.data(), 13, 1100), on);
    };
    step(executor);
    const std::uint64_t before = mla::testing::allocations();
    step(executor);
    step(serial);
    EXPECT_EQ(mla::testing::allocations(), before);
}

// A head at a time ----------------------------------------------------------------------------------------------------

/// The two products of a layer that go head by head, from kv_b_proj [H·(Dn+Dv), Dc]: W_UKᵀ [Dn, Dc] and W_UV [Dc, Dv].
template <Storage S>
struct Heads {
    static constexpr Index H = 3;
    static constexpr Index Dn = 13;
    static constexpr Index Dv = 35;
    static constexpr Index Dc = 40;
    std::vector<S> kv_b;
    PackedMatrix<S> key_up{H, Dn, Dc};
    PackedMatrix<S> value_up{H, Dc, Dv};

    Heads() {
        Generator generator(5);
        kv_b = random_weight<S>(generator, H * (Dn + Dv), Dc);
        for (Index h = 0; h < H; ++h) {
            key_up.pack_transposed(h, TensorRef(kv_b.data(), H * (Dn + Dv), Dc).row_range(h * (Dn + Dv), Dn));
            value_up.pack(h, TensorRef(kv_b.data(), H * (Dn + Dv), Dc).row_range(h * (Dn + Dv) + Dn, Dv));
        }
    }
    [[nodiscard]] double weight(Index row, Index column) const {
        return static_cast<double>(kv_b[static_cast<std::size_t>(row * Dc + column)]);
    }
};

/// y[t, h] against Σ_k x[t, h][k]·element(h, k, n), with heads and tokens of both lying apart.
template <Storage S, class Element>
void expect_heads(const PackedMatrix<S>& packed, Index T, Element element) {
    using A = compute_t<S>;
    const Index H = packed.count();
    const Index x_stride = packed.in() + 3;
    const Index y_stride = packed.out() + 1;
    Generator generator(static_cast<std::uint64_t>(T));
    const auto x_values = gaussian_values<A>(generator, T * (H * x_stride + 2));
    const HeadsView<const A> x(x_values.data() + 1, T, H, packed.in(), H * x_stride + 2, x_stride);
    std::vector<A> y_values(static_cast<std::size_t>(T * (H * y_stride + 2)), A(-77));
    const HeadsView<A> y(y_values.data() + 1, T, H, packed.out(), H * y_stride + 2, y_stride);
    mla::linear_heads(x, packed, y, mla::ThreadExecutor(2));

    std::vector<A> found;
    std::vector<double> expected;
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h)
            for (Index n = 0; n < packed.out(); ++n) {
                double sum = 0.0;
                for (Index k = 0; k < packed.in(); ++k) sum += static_cast<double>(x.at(t, h)[k]) * element(h, k, n);
                expected.push_back(sum);
                found.push_back(y.at(t, h)[n]);
            }
    const auto error = mla::testing::compare(found, expected);
    EXPECT_TRUE(mla::testing::within(error, operand_tolerance<S>(packed.in()))) << error << " for " << T << " tokens";

    const auto untouched = std::count(y_values.begin(), y_values.end(), A(-77));
    EXPECT_EQ(untouched, static_cast<Index>(y_values.size()) - static_cast<Index>(found.size())) << "wrote between heads";
}

TYPED_TEST(LinearTest, HeadsAreSmallProductsOfTheirOwn) {
    using Fixture = Heads<TypeParam>;
    const Fixture heads;
    constexpr Index rows = Fixture::Dn + Fixture::Dv;  // of kv_b_proj, a head
    for (const Index T : {1, 2, 5, 12, 17}) {
        expect_heads(heads.key_up, T, [&](Index h, Index k, Index n) { return heads.weight(h * rows + k, n); });
        expect_heads(heads.value_up, T, [&](Index h, Index k, Index n) { return heads.weight(h * rows + Fixture::Dn + n, k); });
    }
}

}  // namespace
