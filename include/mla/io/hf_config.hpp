// Reads the configuration of a published checkpoint: a Hugging Face config.json or Mistral's params.json.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/errors.hpp"
#include "mla/io/mapped_file.hpp"

namespace mla::inline MLA_ISA::io {

namespace detail {

/// An object of a configuration. Whoever asks for a field gets a value of the right type and range, or the caller gets
/// an error that names the field. A field that is null counts as not given, as in transformers.
class ConfigFields {
  public:
    explicit ConfigFields(const nlohmann::json& object, std::string path = "") : object_(object), path_(std::move(path)) {
        const char* argument = path_.empty() ? "configuration" : path_.c_str();
        if (!object.is_object()) throw_invalid(argument, found(object), "an object");
        if (!path_.empty()) path_ += '.';
    }

    [[nodiscard]] bool has(const char* key) const {
        const auto field = object_.find(key);
        return field != object_.end() && !field->is_null();
    }

    /// Whether the field is there at all, be it null.
    [[nodiscard]] bool mentions(const char* key) const { return object_.contains(key); }

    [[noreturn]] void fail(const char* key, const std::string& must) const {
        throw_invalid((path_ + key).c_str(), mentions(key) ? found(object_[key]) : "missing", must);
    }

    [[nodiscard]] ConfigFields object(const char* key) const {
        if (!has(key)) fail(key, "an object");
        return ConfigFields(object_[key], path_ + key);
    }

    [[nodiscard]] std::string string(const char* key) const {
        if (!has(key) || !object_[key].is_string()) fail(key, "a string");
        return object_[key].get<std::string>();
    }

    [[nodiscard]] bool boolean(const char* key, bool otherwise) const {
        if (!has(key)) return otherwise;
        if (!object_[key].is_boolean()) fail(key, "true or false");
        return object_[key].get<bool>();
    }

    /// An integer in [1, 2^53]; beyond that JSON writers disagree.
    [[nodiscard]] Index integer(const char* key) const {
        constexpr double most = 0x1p53;
        const bool fits = has(key) && object_[key].is_number_integer() && object_[key].get<double>() >= 1.0 &&
                          object_[key].get<double>() <= most;
        if (!fits) fail(key, "an integer in [1, 2^53]");
        return object_[key].get<Index>();
    }
    [[nodiscard]] Index integer(const char* key, Index otherwise) const { return has(key) ? integer(key) : otherwise; }

    [[nodiscard]] double number(const char* key) const {
        if (!has(key) || !finite(object_[key])) fail(key, "a finite number");
        return object_[key].get<double>();
    }
    [[nodiscard]] double number(const char* key, double otherwise) const { return has(key) ? number(key) : otherwise; }
    [[nodiscard]] std::optional<double> optional_number(const char* key) const {
        return has(key) ? std::optional(number(key)) : std::nullopt;
    }

    /// An array of `count` numbers.
    [[nodiscard]] std::vector<double> numbers(const char* key, Index count) const {
        const std::string must = "an array of " + std::to_string(count) + " finite numbers";
        if (!has(key) || !object_[key].is_array() || static_cast<Index>(object_[key].size()) != count) fail(key, must);
        std::vector<double> values;
        for (const auto& element : object_[key]) {
            if (!finite(element)) fail(key, must);
            values.push_back(element.get<double>());
        }
        return values;
    }

  private:
    [[nodiscard]] static bool finite(const nlohmann::json& value) {
        return value.is_number() && std::isfinite(value.get<double>());
    }

    /// A value as a message shows it: scalars in full, the rest by what they are.
    [[nodiscard]] static std::string found(const nlohmann::json& value) {
        if (value.is_number_float()) return std::to_string(value.get<double>());
        if (value.is_number() || value.is_boolean()) return value.dump();
        if (value.is_string()) return "'" + value.get<std::string>().substr(0, 80) + "'";
        if (value.is_array()) return "an array of " + std::to_string(value.size());
        return value.type_name();
    }

    const nlohmann::json& object_;
    std::string path_;
};

/// The dimensions, under the names that all model types share.
[[nodiscard]] inline Config read_geometry(const ConfigFields& fields, const char* hidden_size, const char* heads) {
    Config config;
    config.hidden_size = fields.integer(hidden_size);
    config.num_attention_heads = fields.integer(heads);
    // Missing could mean either kind of query projection: transformers' defaults differ by model type.
    if (!fields.mentions("q_lora_rank")) fields.fail("q_lora_rank", "an integer or null");
    config.q_lora_rank = fields.integer("q_lora_rank", 0);
    config.kv_lora_rank = fields.integer("kv_lora_rank");
    config.qk_nope_head_dim = fields.integer("qk_nope_head_dim");
    config.qk_rope_head_dim = fields.integer("qk_rope_head_dim");
    return config;
}

[[nodiscard]] inline Yarn read_yarn(const ConfigFields& rope, Index original_max_position, Index max_position) {
    Yarn yarn;
    yarn.original_max_position = original_max_position;
    yarn.factor = rope.number("factor", static_cast<double>(max_position) / static_cast<double>(original_max_position));
    yarn.beta_fast = rope.number("beta_fast", 32.0);
    yarn.beta_slow = rope.number("beta_slow", 1.0);
    yarn.mscale = rope.optional_number("mscale");
    yarn.mscale_all_dim = rope.optional_number("mscale_all_dim");
    yarn.attention_factor = rope.optional_number("attention_factor");
    yarn.truncate = rope.boolean("truncate", true);
    yarn.scales_softmax = rope.boolean("apply_yarn_scaling", true);
    return yarn;
}

/// LongRoPE, with the long factors where the model's context is longer than the original one (transformers chooses by
/// the length of each call, which would change keys already cached).
[[nodiscard]] inline LongRope read_longrope(const ConfigFields& rope, Index rope_dim, Index original_max_position,
                                            Index max_position) {
    LongRope longrope;
    const std::vector<double> short_factors = rope.numbers("short_factor", rope_dim / 2);
    const std::vector<double> long_factors = rope.numbers("long_factor", rope_dim / 2);
    longrope.factors = max_position > original_max_position ? long_factors : short_factors;
    const double original = static_cast<double>(original_max_position);
    const double factor = rope.number("factor", static_cast<double>(max_position) / original);
    const double natural = factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(original));
    longrope.attention_factor = rope.number("attention_factor", natural);
    return longrope;
}

/// The rope fields of a config.json: `rope_parameters` (transformers 5), or `rope_scaling` beside `rope_theta`.
/// `default_base` stands where the checkpoint gives none; `fraction` is the share of a head that is rotated, as
/// transformers counts it for this model type.
inline void read_rope(const ConfigFields& fields, double default_base, double fraction, Config& config) {
    const char* key = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
    const nlohmann::json none = nlohmann::json::object();
    const ConfigFields rope = fields.has(key) ? fields.object(key) : ConfigFields(none, key);
    config.rope.base = rope.number("rope_theta", fields.number("rope_theta", default_base));
    const double given = rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", fraction));
    if (given != fraction) throw_invalid("partial_rotary_factor", given, fraction);

    const char* type_key = rope.has("rope_type") ? "rope_type" : "type";
    const std::string type = rope.has(type_key) ? rope.string(type_key) : "default";
    if (type == "default") return;
    const bool longrope = type == "longrope";
    if (!longrope && type != "yarn") rope.fail(type_key, "default, yarn or longrope");
    const char* original = "original_max_position_embeddings";
    const bool needs_max = longrope || !rope.has("factor") || !(rope.has(original) || fields.has(original));
    const Index max_position = needs_max ? fields.integer("max_position_embeddings") : 0;
    const Index original_max_position = fields.integer(original, rope.integer(original, max_position));
    if (longrope)
        config.rope.scaling = read_longrope(rope, config.qk_rope_head_dim, original_max_position, max_position);
    else
        config.rope.scaling = read_yarn(rope, original_max_position, max_position);
}

[[nodiscard]] constexpr RopePairing pairing(bool interleaved) noexcept {
    return interleaved ? RopePairing::interleaved : RopePairing::half_split;
}

/// What LongCat-Flash multiplies queries and latents by, unless its config.json turns it off.
inline void read_longcat_multipliers(const ConfigFields& fields, Config& config) {
    const auto root = [&](Index rank) { return std::sqrt(static_cast<double>(config.hidden_size) / static_cast<double>(rank)); };
    if (config.q_lora_rank == 0) fields.fail("q_lora_rank", "an integer");
    if (fields.boolean("mla_scale_q_lora", true)) config.query_multiplier = root(config.q_lora_rank);
    if (fields.boolean("mla_scale_kv_lora", true)) config.latent_multiplier = root(config.kv_lora_rank);
}

/// The query scale of Mistral 4, whose period is YaRN's original context.
inline void read_mistral4_position_scale(const ConfigFields& fields, Config& config) {
    const auto* yarn = std::get_if<Yarn>(&config.rope.scaling);
    const char* key = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
    if (yarn == nullptr) throw_invalid(key, "without yarn", "yarn for mistral4");
    config.position_scale = {fields.object(key).number("llama_4_scaling_beta", 0.0), yarn->original_max_position};
}

[[nodiscard]] inline Config read_model(const ConfigFields& fields, const std::string& type) {
    Config config = read_geometry(fields, "hidden_size", "num_attention_heads");
    if (fields.integer("num_key_value_heads", config.num_attention_heads) != config.num_attention_heads)
        fields.fail("num_key_value_heads", "num_attention_heads");
    const bool minicpm3 = type == "minicpm3";
    const bool longcat = type == "longcat_flash";
    const bool mistral4 = type == "mistral4";
    const bool always_interleaved = type == "deepseek_v2" || type == "deepseek_v32" || longcat;
    // MiniCPM3 leaves v_head_dim out.
    config.v_head_dim =
        minicpm3 ? fields.integer("v_head_dim", config.hidden_size / config.num_attention_heads) : fields.integer("v_head_dim");
    config.attention_bias = fields.boolean("attention_bias", false);
    if (minicpm3)
        config.rope.pairing = RopePairing::half_split;
    else if (!always_interleaved)
        config.rope.pairing = pairing(fields.boolean("rope_interleave", true));
    const double head_dim = static_cast<double>(config.qk_head_dim());
    const double fraction = mistral4 ? static_cast<double>(config.qk_rope_head_dim) / head_dim : 1.0;
    read_rope(fields, longcat ? 1e7 : 1e4, fraction, config);
    if (longcat) read_longcat_multipliers(fields, config);
    if (mistral4) read_mistral4_position_scale(fields, config);
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
/// model_type: deepseek_v2, deepseek_v3, deepseek_v32, kimi_k2, minicpm3, longcat_flash, glm4_moe_lite or mistral4. A
/// multimodal model's `text_config` is handed in by itself. Read as transformers reads it: the latent norms take 1e-6
/// whatever `rms_norm_eps` says (set `latent_norm_eps` afterwards to follow an engine that uses it).
/// The result is valid (`validate`).
/// @throws std::invalid_argument naming the field that is missing, of a wrong type, or without meaning
[[nodiscard]] inline Config parse_hf_config(const nlohmann::json& json) {
    const detail::ConfigFields fields(json);
    const std::string type = fields.string("model_type");
    for (const char* known :
         {"deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "minicpm3", "longcat_flash", "glm4_moe_lite", "mistral4"}) {
        if (type != known) continue;
        Config config = detail::read_model(fields, type);
        validate(config);
        return config;
    }
    fields.fail("model_type", "one with latent attention that is known here");
}

/// The attention of Mistral's params.json (Mistral Large 3), read as vLLM reads it.
/// @throws std::invalid_argument naming the field that is missing, of a wrong type, or without meaning
[[nodiscard]] inline Config parse_mistral_params(const nlohmann::json& json) {
    const detail::ConfigFields fields(json);
    Config config = detail::read_geometry(fields, "dim", "n_heads");
    config.v_head_dim = fields.integer("v_head_dim");
    config.rope.base = fields.number("rope_theta");
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
    }
    if (fields.has("llama_4_scaling")) {
        const detail::ConfigFields given = fields.object("llama_4_scaling");
        config.position_scale = {given.number("beta"), given.integer("original_max_position_embeddings")};
    }
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
