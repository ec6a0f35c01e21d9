// Configurations of published checkpoints, and what is refused.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <variant>

#include "mla/io/hf_config.hpp"
#include "mla/presets.hpp"

namespace mla {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json published(const std::string& preset) {
    static const json table = json::parse(std::ifstream(fs::path(MLA_GOLDEN_DIR) / "presets.json"));
    return table.at(preset).at("published");
}

Config parse(const json& config) {
    return config.contains("model_type") ? io::parse_hf_config(config) : io::parse_mistral_params(config);
}

/// `call` throws an E whose message holds each of `parts`.
template <class E = std::invalid_argument, class Call>
void expect_error(Call call, std::initializer_list<std::string_view> parts) {
    try {
        call();
        ADD_FAILURE() << "nothing thrown, expected " << *parts.begin();
    } catch (const E& error) {
        for (const std::string_view part : parts)
            EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what() << " lacks " << part;
    }
}

/// Parsing fails with a message that names `field`.
void expect_refused(const json& config, std::string_view field) {
    expect_error([&] { static_cast<void>(parse(config)); }, {field});
}

/// The same configuration as transformers 5 writes it: rope_theta and rope_scaling under rope_parameters.
json with_rope_parameters(json config) {
    json rope = config.value("rope_scaling", json());
    if (rope.is_null()) rope = json::object();
    rope["rope_type"] = rope.value("type", "default");
    rope.erase("type");
    if (config.contains("rope_theta")) rope["rope_theta"] = config["rope_theta"];
    config.erase("rope_scaling");
    config.erase("rope_theta");
    config["rope_parameters"] = rope;
    return config;
}

class PublishedConfigTest : public ::testing::TestWithParam<presets::Preset> {};

TEST_P(PublishedConfigTest, GivesThePreset) { EXPECT_EQ(parse(published(GetParam().name)), GetParam().config()); }

TEST_P(PublishedConfigTest, EveryDimensionIsAPositiveIntegerAndRequiredUnlessALayerDoesWithout) {
    const json config = published(GetParam().name);
    for (const char* field : {"hidden_size", "dim", "num_attention_heads", "n_heads", "q_lora_rank", "kv_lora_rank",
                              "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}) {
        if (!config.contains(field)) continue;
        if (config.contains("per_layer_config") && config["per_layer_config"]["0"].contains(field))
            continue;  // the layer's counts
        json missing = config;
        missing.erase(field);
        const std::string_view name = field;
        const bool may_lack = name == "q_lora_rank" || (config.value("model_type", "") == "minicpm3" && name == "v_head_dim");
        if (!may_lack) expect_refused(missing, field);
        json zero = config;
        zero[field] = 0;
        if (name != "q_lora_rank" && name != "qk_rope_head_dim") expect_refused(zero, field);
        for (const json& bad : {json(-64), json(64.5), json("64"), json(true), json::array({64}), json::object(),
                                json(std::uint64_t{1} << 60U), json(std::numeric_limits<double>::quiet_NaN())}) {
            json wrong = config;
            wrong[field] = bad;
            expect_refused(wrong, field);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, PublishedConfigTest, ::testing::ValuesIn(presets::all()),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(HfConfigTest, TheNewRopeFormatGivesThePresetsToo) {
    std::size_t compared = 0;
    for (const auto& preset : presets::all()) {
        const json config = published(preset.name);
        // params.json has one format, and newer models' files were never written in the old one.
        if (!config.contains("model_type") || config.contains("rope_parameters") || preset.config().rope.rotates == false)
            continue;
        EXPECT_EQ(io::parse_hf_config(with_rope_parameters(config)), preset.config()) << preset.name;
        ++compared;
    }
    EXPECT_EQ(compared, 9U);
}

TEST(HfConfigTest, IntegersBuiltInCodeCountAsIntegers) {
    json config = published("deepseek_v3");
    config["hidden_size"] = int{7168};
    EXPECT_EQ(io::parse_hf_config(config), presets::deepseek_v3());
}

TEST(HfConfigTest, RefusesWhatIsNoConfiguration) {
    for (const json& bad : {json(), json(3), json::object(), json::array()})
        expect_refused(json{{"model_type", bad}}, "model_type");
    expect_error([] { static_cast<void>(io::parse_hf_config(json::array())); }, {"configuration", "array", "object"});
    expect_error([] { static_cast<void>(io::parse_mistral_params(json())); }, {"configuration", "null", "object"});
}

TEST(HfConfigTest, RefusesUnknownModelTypes) {
    json config = published("deepseek_v3");
    config["model_type"] = "llama";
    expect_error([&] { static_cast<void>(io::parse_hf_config(config)); }, {"model_type", "'llama'"});
}

TEST(HfConfigTest, LongTextsAreCutInMessages) {
    const json config = {{"model_type", std::string(1'000'000, 'x')}};
    try {
        static_cast<void>(io::parse_hf_config(config));
        ADD_FAILURE() << "nothing thrown";
    } catch (const std::invalid_argument& error) {
        EXPECT_LT(std::string_view(error.what()).size(), 300U);
    }
}

TEST(HfConfigTest, WithoutARankQueriesHaveNone) {
    json config = published("deepseek_v3");
    for (const json& none : {json(nullptr), json(0)}) {
        config["q_lora_rank"] = none;
        EXPECT_EQ(io::parse_hf_config(config).q_lora_rank, 0);
    }
    config.erase("q_lora_rank");
    EXPECT_EQ(io::parse_hf_config(config).q_lora_rank, 0);
}

TEST(HfConfigTest, ALayerMayHaveNothingThatTurns) {
    json config = published("glm_4_7_flash");
    config["qk_rope_head_dim"] = 0;
    EXPECT_EQ(io::parse_hf_config(config).qk_rope_head_dim, 0);
}

TEST(HfConfigTest, NumbersWithoutAFractionAreIntegers) {
    json config = published("deepseek_v3");
    config["hidden_size"] = 7168.0;
    config["rope_scaling"]["original_max_position_embeddings"] = 4096.0;
    EXPECT_EQ(io::parse_hf_config(config), presets::deepseek_v3());
}

TEST(HfConfigTest, AttentionBiasIsRead) {
    json config = published("deepseek_v3");
    config["attention_bias"] = true;
    EXPECT_TRUE(io::parse_hf_config(config).attention_bias);
    config["attention_bias"] = 1;
    expect_refused(config, "attention_bias");
}

TEST(HfConfigTest, KeyValueHeadsSayNothing) {
    json config = published("deepseek_v3");
    for (const json& heads : {json(1), json(128), json(nullptr), json("all")}) {
        config["num_key_value_heads"] = heads;
        EXPECT_EQ(io::parse_hf_config(config), presets::deepseek_v3());
    }
}

TEST(HfConfigTest, RopeInterleaveChoosesThePairingWhereTheModelReadsIt) {
    for (const char* preset : {"deepseek_v3", "kimi_k2", "glm_4_7_flash"}) {
        json config = published(preset);
        config["rope_interleave"] = false;
        EXPECT_EQ(io::parse_hf_config(config).rope.pairing, RopePairing::half_split) << preset;
    }
    for (const char* preset : {"deepseek_v2", "deepseek_v3_2", "longcat_flash", "minicpm3_4b"}) {
        json config = published(preset);
        const bool interleaved = io::parse_hf_config(config).rope.pairing == RopePairing::interleaved;
        config["rope_interleave"] = interleaved;
        EXPECT_EQ(io::parse_hf_config(config).rope.pairing == RopePairing::interleaved, interleaved) << preset;
        config["rope_interleave"] = !interleaved;
        expect_refused(config, "rope_interleave");
    }
}

/// Every field that transformers' own configuration classes write.
TEST(HfConfigTest, FieldsOfTransformersAreRead) {
    const json classes = json::parse(std::ifstream(fs::path(MLA_GOLDEN_DIR) / "config_fields.json"));
    ASSERT_EQ(classes.size(), 17U);
    for (const auto& [type, config] : classes.items()) EXPECT_NO_THROW(static_cast<void>(io::parse_hf_layers(config))) << type;
}

/// Indices of the layers for which `is` holds, "." for others.
template <class Is>
std::string drawn(const json& config, Is is) {
    std::string text;
    for (const auto& layer : io::parse_hf_layers(config)) text += !layer ? '-' : is(*layer) ? 'x' : '.';
    return text;
}
constexpr auto any_layer = [](const Config&) { return true; };
constexpr auto selects = [](const Config& c) { return c.indexer.heads > 0; };
constexpr auto slides = [](const Config& c) { return c.sliding_window > 0; };

TEST(HfLayersTest, HybridsHaveLatentAttentionWhereTheirRuleOrListSays) {
    json kimi = published("kimi_linear_48b");
    kimi["num_hidden_layers"] = 9;
    kimi.erase("layer_types");
    EXPECT_EQ(drawn(kimi, any_layer), "----x---x");
    kimi["linear_attn_config"] = {{"full_attn_layers", {4, 8}}, {"kda_layers", {1, 2, 3, 5, 6, 7, 9}}, {"head_dim", 128}};
    EXPECT_EQ(drawn(kimi, any_layer), "---x---x-");
    EXPECT_EQ(io::parse_hf_config(kimi), presets::kimi_linear_48b());
    kimi["linear_attn_config"]["kda_layers"] = {1, 2, 3, 5, 6, 7};
    expect_error([&] { static_cast<void>(io::parse_hf_layers(kimi)); }, {"linear_attn_config.full_attn_layers", "layer 9"});
    json ling = published("ling_3");
    ling.erase("layer_types");
    ling["num_hidden_layers"] = 7;
    EXPECT_EQ(drawn(ling, any_layer), "-----x-");
    ling["layer_group_size"] = 3;
    EXPECT_EQ(drawn(ling, any_layer), "--x--x-");
    ling["layer_types"] = json::array_t(7, "linear_attention");
    EXPECT_EQ(drawn(ling, any_layer), "-------");
    expect_error([&] { static_cast<void>(io::parse_hf_config(ling)); }, {"no layer with latent attention"});
}

TEST(HfLayersTest, SelectionsAreSharedWhereTheModelSaysSo) {
    json glm = published("glm_5");
    glm.erase("layer_types");
    glm["num_hidden_layers"] = 8;
    EXPECT_EQ(drawn(glm, selects), "xxxxxxxx");
    glm["index_topk_freq"] = 3;
    EXPECT_EQ(drawn(glm, selects), "xx..x..x");
    glm["index_skip_topk_offset"] = 3;
    EXPECT_EQ(drawn(glm, selects), "xxx..x..");
    glm["index_topk_pattern"] = "FSFSFSSS";
    EXPECT_EQ(drawn(glm, selects), "x.x.x...");
    glm["indexer_types"] = {"full", "shared", "shared", "full", "full", "shared", "shared", "full"};
    EXPECT_EQ(drawn(glm, selects), "x..xx..x");
    for (const auto& layer : io::parse_hf_layers(glm)) EXPECT_EQ(layer->indexer.top_k, 2048);
    expect_error([&] { static_cast<void>(io::parse_hf_config(glm)); }, {"layers that differ", "parse_hf_layers"});
    glm["indexer_types"] = {"full", "sharing"};
    expect_error([&] { static_cast<void>(io::parse_hf_layers(glm)); }, {"indexer_types", "full or shared"});
    json hy = published("hunyuan_4");
    hy.erase("layer_types");
    hy["num_hidden_layers"] = 10;
    EXPECT_EQ(drawn(hy, selects), "xx...x...x");
}

TEST(HfLayersTest, Dots3NoteHasSlidingLayersOfAnotherGeometry) {
    json dots = published("dots3_note");
    dots.erase("layer_types");
    dots["num_hidden_layers"] = 6;
    dots["rope_parameters"] = nullptr;
    dots["rope_theta"] = 8e7;
    EXPECT_EQ(drawn(dots, slides), "..xxx.");
    const auto layers = io::parse_hf_layers(dots);
    EXPECT_EQ(layers[0], presets::dots3_note());
    EXPECT_EQ(layers[2], presets::dots3_note_sliding());
    dots["swa_num_attention_heads"] = 32;
    dots["swa_head_dim"] = 200;
    dots["sliding_window_size"] = 128;
    EXPECT_EQ(io::parse_hf_layers(dots)[3]->num_attention_heads, 32);
    EXPECT_EQ(io::parse_hf_layers(dots)[3]->qk_rope_head_dim, 8);
    EXPECT_EQ(io::parse_hf_layers(dots)[3]->sliding_window, 128);
    dots["use_dsa"] = false;
    EXPECT_EQ(drawn(dots, selects), "......");
    dots["use_sliding_window"] = false;
    EXPECT_EQ(drawn(dots, slides), "......");
}

TEST(HfLayersTest, MistralLarge4RotatesNothingInEveryFourthLayerAndSharesCaches) {
    const json classes = json::parse(std::ifstream(fs::path(MLA_GOLDEN_DIR) / "config_fields.json"));
    json config = classes.at("mistral_large4_text");
    for (const char* field : {"no_rope_layers", "layer_types", "kv_source_layers", "indexer_types", "mlp_layer_types"})
        config.erase(field);
    config["num_hidden_layers"] = 8;
    constexpr auto rotates = [](const Config& c) { return c.qk_rope_head_dim > 0; };
    EXPECT_EQ(drawn(config, rotates), "xxx.xxx.");
    for (const auto& layer : io::parse_hf_layers(config)) {
        EXPECT_EQ(layer->qk_head_dim(), 128);
        EXPECT_TRUE(layer->learned_query_scale);
    }
    config["no_rope_layers"] = {1, 0, 1, 0, 1, 1, 1, 1};
    EXPECT_EQ(drawn(config, rotates), "x.x.xxxx");
    config["kv_source_layers"] = {0, 1, 0, 1, 4, 4, 6, 7};
    config["indexer_types"] = {"full", "full", "shared", "shared", "full", "shared", "full", "full"};
    EXPECT_EQ(drawn(config, [](const Config& c) { return c.shares_cache; }), "..xx.x..");
    EXPECT_EQ(drawn(config, selects), "xx..x.xx");
    json other = config;
    other["indexer_types"][2] = "full";
    EXPECT_EQ(drawn(other, selects), "xxx.x.xx");
    for (const json& sources : {json{0, 1, 1, 1, 4, 4, 6, 7}, json{0, 1, 3, 1, 4, 4, 6, 7}, json{0, 1, 0, 1, 4, 4, 5, 7}}) {
        other = config;
        other["kv_source_layers"] = sources;
        expect_error([&] { static_cast<void>(io::parse_hf_layers(other)); }, {"kv_source_layers", "for layer"});
    }
}

TEST(HfLayersTest, Glm5NextSelectsPoolsInEveryFourthLayer) {
    const json classes = json::parse(std::ifstream(fs::path(MLA_GOLDEN_DIR) / "config_fields.json"));
    json config = classes.at("glm5_next_text");
    for (const char* field : {"layer_types", "indexer_types"}) config.erase(field);
    config["num_hidden_layers"] = 9;
    EXPECT_EQ(drawn(config, selects), "---x---x-");
    const IndexerConfig indexer = io::parse_hf_layers(config)[3]->indexer;
    EXPECT_EQ(indexer.pool, 16);
    EXPECT_EQ(indexer.most_selected(), 2048 + 15);
    config["index_kpool_always_select_tail"] = false;
    EXPECT_EQ(io::parse_hf_config(config).indexer.most_selected(), 2048);
    config["index_kpool"] = 3;
    expect_error([&] { static_cast<void>(io::parse_hf_layers(config)); }, {"indexer.top_k", "multiple of indexer.pool"});
}

TEST(HfLayersTest, ANumberOfLayersThatNoModelHasIsRefused) {
    json config = published("deepseek_v3");
    for (const json& count : {json(4097), json(1e15), json(0), json("61")}) {
        config["num_hidden_layers"] = count;
        expect_refused(config, "num_hidden_layers");
    }
    config["num_hidden_layers"] = 61;
    EXPECT_EQ(io::parse_hf_layers(config).size(), 61U);
}

/// The fields of DeepSeek-R1's config.json beside attention, some of Kimi-K2's and LongCat-Flash's, and what transformers 4 wrote
/// into every nested configuration.
TEST(HfConfigTest, FieldsThatAreNotOfAttentionAreSkipped) {
    json config = published("deepseek_v3");
    for (const char* field : {"architectures",
                              "attention_dropout",
                              "auto_map",
                              "bos_token_id",
                              "ep_size",
                              "first_k_dense_replace",
                              "hidden_act",
                              "initializer_range",
                              "intermediate_size",
                              "moe_intermediate_size",
                              "moe_layer_freq",
                              "n_group",
                              "n_routed_experts",
                              "n_shared_experts",
                              "norm_topk_prob",
                              "num_experts_per_tok",
                              "num_nextn_predict_layers",
                              "pretraining_tp",
                              "quantization_config",
                              "rms_norm_eps",
                              "routed_scaling_factor",
                              "scoring_func",
                              "tie_word_embeddings",
                              "topk_group",
                              "topk_method",
                              "torch_dtype",
                              "transformers_version",
                              "use_cache",
                              "vocab_size",
                              "aux_loss_alpha",
                              "seq_aux",
                              "expert_ffn_hidden_size",
                              "moe_topk",
                              "zero_expert_type",
                              "router_bias",
                              "is_decoder",
                              "pruned_heads",
                              "temperature",
                              "top_k",
                              "tokenizer_class",
                              "torchscript",
                              "use_bfloat16"})
        config[field] = {{"whatever", 1}};
    EXPECT_EQ(io::parse_hf_config(config), presets::deepseek_v3());
}

TEST(HfConfigTest, FieldsThatMayChangeAttentionAreRefused) {
    const json off = {{"mla_use_nope", false}, {"qk_latent_layernorm", true},      {"use_qk_norm", false},
                      {"qk_head_dim", 192},    {"use_sliding_window", false},      {"attention_method", "MLA"},
                      {"sliding_window", 512}, {"layer_types", {"full_attention"}}};
    json config = published("deepseek_v3");
    config.update(off);
    EXPECT_EQ(io::parse_hf_config(config), presets::deepseek_v3());
    const json on = {
        {"mla_use_nope", true},         {"no_rope_layers", {1, 0}}, {"attn_output_gate", "per_head"},
        {"use_qk_norm", true},          {"sliding_window", 4096},   {"use_sliding_window", true},
        {"qk_latent_layernorm", false}, {"qk_head_dim", 128},       {"layer_types", {"full_attention", "linear_attention"}},
        {"mla_scale_q_lora", true},     {"index_topk", 2048},       {"a field that is not known yet", 0}};
    for (const auto& [field, value] : on.items()) {
        json other = published("deepseek_v3");
        other[field] = value;
        expect_refused(other, field);
        other = published("mistral_large_3");
        other[field] = value;
        expect_refused(other, field);
        other[field] = nullptr;
        EXPECT_EQ(io::parse_mistral_params(other), presets::mistral_large_3()) << field;
    }
}

TEST(HfConfigTest, DeepSeekV3sLayerHasOtherNamesToo) {
    for (const char* type : {"youtu", "axk1", "kimi_k2"}) {
        json config = published("deepseek_v3");
        config["model_type"] = type;
        EXPECT_EQ(io::parse_hf_config(config), presets::deepseek_v3());
    }
}

/// A configuration of deepseek_v3 with these two blocks, and no rope_theta outside them.
json with_rope(const json& scaling, const json& parameters) {
    json config = published("deepseek_v3");
    config.erase("rope_theta");
    config["rope_scaling"] = scaling;
    config["rope_parameters"] = parameters;
    return config;
}

TEST(HfConfigTest, TheRopeBlockThatScalesCounts) {
    const json scaled = published("deepseek_v3")["rope_scaling"];
    for (const json& empty :
         {json(nullptr), json::object(), json{{"rope_type", "default"}}, json{{"type", nullptr}, {"factor", nullptr}}}) {
        EXPECT_EQ(io::parse_hf_config(with_rope(empty, scaled)), presets::deepseek_v3());
        EXPECT_EQ(io::parse_hf_config(with_rope(scaled, empty)), presets::deepseek_v3());
    }
    EXPECT_EQ(io::parse_hf_config(with_rope(scaled, scaled)), presets::deepseek_v3());
    EXPECT_EQ(io::parse_hf_config(with_rope({{"full_attention", scaled}}, nullptr)), presets::deepseek_v3());
    json other_name = scaled;
    other_name["type"] = "deepseek_yarn";
    EXPECT_EQ(io::parse_hf_config(with_rope(other_name, nullptr)), presets::deepseek_v3());
}

TEST(HfConfigTest, RopeThetaIsReadWhereverItStands) {
    const json scaled = published("deepseek_v3")["rope_scaling"];
    EXPECT_EQ(io::parse_hf_config(with_rope(json::object(), {{"rope_theta", 1e6}})).rope.base, 1e6);
    const Config both = io::parse_hf_config(with_rope(scaled, {{"rope_theta", 50000}}));
    EXPECT_EQ(both.rope.base, 50000.0);
    EXPECT_TRUE(std::holds_alternative<Yarn>(both.rope.scaling));
    json outside = with_rope(scaled, {{"rope_type", "default"}});
    outside["rope_theta"] = 50000.0;
    EXPECT_EQ(io::parse_hf_config(outside).rope.base, 50000.0);
}

TEST(HfConfigTest, RopeBlocksThatContradictEachOtherAreErrorsThatNameBoth) {
    const json scaled = published("deepseek_v3")["rope_scaling"];
    json other = scaled;
    other["factor"] = 32;
    const auto expect_both = [](const json& config, std::initializer_list<std::string_view> parts) {
        expect_error([&] { static_cast<void>(io::parse_hf_config(config)); }, parts);
    };
    expect_both(with_rope(scaled, other), {"rope_scaling.factor", "rope_parameters", "40", "32"});
    expect_both(with_rope({{"rope_theta", 1e4}}, {{"rope_theta", 5e4}}), {"rope_scaling", "rope_parameters", "rope_theta"});
    json outside = with_rope({{"rope_theta", 1e4}}, nullptr);
    outside["rope_theta"] = 5e4;
    expect_both(outside, {"rope_scaling", "rope_theta", "10000", "50000"});
    expect_both(with_rope({{"indexed_attention", scaled}, {"sliding_attention", other}}, nullptr),
                {"rope_scaling", "kinds of layers", "full_attention"});
    EXPECT_EQ(io::parse_hf_config(with_rope({{"full_attention", scaled}, {"sliding_attention", other}}, nullptr)),
              presets::deepseek_v3());
}

TEST(HfConfigTest, RopeFieldsWithoutATypeOrUnknownAreErrors) {
    for (const json& block :
         {json{{"factor", 40}}, json{{"factor", 40}, {"type", nullptr}}, json{{"type", "yarn"}, {"rope_type", "default"}}}) {
        expect_refused(with_rope(block, nullptr), "rope_scaling.rope_type");
        expect_refused(with_rope(nullptr, block), "rope_parameters.rope_type");
    }
    expect_refused(with_rope({{"type", "default"}, {"factor", 40}}, nullptr), "rope_scaling.factor");
    json scaled = published("deepseek_v3")["rope_scaling"];
    scaled["attn_factor"] = 1.2;
    expect_refused(with_rope(scaled, nullptr), "rope_scaling.attn_factor");
    scaled.erase("attn_factor");
    scaled["llama_4_scaling_beta"] = 0.1;
    expect_refused(with_rope(scaled, nullptr), "rope_scaling.llama_4_scaling_beta");
}

TEST(HfConfigTest, LatentNormsKeepTheirEpsWhateverTheModelsIs) {
    json config = published("deepseek_v3");
    config["rms_norm_eps"] = 1e-5;
    EXPECT_EQ(io::parse_hf_config(config).latent_norm_eps, 1e-6);
}

TEST(HfConfigTest, RopeBaseDefaultsAsInTransformers) {
    json config = published("deepseek_v3");
    config.erase("rope_theta");
    EXPECT_EQ(io::parse_hf_config(config).rope.base, 1e4);
    config = published("longcat_flash");
    config.erase("rope_theta");
    EXPECT_EQ(io::parse_hf_config(config).rope.base, 1e7);
}

TEST(HfConfigTest, RefusesRopeThatIsNotKnown) {
    json config = published("deepseek_v3");
    config["rope_scaling"]["type"] = "linear";
    expect_error([&] { static_cast<void>(io::parse_hf_config(config)); }, {"rope_scaling.rope_type", "'linear'"});
    config["rope_scaling"] = "yarn";
    expect_refused(config, "rope_scaling");
    config = published("deepseek_v3");
    config["partial_rotary_factor"] = 0.5;
    expect_refused(config, "partial_rotary_factor");
    config = published("deepseek_v3");
    config["qk_rope_head_dim"] = 63;
    expect_refused(config, "qk_rope_head_dim");
}

TEST(HfConfigTest, RefusesRopeNumbersWithoutMeaning) {
    const json nan = std::numeric_limits<double>::quiet_NaN();
    const json infinity = std::numeric_limits<double>::infinity();
    for (const char* field : {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"})
        for (const json& bad : {nan, infinity, json("1"), json(-1.0), json::array()}) {
            json config = published("deepseek_v3");
            config["rope_scaling"][field] = bad;
            expect_refused(config, field);
        }
    for (const json& bad : {nan, infinity, json("1e4"), json(0), json(-5), json(1)}) {
        json config = published("deepseek_v3");
        config["rope_theta"] = bad;
        expect_refused(config, "rope");
    }
    json config = published("deepseek_v3");
    config["rope_scaling"]["original_max_position_embeddings"] = 0;
    expect_refused(config, "original_max_position_embeddings");
    config = published("deepseek_v3");
    config["rope_scaling"]["beta_slow"] = 64;
    expect_refused(config, "beta_fast");
    config["rope_scaling"]["truncate"] = "yes";
    expect_refused(config, "truncate");
}

TEST(HfConfigTest, YarnDefaultsAsInTransformers) {
    json config = published("deepseek_v3");
    config["rope_scaling"] = {{"type", "yarn"}, {"original_max_position_embeddings", 4096}};
    const Config parsed = io::parse_hf_config(config);
    const Yarn& yarn = std::get<Yarn>(parsed.rope.scaling);
    EXPECT_EQ(yarn.factor, 163840.0 / 4096.0);
    EXPECT_EQ(yarn.beta_fast, 32.0);
    EXPECT_EQ(yarn.beta_slow, 1.0);
    EXPECT_FALSE(yarn.mscale || yarn.mscale_all_dim || yarn.attention_factor);
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
    EXPECT_EQ(std::get<Yarn>(io::parse_hf_config(config).rope.scaling).original_max_position, 163840);
    config.erase("max_position_embeddings");
    expect_refused(config, "max_position_embeddings");
}

TEST(HfConfigTest, LongRopeTakesTheLongFactorsBeyondTheOriginalContext) {
    json config = published("minicpm3_4b");
    for (auto& factor : config["rope_scaling"]["long_factor"]) factor = 2.0;
    EXPECT_EQ(io::parse_hf_config(config), presets::minicpm3_4b());
    config["max_position_embeddings"] = 2 * 32768;
    const Config extended = io::parse_hf_config(config);
    const LongRope& longrope = std::get<LongRope>(extended.rope.scaling);
    EXPECT_EQ(longrope.factors, std::vector<double>(16, 2.0));
    EXPECT_DOUBLE_EQ(longrope.attention_factor, std::sqrt(1.0 + std::log(2.0) / std::log(32768.0)));
}

TEST(HfConfigTest, RefusesLongRopeFactorsOfAnotherCountOrValue) {
    for (const char* field : {"short_factor", "long_factor"})
        for (const json& bad :
             {json(), json(1.0), json::array(), json(std::vector<double>(15, 1.0)), json(std::vector<std::string>(16, "1")),
              json(std::vector<double>(16, std::numeric_limits<double>::infinity()))}) {
            json config = published("minicpm3_4b");
            config["rope_scaling"][field] = bad;
            expect_refused(config, field);
        }
    json config = published("minicpm3_4b");
    config["rope_scaling"]["short_factor"] = std::vector<double>(16, 0.0);
    expect_refused(config, "factors");
}

TEST(HfConfigTest, LongCatMultipliersCanBeOff) {
    json config = published("longcat_flash");
    config["mla_scale_q_lora"] = false;
    EXPECT_EQ(io::parse_hf_config(config).query_multiplier, 1.0);
    EXPECT_EQ(io::parse_hf_config(config).latent_multiplier, presets::longcat_flash().latent_multiplier);
    config["mla_scale_kv_lora"] = false;
    EXPECT_EQ(io::parse_hf_config(config).latent_multiplier, 1.0);
    config["q_lora_rank"] = nullptr;
    expect_refused(config, "q_lora_rank");
}

TEST(HfConfigTest, Mistral4ReadsThePositionScaleAndTheShareOfAHeadThatTurns) {
    // mistralai/Mistral-Small-4, text_config: the defaults of transformers' Mistral4Config.
    json config = {{"model_type", "mistral4"},
                   {"hidden_size", 4096},
                   {"num_attention_heads", 32},
                   {"q_lora_rank", 1024},
                   {"kv_lora_rank", 256},
                   {"qk_nope_head_dim", 64},
                   {"qk_rope_head_dim", 64},
                   {"v_head_dim", 128},
                   {"rope_parameters",
                    {{"rope_type", "yarn"},
                     {"rope_theta", 10000.0},
                     {"factor", 128.0},
                     {"original_max_position_embeddings", 8192},
                     {"beta_fast", 32.0},
                     {"beta_slow", 1.0},
                     {"mscale", 1.0},
                     {"mscale_all_dim", 1.0},
                     {"llama_4_scaling_beta", 0.1},
                     {"partial_rotary_factor", 0.5}}}};
    const Config parsed = io::parse_hf_config(config);
    EXPECT_EQ(parsed.position_scale, (PositionScale{0.1, 8192}));
    const double magnitude = 0.1 * std::log(128.0) + 1.0;
    EXPECT_DOUBLE_EQ(parsed.softmax_scale(), magnitude * magnitude / std::sqrt(128.0));
    config["rope_parameters"]["apply_yarn_scaling"] = false;
    EXPECT_DOUBLE_EQ(io::parse_hf_config(config).softmax_scale(), 1.0 / std::sqrt(128.0));
    config["rope_parameters"]["partial_rotary_factor"] = 1.0;
    expect_refused(config, "partial_rotary_factor");
    config["rope_parameters"] = {{"rope_theta", 1e4}};
    expect_refused(config, "rope_parameters");
}

TEST(HfConfigTest, MistralParamsNeedTheWholeOfYarnAndOfTheirScale) {
    for (const char* part : {"yarn", "llama_4_scaling"}) {
        const json parameters = published("mistral_large_3");
        for (const auto& field : parameters.at(part).items()) {
            if (field.key() == "apply_scale") continue;
            json config = parameters;
            config[part].erase(field.key());
            expect_refused(config, std::string(part) + "." + field.key());
        }
    }
    json config = published("mistral_large_3");
    config["yarn"]["apply_scale"] = true;
    EXPECT_GT(io::parse_mistral_params(config).softmax_scale(), presets::mistral_large_3().softmax_scale());
    config.erase("rope_theta");
    expect_refused(config, "rope_theta");
}

class HfConfigFileTest : public ::testing::Test {
  protected:
    // Tests run side by side, each in its own process.
    const fs::path path = fs::path(::testing::TempDir()) / (std::to_string(::getpid()) + ".config.json");
    void SetUp() override { fs::remove_all(path); }
    void TearDown() override { fs::remove_all(path); }
    void write(std::string_view text) const { std::ofstream(path) << text; }
};

TEST_F(HfConfigFileTest, LoadsBothFormats) {
    write(published("deepseek_v2").dump());
    EXPECT_EQ(io::load_hf_config(path), presets::deepseek_v2());
    write(published("mistral_large_3").dump());
    EXPECT_EQ(io::load_mistral_params(path), presets::mistral_large_3());
}

TEST_F(HfConfigFileTest, ErrorsNameFileAndField) {
    const auto load = [&] { static_cast<void>(io::load_hf_config(path)); };
    expect_error<std::system_error>(load, {path.native()});
    fs::create_directory(path);
    expect_error<std::system_error>(load, {path.native(), "regular file"});
    fs::remove(path);
    for (const char* text : {"", "{", R"({"a": NaN})", R"({"a": 1e999})", "{} {}", "\xff\xfe", R"({"a": Infinity})"}) {
        write(text);
        expect_error<io::CheckpointError>(load, {path.native(), "JSON"});
    }
    write(R"({"model_type": "deepseek_v3"})");
    expect_error(load, {path.native(), "hidden_size", "missing"});
}

TEST_F(HfConfigFileTest, RefusesAPipeRatherThanWaitForIt) {
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    expect_error<std::system_error>([&] { static_cast<void>(io::load_hf_config(path)); }, {path.native(), "regular file"});
}

TEST_F(HfConfigFileTest, RefusesHugeFilesAndSurvivesDeepNesting) {
    write("{");
    fs::resize_file(path, std::uintmax_t{5} << 20U);
    expect_error<io::CheckpointError>([&] { static_cast<void>(io::load_hf_config(path)); }, {path.native(), "at most"});
    const std::string deep(1'000'000, '[');
    write(deep + std::string(deep.size(), ']'));
    expect_error<io::CheckpointError>([&] { static_cast<void>(io::load_hf_config(path)); },
                                      {path.native(), "nesting", "32 deep"});
}

}  // namespace
}  // namespace mla
