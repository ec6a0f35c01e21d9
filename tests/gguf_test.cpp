// GGUF files: what is loaded is what was written and what a safetensors file gives, and no file does anything but throw.
#include "mla/io/gguf.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mla/attention.hpp"
#include "mla/io/checkpoint.hpp"
#include "mla/presets.hpp"
#include "mla/testing/random.hpp"
#include "support/checkpoint_folder.hpp"
#include "support/gguf_builder.hpp"
#include "support/layer.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

using io::GgufError;
using io::GgufFile;
using testing::add_gguf_layer;
using testing::CheckpointFolder;
using testing::expect_parts;
using testing::gguf_string;
using testing::GgufBuilder;
using testing::GgufHeads;
using testing::number_bytes;
using testing::RandomWeights;
using testing::thrown;
using testing::uneven_config;

/// The bytes of a file in memory of exactly that size, so that a sanitizer sees any read beyond it.
struct Held {
    std::vector<std::byte> bytes;
    explicit Held(const std::string& text) {
        const auto all = std::as_bytes(std::span(text));
        bytes.assign(all.begin(), all.end());
    }
    [[nodiscard]] GgufFile open() const { return GgufFile(bytes, "test.gguf"); }
};

/// Rows of whole blocks of 32.
Config even_config() {
    Config config = uneven_config(96);
    config.hidden_size = 64;
    config.kv_lora_rank = 64;
    config.qk_nope_head_dim = 32;
    config.v_head_dim = 32;
    return config;
}

template <Storage S>
std::string model_bytes(const Config& config, GgufHeads heads, bool q8_0 = false) {
    GgufBuilder file;
    set_gguf_config(file, config, heads);
    for (const Index layer : {0, 1})
        add_gguf_layer<S>(file, config, RandomWeights<S>(config, static_cast<std::uint64_t>(3 + layer)).refs(), layer, heads,
                          q8_0);
    return file.bytes();
}

// Config ----------------------------------------------------------------------------------------------------------------

TEST(GgufConfigTest, PresetsComeBackToTheLastBit) {
    for (const Config& config : {presets::deepseek_v2_lite(), presets::deepseek_v2(), presets::deepseek_v3()})
        for (const GgufHeads heads : {GgufHeads::together, GgufHeads::apart}) {
            GgufBuilder file;
            set_gguf_config(file, config, heads);
            EXPECT_EQ(Held(file.bytes()).open().config(), config);
        }
}

TEST(GgufConfigTest, TakesTheFilesEpsilonBaseAndRamp) {
    Config config = presets::deepseek_v3();
    config.latent_norm_eps = 1e-5;
    config.rope.base = 5e4;
    GgufBuilder file;
    set_gguf_config(file, config, GgufHeads::apart);
    file.set("deepseek2.rope.scaling.yarn_beta_fast", 1.0F);
    file.set("deepseek2.rope.scaling.yarn_beta_slow", 1.0F);
    std::get<Yarn>(config.rope.scaling).beta_fast = 1.0;
    EXPECT_EQ(Held(file.bytes()).open().config(), config);
}

/// What reading the config throws with one more entry, in place of the one of that key if there is one.
std::string config_error(const std::string& key, std::uint32_t type, const std::string& value) {
    GgufBuilder sound, file;
    set_gguf_config(sound, presets::deepseek_v2_lite(), GgufHeads::apart);
    const nlohmann::json metadata = Held(sound.bytes()).open().metadata();
    for (const auto& [name, given] : metadata.items()) {
        if (name == key) continue;
        if (given.is_string()) file.set(name, given.get<std::string>().c_str());
        if (given.is_number_unsigned()) file.set(name, given.get<std::uint32_t>());
        if (given.is_number_float()) file.set(name, given.get<float>());
    }
    if (type != 99) file.raw(key, type, value);
    const Held held(file.bytes());
    return thrown<std::exception>([&] { static_cast<void>(held.open().config()); });
}

TEST(GgufConfigTest, NamesWhatIsMissingWrongOrUnknown) {
    const auto missing = [](const char* key) { return config_error(key, 99, ""); };
    for (const char* key : {"general.architecture", "deepseek2.embedding_length", "deepseek2.attention.head_count",
                            "deepseek2.attention.kv_lora_rank", "deepseek2.attention.layer_norm_rms_epsilon",
                            "deepseek2.rope.dimension_count", "deepseek2.rope.scaling.factor",
                            "deepseek2.rope.scaling.original_context_length", "deepseek2.rope.scaling.yarn_log_multiplier"}) {
        const std::string_view name = key;
        expect_parts(missing(key), {"test.gguf: ", name.substr(name.starts_with("deepseek2.") ? 10 : 0), "missing"});
    }
    expect_parts(config_error("general.architecture", 8, gguf_string("llama")), {"'llama'", "deepseek2"});
    expect_parts(config_error("deepseek2.attention.key_length", 4, number_bytes(192U)), {"attention.key_length is 192", "576"});
    expect_parts(config_error("deepseek2.attention.key_length_mla", 4, number_bytes(64U)), {"qk_nope_head_dim is 0"});
    expect_parts(config_error("deepseek2.rope.scaling.yarn_log_multiplier", 6, number_bytes(0.0F)),
                 {"yarn_log_multiplier", "positive"});
    expect_parts(config_error("deepseek2.rope.scaling.type", 8, gguf_string("linear")), {"rope.scaling.type", "none or yarn"});
    expect_parts(config_error("deepseek2.rope.scaling.type", 99, ""), {"rope.scaling.", "not known here"});
    expect_parts(config_error("deepseek2.attention.head_count", 9, number_bytes(4U) + number_bytes(std::uint64_t{1}) + "abcd"),
                 {"attention.head_count", "an integer"});
    for (const char* key : {"deepseek2.attention.temperature_scale", "deepseek2.rope.dimension_sections",
                            "deepseek2.attention.sliding_window", "deepseek2.attention.indexer.top_k"})
        expect_parts(config_error(key, 4, number_bytes(1U)), {std::string_view(key).substr(10), "not known here"});
    expect_parts(config_error("split.count", 2, number_bytes(std::uint16_t{3})), {"split.count", "3", "absent or 1"});
    for (const float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
        expect_parts(config_error("deepseek2.rope.freq_base", 6, number_bytes(value)), {"rope.freq_base", "finite"});
}

// Layers ----------------------------------------------------------------------------------------------------------------

template <class S>
class GgufTypesTest : public ::testing::Test {};
using GgufTypes = ::testing::Types<float, bf16, fp16>;
TYPED_TEST_SUITE(GgufTypesTest, GgufTypes, );

TYPED_TEST(GgufTypesTest, ALayerIsTheOneOfASafetensorsFile) {
    using S = TypeParam;
    for (const Config& config : {uneven_config(), uneven_config(0)}) {
        CheckpointFolder folder;
        folder.write("config.json", testing::config_json(config, "deepseek_v3").dump());
        folder.write("model.safetensors", testing::stored_layer(config, RandomWeights<S>(config, 3).refs(), 0));
        io::Checkpoint checkpoint(folder.path());
        const Prompt<float> prompt(config, 5, 7);
        const auto expected = run<float>(Attention<S>(config, checkpoint.attention_weights(0)), prompt);
        for (const GgufHeads heads : {GgufHeads::together, GgufHeads::apart}) {
            folder.write("model.gguf", model_bytes<S>(config, heads));
            GgufFile file(folder.path() / "model.gguf");
            EXPECT_EQ(file.config(), config);
            for (int round = 0; round < 2; ++round) {
                const AttentionWeights weights = file.attention_weights(0);
                EXPECT_EQ(weights.kv_b_proj.dtype, dtype_of<S>);
                EXPECT_TRUE(same_bits(run<float>(Attention<S>(config, weights), prompt), expected));
                file.release();
            }
        }
    }
}

TEST(GgufTest, Q8IsItsIntegersTimesItsScales) {
    const Config config = even_config();
    const RandomWeights<float> source(config, 4);
    for (const GgufHeads heads : {GgufHeads::together, GgufHeads::apart}) {
        const Held held(model_bytes<float>(config, heads, true));
        GgufFile file = held.open();
        const AttentionWeights weights = file.attention_weights(1);
        ASSERT_NO_THROW(validate(config, weights));
        EXPECT_EQ(weights.q_a_layernorm.dtype, DType::f32);
        EXPECT_EQ(weights.o_proj.dtype, DType::i8);
        EXPECT_EQ(weights.o_proj.scales.dtype, DType::f16);
        EXPECT_EQ(weights.kv_b_proj.dtype, heads == GgufHeads::together ? DType::i8 : DType::f32);
        const std::string bytes = testing::q8_0_bytes(source.refs().o_proj);
        for (Index r = 0; r < weights.o_proj.rows; ++r)
            for (Index c = 0; c < weights.o_proj.cols; ++c) {
                const std::size_t block = static_cast<std::size_t>((r * weights.o_proj.cols + c) / 32 * 34);
                fp16 scale;
                std::memcpy(&scale, bytes.data() + block, sizeof scale);
                const double meant = static_cast<signed char>(bytes[block + 2 + static_cast<std::size_t>(c % 32)]) *
                                     static_cast<double>(static_cast<float>(scale));
                ASSERT_EQ(reference::detail::stored_value(DType::i8, weights.o_proj.data, r * weights.o_proj.cols + c) *
                              reference::detail::scale_of(weights.o_proj.scales, r, c),
                          meant);
            }
        const reference::Matrix found = reference::to_matrix(weights.kv_b_proj),
                                meant = reference::to_matrix(source.refs().kv_b_proj);
        for (std::size_t i = 0; i < found.values.size(); ++i) ASSERT_NEAR(found.values[i], meant.values[i], 0.004) << i;
    }
}

TEST(GgufTest, HandsOutTensorsByName) {
    GgufBuilder builder;
    builder.version = 2;
    builder.raw("tokens", 9, number_bytes(8U) + number_bytes(std::uint64_t{2}) + gguf_string("a") + gguf_string("bc"));
    builder.raw("nested", 9,
                number_bytes(9U) + number_bytes(std::uint64_t{1}) + number_bytes(1U) + number_bytes(std::uint64_t{2}) + "ab");
    builder.raw("flag", 7, "\1");
    builder.raw("small", 1, "\xff");
    builder.raw("large", 10, number_bytes(~std::uint64_t{0}));
    builder.raw("double", 12, number_bytes(0.1));
    builder.set("float", 0.1F);
    builder.add("norm", 0, {3}, number_bytes(1.0F) + number_bytes(2.0F) + number_bytes(3.0F));
    builder.add("other", 12, {256}, std::string(144, '\1'));
    builder.add("later", 77, {5}, std::string(5, '\1'));
    builder.add("half", 1, {2, 1}, number_bytes(fp16(1.5F)) + number_bytes(fp16(-2.0F)));
    const Held held(builder.bytes());
    GgufFile file = held.open();
    EXPECT_EQ(file.metadata(),
              nlohmann::json::parse(R"({"tokens":{"array_of":"string","count":2},"nested":{"array_of":"array","count":1},
        "flag":true,"small":-1,"large":18446744073709551615,"double":0.1,"float":0.1})"));
    EXPECT_EQ(file.tensors().size(), 4U);
    EXPECT_EQ(reference::to_matrix(file.tensor("norm")).values, (std::vector<double>{1, 2, 3}));
    EXPECT_EQ(file.tensor("half").rows, 2);
    EXPECT_EQ(reference::to_matrix(file.tensor("half")).values, (std::vector<double>{1.5, -2}));
    const auto error = [&](const char* name) { return thrown<GgufError>([&] { static_cast<void>(file.tensor(name)); }); };
    expect_parts(error("other"), {"test.gguf: tensor 'other' is Q4_K, must be F32, F16, BF16 or Q8_0"});
    expect_parts(error("later"), {"'later' is type 77"});
    expect_parts(error("absent"), {"'absent' is missing"});
}

/// What reading layer 0 throws, with other tensors than a sound file's.
template <class Add>
std::string layer_error(Add add) {
    const Config config = even_config();
    GgufBuilder file;
    set_gguf_config(file, config, GgufHeads::apart);
    add(file, config);
    const Held held(file.bytes());
    return thrown<GgufError>([&] { static_cast<void>(held.open().attention_weights(0)); });
}

TEST(GgufTest, NamesTensorsThatAreMissingMisshapenOrReadByNothing) {
    const auto whole = [](GgufBuilder& file, const Config& config) {
        add_gguf_layer<float>(file, config, RandomWeights<float>(config, 3).refs(), 0, GgufHeads::apart);
    };
    expect_parts(layer_error([](GgufBuilder&, const Config&) {}), {"tensor 'blk.0.attn_q_a.weight' is missing"});
    expect_parts(layer_error([](GgufBuilder& file, const Config&) {
                     file.add("blk.0.attn_q_a.weight", 0, {64, 96}, std::string(64 * 96 * 4, '\0'));
                 }),
                 {"'blk.0.attn_q_a.weight' is [64, 96], must be [96, 64]"});
    for (const char* name :
         {"attn_q_b.bias", "attn_kv_b.scale", "attn_sinks.weight", "indexer.attn_k.weight", "rope_freqs.weight"})
        expect_parts(layer_error([&](GgufBuilder& file, const Config& config) {
                         whole(file, config);
                         file.add(std::string("blk.0.") + name, 0, {1}, std::string(4, '\0'));
                     }),
                     {name, "read by nothing"});
    expect_parts(layer_error([&](GgufBuilder& file, const Config& config) {
                     whole(file, config);
                     file.add("rope_freqs.weight", 0, {1}, std::string(4, '\0'));
                 }),
                 {"'rope_freqs.weight' is there"});
    expect_parts(layer_error([&](GgufBuilder& file, const Config& config) {
                     Config other = config;
                     other.v_head_dim = 64;
                     add_gguf_layer<float>(file, other, RandomWeights<float>(other, 3).refs(), 0, GgufHeads::apart);
                 }),
                 {"'blk.0.attn_v_b.weight' is [3, 64, 64], must be [3, 32, 64]"});
}

TEST(GgufTest, TheNormOfTheLayersInputIsNoneOfOurs) {
    const Config config = even_config();
    GgufBuilder file;
    set_gguf_config(file, config, GgufHeads::apart);
    add_gguf_layer<float>(file, config, RandomWeights<float>(config, 3).refs(), 0, GgufHeads::apart);
    file.add("blk.0.attn_norm.weight", 0, {64}, std::string(256, '\0'));
    file.add("blk.0.ffn_up.weight", 12, {256}, std::string(144, '\0'));
    const Held held(file.bytes());
    EXPECT_NO_THROW(static_cast<void>(held.open().attention_weights(0)));
}

// Hostile files ---------------------------------------------------------------------------------------------------------

void expect_refused(const std::string& bytes, std::initializer_list<std::string_view> parts) {
    const Held held(bytes);
    const std::string message = thrown<GgufError>([&] { static_cast<void>(held.open()); });
    expect_parts(message, {"test.gguf: "});
    expect_parts(message, parts);
}

/// A header of any counts, then `rest`.
std::string header_bytes(std::uint64_t tensors, std::uint64_t metadata, const std::string& rest, std::uint32_t version = 3) {
    return "GGUF" + number_bytes(version) + number_bytes(tensors) + number_bytes(metadata) + rest;
}

TEST(GgufHostileTest, RefusesOtherFiles) {
    expect_refused("", {"0 bytes", "magic"});
    expect_refused("GGU", {"3 bytes", "magic"});
    expect_refused("GGML" + std::string(60, '\0'), {"magic", "'GGUF'"});
    for (const std::uint32_t version : {0U, 1U, 4U, 0x03000000U})
        expect_refused(header_bytes(0, 0, "", version), {"version is " + std::to_string(version), "2 or 3"});
    EXPECT_NO_THROW(static_cast<void>(Held(header_bytes(0, 0, "")).open()));
}

TEST(GgufHostileTest, RefusesCountsAndLengthsThatTheFileCannotHold) {
    for (const std::uint64_t count : {std::uint64_t{2}, std::uint64_t{1} << 32U, std::uint64_t{1} << 63U, ~std::uint64_t{0}}) {
        const std::string text = std::to_string(count);
        const std::string rest(40, '\0');
        expect_refused(header_bytes(count, 0, rest), {"tensor count is " + text, "at most 1"});
        expect_refused(header_bytes(0, std::max<std::uint64_t>(count, 4), rest), {"metadata count is "});
        expect_refused(header_bytes(0, 1, number_bytes(std::max<std::uint64_t>(count, 8)) + "abc" + number_bytes(0U)),
                       {"length of metadata key is "});
        const auto value = [&](std::uint32_t type, const std::string& bytes) {
            return header_bytes(0, 1, gguf_string("k") + number_bytes(type) + bytes);
        };
        expect_refused(value(8, number_bytes(count) + "x"), {"length of metadata 'k' is " + text, "at most 1"});
        expect_refused(value(9, number_bytes(4U) + number_bytes(count) + "1234"),
                       {"length of metadata 'k' is " + text, "at most 1"});
        expect_refused(value(9, number_bytes(8U) + number_bytes(count) + std::string(8, '\0')),
                       {"length of metadata 'k' is " + text});
        expect_refused(value(9, number_bytes(9U) + number_bytes(count) + std::string(12, '\0')),
                       {"length of metadata 'k' is " + text});
    }
    expect_refused(header_bytes(0, 1, gguf_string(std::string(70'000, 'k')) + number_bytes(0U) + "1"),
                   {"length of metadata key is 70000", "65535"});
}

TEST(GgufHostileTest, RefusesTypesThatAreNone) {
    const auto value = [&](std::uint32_t type, const std::string& bytes) {
        return header_bytes(0, 1, gguf_string("k") + number_bytes(type) + bytes);
    };
    expect_refused(value(13, "12345678"), {"type of metadata 'k' is 13"});
    expect_refused(value(~0U, "12345678"), {"type of metadata 'k' is 4294967295"});
    expect_refused(value(9, number_bytes(13U) + number_bytes(std::uint64_t{0})), {"type of elements of metadata 'k' is 13"});
    expect_refused(value(7, "\2"), {"metadata 'k' is 2", "bool"});
    std::string deep;
    for (int i = 0; i < 100'000; ++i) deep += number_bytes(9U) + number_bytes(std::uint64_t{1});
    expect_refused(value(9, deep), {"metadata 'k'", "nested", "4 deep"});
}

TEST(GgufHostileTest, RefusesNamesGivenTwice) {
    GgufBuilder keys;
    keys.set("k", 1U);
    keys.set("k", 2U);
    expect_refused(keys.bytes(), {"metadata key 'k'", "twice"});
    GgufBuilder tensors;
    tensors.add("w", 0, {1}, std::string(4, '\0'));
    tensors.add("w", 0, {1}, std::string(4, '\0'));
    expect_refused(tensors.bytes(), {"tensor 'w'", "twice"});
}

/// A file with one tensor, said to be of some shape at some place, before 64 bytes.
std::string one_tensor(std::uint32_t type, const std::vector<Index>& shape, std::uint64_t offset) {
    GgufBuilder file;
    file.add("w", type, shape, offset);
    return file.bytes() + std::string(64, '\1');
}

TEST(GgufHostileTest, RefusesShapesAndPlacesOutsideTheFile) {
    constexpr Index most = std::numeric_limits<Index>::max();
    EXPECT_NO_THROW(static_cast<void>(Held(one_tensor(0, {4, 4}, 0)).open()));
    expect_refused(one_tensor(0, {}, 0), {"'w' dimensions is 0"});
    expect_refused(one_tensor(0, std::vector<Index>(9, 1), 0), {"'w' dimensions is 9"});
    expect_refused(one_tensor(0, {-1}, 0), {"'w' shape is 18446744073709551615", "below 2^63"});
    expect_refused(one_tensor(0, {most}, 0), {"'w' shape", "below 2^63 bytes"});
    expect_refused(one_tensor(0, {Index{1} << 62, 4}, 0), {"'w' shape", "below 2^63 bytes"});  // wraps to 0
    expect_refused(one_tensor(0, {most, most, most, most}, 0), {"'w' shape", "below 2^63 bytes"});
    expect_refused(one_tensor(0, {17}, 0), {"'w' offset is 0, 68 bytes long", "64 bytes of the data section"});
    expect_refused(one_tensor(8, {33}, 0), {"'w' row is 33 long", "a multiple of 32, for Q8_0"});
    expect_refused(one_tensor(0, {1}, 4), {"'w' offset is 4", "a multiple of 32"});
    expect_refused(one_tensor(0, {1}, 64), {"'w' offset is 64, 4 bytes long"});
    expect_refused(one_tensor(77, {1}, 96), {"'w' offset is 96"});
    expect_refused(one_tensor(0, {1}, std::uint64_t{1} << 63U), {"'w' offset is 9223372036854775808"});
    expect_refused(one_tensor(0, {1}, ~std::uint64_t{31}), {"'w' offset is 18446744073709551584"});
    const Held none(one_tensor(0, {0, 4}, 0));
    GgufFile file = none.open();
    expect_parts(thrown<GgufError>([&] { static_cast<void>(file.tensor("w")); }), {"'w' is [0, 4]"});
    const Held cube(one_tensor(0, {2, 2, 2}, 0));
    GgufFile third = cube.open();
    expect_parts(thrown<GgufError>([&] { static_cast<void>(third.tensor("w")); }), {"'w' is [2, 2, 2]", "one or two dimensions"});
}

TEST(GgufHostileTest, RefusesTensorsThatLieOverEachOther) {
    GgufBuilder file;
    file.add("a", 0, {16}, std::uint64_t{0});
    file.add("b", 0, {1}, std::uint64_t{32});
    expect_refused(file.bytes() + std::string(64, '\1'), {"'b' offset is 32", "at least 64"});
}

TEST(GgufHostileTest, RefusesAlignmentsThatAreNone) {
    for (const std::uint32_t alignment : {0U, 1U, 4U, 24U, 33U, 0x80000000U, ~0U}) {
        GgufBuilder file;
        file.set("general.alignment", alignment);
        expect_refused(file.bytes(), {"'general.alignment' is " + std::to_string(alignment), "power of two"});
    }
    GgufBuilder text, wide;
    text.set("general.alignment", "32");
    expect_refused(text.bytes(), {"'general.alignment'", "power of two"});
    wide.set("general.alignment", 64U);
    wide.alignment = 64;
    wide.add("w", 0, {1}, number_bytes(2.5F));
    const Held held(wide.bytes());
    EXPECT_EQ(reference::to_matrix(held.open().tensor("w"))(0, 0), 2.5);
}

TEST(GgufHostileTest, MemoryMustBeAligned) {
    const Held held(' ' + header_bytes(0, 0, ""));
    EXPECT_THROW(GgufFile(std::span(held.bytes).subspan(1), "x"), std::invalid_argument);
}

/// A small file with every feature, for damaging.
std::string whole_file() {
    Config config = even_config();
    config.num_attention_heads = 1;
    GgufBuilder file;
    set_gguf_config(file, config, GgufHeads::apart);
    file.raw("tokens", 9, number_bytes(8U) + number_bytes(std::uint64_t{2}) + gguf_string("a") + gguf_string("bc"));
    add_gguf_layer<bf16>(file, config, RandomWeights<bf16>(config, 3).refs(), 0, GgufHeads::apart, true);
    return file.bytes();
}

/// Where the header of a file of these bytes ends.
std::size_t header_end(const std::string& bytes) { return io::read_gguf_header(std::as_bytes(std::span(bytes)), "").data_begin; }

TEST(GgufHostileTest, RefusesEveryTruncation) {
    const std::string bytes = whole_file();
    ASSERT_NO_THROW(static_cast<void>(Held(bytes).open().attention_weights(0)));
    const std::size_t header = header_end(bytes);
    for (std::size_t size = 0; size < bytes.size(); size += size < header + 64 ? 1 : 997)
        EXPECT_THROW(static_cast<void>(Held(bytes.substr(0, size)).open()), GgufError) << size;
}

TEST(GgufHostileTest, AnyDamagedByteIsReadSafelyOrRefused) {
    const std::string bytes = whole_file();
    const std::size_t header = header_end(bytes);
    Held held(bytes);
    std::size_t refused = 0;
    for (std::size_t i = 0; i < header; ++i)
        for (const int value : {0, 1, 2, 8, 9, 32, 64, 127, 128, 200, 255}) {
            const std::byte sound = std::exchange(held.bytes[i], static_cast<std::byte>(value));
            try {
                static_cast<void>(held.open().attention_weights(0));
            } catch (const GgufError&) {
                ++refused;
            } catch (const std::invalid_argument&) {
                ++refused;  // by the config that the metadata describes
            }
            held.bytes[i] = sound;
        }
    EXPECT_GT(refused, header);
}

}  // namespace
}  // namespace mla
