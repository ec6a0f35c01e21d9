// Reads the configuration of a published checkpoint: a Hugging Face config.json or Mistral's params.json.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/config_fields.hpp"
#include "mla/io/errors.hpp"
#include "mla/io/irrelevant_fields.hpp"
#include "mla/io/layer_config.hpp"
#include "mla/io/layer_kinds.hpp"
#include "mla/io/mapped_file.hpp"
#include "mla/io/model_types.hpp"

namespace mla::inline MLA_ISA::io {

namespace detail {

/// The model type of a configuration. The text model of a larger one is found under the whole model's name, too.
[[nodiscard]] inline const ModelType& model_type_of(const ConfigFields& fields) {
    const std::string name = fields.string("model_type");
    const ModelType* type = find_model_type(name);
    if (type == nullptr) type = find_model_type(name + "_text");
    if (type == nullptr) fields.fail("model_type", "one with latent attention that is known here");
    return *type;
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
[[nodiscard]] auto parse_named(const nlohmann::json& json, const std::string& file, Parse parse) {
    try {
        return parse(json);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(file + ": " + error.what());
    }
}

}  // namespace detail

/// The attention of every layer of a Hugging Face config.json, old (`rope_scaling`, `rope_theta`) or new (`rope_parameters`), by
/// its model_type: axk1, axk2, bailing_hybrid, deepseek_v2, deepseek_v3, deepseek_v32, dots3_note, glm4_moe_lite, glm5_next,
/// glm_moe_dsa, hy_v4, kimi_k2, kimi_linear, longcat_flash, minicpm3, mistral4, mistral_large4 (but for its learned frequencies,
/// which a checkpoint holds) or youtu. Nothing where a hybrid's layer is of another kind (linear attention). A multimodal model's
/// `text_config` is handed in by itself. Read as transformers reads it: the latent norms take 1e-6 whatever `rms_norm_eps` says,
/// but for dots3_note (set `latent_norm_eps` afterwards to follow an engine that uses it). A field that is not known to leave
/// attention alone is an error, as are rope fields that contradict each other. The results are valid (`validate`). Without
/// `num_hidden_layers` they are one.
/// @throws std::invalid_argument naming the field that is missing, of a wrong type, unknown, or without meaning
[[nodiscard]] inline std::vector<std::optional<Config>> parse_hf_layers(const nlohmann::json& json) {
    const detail::ConfigFields fields(json);
    const detail::ModelType& type = detail::model_type_of(fields);
    std::vector<std::optional<Config>> layers(static_cast<std::size_t>(detail::layer_count(fields)));
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
        layers[layer] = detail::read_model(json, type, static_cast<Index>(layer));
    return layers;
}

/// The config of all layers that have one.
/// @throws std::invalid_argument where they differ, or none has one
[[nodiscard]] inline Config common_config(const std::vector<std::optional<Config>>& layers) {
    std::optional<Config> common;
    for (const std::optional<Config>& layer : layers) {
        if (!layer) continue;
        if (common && *common != *layer)
            throw_invalid("configuration", "of layers that differ", "of layers that are alike: parse_hf_layers reads each");
        common = layer;
    }
    if (!common) throw_invalid("configuration", "of no layer with latent attention", "of one at least");
    return *common;
}

/// The attention that all layers of a config.json have, or of a hybrid all those of latent attention; read as `parse_hf_layers`
/// does.
/// @throws as `parse_hf_layers` does, and std::invalid_argument where layers differ or none has latent attention
[[nodiscard]] inline Config parse_hf_config(const nlohmann::json& json) { return common_config(parse_hf_layers(json)); }

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
