// The layer with narrow weights and caches, with weights from elsewhere, and with dimensions fixed at compile time.
#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

#include "mla/attention.hpp"
#include "support/kernels.hpp"
#include "support/layer.hpp"

namespace mla {
namespace {

using testing::layer_tolerance;
using testing::RandomWeights;
using testing::small_config;
using testing::small_configs;
using testing::unit_roundoff;
using testing::within;

constexpr Form forms[] = {Form::absorbed, Form::expanded};

template <Storage T, Storage C>
struct Types {
    using Weight = T;
    using Cached = C;
};

template <class Pair>
class AttentionTypesTest : public ::testing::Test {};
using Pairs =
    ::testing::Types<Types<bf16, bf16>, Types<fp16, fp16>, Types<bf16, float>, Types<float, bf16>, Types<double, float>>;
TYPED_TEST_SUITE(AttentionTypesTest, Pairs);

/// What the oracle makes of the rows that a cache really holds.
reference::Matrix attend_to(const reference::Matrix& rows, const Config& config, const AttentionWeights& weights,
                            const reference::Matrix& x, std::span<const std::int64_t> positions) {
    const auto q = reference::project_queries(config, weights, x, positions);
    const auto o = reference::attend_expanded_form(config, weights, q, rows).output;
    return reference::project_output(config, weights, reference::gate_output(config, weights, x, o));
}

TYPED_TEST(AttentionTypesTest, MatchesTheReferenceOnTheRoundedCache) {
    using T = typename TypeParam::Weight;
    using C = typename TypeParam::Cached;
    using A = compute_t<T>;
    constexpr Index tokens = 120;
    for (const auto& [name, config] : small_configs()) {
        const RandomWeights<T> weights(config, 21);
        const Attention<T> layer(config, weights.refs());
        const Prompt<A> prompt(config, tokens, 22);
        for (const Form form : forms)
            for (const std::vector<Index>& chunks : {std::vector<Index>{tokens}, {70, 1, 49}}) {
                // Where the cache is bf16, the absorbed kernel rounds queries as well as probabilities, the expanded one keys and
                // values too.
                const double rounding = form == Form::expanded ? decompressed_allowance<C, A> : 2.0 * decode_allowance<C, A>;
                const double product = layer_tolerance<A>(config, tokens) + activation_allowance<T>;
                const double tolerance = product + rounding;
                LatentCache<C> cache(config, tokens);
                const auto y = feed(layer, prompt, chunks, cache, form);
                const auto rows = cached_rows(cache);
                const auto row_error = testing::compare(
                    rows.values, reference::project_cache_rows(config, weights.refs(), prompt.matrix(), prompt.positions).values);
                EXPECT_TRUE(within(row_error, product + unit_roundoff<C>)) << name << ": cache " << row_error;
                const auto error = compare(y, attend_to(rows, config, weights.refs(), prompt.matrix(), prompt.positions));
                EXPECT_TRUE(within(error, tolerance))
                    << name << ", form " << int(form) << ": " << error << ", tolerance " << tolerance;
            }
    }
}

// Weights of bf16 lie in pairs and are summed in another order than those of float, but however they came.
TEST(AttentionTypesTest, EqualWeightsOfAnyTypeGiveTheSameResult) {
    const Config config = small_config();
    const RandomWeights<bf16> narrow(config, 23);
    // The same values as float, in rows with a gap, and in Eigen's own bfloat16.
    AttentionWeights wide = narrow.refs();
    AttentionWeights eigen = narrow.refs();
    std::vector<std::vector<float>> gapped;
    std::vector<Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> matrices;
    gapped.reserve(16);
    matrices.reserve(16);
    for_each_tensor(config, wide, [&](const char*, TensorRef& tensor, Index rows, Index cols) {
        const auto* source = static_cast<const bf16*>(tensor.data);
        auto& values = gapped.emplace_back(static_cast<std::size_t>(rows * (cols + 3)), 12345.0F);
        for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < cols; ++c) values[static_cast<std::size_t>(r * (cols + 3) + c)] = source[r * cols + c];
        tensor = TensorRef(values.data(), DType::f32, rows, cols, cols + 3);
    });
    for_each_tensor(config, eigen, [&](const char*, TensorRef& tensor, Index rows, Index cols) {
        auto& matrix = matrices.emplace_back(rows, cols);
        std::memcpy(matrix.data(), tensor.data, static_cast<std::size_t>(rows * cols) * sizeof(bf16));
        tensor = tensor_ref(matrix);
    });
    const Prompt<float> prompt(config, 20, 24);
    for (const Form form : forms) {
        const auto expected = run<bf16>(Attention<bf16>(config, narrow.refs()), prompt, form);
        const auto error = compare(run<float>(Attention<float>(config, wide), prompt, form),
                                   run<float>(Attention<bf16>(config, narrow.refs()), prompt, form));
        EXPECT_TRUE(within(error, layer_tolerance<float>(config, 20) + activation_allowance<bf16>)) << error;
        EXPECT_TRUE(same_bits(run<bf16>(Attention<bf16>(config, wide), prompt, form), expected));
        EXPECT_TRUE(same_bits(run<bf16>(Attention<bf16>(config, eigen), prompt, form), expected));
    }
}

TEST(AttentionTypesTest, NarrowWeightsTakeLessMemory) {
    Config config = small_config();
    // Even, as all published ones are: weights of bf16 lie in pairs of inputs.
    for (Index* dim : {&config.hidden_size, &config.q_lora_rank, &config.kv_lora_rank, &config.qk_nope_head_dim})
        *dim = round_up(*dim, Index{2});
    config.v_head_dim = 12;
    const Attention<float> wide(config, RandomWeights<float>(config, 25).refs());
    const Attention<bf16> narrow(config, RandomWeights<bf16>(config, 25).refs());
    EXPECT_EQ(2 * narrow.weight_bytes(), wide.weight_bytes());
}

/// The layer with dimensions fixed at compile time does bit for bit what the dynamic one does.
template <int Dc, int Dr>
void expect_same_as_dynamic() {
    Config config = small_config();
    config.kv_lora_rank = Dc;
    config.qk_rope_head_dim = Dr;
    const RandomWeights<float> weights(config, 26);
    const Attention<float> dynamic(config, weights.refs());
    const Attention<float, Dc, Dr> fixed(config, weights.refs());
    EXPECT_EQ(fixed.workspace_bytes(120, 2), dynamic.workspace_bytes(120, 2));
    const Prompt<float> prompt(config, 120, 27);
    for (const Form form : forms) {
        LatentCache<float> dynamic_cache(config, 120);
        LatentCache<float> fixed_cache(config, 120);
        const auto expected = feed(dynamic, prompt, {100, 1, 19}, dynamic_cache, form);
        EXPECT_TRUE(same_bits(feed(fixed, prompt, {100, 1, 19}, fixed_cache, form), expected)) << "form " << int(form);
        EXPECT_TRUE(same_tokens(fixed_cache, dynamic_cache));
    }
}

TEST(AttentionTypesTest, DimensionsFixedAtCompileTimeGiveTheSameBits) {
    expect_same_as_dynamic<512, 64>();
    expect_same_as_dynamic<33, 0>();
    static_assert(std::is_same_v<Attention<float, 512>, Attention<float, 512, 64>>);
    static_assert(std::is_same_v<Attention<float>, Attention<float, Dynamic, Dynamic>>);
}

}  // namespace
}  // namespace mla
