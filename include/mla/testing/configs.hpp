// Small odd-sized layers, one for each thing that can be left out or got wrong.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "mla/config.hpp"

namespace mla::inline MLA_ISA::testing {

struct NamedConfig {
    std::string name;
    Config config;
};

inline std::ostream& operator<<(std::ostream& stream, const NamedConfig& named) { return stream << named.name; }

/// DeepSeek-V3 in small: q_lora, no scaling, interleaved pairs.
[[nodiscard]] inline Config small_config() {
    Config config;
    config.hidden_size = 45;
    config.num_attention_heads = 3;
    config.q_lora_rank = 21;
    config.kv_lora_rank = 33;
    config.qk_nope_head_dim = 13;
    config.qk_rope_head_dim = 10;
    config.v_head_dim = 11;
    return config;
}

/// YaRN as DeepSeek-V2-Lite has it, with a context so short that all of keep, ramp and divide occur.
[[nodiscard]] inline Yarn small_yarn() {
    Yarn yarn;
    yarn.factor = 40.0;
    yarn.original_max_position = 64;
    yarn.mscale = 0.707;
    yarn.mscale_all_dim = 0.707;
    return yarn;
}

[[nodiscard]] inline std::vector<NamedConfig> small_configs() {
    std::vector<NamedConfig> configs;
    const auto add = [&](const char* name, auto&& change) {
        NamedConfig named{name, small_config()};
        change(named.config);
        configs.push_back(named);
    };
    add("q_lora", [](Config&) {});
    add("no_q_lora", [](Config& c) { c.q_lora_rank = 0; });
    add("one_head", [](Config& c) { c.num_attention_heads = 1; });
    add("half_split", [](Config& c) { c.rope.pairing = RopePairing::half_split; });
    add("no_rope", [](Config& c) { c.qk_rope_head_dim = 0; });
    add("bias", [](Config& c) { c.attention_bias = true; });
    add("bias_no_q_lora", [](Config& c) { c.attention_bias = true, c.q_lora_rank = 0; });
    add("eps_1e-5", [](Config& c) { c.latent_norm_eps = 1e-5; });
    add("yarn", [](Config& c) { c.rope.scaling = small_yarn(); });
    add("yarn_half_split", [](Config& c) { c.rope.scaling = small_yarn(), c.rope.pairing = RopePairing::half_split; });
    add("yarn_two_mscales", [](Config& c) {
        Yarn yarn = small_yarn();
        yarn.mscale = 1.3;
        c.rope.scaling = yarn;
    });
    add("yarn_no_mscale", [](Config& c) {
        Yarn yarn = small_yarn();
        yarn.mscale.reset();
        yarn.mscale_all_dim.reset();
        c.rope.scaling = yarn;
    });
    add("yarn_attention_factor", [](Config& c) {
        Yarn yarn = small_yarn();
        yarn.attention_factor = 0.9;
        yarn.truncate = false;
        yarn.scales_softmax = false;
        c.rope.scaling = yarn;
    });
    add("longrope", [](Config& c) {
        c.rope.scaling = LongRope{{1.0, 1.1, 1.7, 4.5, 20.0}, 1.19};
        c.rope.pairing = RopePairing::half_split;
    });
    add("multipliers", [](Config& c) { c.query_multiplier = 1.46, c.latent_multiplier = 1.17; });
    add("position_scale", [](Config& c) { c.position_scale = {0.1, 5}; });
    add("not_rotated", [](Config& c) { c.rope.rotates = false; });
    add("rope_key_norm", [](Config& c) { c.rope_key_norm = true; });
    add("sinks", [](Config& c) { c.sinks = true; });
    add("sliding_window", [](Config& c) { c.sliding_window = 7; });
    add("gate_per_head", [](Config& c) { c.output_gate = OutputGate::per_head; });
    add("gate_per_value", [](Config& c) { c.output_gate = OutputGate::per_value; });
    add("gate_with_query", [](Config& c) { c.output_gate = OutputGate::with_query; });
    add("learned_query_scale", [](Config& c) { c.learned_query_scale = true; });
    add("learned_frequencies", [](Config& c) {
        c.rope.scaling = small_yarn();
        c.rope.log_factors = {0.3, -0.2, 0.0, 1.1, -0.7};
    });
    add("everything", [](Config& c) {
        c.attention_bias = true;
        c.latent_norm_eps = 1e-5;
        c.query_multiplier = 1.46;
        c.latent_multiplier = 1.17;
        c.position_scale = {0.1, 5};
        c.rope.scaling = small_yarn();
        c.rope_key_norm = true;
        c.sinks = true;
        c.sliding_window = 20;
        c.output_gate = OutputGate::with_query;
    });
    return configs;
}

}  // namespace mla::inline MLA_ISA::testing
