// Reads the configuration of a published checkpoint: a Hugging Face config.json or Mistral's params.json.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

#include "mla/config.hpp"
#include "mla/io/config_fields.hpp"
#include "mla/io/errors.hpp"
#include "mla/io/irrelevant_fields.hpp"
#include "mla/io/mapped_file.hpp"
#include "mla/io/rope_config.hpp"

namespace mla::inline MLA_ISA::io {

namespace detail {

/// The dimensions, under the names that all model types share. Without q_lora_rank, or with 0, queries have no low rank.
[[nodiscard]] inline Config read_geometry(const ConfigFields& fields, const char* hidden_size, const char* heads) {
    Config config;
    config.hidden_size = fields.integer(hidden_size);
    config.num_attention_heads = fields.integer(heads);
    config.q_lora_rank = fields.integer_or("q_lora_rank", 0, 0);
    config.kv_lora_rank = fields.integer("kv_lora_rank");
    config.qk_nope_head_dim = fields.integer("qk_nope_head_dim");
    config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", 0);
    return config;
}

[[nodiscard]] constexpr RopePairing pairing(bool interleaved) noexcept {
    return interleaved ? RopePairing::interleaved : RopePairing::half_split;
}

/// What LongCat-Flash multiplies queries and latents by, unless its config.json turns it off.
inline void read_longcat_multipliers(const ConfigFields& fields, Config& config) {
    const auto root = [&](Index rank) { return std::sqrt(static_cast<double>(config.hidden_size) / static_cast<double>(rank)); };
    if (config.q_lora_rank == 0) fields.fail("q_lora_rank", "a positive integer");
    if (fields.boolean("mla_scale_q_lora", true)) config.query_multiplier = root(config.q_lora_rank);
    if (fields.boolean("mla_scale_kv_lora", true)) config.latent_multiplier = root(config.kv_lora_rank);
}

/// Switches of attention that other models have, which must be off here.
inline void require_plain_attention(const ConfigFields& fields, const Config& config) {
    fields.require("mla_use_nope", false);
    fields.require("qk_latent_layernorm", true);
    fields.require("use_qk_norm", false);
    fields.require("attention_method", "MLA");
    fields.require("qk_head_dim", config.qk_head_dim());
    fields.require("use_sliding_window", false);
    if (fields.has("use_sliding_window")) {  // then these say nothing
        static_cast<void>(fields.has("sliding_window"));
        static_cast<void>(fields.has("max_window_layers"));
    }
    if (!fields.has("layer_types")) return;
    for (const nlohmann::json& type : fields.json()["layer_types"])
        if (type != "full_attention" && type != "indexed_attention")
            fields.fail("layer_types", "full or indexed attention throughout");
}

[[nodiscard]] inline Config read_model(const ConfigFields& fields, const std::string& type) {
    Config config = read_geometry(fields, "hidden_size", "num_attention_heads");
    const bool minicpm3 = type == "minicpm3";
    const bool longcat = type == "longcat_flash";
    const bool mistral4 = type == "mistral4";
    // MiniCPM3 leaves v_head_dim out.
    config.v_head_dim = minicpm3 ? fields.integer_or("v_head_dim", config.hidden_size / config.num_attention_heads)
                                 : fields.integer("v_head_dim");
    config.attention_bias = fields.boolean("attention_bias", false);
    if (type == "deepseek_v2" || type == "deepseek_v32" || longcat || minicpm3) {
        fields.require("rope_interleave", !minicpm3);
        config.rope.pairing = pairing(!minicpm3);
    } else {
        config.rope.pairing = pairing(fields.boolean("rope_interleave", true));
    }
    RopeDefaults rope;
    if (longcat) rope.base = 1e7;
    if (mistral4) rope.fraction = static_cast<double>(config.qk_rope_head_dim) / static_cast<double>(config.qk_head_dim());
    rope.scales_by_position = mistral4;
    read_rope(fields, rope, config);
    if (longcat) read_longcat_multipliers(fields, config);
    require_plain_attention(fields, config);
    // Read densely: its indexer would choose among more tokens than index_topk.
    if (type == "deepseek_v32")
        for (const char* indexer : {"index_topk", "index_head_dim", "index_n_heads"}) static_cast<void>(fields.has(indexer));
    return config;
}

/// The JSON of a configuration, which is hostile input: small, and nested no deeper than any configuration is.
[[nodiscard]] inline nlohmann::json parse_json(std::string_view text, const std::string& file) {
    constexpr std::size_t most_bytes = std::size_t{4} << 20U;  // a config.json is some kilobytes
    constexpr int deepest = 32;
    if (text.size() > most_bytes)
        throw_checkpoint(file, "size", std::to_string(text.size()) + " bytes", "at most " + std::to_string(most_bytes));
    // The parser takes a zero byte for the end of its input and would not look at what follows.
    if (text.find('\0') != std::string_view::npos) throw_checkpoint(file, "text", "holding a zero byte", "JSON in UTF-8");
    const auto limit_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        if (depth > deepest) throw_checkpoint(file, "nesting", "deeper", "at most " + std::to_string(deepest) + " deep");
        return true;
    };
    try {
        return nlohmann::json::parse(text.begin(), text.end(), limit_depth);
    } catch (const nlohmann::json::exception& error) {
        throw_checkpoint(file, "text", "no JSON: " + printable(error.what()), "JSON in UTF-8");
    }
}

[[nodiscard]] inline nlohmann::json read_json(const std::filesystem::path& path) {
    const MappedFile file(path);
    return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string());
}

/// `parse(json)`; an error names the file that the JSON came from, too.
template <class Parse>
[[nodiscard]] Config parse_named(const nlohmann::json& json, const std::string& file, Parse parse) {
    try {
        return parse(json);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(file + ": " + error.what());
    }
}

}  // namespace detail

/// The attention of a Hugging Face config.json, old (`rope_scaling`, `rope_theta`) or new (`rope_parameters`), by its
/// model_type: deepseek_v2, deepseek_v3, deepseek_v32, kimi_k2, minicpm3, longcat_flash, glm4_moe_lite, mistral4, youtu or axk1.
/// A multimodal model's `text_config` is handed in by itself. Read as transformers reads it: the latent norms take 1e-6 whatever
/// `rms_norm_eps` says (set `latent_norm_eps` afterwards to follow an engine that uses it). A field that is not known to leave
/// attention alone is an error, as are rope fields that contradict each other. The result is valid (`validate`).
/// @throws std::invalid_argument naming the field that is missing, of a wrong type, unknown, or without meaning
[[nodiscard]] inline Config parse_hf_config(const nlohmann::json& json) {
    const detail::ConfigFields fields(json);
    const std::string type = fields.string("model_type");
    for (const char* known : {"deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "minicpm3", "longcat_flash",
                              "glm4_moe_lite", "mistral4", "youtu", "axk1"}) {
        if (type != known) continue;
        Config config = detail::read_model(fields, type);
        fields.refuse_others(detail::is_irrelevant);
        validate(config);
        return config;
    }
    fields.fail("model_type", "one with latent attention that is known here");
}

/// The attention of Mistral's params.json (Mistral Large 3), read as vLLM reads it.
/// @throws std::invalid_argument naming the field that is missing, of a wrong type, unknown, or without meaning
[[nodiscard]] inline Config parse_mistral_params(const nlohmann::json& json) {
    const detail::ConfigFields fields(json);
    Config config = detail::read_geometry(fields, "dim", "n_heads");
    config.v_head_dim = fields.integer("v_head_dim");
    config.rope.base = fields.number("rope_theta");
    fields.require("causal", true);
    if (fields.has("yarn")) {
        const detail::ConfigFields given = fields.object("yarn");
        Yarn yarn;
        yarn.factor = given.number("factor");
        yarn.original_max_position = given.integer("original_max_position_embeddings");
        yarn.beta_fast = given.number("beta");
        yarn.beta_slow = given.number("alpha");
        yarn.mscale = 1.0;
        yarn.mscale_all_dim = 1.0;
        yarn.scales_softmax = given.boolean("apply_scale", true);
        config.rope.scaling = yarn;
        given.refuse_others([](std::string_view) { return false; });
    }
    if (fields.has("llama_4_scaling")) {
        const detail::ConfigFields given = fields.object("llama_4_scaling");
        config.position_scale = {given.number("beta"), given.integer("original_max_position_embeddings")};
        given.refuse_others([](std::string_view) { return false; });
    }
    fields.refuse_others(detail::is_irrelevant);
    validate(config);
    return config;
}

/// `parse_hf_config` of a file.
/// @throws std::system_error when the file cannot be read, CheckpointError when it is no JSON, std::invalid_argument
/// naming file and field as `parse_hf_config` does
[[nodiscard]] inline Config load_hf_config(const std::filesystem::path& path) {
    return detail::parse_named(detail::read_json(path), path.string(), parse_hf_config);
}

/// `parse_mistral_params` of a file.
/// @throws as `load_hf_config` does
[[nodiscard]] inline Config load_mistral_params(const std::filesystem::path& path) {
    return detail::parse_named(detail::read_json(path), path.string(), parse_mistral_params);
}

}  // namespace mla::inline MLA_ISA::io
