// The presets against tests/golden/presets.json, whose expected values come from transformers' own classes.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "mla/presets.hpp"
#include "mla/reference/rope.hpp"

namespace mla {
namespace {

nlohmann::json expected_table() {
    return nlohmann::json::parse(std::ifstream(std::filesystem::path(MLA_GOLDEN_DIR) / "presets.json"));
}

/// Both sides compute a constant from the same few numbers: some roundings of relative size 2^-53 each.
void expect_close(double found, double expected, const std::string& what) {
    EXPECT_FALSE(!(std::abs(found - expected) <= 16 * 0x1p-53 * std::abs(expected))) << what << ": " << found << ", " << expected;
}

TEST(PresetsTest, TableAndListNameTheSameModels) {
    std::set<std::string> listed;
    for (const auto& preset : presets::all()) listed.insert(preset.name);
    std::set<std::string> tabled;
    const nlohmann::json table = expected_table();
    for (const auto& entry : table.items()) tabled.insert(entry.key());
    EXPECT_EQ(listed.size(), presets::all().size());
    EXPECT_EQ(listed, tabled);
}

TEST(PresetsTest, SoftmaxScalesAreTheKnownOnes) {
    // As published to six digits.
    EXPECT_NEAR(presets::deepseek_v3().softmax_scale(), 0.135234, 5e-7);
    EXPECT_NEAR(presets::deepseek_v2_lite().softmax_scale(), 0.114721, 5e-7);
    EXPECT_NEAR(presets::kimi_k2().softmax_scale(), 0.130861, 5e-7);
    EXPECT_DOUBLE_EQ(presets::mistral_large_3().softmax_scale(), 1.0 / std::sqrt(192.0));
}

class PresetTest : public ::testing::TestWithParam<presets::Preset> {
  protected:
    const Config config = GetParam().config();
    const nlohmann::json expected = expected_table().at(GetParam().name).at("expected");
};

TEST_P(PresetTest, IsValid) { EXPECT_NO_THROW(validate(config)); }

TEST_P(PresetTest, DimensionsAreThoseOfTransformersWeights) {
    EXPECT_EQ(config.hidden_size, expected.at("hidden_size"));
    EXPECT_EQ(config.num_attention_heads, expected.at("num_attention_heads"));
    EXPECT_EQ(config.q_lora_rank, expected.at("q_lora_rank"));
    EXPECT_EQ(config.kv_lora_rank, expected.at("kv_lora_rank"));
    EXPECT_EQ(config.qk_nope_head_dim, expected.at("qk_nope_head_dim"));
    EXPECT_EQ(config.qk_rope_head_dim, expected.at("qk_rope_head_dim"));
    EXPECT_EQ(config.v_head_dim, expected.at("v_head_dim"));
    EXPECT_EQ(config.attention_bias, expected.at("attention_bias").get<bool>());
}

TEST_P(PresetTest, ConstantsAreThoseOfTransformersModules) {
    EXPECT_EQ(config.latent_norm_eps, expected.at("latent_norm_eps"));
    EXPECT_EQ(config.position_scale.beta, expected.at("position_scale_beta"));
    EXPECT_EQ(config.position_scale.period, expected.at("position_scale_period"));
    expect_close(config.query_multiplier, expected.at("query_multiplier"), "query_multiplier");
    expect_close(config.latent_multiplier, expected.at("latent_multiplier"), "latent_multiplier");
    expect_close(config.softmax_scale(), expected.at("softmax_scale"), "softmax_scale");
}

TEST_P(PresetTest, VariantsAreThoseOfTransformersModules) {
    const std::map<OutputGate, std::string> gates = {{OutputGate::none, "none"},
                                                     {OutputGate::per_head, "per_head"},
                                                     {OutputGate::per_value, "per_value"},
                                                     {OutputGate::with_query, "with_query"}};
    EXPECT_EQ(gates.at(config.output_gate), expected.at("output_gate"));
    EXPECT_EQ(config.sinks, expected.at("sinks").get<bool>());
    EXPECT_EQ(config.rope_key_norm, expected.at("rope_key_norm").get<bool>());
    EXPECT_EQ(config.sliding_window, expected.at("sliding_window"));
    const IndexerConfig& indexer = config.indexer;
    EXPECT_EQ((std::vector<Index>{indexer.top_k, indexer.heads, indexer.head_dim}),
              expected.at("indexer").get<std::vector<Index>>());
    EXPECT_EQ(indexer.norm_eps, expected.at("index_norm_eps"));
}

TEST_P(PresetTest, RotationIsThatOfTransformersModules) {
    EXPECT_EQ(config.rope.rotates, !expected.at("inverse_frequencies").empty());
    if (!config.rope.rotates) return;
    EXPECT_EQ(config.rope.pairing == RopePairing::interleaved, expected.at("rope_interleaved").get<bool>());
    expect_close(reference::rope_magnitude(config.rope), expected.at("rope_magnitude"), "rope_magnitude");
    const auto frequencies = reference::inverse_frequencies(config.rope, config.qk_rope_head_dim);
    const auto& table = expected.at("inverse_frequencies");
    ASSERT_EQ(frequencies.size(), table.size());
    for (std::size_t i = 0; i < frequencies.size(); ++i) expect_close(frequencies[i], table[i], "frequency " + std::to_string(i));
}

INSTANTIATE_TEST_SUITE_P(All, PresetTest, ::testing::ValuesIn(presets::all()),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace mla
