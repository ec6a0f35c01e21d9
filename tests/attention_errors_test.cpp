// Each way to misuse the layer is refused with a message that names argument, value and rule, and changes nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mla/attention.hpp"
#include "support/layer.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

using testing::RandomWeights;
using testing::small_config;
using testing::small_yarn;
using testing::thrown;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// Constructor -------------------------------------------------------------------------------------------------------

struct BadConfig {
    std::function<void(Config&)> spoil;
    std::string message;
};

void expect_refused(const std::vector<BadConfig>& cases) {
    const RandomWeights<float> weights(small_config(), 51);
    for (const BadConfig& bad : cases) {
        Config config = small_config();
        bad.spoil(config);
        EXPECT_EQ(thrown<std::invalid_argument>([&] { Attention<float>(config, weights.refs()); }), "mla: " + bad.message);
        EXPECT_EQ(thrown<std::invalid_argument>([&] { LatentCache<float>(config, 1); }), "mla: " + bad.message);
    }
}

TEST(AttentionErrorsTest, RefusesDimensionsThatDescribeNoLayer) {
    expect_refused({
        {[](Config& c) { c.hidden_size = 0; }, "hidden_size is 0, must be in [1, 16777216]"},
        {[](Config& c) { c.hidden_size = Index{1} << 40; }, "hidden_size is 1099511627776, must be in [1, 16777216]"},
        {[](Config& c) { c.num_attention_heads = 0; }, "num_attention_heads is 0, must be in [1, 65536]"},
        {[](Config& c) { c.num_attention_heads = 65537; }, "num_attention_heads is 65537, must be in [1, 65536]"},
        {[](Config& c) { c.q_lora_rank = -1; }, "q_lora_rank is -1, must be in [0, 16777216]"},
        {[](Config& c) { c.kv_lora_rank = 0; }, "kv_lora_rank is 0, must be in [1, 16777216]"},
        {[](Config& c) { c.qk_nope_head_dim = 0; }, "qk_nope_head_dim is 0, must be in [1, 16777216]"},
        {[](Config& c) { c.qk_rope_head_dim = -2; }, "qk_rope_head_dim is -2, must be in [0, 16777216]"},
        {[](Config& c) { c.qk_rope_head_dim = 7; }, "qk_rope_head_dim is 7, must be even"},
        {[](Config& c) { c.v_head_dim = 0; }, "v_head_dim is 0, must be in [1, 16777216]"},
    });
}

TEST(AttentionErrorsTest, RefusesConstantsThatDescribeNoLayer) {
    expect_refused({
        {[](Config& c) { c.latent_norm_eps = -1e-6; }, "latent_norm_eps is -1e-06, must be finite and not negative"},
        {[](Config& c) { c.latent_norm_eps = nan; }, "latent_norm_eps is nan, must be finite and not negative"},
        {[](Config& c) { c.query_multiplier = 0; }, "query_multiplier is 0, must be finite and positive"},
        {[](Config& c) { c.query_multiplier = infinity; }, "query_multiplier is inf, must be finite and positive"},
        {[](Config& c) { c.latent_multiplier = -1; }, "latent_multiplier is -1, must be finite and positive"},
        {[](Config& c) { c.position_scale.beta = -0.5; }, "position_scale.beta is -0.5, must be finite and not negative"},
        {[](Config& c) { c.position_scale.period = 0; }, "position_scale.period is 0, must be at least 1"},
        {[](Config& c) { c.rope.base = 1.0; }, "rope.base is 1, must be finite and above 1"},
        {[](Config& c) { c.rope.base = infinity; }, "rope.base is inf, must be finite and above 1"},
    });
}

TEST(AttentionErrorsTest, RefusesRopeScalingsThatCannotScale) {
    const auto yarn = [](std::function<void(Yarn&)> spoil, std::string message) {
        return BadConfig{[spoil = std::move(spoil)](Config& c) {
                             Yarn bad = small_yarn();
                             spoil(bad);
                             c.rope.scaling = bad;
                         },
                         "rope.yarn." + std::move(message)};
    };
    const auto longrope = [](LongRope bad, std::string message) {
        return BadConfig{[bad = std::move(bad)](Config& c) { c.rope.scaling = bad; }, "rope.longrope." + std::move(message)};
    };
    expect_refused({
        yarn([](Yarn& y) { y.factor = 0.5; }, "factor is 0.5, must be finite and at least 1"),
        yarn([](Yarn& y) { y.factor = nan; }, "factor is nan, must be finite and at least 1"),
        yarn([](Yarn& y) { y.original_max_position = 0; }, "original_max_position is 0, must be in [1, 9223372036854775807]"),
        yarn([](Yarn& y) { y.beta_fast = 0; }, "beta_fast is 0, must be finite and positive"),
        yarn([](Yarn& y) { y.beta_slow = -1; }, "beta_slow is -1, must be finite and positive"),
        yarn([](Yarn& y) { y.beta_slow = 33; }, "beta_fast is 32, must be at least rope.yarn.beta_slow"),
        yarn([](Yarn& y) { y.mscale = -1; }, "mscale is -1, must be finite and not negative"),
        yarn([](Yarn& y) { y.mscale_all_dim = infinity; }, "mscale_all_dim is inf, must be finite and not negative"),
        yarn([](Yarn& y) { y.attention_factor = nan; }, "attention_factor is nan, must be finite and not negative"),
        longrope({{1, 1, 1, 1}, 1}, "factors.size() is 4, must be qk_rope_head_dim / 2 = 5"),
        longrope({{1, 1, 0, 1, 1}, 1}, "factors[i] is 0, must be finite and positive"),
        longrope({{1, 1, 1, 1, 1}, -1}, "attention_factor is -1, must be finite and positive"),
    });
}

TEST(AttentionErrorsTest, RefusesDimensionsOtherThanThoseFixedAtCompileTime) {
    const Config config = small_config();  // Dc 33, Dr 10
    const RandomWeights<float> weights(config, 52);
    using WrongRank = Attention<float, 32, 10>;
    using WrongRope = Attention<float, 33, 8>;
    using DefaultRope = Attention<float, 33>;
    EXPECT_EQ(thrown<std::invalid_argument>([&] { WrongRank(config, weights.refs()); }),
              "mla: kv_lora_rank is 33, must be Attention's Dc = 32");
    EXPECT_EQ(thrown<std::invalid_argument>([&] { WrongRope(config, weights.refs()); }),
              "mla: qk_rope_head_dim is 10, must be Attention's Dr = 8");
    EXPECT_EQ(thrown<std::invalid_argument>([&] { DefaultRope(config, weights.refs()); }),
              "mla: qk_rope_head_dim is 10, must be Attention's Dr = 64");
}

/// Spoils every tensor that `config` calls for in each way, one at a time.
void expect_every_tensor_checked(const Config& config) {
    const RandomWeights<float> weights(config, 53);
    const auto shape = [](Index rows, Index cols) { return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]"; };
    AttentionWeights listed;
    int count = 0;
    for_each_tensor(config, listed, [&](const char*, TensorRef&, Index, Index) { ++count; });
    for (int spoiled = 0; spoiled < count; ++spoiled) {
        const auto expect = [&](auto change, auto expected_message) {
            AttentionWeights tensors = weights.refs();
            std::string message;
            int index = 0;
            for_each_tensor(config, tensors, [&](const char* name, TensorRef& tensor, Index rows, Index cols) {
                if (index++ != spoiled) return;
                change(tensor);
                message = expected_message(std::string(name), rows, cols);
            });
            EXPECT_EQ(thrown<std::invalid_argument>([&] { Attention<float>(config, tensors); }), "mla: " + message);
        };
        expect([](TensorRef& t) { t = {}; }, [&](const std::string& name, Index rows,
                                                 Index cols) { return name + " is missing, must be " + shape(rows, cols); });
        expect([](TensorRef& t) { ++t.rows; },
               [&](const std::string& name, Index rows, Index cols) {
                   return name + " is " + shape(rows + 1, cols) + ", must be " + shape(rows, cols);
               });
        expect([](TensorRef& t) { --t.cols; },
               [&](const std::string& name, Index rows, Index cols) {
                   return name + " is " + shape(rows, cols - 1) + ", must be " + shape(rows, cols);
               });
        expect([](TensorRef& t) { --t.stride; },
               [&](const std::string& name, Index, Index cols) {
                   return name + " row stride is " + std::to_string(cols - 1) + ", must be at least " + std::to_string(cols);
               });
    }
}

TEST(AttentionErrorsTest, RefusesEachTensorThatIsMissingOrMisshapen) {
    Config config = small_config();
    config.attention_bias = true;
    expect_every_tensor_checked(config);
    config.q_lora_rank = 0;
    expect_every_tensor_checked(config);
}

// forward -----------------------------------------------------------------------------------------------------------

/// A layer with eight cached tokens, and the arguments of a valid call, for a test to spoil.
class ForwardErrorsTest : public ::testing::Test {
  protected:
    static constexpr Index cached = 8, T = 3, capacity = 12;

    ForwardErrorsTest() : layer(config, RandomWeights<float>(config, 54).refs()), cache(config, capacity) {
        const Prompt<float> prompt(config, cached, 55);
        static_cast<void>(feed(layer, prompt, {cached}, cache));
        y.setConstant(T, config.hidden_size, 7.0F);
    }

    /// The call throws Exception with `message`, and cache and y are as they were.
    template <class Exception>
    void expect_refused(LatentCache<float>& into, const std::string& message) {
        const std::vector<std::byte> before = bytes(into);
        const Index size = into.size();
        const RowMatrix<float> y_before = y;
        EXPECT_EQ(thrown<Exception>([&] { layer.forward(x, positions, into, y, SerialExecutor{}, workspace); }),
                  "mla: " + message);
        EXPECT_EQ(into.size(), size) << message;
        EXPECT_EQ(bytes(into), before) << message;
        EXPECT_TRUE(same_bits(y, y_before)) << message;
    }
    void expect_invalid(const std::string& message) { expect_refused<std::invalid_argument>(cache, message); }

    /// All the memory of a cache, rows not yet used included.
    static std::vector<std::byte> bytes(const LatentCache<float>& cache) {
        std::vector<std::byte> copy(static_cast<std::size_t>(cache.capacity() * cache.bytes_per_token()));
        if (!copy.empty()) std::memcpy(copy.data(), cache.view().data, copy.size());
        return copy;
    }

    Config config = small_config();
    Attention<float> layer;
    LatentCache<float> cache;
    RowMatrix<float> x = Prompt<float>(config, T, 56).x;
    std::vector<std::int64_t> positions = testing::consecutive(cached, T);
    RowMatrix<float> y;
    Workspace workspace;
};

TEST_F(ForwardErrorsTest, RefusesInputOfAnotherWidth) {
    x.setZero(T, 44);
    expect_invalid("x.cols() is 44, must be hidden_size = 45");
}

TEST_F(ForwardErrorsTest, RefusesPositionsThatAreNotOneAToken) {
    positions.pop_back();
    expect_invalid("positions.size() is 2, must be x.rows() = 3");
}

TEST_F(ForwardErrorsTest, RefusesNegativePositions) {
    positions.back() = -1;
    expect_invalid("positions[t] is -1, must be at least 0");
}

TEST_F(ForwardErrorsTest, RefusesOutputOfAnotherShape) {
    y.setConstant(T + 1, 45, 7.0F);
    expect_invalid("y.rows() is 4, must be x.rows() = 3");
    y.setConstant(T, 46, 7.0F);
    expect_invalid("y.cols() is 46, must be hidden_size = 45");
}

TEST_F(ForwardErrorsTest, RefusesACacheOfAnotherGeometry) {
    const auto refused = [&](auto change, const std::string& message) {
        Config other = config;
        change(other);
        LatentCache<float> wrong(other, capacity);
        std::memset(const_cast<float*>(wrong.view().data), 0, static_cast<std::size_t>(capacity * wrong.bytes_per_token()));
        expect_refused<std::invalid_argument>(wrong, message);
    };
    refused([](Config& c) { c.kv_lora_rank = 34; }, "cache.latent_dim() is 34, must be kv_lora_rank = 33");
    refused([](Config& c) { c.qk_rope_head_dim = 8; }, "cache.rope_dim() is 8, must be qk_rope_head_dim = 10");
    refused([](Config& c) { c.rope.pairing = RopePairing::half_split; }, "cache.pairing() is half_split, must be interleaved");
}

TEST_F(ForwardErrorsTest, RefusesTokensThatDoNotFitTheCache) {
    x = Prompt<float>(config, 5, 57).x;
    positions = testing::consecutive(cached, 5);
    y.setConstant(5, 45, 7.0F);
    expect_refused<std::length_error>(cache, "tokens to append is 5, must be at most 4");
    LatentCache<float> taken = std::move(cache);
    expect_refused<std::length_error>(cache, "tokens to append is 5, must be at most 0");  // moved from: holds and takes none
    EXPECT_EQ(taken.size(), cached);
}

TEST_F(ForwardErrorsTest, RefusesAWorkspaceThatIsTooSmall) {
    const std::size_t needed = layer.workspace_bytes(T, 1);
    const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(needed));
    workspace = Workspace(std::span(memory.get(), needed - 1));
    expect_refused<std::length_error>(
        cache, "workspace bytes needed is " + std::to_string(needed) + ", must be at most " + std::to_string(needed - 1));
}

TEST_F(ForwardErrorsTest, GoesOnAfterARefusalAsIfNothingHadHappened) {
    positions.back() = -1;
    expect_invalid("positions[t] is -1, must be at least 0");
    positions.back() = cached + T - 1;
    LatentCache<float> untouched = cache.fork(cached, capacity);
    layer.forward(x, positions, cache, y, SerialExecutor{}, workspace);
    RowMatrix<float> expected(T, config.hidden_size);
    layer.forward(x, positions, untouched, expected);
    EXPECT_TRUE(same_bits(y, expected));
    EXPECT_TRUE(same_tokens(cache, untouched));
}

}  // namespace
}  // namespace mla
