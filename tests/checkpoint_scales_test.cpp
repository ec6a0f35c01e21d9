// Quantised checkpoints: every type, block and kind of scales stands for the values that were meant, and what does not fit is
// named.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/attention.hpp"
#include "mla/io/checkpoint.hpp"
#include "support/checkpoint_folder.hpp"
#include "support/layer.hpp"
#include "support/quantised_layer.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

using io::Checkpoint;
using io::CheckpointError;
using nlohmann::json;
using testing::as_bytes;
using testing::CheckpointFolder;
using testing::config_json;
using testing::expect_parts;
using testing::Quantisation;
using testing::QuantisedLayer;
using testing::StoredTensor;
using testing::thrown;
using testing::uneven_config;

constexpr Index all = BlockScales::all;
const std::string layer_0 = "model.layers.0.self_attn.";

json model_json(const json& quantization) {
    json model = config_json(uneven_config(), "deepseek_v3");
    if (!quantization.is_null()) model["quantization_config"] = quantization;
    return model;
}

/// A configuration of compressed-tensors with one group.
json compressed(const json& weights, const char* format) {
    return {{"quant_method", "compressed-tensors"},
            {"format", format},
            {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", nullptr}}}}},
            {"ignore", {"lm_head"}}};
}

json int4_groups(Index size) {
    return compressed({{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", size}, {"symmetric", true}},
                      "pack-quantized");
}

void expect_loads(const Quantisation& how, const json& model) {
    const QuantisedLayer layer(uneven_config(), how);
    CheckpointFolder folder;
    folder.write("config.json", model.dump());
    folder.write_in_two(layer.tensors);  // weights and scales in different files
    Checkpoint checkpoint(folder.path());
    const std::string what = std::string(how.dtype) + ' ' + how.scale_dtype + ' ' + model.dump();
    AttentionWeights weights = checkpoint.attention_weights(0);
    for_each_tensor(uneven_config(), weights, [&](const std::string& name, const TensorRef& tensor, Index rows, Index cols) {
        ASSERT_NO_THROW(require_tensor(name.c_str(), tensor, rows, cols)) << what;
        if (name.ends_with("norm")) return;
        EXPECT_EQ(tensor.dtype, how.type()) << what;
        EXPECT_EQ(reference::to_matrix(tensor).values, layer.values.at(name)) << name << what;
    });
}

TEST(CheckpointScalesTest, BlocksOf128NeedNoWord) {
    for (const char* weight : {"F8_E4M3", "I8"})
        for (const char* scale : {"F32", "BF16", "F16", "F8_E8M0"}) expect_loads({weight, scale}, model_json(nullptr));
}

TEST(CheckpointScalesTest, BlocksAreAsLargeAsTheConfigurationSays) {
    for (const Index rows : {32, 64, 1})
        for (const Index cols : {32, 128, 50}) {
            const json config = {{"quant_method", "fp8"}, {"weight_block_size", {rows, cols}}};
            expect_loads({"F8_E4M3", "F8_E8M0", rows, cols}, model_json(config));
        }
    expect_loads({"I8", "F32", 64, 128}, model_json({{"quant_method", "blockwise_int8"}, {"weight_block_size", {64, 128}}}));
}

TEST(CheckpointScalesTest, TheConfigurationOfTheWholeModelHoldsForItsText) {
    json model = {{"model_type", "seeing"}, {"text_config", model_json(nullptr)}};
    model["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {32, 32}}};
    expect_loads({"F8_E4M3", "F32", 32, 32}, model);
}

TEST(CheckpointScalesTest, ChannelsAndTensorsNeedNoWord) {
    for (const char* weight : {"F8_E4M3", "I8"})
        for (const char* name : {"_scale", "_scale_inv"}) {
            for (const std::size_t rank : {1U, 2U}) expect_loads({weight, "BF16", 1, all, name, rank}, model_json(nullptr));
            for (const std::size_t rank : {0U, 1U, 2U}) expect_loads({weight, "F32", all, all, name, rank}, model_json(nullptr));
        }
}

TEST(CheckpointScalesTest, CompressedTensorsSaysWhatSharesAScale) {
    const auto fp8 = [](json weights) {
        weights.update({{"num_bits", 8}, {"type", "float"}});
        return model_json(compressed(weights, "float-quantized"));
    };
    expect_loads({"F8_E4M3", "BF16", 1, all, "_scale"}, fp8({{"strategy", "channel"}}));
    expect_loads({"F8_E4M3", "F32", all, all, "_scale", 1}, fp8({{"strategy", "tensor"}}));
    expect_loads({"F8_E4M3", "F32", all, all, "_scale", 0}, fp8(json::object()));
    expect_loads({"F8_E4M3", "F32", 32, 64, "_scale"}, fp8({{"strategy", "block"}, {"block_structure", {32, 64}}}));
    const json int8 = {{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}, {"dynamic", false}, {"actorder", nullptr}};
    for (const char* format : {"int-quantized", "naive-quantized", "mixed-precision"})
        expect_loads({"I8", "F32", 1, all, "_scale"}, model_json(compressed(int8, format)));
}

TEST(CheckpointScalesTest, Int4LiesEightToAWord) {
    for (const char* scale : {"BF16", "F16", "F32"})
        expect_loads({"I32", scale, 1, 2, "_scale"}, model_json(int4_groups(2)));  // rows of 150 and 198: not whole words
    const json channel = {{"num_bits", 4}, {"type", "int"}, {"strategy", "channel"}};
    expect_loads({"I32", "BF16", 1, all, "_scale"}, model_json(compressed(channel, "pack-quantized")));
    const json by_size = {{"num_bits", 4}, {"group_size", 2}};  // what is left out has its default
    expect_loads({"I32", "BF16", 1, 2, "_scale"}, model_json(compressed(by_size, "pack-quantized")));
}

TEST(CheckpointScalesTest, OfSeveralGroupsTheOneThatFits) {
    json config = int4_groups(2);
    config["format"] = "mixed-precision";
    config["config_groups"]["group_1"] = {{"format", "float-quantized"},
                                          {"weights", {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}}}};
    config["config_groups"]["group_2"] = {{"format", "nvfp4-pack-quantized"},
                                          {"weights", {{"num_bits", 4}, {"type", "float"}, {"strategy", "tensor_group"}}}};
    config["config_groups"]["group_3"] = {{"weights", nullptr}, {"output_activations", {{"num_bits", 8}}}};
    expect_loads({"F8_E4M3", "F32", 1, all, "_scale"}, model_json(config));
    expect_loads({"I32", "F32", 1, 2, "_scale"}, model_json(config));
}

void expect_runs(const Config& config, const Quantisation& how, const json& quantization) {
    const QuantisedLayer layer(config, how);
    CheckpointFolder folder;
    json model = config_json(config, "deepseek_v3");
    model["quantization_config"] = quantization;
    folder.write("config.json", model.dump());
    folder.write("model.safetensors", layer.tensors);
    Checkpoint checkpoint(folder.path());
    const Prompt<float> prompt(config, 5, 7);
    const auto y = run<float>(Attention<float>(config, checkpoint.attention_weights(0), Precision::full), prompt);
    const auto expected = run<float>(Attention<float>(config, layer.expected(), Precision::full), prompt);
    EXPECT_LT((y - expected).norm(), 1e-5F * expected.norm()) << how.dtype;  // sums of floats, in an order of its own
    EXPECT_TRUE(y.allFinite());
}

TEST(CheckpointScalesTest, ALayerOfThemIsTheLayerOfTheirValues) {
    for (const Index q_lora_rank : {0, 150}) {
        const Config config = uneven_config(q_lora_rank);
        expect_runs(config, {}, nullptr);
        expect_runs(config, {"I8", "F32", 1, all, "_scale"}, nullptr);
        expect_runs(config, {"I32", "BF16", 1, 2, "_scale"}, int4_groups(2));
    }
}

TEST(CheckpointScalesTest, WhatIsIgnoredComesAsItIs) {
    QuantisedLayer layer(uneven_config(), {"I32", "BF16", 1, 2, "_scale"});
    const std::vector<bf16> values(200 * 198, bf16(0.5F));
    std::erase_if(layer.tensors, [](const StoredTensor& tensor) { return tensor.name.find("o_proj") != std::string::npos; });
    layer.tensors.push_back({layer_0 + "o_proj.weight", "BF16", {200, 198}, as_bytes(values.data(), 200 * 198)});
    CheckpointFolder folder;
    folder.write("config.json", model_json(int4_groups(2)).dump());
    folder.write("model.safetensors", layer.tensors);
    Checkpoint checkpoint(folder.path());
    EXPECT_EQ(checkpoint.attention_weights(0).o_proj.dtype, DType::bf16);
    EXPECT_EQ(checkpoint.attention_weights(0).q_b_proj.dtype, DType::i4);
}

TEST(CheckpointScalesTest, ScalesMayBeAnyNumbers) {
    const float numbers[] = {-2.0F, 0.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
    const std::string weight(4, '\x03');
    CheckpointFolder folder;
    folder.write("config.json", model_json(nullptr).dump());
    folder.write("model.safetensors",
                 {{"w.weight", "I8", {4, 1}, weight}, {"w.weight_scale", "F32", {4, 1}, as_bytes(numbers, 4)}});
    Checkpoint checkpoint(folder.path());
    const reference::Matrix values = reference::to_matrix(checkpoint.tensor("w.weight"));
    EXPECT_EQ(values(0, 0), -6);
    EXPECT_EQ(values(1, 0), 0);
    EXPECT_TRUE(std::isnan(values(2, 0)));
    EXPECT_TRUE(std::isinf(values(3, 0)));
}

TEST(CheckpointScalesTest, ScalesOfActivationsChangeNothing) {
    QuantisedLayer layer(uneven_config(), {"F8_E4M3", "F32", all, all, "_scale", 0});
    for (const char* name : {"o_proj.input_scale", "q_b_proj.activation_scale"})
        layer.tensors.push_back({layer_0 + name, "F32", {}, std::string(4, '\1')});
    CheckpointFolder folder;
    folder.write("config.json", model_json({{"quant_method", "fp8"}, {"activation_scheme", "static"}}).dump());
    folder.write("model.safetensors", layer.tensors);
    EXPECT_NO_THROW(static_cast<void>(Checkpoint(folder.path()).attention_weights(0)));
}

TEST(CheckpointScalesTest, ProgressCountsScales) {
    const QuantisedLayer layer(uneven_config(), {"I32", "BF16", 1, 2, "_scale"});
    CheckpointFolder folder;
    folder.write("config.json", model_json(int4_groups(2)).dump());
    folder.write("model.safetensors", layer.tensors);
    std::uint64_t before_last = 0, total = 0;
    Checkpoint checkpoint(folder.path(), [&](const io::LoadProgress& progress) {
        before_last = progress.bytes;
        total = progress.total;
    });
    static_cast<void>(checkpoint.attention_weights(0));
    EXPECT_EQ(before_last + 200 * 25 * 4 + 200 * 99 * 2 + 16, total);  // o_proj itself
}

// Errors ----------------------------------------------------------------------------------------------------------------

/// What reading the layer throws after `change`.
template <class Error = CheckpointError, class Change>
std::string error_of(const Quantisation& how, json model, Change change) {
    QuantisedLayer layer(uneven_config(), how);
    change(layer, model);
    CheckpointFolder folder;
    folder.write("config.json", model.dump());
    folder.write("model.safetensors", layer.tensors);
    return thrown<Error>([&] { static_cast<void>(Checkpoint(folder.path()).attention_weights(0)); });
}

void unchanged(QuantisedLayer&, json&) {}

TEST(CheckpointScalesErrorsTest, NamesScalesThatAreMissing) {
    expect_parts(
        error_of({}, model_json(nullptr), [](auto& layer, json&) { layer.named("o_proj.weight_scale_inv").name = "other"; }),
        {"model.safetensors: tensor '", "o_proj.weight_scale_inv' is missing", "o_proj.weight_scale'", "F8_E4M3"});
    expect_parts(error_of({"I8", "F32"}, model_json(nullptr),
                          [](auto& layer, json&) { layer.named("o_proj.weight_scale_inv").name = layer_0 + "o_proj.SCB"; }),
                 {"o_proj.weight_scale_inv' is missing", "I8", "o_proj.SCB' is not understood"});
    expect_parts(error_of({"I32", "F32", 1, 2, "_scale"}, model_json(int4_groups(2)),
                          [](auto& layer, json&) { layer.named("o_proj.weight_scale").name = "other"; }),
                 {"o_proj.weight_scale_inv' is missing", "I32"});
    expect_parts(error_of({"I32", "F32", 1, 2, "_scale"}, model_json(int4_groups(2)),
                          [](auto& layer, json&) { layer.named("o_proj.weight_shape").name = "other"; }),
                 {"o_proj.weight_shape' is missing"});
}

TEST(CheckpointScalesErrorsTest, AWeightWithoutAModuleHasNoNeighbours) {
    CheckpointFolder folder;
    folder.write("config.json", model_json(nullptr).dump());
    folder.write("model.safetensors", {{"weight", "I8", {1, 1}, "a"}, {"lone", "I8", {1, 1}, "a"}});
    Checkpoint checkpoint(folder.path());
    for (const char* name : {"weight", "lone"})
        expect_parts(thrown<CheckpointError>([&] { static_cast<void>(checkpoint.tensor(name)); }),
                     {name, "_scale_inv", "missing"});
}

TEST(CheckpointScalesErrorsTest, NamesScalesOfAnotherShape) {
    const auto file = "model.safetensors: tensor 'model.layers.0.self_attn.o_proj.weight_scale_inv' is ";
    const auto reshaped = [](std::vector<Index> shape) {
        return [shape](auto& layer, json&) { layer.named("o_proj.weight_scale_inv").shape = shape; };
    };
    for (const auto& [shape, text] : {std::pair{std::vector<Index>{1, 4}, "[1, 4]"}, {{4}, "[4]"}, {{2, 2, 1}, "[2, 2, 1]"}})
        expect_parts(error_of({}, model_json(nullptr), reshaped(shape)), {file, text, "must be [2, 2]", "[200, 1]", "[1, 1]"});
    const json stated = {{"weight_block_size", {64, 128}}};
    expect_parts(error_of({}, model_json(stated), unchanged),
                 {"weight_scale_inv' is [2, 2], must be [3, 2] for blocks of 64 × 128"});
    const json channel = compressed({{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}}, "float-quantized");
    expect_parts(error_of({}, model_json(channel), unchanged), {"weight_scale_inv' is [2, 2], must be [150, 1]"});
    expect_parts(error_of({"I32", "BF16", 1, 4, "_scale"}, model_json(int4_groups(2)), unchanged),
                 {"q_a_proj.weight_scale' is [150, 50], must be [150, 100]"});
}

TEST(CheckpointScalesErrorsTest, NamesGroupsThatDoNotDivide) {
    expect_parts(error_of({"I32", "BF16", 1, 4, "_scale"}, model_json(int4_groups(4)), unchanged),
                 {"q_b_proj.weight_scale' is [240, 38]", "groups of 4 that divide its weight's 150 columns"});
}

TEST(CheckpointScalesErrorsTest, NamesScalesOfAnotherType) {
    for (const char* dtype : {"I32", "F64", "U8", "F8_E4M3"})
        expect_parts(error_of({}, model_json(nullptr),
                              [&](auto& layer, json&) {
                                  StoredTensor& scales = layer.named("o_proj.weight_scale_inv");
                                  scales.dtype = dtype;
                                  scales.bytes.resize(4 * (scales.dtype == "F64" ? 8 : scales.dtype == "I32" ? 4 : 1));
                              }),
                     {"o_proj.weight_scale_inv' is ", dtype, "must be F32, BF16, F16 or F8_E8M0"});
}

TEST(CheckpointScalesErrorsTest, NamesWhatWouldMakeOtherValues) {
    for (const char* name : {"o_proj.weight_zero_point", "o_proj.weight_g_idx"})
        expect_parts(error_of({"I32", "BF16", 1, 2, "_scale"}, model_json(int4_groups(2)),
                              [&](auto& layer, json&) {
                                  layer.tensors.push_back({layer_0 + name, "I8", {1}, "\1"});
                              }),
                     {name, "there", "symmetric"});
    expect_parts(error_of({}, model_json(nullptr),
                          [](auto& layer, json&) {
                              layer.tensors.push_back({layer_0 + "o_proj.weight_scale", "F32", {}, "1234"});
                          }),
                 {"o_proj.weight_scale'", "absent beside"});
    expect_parts(error_of<std::invalid_argument>({}, model_json({{"transform_config", {{"config_groups", 1}}}}), unchanged),
                 {"config.json: ", "quantization_config.transform_config"});
}

TEST(CheckpointScalesErrorsTest, NamesPackedWeightsThatLie) {
    const Quantisation int4{"I32", "BF16", 1, 2, "_scale"};
    const auto shape_error = [&](std::int64_t rows, std::int64_t cols) {
        const std::int64_t shape[] = {rows, cols};
        return error_of(int4, model_json(int4_groups(2)),
                        [&](auto& layer, json&) { layer.named("q_b_proj.weight_shape").bytes = as_bytes(shape, 2); });
    };
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    const std::int64_t shapes[][2] = {{-240, 150}, {240, -150}, {240, 0},     {0, 150},    {240, 153},
                                      {240, 144},  {241, 150},  {most, most}, {240, most}, {std::int64_t{1} << 61, 150},
                                      {-1, -1}};
    for (const auto& [rows, cols] : shapes)
        expect_parts(shape_error(rows, cols), {"q_b_proj.weight_shape' is [" + std::to_string(rows), "[240, 19]"});
    expect_parts(shape_error(240, 152), {"q_b_proj.weight_scale' is [240, 75], must be [240, 76]"});
    const json channel = compressed({{"num_bits", 4}, {"strategy", "channel"}}, "pack-quantized");
    const std::int64_t longer[] = {240, 152};
    expect_parts(error_of({"I32", "BF16", 1, all, "_scale"}, model_json(channel),
                          [&](auto& layer, json&) { layer.named("q_b_proj.weight_shape").bytes = as_bytes(longer, 2); }),
                 {"q_b_proj.weight_packed' is [240, 152], must be [240, 150]"});
    const auto changed = [&](const char* name, auto change) {
        return error_of(int4, model_json(int4_groups(2)), [&](auto& layer, json&) { change(layer.named(name)); });
    };
    expect_parts(changed("q_b_proj.weight_shape", [](StoredTensor& tensor) { tensor.shape = {1, 2}; }), {"[1, 2], must be [2]"});
    expect_parts(changed("q_b_proj.weight_shape", [](StoredTensor& tensor) { tensor.dtype = "F64"; }),
                 {"F64, must be I64 or I32"});
    expect_parts(changed("q_b_proj.weight_packed", [](StoredTensor& tensor) { tensor.dtype = "F32"; }),
                 {"q_b_proj.weight_packed' is F32, must be I32"});
    expect_parts(changed("q_b_proj.weight_packed", [](StoredTensor& tensor) { tensor.shape = {240 * 19}; }),
                 {"of two dimensions"});
    expect_parts(changed("q_b_proj.weight_packed",
                         [](StoredTensor& tensor) {
                             tensor.shape = {0, 19};
                             tensor.bytes.clear();
                         }),
                 {"q_b_proj.weight_packed' is [0, 19]"});
}

TEST(CheckpointScalesErrorsTest, ShapesOfPackedWeightsMayBeI32) {
    QuantisedLayer layer(uneven_config(), {"I32", "BF16", 1, 2, "_scale"});
    const std::int32_t shape[] = {240, 150};
    layer.named("q_b_proj.weight_shape") = {layer_0 + "q_b_proj.weight_shape", "I32", {2}, as_bytes(shape, 2)};
    CheckpointFolder folder;
    folder.write("config.json", model_json(int4_groups(2)).dump());
    folder.write("model.safetensors", layer.tensors);
    EXPECT_EQ(Checkpoint(folder.path()).attention_weights(0).q_b_proj.cols, 150);
}

TEST(CheckpointScalesErrorsTest, NamesMethodsAndWidthsThatAreNotRead) {
    const auto with_method = [](const char* method) { return model_json({{"quant_method", method}}); };
    expect_parts(error_of({}, with_method("quark"), unchanged),
                 {"config.json: quantization_config.quant_method is 'quark'", "fp8"});
    for (const char* method : {"gptq", "awq"})
        expect_parts(error_of({}, with_method(method),
                              [](auto& layer, json&) { layer.named("q_a_proj.weight").name = layer_0 + "q_a_proj.qweight"; }),
                     {"quant_method is '", method, "q_a_proj.weight' is missing"});
    const Quantisation int4{"I32", "BF16", 1, 2, "_scale"};
    const json groups = int4_groups(2);
    for (const auto& [field, value] : {std::pair<const char*, json>{"num_bits", 8},
                                       {"type", "float"},
                                       {"symmetric", false},
                                       {"strategy", "tensor_group"},
                                       {"num_bits", 3}}) {
        json config = groups;
        config["config_groups"]["group_0"]["weights"][field] = value;
        expect_parts(error_of(int4, model_json(config), unchanged),
                     {"config.json: quantization_config.config_groups", "symmetric weights of int4"});
    }
    json marlin = groups;
    marlin["format"] = "marlin-24";
    expect_parts(error_of(int4, model_json(marlin), unchanged), {"config_groups", "marlin-24"});
}

TEST(CheckpointScalesErrorsTest, NamesFieldsOfTheConfigurationThatAreWrong) {
    const auto error = [](const json& config) { return error_of<std::invalid_argument>({}, model_json(config), unchanged); };
    for (const json& size :
         {json("128"), json({128}), json({128, 0}), json({128, -1}), json({1.5, 2}), json({1e300, 1}), json({"a", 1})})
        expect_parts(error({{"weight_block_size", size}}), {"config.json: ", "quantization_config.weight_block_size"});
    expect_parts(error({{"quant_method", 4}}), {"quantization_config.quant_method", "a string"});
    expect_parts(error({{"quant_method", "compressed-tensors"}}), {"quantization_config.config_groups", "missing"});
    const auto weights = [&](const json& fields) { return error(compressed(fields, "float-quantized")); };
    const std::string path = "quantization_config.config_groups.group_0.weights.";
    expect_parts(weights({{"num_bits", "eight"}}), {path + "num_bits"});
    expect_parts(weights({{"group_size", 0}}), {path + "group_size"});
    expect_parts(weights({{"group_size", -2}}), {path + "group_size"});
    expect_parts(weights({{"strategy", "group"}}), {path + "group_size"});
    expect_parts(weights({{"strategy", "block"}, {"block_structure", {0, 1}}}), {path + "block_structure"});
    expect_parts(weights({{"symmetric", 1}}), {path + "symmetric"});
}

TEST(CheckpointScalesErrorsTest, QuantisationStandsOnceOrTwiceTheSame) {
    const json text = model_json({{"weight_block_size", {128, 128}}});
    const json model = {{"text_config", text}, {"quantization_config", {{"weight_block_size", {64, 64}}}}};
    expect_parts(error_of({}, model, unchanged), {"config.json: text_config.quantization_config", "another", "the same"});
}

}  // namespace
}  // namespace mla
