// The decoder of examples/generate, on the checkpoint that lies beside it: the same numbers and the same text as transformers
// (tests/generate/expected.safetensors, written by examples/generate/train/expected.py), and what a rounded cache costs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "decoder.hpp"
#include "evaluate.hpp"
#include "mla/io/safetensors.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/weights.hpp"
#include "mla/testing/random.hpp"
#include "sampler.hpp"
#include "support/checkpoint_folder.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace {

using namespace generate;
using mla::testing::thrown;
namespace fs = std::filesystem;

const fs::path example_folder = MLA_EXAMPLE_DIR;

/// As transformers compute it here: in float.
const Decoder& decoder() {
    static const Decoder loaded(example_folder / "model", {}, mla::Precision::full);
    return loaded;
}
/// As it is published to be computed: in bf16.
const Decoder& rounded_decoder() {
    static const Decoder loaded(example_folder / "model");
    return loaded;
}

/// What transformers gave.
struct Expected {
    mla::io::Safetensors file{fs::path(MLA_TEST_DIR) / "generate/expected.safetensors"};
    std::vector<Token> tokens = bytes("tokens");
    mla::reference::Matrix logits = mla::reference::to_matrix(file.tensor("logits"));  // [T, 256]
    double bits_a_byte = about().at("held_out_bits_a_byte");
    std::size_t context = about().at("context");

    [[nodiscard]] std::vector<Token> bytes(const char* name) const {
        std::vector<Token> values;
        for (const std::byte value : file.bytes(name)) values.push_back(static_cast<Token>(value));
        return values;
    }
    [[nodiscard]] nlohmann::json about() const { return nlohmann::json::parse(file.metadata().at("about")); }
};

/// Logits of all tokens, fed in pieces of the given size.
Matrix logits_in_pieces(const std::vector<Token>& tokens, std::size_t piece) {
    mla::Workspace workspace;
    const mla::SerialExecutor executor;
    Caches<float> caches = decoder().make_caches<float>(static_cast<Index>(tokens.size()));
    Matrix logits(static_cast<Index>(tokens.size()), decoder().vocabulary());
    for (std::size_t begin = 0; begin < tokens.size(); begin += piece) {
        const std::size_t count = std::min(piece, tokens.size() - begin);
        const Matrix x = decoder().forward(std::span(tokens).subspan(begin, count), caches, executor, workspace);
        logits.middleRows(static_cast<Index>(begin), static_cast<Index>(count)) = decoder().logits(x, executor);
    }
    return logits;
}

TEST(GenerateTest, LogitsOfEveryPositionAreThoseOfTransformers) {
    const Expected expected;
    ASSERT_EQ(expected.logits.rows, 256);
    for (const std::size_t piece : {expected.tokens.size(), std::size_t{100}, std::size_t{1}}) {
        const Matrix logits = logits_in_pieces(expected.tokens, piece);
        double worst = 0.0;
        for (Index t = 0; t < logits.rows(); ++t)
            for (Index i = 0; i < logits.cols(); ++i) {
                const double difference = std::abs(static_cast<double>(logits(t, i)) - expected.logits(t, i));
                ASSERT_TRUE(difference <= 1e-4) << "position " << t << ", byte " << i << ", pieces of " << piece;
                worst = std::max(worst, difference);
            }
        std::printf("pieces of %zu: largest difference %.2e\n", piece, worst);
    }
}

TEST(GenerateTest, GreedyTextIsThatOfTransformers) {
    const Expected expected;
    const std::vector<Token> text = expected.bytes("greedy_text");
    ASSERT_EQ(text.size(), 200U);
    const std::vector<Token> prompt = expected.bytes("greedy_prompt");
    mla::Workspace workspace;
    const mla::SerialExecutor executor;
    Caches<float> caches = decoder().make_caches<float>(static_cast<Index>(prompt.size() + text.size()));
    Sampler greedy(0.0);
    Matrix x = decoder().forward(prompt, caches, executor, workspace);
    for (std::size_t i = 0; i < text.size(); ++i) {
        const Matrix logits = decoder().logits(x.bottomRows(1), executor);
        const Token next = greedy({logits.data(), static_cast<std::size_t>(logits.size())});
        ASSERT_EQ(next, text[i]) << "byte " << i;
        x = decoder().forward(std::span(&next, 1), caches, executor, workspace);
    }
}

// What compression costs ------------------------------------------------------------------------------------------------

std::string held_out_text() {
    std::ifstream file(example_folder / "held_out.txt", std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A cache type, and how many bits a byte it may add to what transformers predicts with in float.
template <class C>
struct AddedBits;
template <>
struct AddedBits<float> {
    static constexpr double most = 1e-5;
};
template <>
struct AddedBits<mla::fp16> {
    static constexpr double most = 1e-3;
};
template <>
struct AddedBits<mla::bf16> {
    static constexpr double most = 3e-3;
};
template <>
struct AddedBits<mla::int8> {
    static constexpr double most = 1e-2;
};
template <>
struct AddedBits<mla::fp8> {
    static constexpr double most = 3e-2;
};
template <>
struct AddedBits<mla::fp8_v4> {
    static constexpr double most = 3e-2;
};

template <class C>
class PerplexityTest : public ::testing::Test {};
using FloatCaches = mla::TestTypes<mla::Without<double, mla::CacheTypes>>;
TYPED_TEST_SUITE(PerplexityTest, FloatCaches, );

TYPED_TEST(PerplexityTest, HeldOutTextCostsHardlyMoreThanInTransformers) {
    const Expected expected;
    const std::string text = held_out_text();
    ASSERT_EQ(text.size(), 16384U);
    const double bits = bits_a_byte<TypeParam>(decoder(), text, expected.context, expected.context, mla::SerialExecutor{});
    const double added = bits - expected.bits_a_byte;
    std::printf("%.5f bits a byte, %+.1e\n", bits, added);
    EXPECT_TRUE(std::abs(added) <= AddedBits<TypeParam>::most) << bits << " bits a byte, transformers " << expected.bits_a_byte;
}

TEST(GenerateTest, ReadingByteByByteOrAtOnceMakesNoDifference) {
    const std::string text = held_out_text().substr(0, 1024);
    const double at_once = bits_a_byte<float>(decoder(), text, 256, 256, mla::SerialExecutor{});
    EXPECT_NEAR(bits_a_byte<float>(decoder(), text, 256, 1, mla::SerialExecutor{}), at_once, 1e-5);
    EXPECT_NEAR(bits_a_byte<float>(decoder(), text, 256, 100, mla::SerialExecutor{}), at_once, 1e-5);
}

/// Rounded operands are the same ones however a text is cut, as long as one form of attention is used: the forms round different
/// vectors, the absorbed one queries that went through W_UK, the expanded one keys that did. Most bytes come out the same to the
/// bit; floats near a boundary of bf16 round apart now and then, and an expert near its neighbour is another one.
TEST(GenerateTest, RoundedOperandsDoNotDependOnHowATextIsCut) {
    const std::string text = held_out_text().substr(0, 1024);
    for (const mla::Form form : {mla::Form::absorbed, mla::Form::expanded}) {
        const auto bits = [&](std::size_t piece) {
            return bits_of_bytes<mla::bf16>(rounded_decoder(), text, 256, piece, mla::SerialExecutor{}, form);
        };
        const auto at_once = bits(256);
        for (const std::size_t piece : {std::size_t{100}, std::size_t{1}}) {
            auto gaps = bits(piece);
            std::ranges::transform(gaps, at_once, gaps.begin(), [](double a, double b) { return std::abs(a - b); });
            std::ranges::sort(gaps);
            const auto quantile = [&](double q) { return gaps[static_cast<std::size_t>(q * static_cast<double>(gaps.size()))]; };
            std::printf("%s, by %zu: bits of a byte differ by %.1e (median), %.1e (90 %%), %.1e (99 %%)\n",
                        form == mla::Form::absorbed ? "absorbed" : "expanded", piece, quantile(0.5), quantile(0.9),
                        quantile(0.99));
            EXPECT_EQ(quantile(0.5), 0.0);
            EXPECT_LE(quantile(0.9), 5e-3);
            EXPECT_LE(quantile(0.99), 2e-2);
        }
    }
}

// Routing -----------------------------------------------------------------------------------------------------------------

/// Logits whose sigmoids are the given scores.
std::vector<float> logits_of(const std::vector<float>& scores) {
    std::vector<float> logits;
    for (const float score : scores) logits.push_back(std::log(score / (1.0F - score)));
    return logits;
}

void expect_routes(const RoutingRule& rule, const std::vector<float>& scores, const std::vector<float>& bias,
                   const std::vector<Route>& expected) {
    const auto routes = route(rule, logits_of(scores).data(), bias);
    ASSERT_EQ(routes.size(), expected.size());
    for (std::size_t i = 0; i < routes.size(); ++i) {
        EXPECT_EQ(routes[i].first, expected[i].first);
        EXPECT_NEAR(routes[i].second, expected[i].second, 1e-6F);
    }
}

TEST(RoutingTest, TakesTheBestExpertsOfTheBestGroups) {
    RoutingRule rule{.experts = 6, .chosen = 2, .groups = 3, .groups_chosen = 2, .normalise = true, .scale = 2.5F};
    // Worth of the groups: 1.0, 0.9, 0.8. The last holds the second best expert, and is not looked at.
    const std::vector<float> scores = {0.9F, 0.1F, 0.4F, 0.5F, 0.75F, 0.05F};
    const std::vector<float> none(6, 0.0F);
    expect_routes(rule, scores, none, {{0, 2.5F * 0.9F / 1.4F}, {3, 2.5F * 0.5F / 1.4F}});
    rule.groups_chosen = 3;
    expect_routes(rule, scores, none, {{0, 2.5F * 0.9F / 1.65F}, {4, 2.5F * 0.75F / 1.65F}});
    rule.normalise = false;
    expect_routes(rule, scores, none, {{0, 2.5F * 0.9F}, {4, 2.5F * 0.75F}});
}

TEST(RoutingTest, BiasDecidesTheChoiceAndNotTheWeight) {
    const RoutingRule rule{.experts = 4, .chosen = 2, .groups = 2, .groups_chosen = 1, .normalise = true, .scale = 1.0F};
    const std::vector<float> scores = {0.9F, 0.8F, 0.2F, 0.3F};
    expect_routes(rule, scores, {0, 0, 0, 0}, {{0, 0.9F / 1.7F}, {1, 0.8F / 1.7F}});
    expect_routes(rule, scores, {0, 0, 0.7F, 0.7F}, {{3, 0.3F / 0.5F}, {2, 0.2F / 0.5F}});
}

TEST(RoutingTest, RefusesAnotherWayOfChoosing) {
    const nlohmann::json config = {{"n_routed_experts", 8}, {"num_experts_per_tok", 2}, {"n_group", 4},
                                   {"topk_group", 2},       {"norm_topk_prob", true},   {"routed_scaling_factor", 1.0}};
    EXPECT_NO_THROW(static_cast<void>(RoutingRule::of(config)));
    for (const auto& [field, value] : std::vector<std::pair<std::string, nlohmann::json>>{
             {"scoring_func", "softmax"}, {"n_group", 3}, {"n_group", 0}, {"topk_group", 5}, {"num_experts_per_tok", 5}}) {
        nlohmann::json changed = config;
        changed[field] = value;
        EXPECT_THROW(static_cast<void>(RoutingRule::of(changed)), std::invalid_argument) << field;
    }
}

// Sampling ----------------------------------------------------------------------------------------------------------------

TEST(SamplerTest, TakesTheBestAtTemperatureZero) {
    const std::vector<float> logits = {-1.0F, 3.0F, 2.0F, 3.0F};
    Sampler greedy(0.0);
    for (int i = 0; i < 10; ++i) EXPECT_EQ(greedy(logits), 1);
}

TEST(SamplerTest, DrawsAsOftenAsTheSoftmaxSays) {
    const std::vector<float> logits = {std::log(1.0F), std::log(3.0F), std::log(6.0F)};
    for (const double temperature : {1.0, 0.5}) {
        Sampler sample(temperature, 5);
        constexpr int draws = 20000;
        std::vector<int> counts(3);
        for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sample(logits))];
        double total = 0.0;
        for (const float logit : logits) total += std::exp(static_cast<double>(logit) / temperature);
        for (std::size_t i = 0; i < 3; ++i) {
            const double share = std::exp(static_cast<double>(logits[i]) / temperature) / total;
            const double deviation = std::sqrt(share * (1.0 - share) / draws);
            EXPECT_NEAR(static_cast<double>(counts[i]) / draws, share, 5.0 * deviation) << temperature << ", " << i;
        }
    }
}

TEST(SamplerTest, RepeatsItselfForASeed) {
    const std::vector<float> logits(50, 0.0F);
    Sampler first(1.0, 3), same(1.0, 3), other(1.0, 4);
    std::vector<Token> a, b, c;
    for (int i = 0; i < 20; ++i) {
        a.push_back(first(logits));
        b.push_back(same(logits));
        c.push_back(other(logits));
    }
    EXPECT_EQ(a, b);
    EXPECT_NE(a, c);
}

// Errors ------------------------------------------------------------------------------------------------------------------

TEST(DecoderTest, RefusesTokensOutsideItsVocabulary) {
    mla::Workspace workspace;
    Caches<float> caches = decoder().make_caches<float>(2);
    for (const Token token : {-1, 256}) {
        const std::string message = thrown<std::invalid_argument>(
            [&] { static_cast<void>(decoder().forward(std::span(&token, 1), caches, mla::SerialExecutor{}, workspace)); });
        EXPECT_NE(message.find(std::to_string(token)), std::string::npos) << message;
        EXPECT_EQ(caches.front().size(), 0);
    }
}

TEST(DecoderTest, NamesTheExpertThatIsMissing) {
    const mla::testing::CheckpointFolder folder;
    for (const auto& entry : fs::directory_iterator(example_folder / "model"))
        if (entry.path().extension() == ".safetensors") fs::copy(entry.path(), folder.path());
    nlohmann::json config = nlohmann::json::parse(std::ifstream(example_folder / "model/config.json"));
    nlohmann::json index = nlohmann::json::parse(std::ifstream(example_folder / "model/model.safetensors.index.json"));
    const std::string expert = "model.layers.2.mlp.experts.7.up_proj.weight";
    ASSERT_EQ(index["weight_map"].erase(expert), 1U);
    folder.write("config.json", config.dump());
    folder.write("model.safetensors.index.json", index.dump());
    const std::string message = thrown<mla::io::CheckpointError>([&] { Decoder broken(folder.path()); });
    EXPECT_NE(message.find(expert), std::string::npos) << message;
}

// Models that differ in their attention ----------------------------------------------------------------------------------

/// The trained model as one that selects keys: GLM-5's type, random indexers in every second layer, whose selection the next
/// shares.
class SparseModel {
  public:
    explicit SparseModel(Index top_k) {
        const fs::path model = example_folder / "model";
        nlohmann::json config = nlohmann::json::parse(std::ifstream(model / "config.json"));
        config.update({{"model_type", "glm_moe_dsa"}, {"index_topk", top_k}, {"index_n_heads", 4}, {"index_head_dim", 24}});
        const Index layers = config.at("num_hidden_layers");
        config["indexer_types"] = nlohmann::json::array();
        for (Index layer = 0; layer < layers; ++layer) config["indexer_types"].push_back(layer % 2 == 0 ? "full" : "shared");
        folder_.write("config.json", config.dump());
        nlohmann::json index = nlohmann::json::parse(std::ifstream(model / "model.safetensors.index.json"));
        std::vector<mla::testing::StoredTensor> tensors;
        for (Index layer = 0; layer < layers; layer += 2)
            add_indexer(*mla::io::parse_hf_layers(config)[static_cast<std::size_t>(layer)], layer, tensors);
        for (const auto& tensor : tensors) index["weight_map"][tensor.name] = "indexers.safetensors";
        folder_.write("indexers.safetensors", tensors);
        folder_.write("model.safetensors.index.json", index.dump());
        for (const auto& entry : fs::directory_iterator(model))
            if (entry.path().extension() == ".safetensors")
                fs::create_symlink(entry.path(), folder_.path() / entry.path().filename());
    }

    [[nodiscard]] Decoder decoder() const { return Decoder(folder_.path(), {}, mla::Precision::full); }

  private:
    static void add_indexer(const mla::Config& config, Index layer, std::vector<mla::testing::StoredTensor>& tensors) {
        const mla::testing::RandomWeights<mla::bf16> weights(config, static_cast<std::uint64_t>(layer));
        for (auto& tensor : mla::testing::stored_layer(config, weights.refs(), layer))
            if (tensor.name.find(".indexer.") != std::string::npos) tensors.push_back(std::move(tensor));
    }

    mla::testing::CheckpointFolder folder_;
};

/// Logits of the last token after a text that is fed in two pieces.
Matrix last_logits(const Decoder& model, const std::vector<Token>& tokens) {
    Caches<float> caches = model.make_caches<float>(static_cast<Index>(tokens.size()));
    mla::Workspace workspace;
    static_cast<void>(model.forward(std::span(tokens).first(tokens.size() - 3), caches, mla::SerialExecutor{}, workspace));
    const Matrix x = model.forward(std::span(tokens).last(3), caches, mla::SerialExecutor{}, workspace);
    EXPECT_EQ(caches.back().size(), static_cast<Index>(tokens.size()));
    return model.logits(x.bottomRows(1), mla::SerialExecutor{});
}

std::vector<Token> first_tokens(std::size_t count) {
    std::vector<Token> tokens = Expected().tokens;
    tokens.resize(count);
    return tokens;
}

TEST(GenerateSparseTest, AModelThatSelectsAllKeysIsTheDenseOneToTheBit) {
    const std::vector<Token> tokens = first_tokens(100);
    const Decoder sparse = SparseModel(100).decoder();
    EXPECT_TRUE((last_logits(sparse, tokens).array() == last_logits(decoder(), tokens).array()).all());
}

TEST(GenerateSparseTest, AModelThatSelectsFewIsAnother) {
    const std::vector<Token> tokens = first_tokens(100);
    const Decoder sparse = SparseModel(20).decoder();
    const Matrix logits = last_logits(sparse, tokens);
    EXPECT_TRUE(logits.allFinite());
    const float difference = (logits - last_logits(decoder(), tokens)).norm() / logits.norm();
    EXPECT_GT(difference, 1e-3F);
    EXPECT_LT(difference, 1.5F);
}

}  // namespace
