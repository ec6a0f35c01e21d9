// The rotary part of a config.json: one block or two, old and new, that must not contradict each other.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/config_fields.hpp"

namespace mla::inline MLA_ISA::io::detail {

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

/// A block of rope fields, without its nulls, and what it is called in messages.
struct RopeBlock {
    std::string name;
    nlohmann::json fields = nlohmann::json::object();

    [[nodiscard]] const nlohmann::json* find(const char* key) const {
        const auto field = fields.find(key);
        return field == fields.end() ? nullptr : &*field;
    }
    /// Whether it scales anything: a type of default, a base and a fraction do not.
    [[nodiscard]] bool scales() const {
        for (const auto& [key, value] : fields.items())
            if (key != "rope_theta" && key != "partial_rotary_factor" && !(key == "rope_type" && value == "default")) return true;
        return false;
    }
};

/// Fields that agree, or stand in one place only; two that differ are an error that names both.
inline void join(RopeBlock& block, const RopeBlock& other) {
    for (const auto& [key, value] : other.fields.items()) {
        const nlohmann::json* const had = block.find(key.c_str());
        if (had != nullptr && *had != value)
            throw_invalid(printable(block.name + '.' + key).c_str(), ConfigFields::found(*had),
                          ConfigFields::found(value) + ", as " + other.name + " has it, or one of them absent");
        block.fields[key] = value;
    }
}

/// The block of one kind of layers where blocks are listed by kind.
[[nodiscard]] inline nlohmann::json block_of_kind(const nlohmann::json& fields, const std::string& name,
                                                  const std::string& kind) {
    const nlohmann::json* first = nullptr;
    bool alike = true;
    for (const auto& [key, value] : fields.items()) {
        if (value.is_null()) continue;
        if (!value.is_object()) return fields;
        alike = alike && (first == nullptr || *first == value);
        first = &value;
    }
    if (first == nullptr) return fields;
    if (const auto own = fields.find(kind); own != fields.end() && own->is_object()) return *own;
    if (!alike) throw_invalid(name.c_str(), "different for kinds of layers", "the same for all, or list " + printable(kind));
    return *first;
}

/// A block by name: empty where it is null or absent, its type under `rope_type`, which it must have where it scales.
[[nodiscard]] inline RopeBlock rope_block(const ConfigFields& config, const char* name, const std::string& kind) {
    RopeBlock block{name};
    if (!config.has(name)) return block;
    const nlohmann::json fields = block_of_kind(config.object(name).json(), name, kind);
    for (const auto& [key, value] : fields.items())
        if (!value.is_null()) block.fields[key == "type" ? "rope_type" : key] = value;
    const ConfigFields given(fields, name);
    if (given.has("type") && given.has("rope_type") && fields["type"] != fields["rope_type"])
        given.fail("rope_type", "the same as type, which is " + ConfigFields::found(fields["type"]));
    if (block.scales() && block.find("rope_type") == nullptr) given.fail("rope_type", "a type, beside fields that scale");
    return block;
}

/// `rope_parameters` (transformers 5) and `rope_scaling` beside `rope_theta` (before): the one that scales, or both where they
/// agree, and the base wherever it stands.
[[nodiscard]] inline RopeBlock joined_rope_block(const ConfigFields& config, const std::string& kind) {
    RopeBlock scaling = rope_block(config, "rope_scaling", kind);
    RopeBlock parameters = rope_block(config, "rope_parameters", kind);
    if (!scaling.scales() && (parameters.scales() || scaling.fields.empty())) std::swap(scaling, parameters);
    if (!parameters.scales()) parameters.fields.erase("rope_type");
    join(scaling, parameters);
    RopeBlock outside{"configuration"};
    for (const char* key : {"rope_theta", "partial_rotary_factor"})
        if (config.has(key)) outside.fields[key] = config.number(key);
    // 50000 and 50000.0 are equal, as numbers of a JSON are compared.
    join(scaling, outside);
    return scaling;
}

/// What a model type brings to its rope fields.
struct RopeDefaults {
    double base = 1e4;                    ///< where the checkpoint gives none
    double fraction = 1.0;                ///< the share of a head that is rotated, as transformers counts it
    bool scales_by_position = false;      ///< a query scale whose period is YaRN's original context
    std::string kind = "full_attention";  ///< of the layer, where blocks are listed by kind
};

/// The rotation of a model.
inline void read_rope(const ConfigFields& fields, const RopeDefaults& defaults, Config& config) {
    const RopeBlock block = joined_rope_block(fields, defaults.kind);
    const ConfigFields rope(block.fields, block.name);
    config.rope.base = rope.number("rope_theta", defaults.base);
    const double fraction = rope.number("partial_rotary_factor", defaults.fraction);
    if (fraction != defaults.fraction) throw_invalid("partial_rotary_factor", fraction, defaults.fraction);

    const std::string type = rope.has("rope_type") ? rope.string("rope_type") : "default";
    const bool longrope = type == "longrope";
    const bool yarn = type == "yarn" || type == "deepseek_yarn";
    if (!longrope && !yarn && type != "default") rope.fail("rope_type", "default, yarn, deepseek_yarn or longrope");
    const char* original = "original_max_position_embeddings";
    if (longrope || yarn) {
        const bool needs_max = longrope || !rope.has("factor") || !(rope.has(original) || fields.has(original));
        const Index max_position = needs_max ? fields.integer("max_position_embeddings") : 0;
        const Index original_max_position = fields.integer_or(original, rope.integer_or(original, max_position));
        if (longrope)
            config.rope.scaling = read_longrope(rope, config.qk_rope_head_dim, original_max_position, max_position);
        else
            config.rope.scaling = read_yarn(rope, original_max_position, max_position);
    }
    if (defaults.scales_by_position) {
        if (!yarn) rope.fail("rope_type", "yarn for this model type");
        config.position_scale = {rope.number("llama_4_scaling_beta", 0.0),
                                 std::get<Yarn>(config.rope.scaling).original_max_position};
    }
    rope.refuse_others([&](std::string_view key) { return key == original || key == "max_position_embeddings"; });
}

}  // namespace mla::inline MLA_ISA::io::detail
