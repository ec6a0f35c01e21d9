// Of which kind each layer of a model is: by a list in its configuration, or by its model type's rule.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "mla/io/config_fields.hpp"
#include "mla/io/model_types.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// The kinds that a layer may be of, as transformers' `layer_types` calls them.
inline constexpr const char* full_attention = "full_attention";
inline constexpr const char* indexed_attention = "indexed_attention";
inline constexpr const char* sliding_attention = "sliding_attention";
inline constexpr const char* linear_attention = "linear_attention";

/// More layers than any model has, lest a file's number keeps its reader busy.
inline constexpr Index most_layers = 4096;

/// How many layers a model has; 1 where a file does not say, all layers being alike.
[[nodiscard]] inline Index layer_count(const ConfigFields& fields) {
    const Index count = fields.integer_or("num_hidden_layers", 1);
    if (count > most_layers) fields.fail("num_hidden_layers", "at most " + std::to_string(most_layers));
    return count;
}

/// Element `layer` of a list of names, one for each layer.
[[nodiscard]] inline std::string name_of_layer(const ConfigFields& fields, const char* key, Index layer) {
    const nlohmann::json& list = fields.json()[key];
    if (!list.is_array() || layer >= static_cast<Index>(list.size()) || !list[static_cast<std::size_t>(layer)].is_string())
        fields.fail(key, "an array of a string for each layer");
    return list[static_cast<std::size_t>(layer)].get<std::string>();
}

/// Kimi-Linear's lists of layers, numbered from 1.
[[nodiscard]] inline std::string kimi_linear_kind(const ConfigFields& fields, Index layer) {
    if (!fields.has("linear_attn_config")) return layer > 0 && layer % 4 == 0 ? full_attention : linear_attention;
    const ConfigFields linear = fields.object("linear_attn_config");
    for (const auto& [key, kind] : {std::pair{"full_attn_layers", full_attention}, {"kda_layers", linear_attention}}) {
        if (!linear.has(key) || !linear.json()[key].is_array()) linear.fail(key, "an array of layers, the first of which is 1");
        const nlohmann::json& list = linear.json()[key];
        if (std::find(list.begin(), list.end(), layer + 1) != list.end()) return kind;
    }
    linear.fail("full_attn_layers", "an array that has layer " + std::to_string(layer + 1) + ", or kda_layers one");
}

[[nodiscard]] inline std::string dots3_kind(const ConfigFields& fields, Index layer) {
    const bool slides = fields.boolean("use_sliding_window", true);
    return !slides || layer < 2 || layer % 4 == 1 ? full_attention : sliding_attention;
}

[[nodiscard]] inline std::string kind_by_rule(const ConfigFields& fields, const ModelType& type, Index layer) {
    switch (type.layers) {
        case LayerRule::kimi_linear: return kimi_linear_kind(fields, layer);
        case LayerRule::bailing_hybrid:
            return (layer + 1) % fields.integer_or("layer_group_size", 6) == 0 ? full_attention : linear_attention;
        case LayerRule::glm5_next: return layer % 4 == 3 ? indexed_attention : linear_attention;
        case LayerRule::dots3_note: return dots3_kind(fields, layer);
        case LayerRule::mistral_large4:
        case LayerRule::uniform: break;
    }
    return full_attention;
}

/// The kind of a layer. `full_attention` where keys are selected, too: the model type says so, not the name.
[[nodiscard]] inline std::string layer_kind(const ConfigFields& fields, const ModelType& type, Index layer) {
    // Fields of the rules, which say nothing beside a list.
    for (const char* field : {"linear_attn_config", "layer_group_size", "use_sliding_window"})
        if (type.layers != LayerRule::uniform) static_cast<void>(fields.has(field));
    if (!fields.has("layer_types")) return kind_by_rule(fields, type, layer);
    const std::string kind = name_of_layer(fields, "layer_types", layer);
    const bool hybrid =
        type.layers == LayerRule::kimi_linear || type.layers == LayerRule::bailing_hybrid || type.layers == LayerRule::glm5_next;
    for (const nlohmann::json& listed : fields.json()["layer_types"]) {
        const bool known = listed == full_attention || listed == indexed_attention || (hybrid && listed == linear_attention) ||
                           (type.layers == LayerRule::dots3_note && listed == sliding_attention);
        if (!known)
            fields.fail("layer_types", "of kinds that this model type has, which " + ConfigFields::found(listed) + " is not");
    }
    return kind;
}

/// Whether a layer with sparse attention takes the selection of a layer before it.
[[nodiscard]] inline bool shares_selection(const ConfigFields& fields, const ModelType& type, Index layer) {
    const bool hy = type.name == "hy_v4";
    if (fields.has("indexer_types")) {
        const std::string kind = name_of_layer(fields, "indexer_types", layer);
        if (kind != "full" && kind != "shared") fields.fail("indexer_types", "full or shared");
        return kind == "shared";
    }
    if (hy) return layer > 0 && (layer - 1) % 4 != 0;
    if (fields.has("index_topk_pattern")) {
        const nlohmann::json& pattern = fields.json()["index_topk_pattern"];
        if (pattern.is_array()) return name_of_layer(fields, "index_topk_pattern", layer) == "shared";
        const std::string letters = fields.string("index_topk_pattern");
        if (layer >= static_cast<Index>(letters.size()) || letters.find_first_not_of("FS") != std::string::npos)
            fields.fail("index_topk_pattern", "a letter F or S for each layer");
        return letters[static_cast<std::size_t>(layer)] == 'S';
    }
    const Index every = std::max<Index>(fields.integer_or("index_topk_freq", 1, 0), 1);
    const Index offset = fields.integer_or("index_skip_topk_offset", 2, 0);
    return std::max<Index>(layer - offset + 1, 0) % every != 0;
}

}  // namespace mla::inline MLA_ISA::io::detail
