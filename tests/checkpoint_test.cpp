// Checkpoints: what is loaded is what was written, for every type, split and naming, and whatever is wrong is named.
#include "mla/io/checkpoint.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/attention.hpp"
#include "mla/testing/random.hpp"
#include "support/checkpoint_folder.hpp"
#include "support/layer.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using io::Checkpoint;
using io::CheckpointError;
using testing::CheckpointFolder;
using testing::config_json;
using testing::expect_parts;
using testing::RandomWeights;
using testing::stored;
using testing::stored_layer;
using testing::StoredTensor;
using testing::thrown;
using testing::uneven_config;

/// Two layers, from `seed` and `seed + 1`.
template <Storage S>
std::vector<StoredTensor> two_layers(const Config& config, std::uint64_t seed, const std::string& prefix = "model.") {
    std::vector<StoredTensor> tensors = stored_layer(config, RandomWeights<S>(config, seed).refs(), 0, prefix);
    const auto second = stored_layer(config, RandomWeights<S>(config, seed + 1).refs(), 1, prefix);
    tensors.insert(tensors.end(), second.begin(), second.end());
    return tensors;
}

/// Every tensor that `config` calls for has the type, the shape and the values of its counterpart.
void expect_same_weights(const Config& config, const AttentionWeights& found, const AttentionWeights& expected) {
    std::vector<TensorRef> counterparts;
    for_each_tensor(config, expected,
                    [&](const char*, const TensorRef& tensor, Index, Index) { counterparts.push_back(tensor); });
    auto counterpart = counterparts.begin();
    for_each_tensor(config, found, [&](const char* name, const TensorRef& tensor, Index rows, Index cols) {
        const TensorRef& other = *counterpart++;
        ASSERT_NO_THROW(require_tensor(name, tensor, rows, cols));
        EXPECT_EQ(tensor.dtype, other.dtype) << name;
        EXPECT_EQ(reference::to_matrix(tensor).values, reference::to_matrix(other).values) << name;
    });
}

template <class S>
class CheckpointTypesTest : public ::testing::Test {};
TYPED_TEST_SUITE(CheckpointTypesTest, TestTypes<StorageTypes>, );

TYPED_TEST(CheckpointTypesTest, LoadsEveryLayerFromOneFileAndFromTwo) {
    for (const Config& config : {uneven_config(), uneven_config(0), uneven_config(150, true)}) {
        CheckpointFolder folder;
        folder.write("config.json", config_json(config, "deepseek_v3").dump());
        folder.write("model.safetensors", two_layers<TypeParam>(config, 3));
        for (const bool in_two : {false, true}) {
            if (in_two) folder.write_in_two(two_layers<TypeParam>(config, 3));
            Checkpoint checkpoint(folder.path());
            ASSERT_EQ(checkpoint.config(), config);
            for (const Index layer : {0, 1}) {
                const RandomWeights<TypeParam> expected(config, static_cast<std::uint64_t>(3 + layer));
                expect_same_weights(config, checkpoint.attention_weights(layer), expected.refs());
            }
        }
    }
}

/// config.json of a model type whose layers are all alike, with an indexer that is small where it has one.
nlohmann::json small_json(const Config& config, const std::string& type) {
    nlohmann::json json = config_json(config, type);
    const bool sparse = type == "deepseek_v32" || type == "glm_moe_dsa" || type == "axk2" || type == "hy_v4" ||
                        type == "dots3_note" || type == "glm5_next";
    if (sparse) json.update({{"index_topk", 8}, {"index_n_heads", 3}, {"index_head_dim", 22}});
    if (type == "kimi_linear" || type == "bailing_hybrid") json["layer_types"] = {"full_attention", "full_attention"};
    if (type == "glm5_next") json.update({{"index_kpool", 4}, {"indexer_types", {"full", "full"}}});
    if (type == "dots3_note" || type == "glm5_next") json["layer_types"] = {"indexed_attention", "indexed_attention"};
    return json;
}

TEST(CheckpointTest, KnowsTheNamesOfEveryModel) {
    for (const char* type : {"deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite", "glm_moe_dsa", "axk1",
                             "axk2", "bailing_hybrid", "dots3_note", "glm5_next", "hy_v4", "kimi_linear", "youtu"}) {
        const nlohmann::json json = small_json(uneven_config(), type);
        CheckpointFolder folder;
        folder.write("config.json", json.dump());
        Config config = io::parse_hf_layers(json)[1].value();
        folder.write("model.safetensors", two_layers<bf16>(config, 5));
        Checkpoint checkpoint(folder.path());
        EXPECT_EQ(checkpoint.config(1), config) << type;
        expect_same_weights(config, checkpoint.attention_weights(1), RandomWeights<bf16>(config, 6).refs());
        // What is not read is named, unless it is an indexer that its caller does without.
        if (config.indexer.heads == 0) continue;
        config.indexer = {};
        EXPECT_NO_THROW(static_cast<void>(checkpoint.attention_weights(1, config))) << type;
    }
}

TEST(CheckpointTest, LayersMayDiffer) {
    nlohmann::json json = small_json(uneven_config(), "glm_moe_dsa");
    json["indexer_types"] = {"full", "shared"};
    CheckpointFolder folder;
    folder.write("config.json", json.dump());
    const auto layers = io::parse_hf_layers(json);
    std::vector<StoredTensor> tensors;
    for (const Index layer : {0, 1}) {
        const RandomWeights<bf16> weights(*layers[static_cast<std::size_t>(layer)], 5);
        for (const StoredTensor& tensor : stored_layer(*layers[static_cast<std::size_t>(layer)], weights.refs(), layer))
            tensors.push_back(tensor);
    }
    folder.write("model.safetensors", tensors);
    Checkpoint checkpoint(folder.path());
    EXPECT_EQ(checkpoint.config(0).indexer.heads, 3);
    EXPECT_EQ(checkpoint.config(1).indexer.heads, 0);
    EXPECT_EQ(checkpoint.config(1).indexer.top_k, 8);
    for (const Index layer : {0, 1}) EXPECT_NO_THROW(static_cast<void>(checkpoint.attention_weights(layer)));
    EXPECT_THROW(static_cast<void>(checkpoint.config()), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(checkpoint.config(2)), std::invalid_argument);
}

TEST(CheckpointTest, LearnedFrequenciesComeFromTheFile) {
    nlohmann::json json = small_json(uneven_config(0), "mistral_large4");
    json.update({{"index_topk", 8}, {"index_n_heads", 3}, {"index_head_dim", 22}, {"no_rope_layers", {1, 0}}});
    const auto layers = io::parse_hf_layers(json);
    std::vector<StoredTensor> tensors;
    for (const Index layer : {0, 1}) {
        const Config& config = *layers[static_cast<std::size_t>(layer)];
        const RandomWeights<bf16> weights(config, 5);
        for (const StoredTensor& tensor : stored_layer(config, weights.refs(), layer)) tensors.push_back(tensor);
    }
    CheckpointFolder folder;
    folder.write("config.json", json.dump());
    folder.write("model.safetensors", tensors);
    EXPECT_THROW(Checkpoint{folder.path()}, io::CheckpointError);
    std::vector<float> factors(static_cast<std::size_t>(layers[0]->qk_rope_head_dim / 2));
    for (std::size_t i = 0; i < factors.size(); ++i) factors[i] = 0.25F * static_cast<float>(i);
    tensors.push_back(stored("model.rotary_emb.alpha", TensorRef(factors.data(), 1, static_cast<Index>(factors.size()))));
    folder.write("model.safetensors", tensors);
    Checkpoint checkpoint(folder.path());
    EXPECT_EQ(checkpoint.config(0).rope.log_factors, std::vector<double>(factors.begin(), factors.end()));
    EXPECT_TRUE(checkpoint.config(1).rope.log_factors.empty());
    for (const Index layer : {0, 1}) EXPECT_NO_THROW(static_cast<void>(checkpoint.attention_weights(layer)));
}

TEST(CheckpointTest, ALayerOfAnotherKindIsNoneOfOurs) {
    nlohmann::json json = small_json(uneven_config(0), "kimi_linear");
    json["layer_types"] = {"linear_attention", "full_attention"};
    CheckpointFolder folder;
    folder.write("config.json", json.dump());
    const Config config = io::parse_hf_config(json);
    folder.write("model.safetensors", two_layers<bf16>(config, 5));
    Checkpoint checkpoint(folder.path());
    EXPECT_FALSE(checkpoint.layers()[0].has_value());
    EXPECT_EQ(checkpoint.config(), config);
    EXPECT_NO_THROW(static_cast<void>(checkpoint.attention_weights(1)));
    EXPECT_EQ(thrown<std::invalid_argument>([&] { static_cast<void>(checkpoint.attention_weights(0)); }),
              "mla: layer is 0, must be one of latent attention, which by config.json it is not");
}

TEST(CheckpointTest, FindsTheLanguageModelOfAMultimodalOne) {
    const std::vector<std::pair<const char*, const char*>> kinds = {{"language_model.model.", "text_config"},
                                                                    {"model.language_model.", "text_config"},
                                                                    {"language.model.", "language_config"}};
    for (const auto& [prefix, part] : kinds) {
        const Config config = uneven_config();
        CheckpointFolder folder;
        nlohmann::json json = {{"model_type", "seeing"}, {"text_config", nullptr}};
        json[part] = config_json(config, "kimi_k2");
        folder.write("config.json", json.dump());
        folder.write("model.safetensors", two_layers<bf16>(config, 5, prefix));
        Checkpoint checkpoint(folder.path());
        EXPECT_EQ(checkpoint.prefix(), prefix);
        EXPECT_EQ(checkpoint.json().at("model_type"), "kimi_k2");
        expect_same_weights(config, checkpoint.attention_weights(1), RandomWeights<bf16>(config, 6).refs());
    }
}

// Errors ----------------------------------------------------------------------------------------------------------------

/// What opening a two-file checkpoint of two layers and reading both throws, after `change`.
template <class Error = CheckpointError, class Change>
std::string load_error(Change change) {
    const Config config = uneven_config();
    CheckpointFolder folder;
    folder.write("config.json", config_json(config, "deepseek_v3").dump());
    folder.write_in_two(two_layers<bf16>(config, 3));
    change(folder);
    return thrown<Error>([&] {
        Checkpoint checkpoint(folder.path());
        for (const Index layer : {0, 1}) static_cast<void>(checkpoint.attention_weights(layer));
    });
}

void rewrite(const CheckpointFolder& folder, void (*change)(StoredTensor&)) {
    std::vector<StoredTensor> tensors = two_layers<bf16>(uneven_config(), 3);
    change(*std::find_if(tensors.begin(), tensors.end(),
                         [](const StoredTensor& tensor) { return tensor.name == "model.layers.1.self_attn.q_b_proj.weight"; }));
    folder.write_in_two(tensors);
}

TEST(CheckpointErrorsTest, NamesFileTensorFoundAndExpected) {
    constexpr std::string_view tensor = "tensor 'model.layers.1.self_attn.q_b_proj.weight' is ";
    const auto rewritten = [](void (*change)(StoredTensor&)) {
        return load_error([&](const CheckpointFolder& folder) { rewrite(folder, change); });
    };
    expect_parts(rewritten([](StoredTensor& t) { t.name = "elsewhere"; }),
                 {"model.safetensors.index.json: ", tensor, "missing, must be in the checkpoint"});
    expect_parts(rewritten([](StoredTensor& t) {
                     t.shape = {150, 240};
                 }),
                 {CheckpointFolder::file_name(1) + ": ", tensor, "[150, 240], must be [240, 150]"});
    expect_parts(rewritten([](StoredTensor& t) { t.shape = {240, 1, 150}; }), {tensor, "[240, 1, 150], must be [240, 150]"});
    expect_parts(rewritten([](StoredTensor& t) { t.dtype = "I16"; }),
                 {CheckpointFolder::file_name(1) + ": ", tensor, "I16, must be F64, F32, BF16, F16, F8_E4M3 or I8"});
}

TEST(CheckpointErrorsTest, NamesAFileThatIsMissingOrNotWhatTheIndexSays) {
    expect_parts(
        load_error<std::system_error>([](const auto& folder) { std::filesystem::remove(folder.path() / "config.json"); }),
        {"config.json"});
    expect_parts(load_error([](const auto& folder) { std::filesystem::remove(folder.path() / CheckpointFolder::file_name(1)); }),
                 {CheckpointFolder::file_name(1), "the file is missing", "model.layers."});
    expect_parts(load_error<std::system_error>(
                     [](const auto& folder) { std::filesystem::remove(folder.path() / "model.safetensors.index.json"); }),
                 {"model.safetensors"});
    expect_parts(load_error([](const auto& folder) {
                     folder.write("model.safetensors.index.json",
                                  R"({"weight_map":{"x":")" + CheckpointFolder::file_name(1) + "\"}}");
                 }),
                 {CheckpointFolder::file_name(1) + ": tensor 'x' is missing, must be in the file, as the index says"});
    expect_parts(load_error<io::SafetensorsError>([](const auto& folder) {
                     const auto path = folder.path() / CheckpointFolder::file_name(1);
                     std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
                 }),
                 {CheckpointFolder::file_name(1), "data section"});
    expect_parts(
        load_error<std::invalid_argument>([](const auto& folder) { folder.write("config.json", R"({"model_type":"llama"})"); }),
        {"config.json: ", "model_type", "'llama'"});
}

TEST(CheckpointErrorsTest, NamesATensorOfTheLayerThatNothingReads) {
    for (const char* name :
         {"q_b_proj.bias", "q_proj.bias", "gate_proj.weight", "indexer.wk.weight", "q_b_proj.weight_scale_inv"}) {
        const std::string full = std::string("model.layers.1.self_attn.") + name;
        CheckpointFolder folder;
        folder.write("config.json", config_json(uneven_config(), "deepseek_v3").dump());
        std::vector<StoredTensor> tensors = two_layers<bf16>(uneven_config(), 3);
        tensors.push_back({full, "F32", {1}, std::string(4, '\0')});
        folder.write("model.safetensors", tensors);
        Checkpoint checkpoint(folder.path());
        EXPECT_NO_THROW(static_cast<void>(checkpoint.attention_weights(0)));
        expect_parts(thrown<CheckpointError>([&] { static_cast<void>(checkpoint.attention_weights(1)); }),
                     {"model.safetensors: ", full, "read by nothing"});
    }
}

TEST(CheckpointTest, LoadsTheLayersWhoseFilesAreThere) {
    CheckpointFolder folder;
    const Config config = uneven_config();
    folder.write("config.json", config_json(config, "deepseek_v3").dump());
    const auto first = stored_layer(config, RandomWeights<bf16>(config, 3).refs(), 0);
    folder.write("a.safetensors", first);
    nlohmann::json map = {{"model.layers.1.self_attn.o_proj.weight", "b.safetensors"}};
    for (const StoredTensor& tensor : first) map[tensor.name] = "a.safetensors";
    folder.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    Checkpoint checkpoint(folder.path());
    expect_same_weights(config, checkpoint.attention_weights(0), RandomWeights<bf16>(config, 3).refs());
    EXPECT_FALSE(checkpoint.contains("model.layers.1.self_attn.o_proj.weight"));
    expect_parts(thrown<CheckpointError>([&] { static_cast<void>(checkpoint.tensor("model.layers.1.self_attn.o_proj.weight")); }),
                 {"b.safetensors", "missing", "o_proj"});
}

// Index -----------------------------------------------------------------------------------------------------------------

void expect_index_refused(const std::string& text, std::initializer_list<std::string_view> parts) {
    const std::string message = thrown<CheckpointError>([&] { static_cast<void>(io::parse_checkpoint_index(text, "an.index")); });
    expect_parts(message, {"an.index"});
    expect_parts(message, parts);
}

TEST(CheckpointIndexTest, KeepsTheMapAndSkipsTheRest) {
    const auto map = io::parse_checkpoint_index(
        R"({"metadata":{"total_size":3,"deep":[[{"weight_map":{"x":1}}]],"none":null},"weight_map":{"a":"1.st","b":"2.st"},"z":1.5e3})",
        "");
    EXPECT_EQ(map, (io::WeightMap{{"a", "1.st"}, {"b", "2.st"}}));
    EXPECT_TRUE(io::parse_checkpoint_index(R"({"weight_map":{}})", "").empty());
}

TEST(CheckpointIndexTest, RefusesWhatIsNoMapOfFiles) {
    for (const char* text : {"", "{", "{}{}", R"({"weight_map":{"a":"b"}} x)", R"({"weight_map":{"a":NaN}})", "\xff"})
        expect_index_refused(text, {"JSON"});
    expect_index_refused(std::string("{\"weight_map\":{}}\0", 18), {"zero byte"});
    expect_index_refused("[]", {"an array", "an object"});
    expect_index_refused("3", {"a number", "an object"});
    expect_index_refused("{}", {"weight_map", "missing"});
    expect_index_refused(R"({"metadata":{"weight_map":{"a":"b"}}})", {"weight_map", "missing"});
    expect_index_refused(R"({"weight_map":["a"]})", {"weight_map", "missing"});
    expect_index_refused(R"({"weight_map":"a"})", {"weight_map", "a string"});
    expect_index_refused(R"({"weight_map":{},"weight_map":{}})", {"weight_map", "twice"});
    expect_index_refused(R"({"weight_map":{"a":"b","a":"b"}})", {"'a'", "twice"});
    for (const char* value : {"1", "-1", "0.5", "null", "true", "[]", "{}"})
        expect_index_refused(std::string(R"({"weight_map":{"a":)") + value + "}}", {"'a'", "must be a string"});
}

TEST(CheckpointIndexTest, LeavesItsFolderForNoFile) {
    for (const char* file : {"", ".", "..", "../secret", "/etc/passwd", "a/b", "a\\\\b", "a\\u0000b"})
        expect_index_refused(std::string(R"({"weight_map":{"a":")") + file + "\"}}", {"'a'", "beside the index"});
    expect_index_refused(R"({"weight_map":{"a":")" + std::string(256, 'x') + "\"}}", {"'a'", "beside the index"});
}

TEST(CheckpointIndexTest, StaysShallow) {
    for (const char open : {'[', '{'}) {
        std::string text = "{\"x\":";
        for (int i = 0; i < 1'000'000; ++i) text += open == '[' ? "[" : "{\"x\":";
        expect_index_refused(text, {"nesting", "32 deep"});
    }
}

// Loading ---------------------------------------------------------------------------------------------------------------

TEST(CheckpointTest, ReportsProgressTensorByTensor) {
    const Config config = uneven_config();
    CheckpointFolder folder;
    folder.write("config.json", config_json(config, "deepseek_v3").dump());
    folder.write_in_two(two_layers<bf16>(config, 3));
    std::vector<std::uint64_t> bytes;
    std::string last;
    Checkpoint checkpoint(folder.path(), [&](const io::LoadProgress& progress) {
        bytes.push_back(progress.bytes);
        last = progress.tensor;
        EXPECT_EQ(progress.total, checkpoint.bytes());
    });
    EXPECT_TRUE(bytes.empty());
    for (const Index layer : {0, 1}) static_cast<void>(checkpoint.attention_weights(layer));
    ASSERT_EQ(bytes.size(), 14U);
    EXPECT_EQ(bytes.front(), 0U);
    EXPECT_TRUE(std::is_sorted(bytes.begin(), bytes.end()));
    EXPECT_EQ(last, "model.layers.1.self_attn.o_proj.weight");
    EXPECT_EQ(bytes.back() + 2 * 200 * 3 * 66, checkpoint.bytes());  // all but o_proj itself
}

TEST(CheckpointTest, ReadsAgainWhatWasReleased) {
    const Config config = uneven_config();
    CheckpointFolder folder;
    folder.write("config.json", config_json(config, "deepseek_v3").dump());
    folder.write("model.safetensors", two_layers<float>(config, 3));
    Checkpoint checkpoint(folder.path());
    for (int round = 0; round < 3; ++round) {
        expect_same_weights(config, checkpoint.attention_weights(1), RandomWeights<float>(config, 4).refs());
        checkpoint.release();
    }
}

TEST(CheckpointTest, HandsOutOtherTensorsByName) {
    const std::vector<float> values = {1, 2, 3, 4, 5, 6};
    CheckpointFolder folder;
    folder.write("config.json", config_json(uneven_config(), "deepseek_v3").dump());
    folder.write("model.safetensors",
                 {stored("lm_head.weight", TensorRef(values.data(), 2, 3)), stored("norm", TensorRef(values.data(), 1, 6))});
    Checkpoint checkpoint(folder.path());
    EXPECT_TRUE(checkpoint.contains("lm_head.weight"));
    EXPECT_FALSE(checkpoint.contains("lm_head"));
    EXPECT_EQ(checkpoint.tensor("lm_head.weight").rows, 2);
    EXPECT_EQ(checkpoint.tensor("norm", 1, 6).cols, 6);
    expect_parts(thrown<CheckpointError>([&] { static_cast<void>(checkpoint.tensor("norm", 6, 1)); }),
                 {"'norm'", "[6]", "[6, 1]"});
    expect_parts(thrown<CheckpointError>([&] { static_cast<void>(checkpoint.tensor("lm_head.weight", 1, 6)); }),
                 {"[2, 3]", "[1, 6]"});
}

}  // namespace
}  // namespace mla
