// Weights of fp8, int8 and int4 that are multiplied as they are stored: products and layers against the fp64 reference, which
// decodes them by itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/attention.hpp"
#include "mla/cache/latent_cache.hpp"
#include "mla/linear/linear.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/executors.hpp"
#include "support/kernels.hpp"
#include "support/layer.hpp"
#include "support/targets.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

using testing::Generator;

/// A weight of random codes, with random scales of any kind, its values some `sigma` large.
class StoredWeight {
  public:
    StoredWeight(DType type, Index rows, Index cols, BlockScales blocks, std::uint64_t seed, double sigma = 1.0) {
        Generator generator(seed);
        bytes_.resize(static_cast<std::size_t>(rows * round_up(cols, Index{2})));
        for (std::uint8_t& byte : bytes_) {
            byte = static_cast<std::uint8_t>(generator());
            if (type == DType::f8_e4m3 && (byte & 0x7fU) == 0x7fU) byte ^= 1U;  // no NaN
        }
        const Index across = blocks.block_cols == BlockScales::all ? 1 : divide_up(cols, blocks.block_cols);
        const Index down = blocks.block_rows == BlockScales::all ? 1 : divide_up(rows, blocks.block_rows);
        scales_.resize(static_cast<std::size_t>(4 * across * down));
        const double size = type == DType::f8_e4m3 ? 100.0 : type == DType::i8 ? 70.0 : 4.5;
        for (Index i = 0; i < across * down; ++i) {
            const auto scale = static_cast<float>(sigma * std::exp(testing::gaussian(generator)) / size);
            if (blocks.dtype == DType::f32) reinterpret_cast<float*>(scales_.data())[i] = i % 5 == 3 ? -scale : scale;
            if (blocks.dtype == DType::bf16) reinterpret_cast<bf16*>(scales_.data())[i] = bf16(scale);
            if (blocks.dtype == DType::f16) reinterpret_cast<fp16*>(scales_.data())[i] = fp16(scale);
            if (blocks.dtype == DType::f8_e8m0) reinterpret_cast<ue8m0*>(scales_.data())[i] = ue8m0::at_least(scale);
        }
        blocks.data = scales_.data();
        blocks.stride = blocks.block_rows == BlockScales::all ? 0 : across;
        ref_ = TensorRef(bytes_.data(), type, rows, cols, round_up(cols, Index{2}), blocks);
    }
    [[nodiscard]] const TensorRef& ref() const noexcept { return ref_; }
    [[nodiscard]] std::vector<std::uint8_t>& bytes() noexcept { return bytes_; }

  private:
    std::vector<std::uint8_t> bytes_;
    std::vector<std::uint8_t> scales_;
    TensorRef ref_;
};

/// y [T, out] of random activations, exact in bf16.
struct Product {
    std::vector<float> x, y;
    MatrixView<const float> x_view;

    template <Weight W>
    Product(const PackedMatrix<W>& weight, Index tokens, ExecutorRef executor = SerialExecutor{},
            Precision precision = Precision::operand) {
        Generator generator(static_cast<std::uint64_t>(tokens));
        for (const bf16 value : testing::gaussian_values<bf16>(generator, tokens * weight.in())) x.push_back(value);
        y.assign(static_cast<std::size_t>(tokens * weight.out()), std::numeric_limits<float>::quiet_NaN());
        x_view = {x.data(), tokens, weight.in()};
        linear<float>(x_view, weight, nullptr, MatrixView<float>(y.data(), tokens, weight.out()), executor, precision);
    }
    [[nodiscard]] std::vector<double> expected(const TensorRef& weight) const {
        return reference::linear(testing::widened(x, x_view.rows, x_view.cols), reference::to_matrix(weight)).values;
    }
};

template <QuantisedWeight W>
void expect_products(const TensorRef& weight, const std::string& what) {
    ASSERT_TRUE(detail::keeps<W>(weight)) << what;
    const PackedMatrix<W> packed(weight);
    for (const Index tokens : {1, 2, 3, 4, 5, 13, 64, 90})
        for (const Precision precision : {Precision::operand, Precision::full}) {
            const Product product(packed, tokens, SerialExecutor{}, precision);
            const auto error = testing::compare(product.y, product.expected(weight));
            EXPECT_TRUE(testing::within(error, testing::sum_tolerance<float>(weight.cols)))
                << what << ", " << tokens << " tokens: " << error;
        }
}

template <class W>
class QuantisedWeightsTest : public ::testing::Test {};

struct ListNames {
    template <class W>
    static std::string GetName(int /*index*/) {
        return Format<W>::name;
    }
};
using TestedTypes = ::testing::Types<fp8, int8, int4x8>;
TYPED_TEST_SUITE(QuantisedWeightsTest, TestedTypes, ListNames);

TYPED_TEST(QuantisedWeightsTest, MultiplyAsStoredWithScalesOfEveryKind) {
    constexpr DType type = Format<TypeParam>::stored_dtype;
    const BlockScales all(nullptr, DType::f32, BlockScales::all, BlockScales::all, 0);
    for (const auto& [blocks, what] :
         {std::pair{BlockScales(nullptr, DType::f32, 128, 128, 0), "128 x 128"},
          std::pair{BlockScales(nullptr, DType::f8_e8m0, 32, 32, 0), "32 x 32 of powers of two"},
          std::pair{BlockScales(nullptr, DType::bf16, 1, 32, 0), "groups of 32"},
          std::pair{BlockScales(nullptr, DType::f16, 1, 128, 0), "groups of 128"},
          std::pair{BlockScales(nullptr, DType::f32, 1, 24, 0), "groups of 24"},
          std::pair{BlockScales(nullptr, DType::bf16, 1, BlockScales::all, 0), "a row"}, std::pair{all, "all"}})
        for (const Index rows : {16, 45})
            for (const Index cols : {64, 130, 1100}) {
                const StoredWeight weight(type, rows, cols, blocks, 7);
                expect_products<TypeParam>(weight.ref(), std::string(what) + ", " + std::to_string(rows) + " rows, " +
                                                             std::to_string(cols) + " columns");
            }
}

TYPED_TEST(QuantisedWeightsTest, RanksOfATensorParallelLayerKeepTheirScales) {
    // o_proj of 40 heads of 64 values, cut for 8 ranks: 320 columns, in the middle of blocks of 128.
    const StoredWeight weight(Format<TypeParam>::stored_dtype, 300, 2560, BlockScales(nullptr, DType::f32, 128, 128, 0), 3);
    for (const Index rank : {0, 1, 5, 7})
        expect_products<TypeParam>(weight.ref().column_range(320 * rank, 320).row_range(37, 200), "rank " + std::to_string(rank));
}

TYPED_TEST(QuantisedWeightsTest, RowsOfMoreValuesThanAreRoundedAtATime) {
    const StoredWeight weight(Format<TypeParam>::stored_dtype, 20, 8300, BlockScales(nullptr, DType::f32, 1, 32, 0), 4);
    expect_products<TypeParam>(weight.ref(), "8300 columns");
}

/// Four bits may begin in the middle of a byte, in every row or in every other one.
TEST(QuantisedInt4Test, RowsMayBeginInTheMiddleOfAByte) {
    const StoredWeight weight(DType::i4, 50, 200, BlockScales(nullptr, DType::f32, 1, BlockScales::all, 0), 6);
    expect_products<int4x8>(weight.ref().column_range(33, 160), "from column 33");
    TensorRef odd = weight.ref();
    odd.stride = 177;
    odd.cols = 168;
    expect_products<int4x8>(odd, "177 apart");
}

/// Rows alone and in batches of some sizes have the bits that they have among `most`.
template <QuantisedWeight W>
void expect_same_bits_in_every_batch(const TensorRef& weight, Index most, Precision precision, const std::string& what) {
    const PackedMatrix<W> packed(weight);
    const Product together(packed, most, SerialExecutor{}, precision);
    const Index out = weight.rows;
    for (const Index batch : {1, 2, 5, 16, 17, 33, 65})
        for (Index t = 0; t + batch <= most; t += batch) {
            std::vector<float> alone(static_cast<std::size_t>(batch * out));
            linear<float>(together.x_view.row_range(t, batch), packed, nullptr, MatrixView<float>(alone.data(), batch, out),
                          SerialExecutor{}, precision);
            ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.y.begin() + t * out))
                << what << ", row " << t << ", " << batch;
        }
}

/// In `full`, where all targets multiply floats.
TYPED_TEST(QuantisedWeightsTest, ARowGetsTheSameBitsInEveryBatch) {
    for (const Index block : {BlockScales::all, Index{256}, Index{32}}) {
        const StoredWeight weight(Format<TypeParam>::stored_dtype, 37, 1030, BlockScales(nullptr, DType::f32, 1, block, 0), 5);
        expect_same_bits_in_every_batch<TypeParam>(weight.ref(), 30, Precision::full, "blocks of " + std::to_string(block));
    }
}

/// Tile registers take any number of rows: 90 are more than share the unpacking of a strip, 16 k fill no register.
TYPED_TEST(QuantisedWeightsTest, ARowGetsTheSameBitsInEveryBatchInTiles) {
    bool any = false;
    for (const std::string& name : testing::runnable_targets()) {
        if (name != "amx" && name != "emulated_amx") continue;
        any = true;
        const testing::OnTarget tiles(name);
        for (const Index block : {BlockScales::all, Index{256}, Index{64}, Index{32}, Index{16}}) {
            const StoredWeight weight(Format<TypeParam>::stored_dtype, 53, 430, BlockScales(nullptr, DType::f32, 1, block, 0), 5);
            expect_same_bits_in_every_batch<TypeParam>(weight.ref(), 90, Precision::operand,
                                                       name + ", blocks of " + std::to_string(block));
        }
    }
    if (!any) GTEST_SKIP() << "not linked";
}

TYPED_TEST(QuantisedWeightsTest, AMatrixRefusesScalesThatItCannotHold) {
    using testing::thrown;
    const StoredWeight weight(Format<TypeParam>::stored_dtype, 16, 128, BlockScales(nullptr, DType::f32, 1, 16, 0), 5);
    PackedMatrix<TypeParam> packed(1, 128, 16, 64);
    EXPECT_EQ(thrown<std::invalid_argument>([&] { packed.pack(0, weight.ref()); }),
              "mla: scale_step is 64, must be a divisor of the rows that share a scale of the weight");
    EXPECT_EQ(thrown<std::invalid_argument>([] { PackedMatrix<TypeParam>(1, 128, 16, 48); }),
              "mla: scale_step is 48, must be 8, 16, 32, 64 or 128");
    EXPECT_EQ(thrown<std::invalid_argument>([] { PackedMatrix<TypeParam>(1, 0, 16); }),
              "mla: packed weight columns is 0, must be at least 1");
}

TYPED_TEST(QuantisedWeightsTest, ProductsHaveTheSameBitsForAnyNumberOfThreads) {
    const StoredWeight weight(Format<TypeParam>::stored_dtype, 300, 700, BlockScales(nullptr, DType::f32, 1, 32, 0), 5);
    const PackedMatrix<TypeParam> packed(weight.ref());
    for (const Index tokens : {1, 5, 20}) {
        const Product serial(packed, tokens);
        const ThreadExecutor threads(3);
        EXPECT_EQ(Product(packed, tokens, threads).y, serial.y);
    }
}

TYPED_TEST(QuantisedWeightsTest, PackingHasTheSameBitsForAnyNumberOfThreads) {
    const StoredWeight weight(Format<TypeParam>::stored_dtype, 100, 200, BlockScales(nullptr, DType::f32, 1, 32, 0), 5);
    const ThreadExecutor threads(3);
    EXPECT_EQ(Product(PackedMatrix<TypeParam>(weight.ref(), threads), 3).y, Product(PackedMatrix<TypeParam>(weight.ref()), 3).y);
}

/// Codes are at most half a step off, of e4m3 a sixteenth of their value or half of the least one.
TYPED_TEST(QuantisedWeightsTest, AreMadeOfWiderValuesToTheNearest) {
    constexpr Index rows = 20, cols = 200, step = Format<TypeParam>::made_scale_step;
    Generator generator(9);
    auto values = testing::gaussian_values<float>(generator, rows * cols, 0.05);
    std::fill_n(values.begin(), step, 0.0F);
    const PackedMatrix<TypeParam> packed(TensorRef(values.data(), rows, cols));
    std::vector<float> unit(static_cast<std::size_t>(cols * cols)), stored(static_cast<std::size_t>(cols * rows));
    for (Index k = 0; k < cols; ++k) unit[static_cast<std::size_t>(k * cols + k)] = 1.0F;
    linear<float>(MatrixView<const float>(unit.data(), cols, cols), packed, nullptr, MatrixView<float>(stored.data(), cols, rows),
                  SerialExecutor{});
    for (Index n = 0; n < rows; ++n)
        for (Index k = 0; k < cols; ++k) {
            double largest = 0.0;
            for (Index i = k / step * step; i < std::min((k / step + 1) * step, cols); ++i)
                largest = std::max(largest, std::abs(static_cast<double>(values[static_cast<std::size_t>(n * cols + i)])));
            const double scale = largest / static_cast<double>(Format<TypeParam>::largest_code);
            const auto value = static_cast<double>(values[static_cast<std::size_t>(n * cols + k)]);
            const double bound = Format<TypeParam>::stored_dtype == DType::f8_e4m3
                                     ? std::max(std::abs(value) / 16.0, scale * 0x1p-10)
                                     : scale / 2.0;
            ASSERT_NEAR(static_cast<double>(stored[static_cast<std::size_t>(k * rows + n)]), value, 1.00001 * bound)
                << n << ", " << k;
        }
}

TEST(QuantisedFp8Test, ANaNMakesItsColumnNaNAndNoOther) {
    StoredWeight weight(DType::f8_e4m3, 40, 300, BlockScales(nullptr, DType::f32, 128, 128, 0), 2);
    weight.bytes()[17 * 300 + 200] = 0xff;
    const PackedMatrix<fp8> packed(weight.ref());
    for (const Index tokens : {1, 20}) {
        const Product product(packed, tokens);
        for (std::size_t i = 0; i < product.y.size(); ++i) EXPECT_EQ(std::isnan(product.y[i]), i % 40 == 17) << i;
    }
}

TEST(QuantisedFp8Test, BlocksThatAreNoWholeEightsAreNotKept) {
    const StoredWeight weight(DType::f8_e4m3, 16, 100, BlockScales(nullptr, DType::f32, 1, 20, 0), 2);
    EXPECT_FALSE(detail::keeps<fp8>(weight.ref()));
    EXPECT_TRUE(detail::keeps<fp8>(StoredWeight(DType::f8_e4m3, 16, 100, BlockScales(nullptr, DType::f32, 1, 40, 0), 2).ref()));
}

/// A layer's tensors, its projections in a quantised type with a scale a row, and everything else in bf16.
class StoredLayer {
  public:
    StoredLayer(const Config& config, DType type) : wide_(config, 31), weights_(wide_.refs()) {
        std::uint64_t seed = 40;
        for_each_tensor(config, weights_, [&](std::string_view name, TensorRef& tensor, Index rows, Index cols) {
            if (!name.ends_with("_proj") || name == "kv_b_proj") return;
            scales_.push_back(testing::gaussian_values<float>(generator_, rows, 0.1 / std::sqrt(static_cast<double>(cols)),
                                                              1.0 / std::sqrt(static_cast<double>(cols))));
            const float size = type == DType::f8_e4m3 ? 120.0F : type == DType::i8 ? 74.0F : 4.6F;
            for (float& scale : scales_.back()) scale /= size;
            stored_.emplace_back(type, rows, cols, BlockScales(nullptr, DType::f32, 1, BlockScales::all, 0), ++seed);
            tensor = stored_.back().ref();
            tensor.scales = BlockScales::per_row(scales_.back().data(), DType::f32);
        });
    }
    [[nodiscard]] const AttentionWeights& refs() const noexcept { return weights_; }

  private:
    testing::RandomWeights<bf16> wide_;
    AttentionWeights weights_;
    Generator generator_{30};
    std::list<StoredWeight> stored_;
    std::list<std::vector<float>> scales_;
};

TYPED_TEST(QuantisedWeightsTest, LayersThatKeepThemMatchTheReference) {
    constexpr Index tokens = 30;
    for (const auto& [name, config] : testing::small_configs()) {
        const StoredLayer weights(config, Format<TypeParam>::stored_dtype);
        const Attention<bf16> layer(config, weights.refs());
        const Attention<bf16> unpacked(config, weights.refs(), Precision::operand, PackOptions::all(Packing::layer_type));
        EXPECT_LT(layer.weight_bytes(), unpacked.weight_bytes()) << name;
        const Prompt<float> prompt(config, tokens, 22);
        LatentCache<float> cache(config, tokens);
        const auto y = feed(layer, prompt, {tokens - 3, 1, 2}, cache, Form::automatic);
        reference::Matrix rows(0, config.cache_dim());
        const auto expected =
            reference::forward(config, weights.refs(), prompt.matrix(), prompt.positions, rows, reference::Form::expanded);
        const double tolerance = testing::layer_tolerance<float>(config, tokens) + activation_allowance<bf16>;
        const auto error = compare(y, expected);
        EXPECT_TRUE(testing::within(error, tolerance)) << name << ": " << error << ", tolerance " << tolerance;
    }
}

/// Whether a layer keeps kv_b_proj with such scales; its results are the reference's, in either form.
void check_kept_heads(DType type, const BlockScales& blocks, bool kept) {
    constexpr Index tokens = 30;
    Config config = testing::small_config();
    config.qk_nope_head_dim = 24;
    config.v_head_dim = 16;
    const testing::RandomWeights<bf16> wide(config, 31);
    AttentionWeights weights = wide.refs();
    const StoredWeight kv_b(type, weights.kv_b_proj.rows, weights.kv_b_proj.cols, blocks, 8, 0.1);
    weights.kv_b_proj = kv_b.ref();
    const Attention<bf16> layer(config, weights);
    const Attention<bf16> unpacked(config, weights, Precision::operand, {.kv_b_proj = Packing::layer_type});
    EXPECT_EQ(layer.weight_bytes() < unpacked.weight_bytes(), kept);
    const Prompt<float> prompt(config, tokens, 22);
    reference::Matrix rows(0, config.cache_dim());
    const auto expected = reference::forward(config, weights, prompt.matrix(), prompt.positions, rows, reference::Form::expanded);
    for (const Form form : {Form::absorbed, Form::expanded}) {
        LatentCache<float> cache(config, tokens);
        const auto error = compare(feed(layer, prompt, {tokens - 1, 1}, cache, form), expected);
        const double rounded = kept ? 0.0 : testing::unit_roundoff<bf16>;
        EXPECT_TRUE(
            testing::within(error, testing::layer_tolerance<float>(config, tokens) + activation_allowance<bf16> + 2.0 * rounded))
            << error;
    }
}

TYPED_TEST(QuantisedWeightsTest, LayersKeepTheHalvesOfKvBWhereBothFormsCanMultiplyThem) {
    constexpr DType type = Format<TypeParam>::stored_dtype;
    check_kept_heads(type, BlockScales(nullptr, DType::f32, 8, 8, 0), true);
    check_kept_heads(type, BlockScales(nullptr, DType::bf16, BlockScales::all, 32, 0), true);
    check_kept_heads(type, BlockScales(nullptr, DType::f32, 1, 32, 0), false);   // a group of a row
    check_kept_heads(type, BlockScales(nullptr, DType::f32, 12, 32, 0), false);  // fours of rows
}

TEST(PackOptionsTest, NoCodesAreMadeOfKvB) {
    const Config config = testing::small_config();
    const testing::RandomWeights<bf16> weights(config, 1);
    EXPECT_EQ(testing::thrown<std::invalid_argument>(
                  [&] { Attention<bf16>(config, weights.refs(), Precision::operand, {.kv_b_proj = Packing::fp8}); }),
              "mla: kv_b_proj packing is 2, must be as_stored or layer_type");
}

TYPED_TEST(QuantisedWeightsTest, LayersOfDoubleMultiplyThemOut) {
    const Config config = testing::small_config();
    const StoredLayer weights(config, Format<TypeParam>::stored_dtype);
    const Attention<double> layer(config, weights.refs());
    const Prompt<double> prompt(config, 9, 22);
    LatentCache<double> cache(config, 9);
    reference::Matrix rows(0, config.cache_dim());
    const auto expected =
        reference::forward(config, weights.refs(), prompt.matrix(), prompt.positions, rows, reference::Form::expanded);
    const auto error = compare(feed(layer, prompt, {9}, cache, Form::automatic), expected);
    EXPECT_TRUE(testing::within(error, testing::layer_tolerance<double>(config, 9))) << error;
}

}  // namespace
}  // namespace mla
