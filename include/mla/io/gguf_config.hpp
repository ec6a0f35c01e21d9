// The attention of a model from a GGUF file's metadata.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

#include "mla/config.hpp"
#include "mla/io/config_fields.hpp"
#include "mla/io/gguf_header.hpp"

namespace mla::inline MLA_ISA::io {

namespace detail {

/// The fields of an architecture, whose keys start with its name and a dot, without that.
[[nodiscard]] inline nlohmann::json fields_of_architecture(const nlohmann::json& metadata, const std::string& architecture) {
    const std::string start = architecture + '.';
    nlohmann::json fields = nlohmann::json::object();
    for (const auto& [key, value] : metadata.items())
        if (key.starts_with(start)) fields[key.substr(start.size())] = value;
    return fields;
}

/// The size of a head's keys or values. Files for the absorbed form say that under `<field>_mla`, and under the field itself what
/// they cache a token, which is known already.
[[nodiscard]] inline Index head_length(const ConfigFields& fields, const std::string& field, Index cached) {
    const std::string own = field + "_mla";
    if (!fields.has(own.c_str())) return fields.integer(field.c_str());
    if (fields.integer_or(field.c_str(), cached) != cached) fields.fail(field.c_str(), std::to_string(cached) + " or absent");
    return fields.integer(own.c_str());
}

/// YaRN as llama.cpp computes it: cos and sin have magnitude 1, the softmax scale m(factor, mscale_all_dim)², and a tenth of
/// mscale_all_dim is what a file holds.
[[nodiscard]] inline Yarn read_gguf_yarn(const ConfigFields& fields) {
    const char* multiplier = "rope.scaling.yarn_log_multiplier";
    if (!(fields.number(multiplier) > 0.0)) fields.fail(multiplier, "positive: without it engines and models differ");
    Yarn yarn;
    yarn.factor = fields.number("rope.scaling.factor");
    yarn.original_max_position = fields.integer("rope.scaling.original_context_length");
    yarn.beta_fast = fields.number("rope.scaling.yarn_beta_fast", 32.0);
    yarn.beta_slow = fields.number("rope.scaling.yarn_beta_slow", 1.0);
    yarn.mscale_all_dim = shortest_decimal(static_cast<float>(10.0 * fields.number(multiplier)));
    yarn.mscale = yarn.mscale_all_dim;
    static_cast<void>(fields.has("rope.scaling.finetuned"));
    return yarn;
}

/// Neighbours turn together: the converter leaves the order of rows as it is in DeepSeek's checkpoints.
inline void read_gguf_rope(const ConfigFields& fields, Rope& rope) {
    rope.base = fields.number("rope.freq_base", 1e4);
    const std::string scaling = fields.has("rope.scaling.type") ? fields.string("rope.scaling.type") : "none";
    if (scaling == "yarn")
        rope.scaling = read_gguf_yarn(fields);
    else if (scaling != "none")
        fields.fail("rope.scaling.type", "none or yarn");
}

}  // namespace detail

/// The attention that all layers of a GGUF file of architecture deepseek2 have. The latent norms take the file's epsilon, as
/// llama.cpp does. A field of attention or rope that is not known is an error.
/// @throws std::invalid_argument naming the field that is missing, of a wrong type, unknown, or without meaning
[[nodiscard]] inline Config parse_gguf_config(const nlohmann::json& metadata) {
    const detail::ConfigFields general(metadata);
    const std::string architecture = general.string("general.architecture");
    if (architecture != "deepseek2") general.fail("general.architecture", "deepseek2");
    const nlohmann::json own = detail::fields_of_architecture(metadata, architecture);
    const detail::ConfigFields fields(own);
    Config config;
    config.hidden_size = fields.integer("embedding_length");
    config.num_attention_heads = fields.integer("attention.head_count");
    config.q_lora_rank = fields.integer_or("attention.q_lora_rank", 0, 0);
    config.kv_lora_rank = fields.integer("attention.kv_lora_rank");
    config.qk_rope_head_dim = fields.integer("rope.dimension_count", 0);
    const Index key_length = detail::head_length(fields, "attention.key_length", config.cache_dim());
    config.qk_nope_head_dim = key_length - config.qk_rope_head_dim;
    config.v_head_dim = detail::head_length(fields, "attention.value_length", config.kv_lora_rank);
    config.latent_norm_eps = fields.number("attention.layer_norm_rms_epsilon");
    static_cast<void>(fields.has("attention.head_count_kv"));  // of the form an engine takes, 1 or all
    detail::read_gguf_rope(fields, config.rope);
    fields.refuse_others([](std::string_view key) { return !key.starts_with("attention.") && !key.starts_with("rope."); });
    validate(config);
    return config;
}

}  // namespace mla::inline MLA_ISA::io
