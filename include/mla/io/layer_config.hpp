// The attention of one layer from the fields of a config.json.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "mla/config.hpp"
#include "mla/io/config_fields.hpp"
#include "mla/io/irrelevant_fields.hpp"
#include "mla/io/layer_kinds.hpp"
#include "mla/io/model_types.hpp"
#include "mla/io/rope_config.hpp"

namespace mla::inline MLA_ISA::io::detail {

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

/// √(hidden/rank)
[[nodiscard]] inline double latent_root(const Config& config, Index rank) {
    return std::sqrt(static_cast<double>(config.hidden_size) / static_cast<double>(rank));
}

/// What LongCat-Flash multiplies queries and latents by, unless its config.json turns it off.
inline void read_longcat_multipliers(const ConfigFields& fields, Config& config) {
    if (config.q_lora_rank == 0) fields.fail("q_lora_rank", "a positive integer");
    if (fields.boolean("mla_scale_q_lora", true)) config.query_multiplier = latent_root(config, config.q_lora_rank);
    if (fields.boolean("mla_scale_kv_lora", true)) config.latent_multiplier = latent_root(config, config.kv_lora_rank);
}

/// Switches of attention that other models have, which must be off here.
inline void require_plain_attention(const ConfigFields& fields, const ModelType& type, const Config& config) {
    fields.require("mla_use_nope", type.pairing == PairingRule::not_rotated);
    fields.require("qk_latent_layernorm", true);
    fields.require("use_qk_norm", false);
    fields.require("attention_method", "MLA");
    fields.require("qk_head_dim", config.qk_head_dim());
    if (type.layers == LayerRule::dots3_note) return;
    fields.require("use_sliding_window", false);
    if (fields.has("use_sliding_window")) {  // then these say nothing
        static_cast<void>(fields.has("sliding_window"));
        static_cast<void>(fields.has("max_window_layers"));
    }
}

/// The pairing of a model's rope, and whether it rotates at all.
inline void read_pairing(const ConfigFields& fields, const ModelType& type, Rope& rope) {
    if (type.pairing == PairingRule::not_rotated) {
        rope.rotates = false;
        return;
    }
    const bool fixed = type.pairing != PairingRule::field;
    if (fixed) fields.require("rope_interleave", type.pairing == PairingRule::interleaved);
    rope.pairing = pairing(fixed ? type.pairing == PairingRule::interleaved : fields.boolean("rope_interleave", true));
}

/// The rotation, with what a model type brings to it.
inline void read_rope_of(const ConfigFields& fields, const ModelType& type, const std::string& kind, Config& config) {
    read_pairing(fields, type, config.rope);
    const bool mistral4 = type.name == "mistral4";
    RopeDefaults rope{.base = type.rope_base, .scales_by_position = mistral4, .kind = kind};
    if (mistral4) rope.fraction = static_cast<double>(config.qk_rope_head_dim) / static_cast<double>(config.qk_head_dim());
    if (type.dots3 && fields.has("head_dim"))
        rope.fraction = static_cast<double>(config.qk_rope_head_dim) / static_cast<double>(fields.integer("head_dim"));
    read_rope(fields, rope, config);
    if (type.dots3)  // its softmax scale knows no YaRN
        if (auto* yarn = std::get_if<Yarn>(&config.rope.scaling)) yarn->scales_softmax = false;
}

/// Sparse attention: the layer's own indexer, or that it shares a selection.
inline void read_indexer(const ConfigFields& fields, const ModelType& type, Index layer, Config& config) {
    const IndexerRule& rule = type.indexer;
    IndexerConfig& indexer = config.indexer;
    indexer.top_k = fields.integer_or("index_topk", 2048);
    const Index heads = fields.integer_or("index_n_heads", rule.heads);
    const Index head_dim = fields.integer_or("index_head_dim", 128);
    for (const char* field : {"index_topk_pattern", "index_topk_freq", "index_skip_topk_offset", "indexer_types"})
        if (rule.shares_selections) static_cast<void>(fields.has(field));
    const Index pool = rule.pools ? fields.integer_or("index_kpool", 16) : 1;
    const bool selects_tail = rule.pools && fields.boolean("index_kpool_always_select_tail", true) && pool > 1;
    if (rule.shares_selections && shares_selection(fields, type, layer)) return;
    indexer.pool = pool;
    indexer.selects_tail = selects_tail;
    indexer.heads = heads;
    indexer.head_dim = head_dim;
    indexer.pairing = rule.pairing;
    indexer.rope_is_last = rule.rope_is_last;
    if (rule.takes_norm_eps) indexer.norm_eps = fields.number("rms_norm_eps", 1e-5);
    const bool mistral = type.layers == LayerRule::mistral_large4;
    if ((config.q_lora_rank == 0) != mistral)
        fields.fail("q_lora_rank", mistral ? "absent" : "a positive integer: the indexer needs it");
}

/// What `per_layer_config` has for a layer, under its number, which may be written with leading zeros; null where it has nothing.
[[nodiscard]] inline nlohmann::json listed_for_layer(const ConfigFields& fields, Index layer) {
    const ConfigFields listed = fields.object("per_layer_config");
    for (const auto& [key, value] : listed.json().items()) {
        const std::size_t digits = std::min(key.find_first_not_of('0'), key.size() - 1);
        if (key.empty() || key.substr(digits) != std::to_string(layer)) continue;
        return listed.object(key.c_str()).json();
    }
    return nullptr;
}

/// A model's fields with those in their place that a layer has for itself: listed under its number, or, in dots3_note's own
/// files, those of all sliding layers with names that begin with swa_.
[[nodiscard]] inline nlohmann::json fields_of_layer(const nlohmann::json& json, const ModelType& type, const std::string& kind,
                                                    Index layer) {
    const ConfigFields fields(json);
    nlohmann::json own = json;
    if (fields.has("per_layer_config")) {
        if (const nlohmann::json listed = listed_for_layer(fields, layer); !listed.is_null()) own.update(listed);
    } else if (type.dots3 && kind == sliding_attention) {
        const std::pair<const char*, Index> dims[] = {{"num_attention_heads", 64}, {"q_lora_rank", 1024},
                                                      {"kv_lora_rank", 1024},      {"head_dim", 256},
                                                      {"qk_nope_head_dim", 192},   {"v_head_dim", 128}};
        for (const auto& [name, otherwise] : dims) own[name] = fields.integer_or((std::string("swa_") + name).c_str(), otherwise);
        const Index rest = own["head_dim"].get<Index>() - own["qk_nope_head_dim"].get<Index>();
        own["qk_rope_head_dim"] = fields.integer_or("swa_qk_rope_head_dim", rest, 0);
        if (!fields.has("rope_parameters")) own["rope_theta"] = fields.number("swa_rope_theta", 5e4);
    }
    return own;
}

/// What dots3_note has beside DeepSeek-V3's layer.
inline void read_dots3(const ConfigFields& fields, const std::string& kind, Config& config) {
    if (config.q_lora_rank == 0) fields.fail("q_lora_rank", "a positive integer");
    config.rope_key_norm = true;
    config.query_multiplier = latent_root(config, config.q_lora_rank);
    config.latent_multiplier = latent_root(config, config.kv_lora_rank);
    const Index window = fields.integer_or("sliding_window", fields.integer_or("sliding_window_size", 512));
    if (kind == sliding_attention) config.sliding_window = window;
}

/// Element `layer` of a list of integers; `otherwise` without a list.
[[nodiscard]] inline Index integer_of_layer(const ConfigFields& fields, const char* key, Index layer, Index otherwise) {
    if (!fields.has(key)) return otherwise;
    const nlohmann::json& list = fields.json()[key];
    const auto index = static_cast<std::size_t>(layer);
    if (!list.is_array() || index >= list.size() || !list[index].is_number_integer() || list[index] < 0 ||
        list[index] > most_layers)
        fields.fail(key, "an array of an integer for each layer");
    return list[index].get<Index>();
}

/// Whether mistral_large4 rotates something in a layer.
[[nodiscard]] inline bool rotates_in(const ConfigFields& fields, Index layer) {
    const Index interval = fields.integer_or("no_rope_layer_interval", 4);
    return integer_of_layer(fields, "no_rope_layers", layer, (layer + 1) % interval != 0 ? 1 : 0) != 0;
}

/// The dimensions of mistral_large4, of which some layers have nothing that is rotated, and whose cache a layer attends to.
inline void read_mistral_large4(const ConfigFields& fields, Index layer, Config& config) {
    config.learned_query_scale = true;
    if (!rotates_in(fields, layer)) {
        config.qk_nope_head_dim += config.qk_rope_head_dim;
        config.qk_rope_head_dim = 0;
    }
    const Index source = integer_of_layer(fields, "kv_source_layers", layer, layer);
    config.shares_cache = source != layer;
    if (source > layer || integer_of_layer(fields, "kv_source_layers", source, source) != source ||
        rotates_in(fields, source) != rotates_in(fields, layer))
        fields.fail("kv_source_layers",
                    "for layer " + std::to_string(layer) + " itself, or one before it that keeps a cache like its own");
}

/// Where a file gives no rope: YaRN far beyond a short context, without a magnitude.
[[nodiscard]] inline nlohmann::json mistral_large4_rope() {
    return {{"rope_type", "yarn"}, {"rope_theta", 1e4}, {"factor", 2048.0},       {"original_max_position_embeddings", 512},
            {"beta_fast", 32.0},   {"beta_slow", 1.0},  {"attention_factor", 1.0}};
}

/// Whether a layer of this kind has an indexer. dots3_note's own files call such layers full, and say so with use_dsa.
[[nodiscard]] inline bool is_indexed(const ConfigFields& fields, const ModelType& type, const std::string& kind) {
    if (type.indexer.heads == 0 || kind == sliding_attention) return false;
    if (!type.dots3) return true;
    const bool listed = fields.has("per_layer_config");
    return kind == indexed_attention ? fields.boolean("use_dsa", true) : fields.boolean("use_dsa", !listed);
}

/// A layer of latent attention.
[[nodiscard]] inline Config read_layer(const ConfigFields& fields, const ModelType& type, const std::string& kind, Index layer) {
    Config config = read_geometry(fields, "hidden_size", "num_attention_heads");
    // MiniCPM3 leaves v_head_dim out.
    config.v_head_dim = type.name == "minicpm3" ? fields.integer_or("v_head_dim", config.hidden_size / config.num_attention_heads)
                                                : fields.integer("v_head_dim");
    config.attention_bias = fields.boolean("attention_bias", false);
    if (type.takes_norm_eps) config.latent_norm_eps = fields.number("rms_norm_eps", 1e-5);
    config.output_gate = type.gate;
    config.sinks = type.sinks;
    if (type.layers == LayerRule::mistral_large4) read_mistral_large4(fields, layer, config);
    read_rope_of(fields, type, kind, config);
    if (type.name == "longcat_flash") read_longcat_multipliers(fields, config);
    if (type.dots3) read_dots3(fields, kind, config);
    require_plain_attention(fields, type, config);
    if (is_indexed(fields, type, kind)) read_indexer(fields, type, layer, config);
    return config;
}

/// Fields of a model type that say nothing about a layer once its kind and dimensions are known.
[[nodiscard]] inline bool is_said_already(const ModelType& type, std::string_view field) {
    if (type.dots3)
        return field.starts_with("swa_") || field == "per_layer_config" || field == "use_dsa" || field == "index_topk" ||
               field == "index_head_dim" || field == "index_n_heads";
    return type.pairing == PairingRule::not_rotated && field == "rope_interleave";
}

/// Layer `layer` of a model, nothing where its attention is no latent one; with all fields of the configuration accounted for.
[[nodiscard]] inline std::optional<Config> read_model(const nlohmann::json& json, const ModelType& type, Index layer) {
    const ConfigFields fields(json);
    const std::string kind = layer_kind(fields, type, layer);
    if (kind == linear_attention) return std::nullopt;
    const bool lacks_rope =
        type.layers == LayerRule::mistral_large4 && !fields.has("rope_parameters") && !fields.has("rope_scaling");
    nlohmann::json own;
    if (type.dots3) own = fields_of_layer(json, type, kind, layer);
    if (lacks_rope) {
        own = json;
        own["rope_parameters"] = mistral_large4_rope();
    }
    const ConfigFields own_fields(type.dots3 || lacks_rope ? own : json);
    static_cast<void>(layer_kind(own_fields, type, layer));  // asks for its fields
    static_cast<void>(layer_count(own_fields));
    static_cast<void>(own_fields.has("model_type"));
    const Config config = read_layer(own_fields, type, kind, layer);
    own_fields.refuse_others([&](std::string_view field) { return is_irrelevant(field) || is_said_already(type, field); });
    validate(config);
    return config;
}

}  // namespace mla::inline MLA_ISA::io::detail
