// Geometries of published models. Each is what the checkpoint's own config.json says, read as transformers reads it;
// tests/golden/check_presets.py compares them with transformers' configuration and attention classes.
#pragma once

#include <array>
#include <cmath>

#include "mla/config.hpp"

/// Published models. All of them take 1e-6 as the eps of the two latent norms, whatever `rms_norm_eps` their config.json
/// gives: so do transformers and the code published with the checkpoints. An engine that uses `rms_norm_eps` there (vLLM
/// and SGLang do) differs where that is 1e-5: Moonlight, MiniCPM3, LongCat-Flash and GLM-4.7-Flash.
namespace mla::inline MLA_ISA::presets {

namespace detail {

/// The dimensions most models share: Dc 512, Dn/Dr/Dv 128/64/128.
[[nodiscard]] inline Config deepseek_geometry(Index hidden_size, Index heads, Index q_lora_rank) {
    Config config;
    config.hidden_size = hidden_size;
    config.num_attention_heads = heads;
    config.q_lora_rank = q_lora_rank;
    config.kv_lora_rank = 512;
    config.qk_nope_head_dim = 128;
    config.qk_rope_head_dim = 64;
    config.v_head_dim = 128;
    return config;
}

/// YaRN by 40 from 4096 tokens with one magnitude coefficient for both places.
[[nodiscard]] inline Yarn deepseek_yarn(double mscale) {
    Yarn yarn;
    yarn.factor = 40.0;
    yarn.original_max_position = 4096;
    yarn.mscale = mscale;
    yarn.mscale_all_dim = mscale;
    return yarn;
}

}  // namespace detail

/// DeepSeek-V2-Lite and its Chat. Source: config.json of deepseek-ai/DeepSeek-V2-Lite (the defaults of transformers'
/// DeepseekV2Config are no published model's).
[[nodiscard]] inline Config deepseek_v2_lite() {
    Config config = detail::deepseek_geometry(2048, 16, 0);
    config.rope.scaling = detail::deepseek_yarn(0.707);
    return config;
}

/// DeepSeek-V2 and its Chat. Source: config.json of deepseek-ai/DeepSeek-V2. DeepSeek-V2.5 differs: both magnitude
/// coefficients are 1.
[[nodiscard]] inline Config deepseek_v2() {
    Config config = detail::deepseek_geometry(5120, 128, 1536);
    config.rope.scaling = detail::deepseek_yarn(0.707);
    return config;
}

/// DeepSeek-V3, V3-0324, V3.1 and R1. Source: config.json of deepseek-ai/DeepSeek-V3; the geometry is also the default
/// of transformers' DeepseekV3Config, whose default rope has no YaRN.
[[nodiscard]] inline Config deepseek_v3() {
    Config config = detail::deepseek_geometry(7168, 128, 1536);
    config.rope.scaling = detail::deepseek_yarn(1.0);
    return config;
}

/// DeepSeek-V3.2, with its indexer. Source: config.json of deepseek-ai/DeepSeek-V3.2; the geometry is also the default of
/// transformers' DeepseekV32Config.
[[nodiscard]] inline Config deepseek_v3_2() {
    Config config = deepseek_v3();
    config.indexer = {.top_k = 2048, .heads = 64, .head_dim = 128};
    return config;
}

/// Kimi-K2, base and Instruct. Source: config.json of moonshotai/Kimi-K2-Instruct, which transformers reads as a
/// DeepseekV3Config. Instruct-0905 and Thinking differ: the YaRN factor is 64.
[[nodiscard]] inline Config kimi_k2() {
    Config config = detail::deepseek_geometry(7168, 64, 1536);
    config.rope.base = 50000.0;
    Yarn yarn = detail::deepseek_yarn(1.0);
    yarn.factor = 32.0;
    yarn.beta_fast = 1.0;
    config.rope.scaling = yarn;
    return config;
}

/// Moonlight-16B-A3B and its Instruct. Source: config.json of moonshotai/Moonlight-16B-A3B, which transformers reads as
/// a DeepseekV3Config.
[[nodiscard]] inline Config moonlight_16b() {
    Config config = detail::deepseek_geometry(2048, 16, 0);
    config.rope.base = 50000.0;
    return config;
}

/// MiniCPM3-4B. Source: config.json of openbmb/MiniCPM3-4B; the geometry is also the default of transformers'
/// MiniCPM3Config (v_head_dim = hidden / H), whose default rope has no LongRoPE. The checkpoint's short and long factors
/// are equal, and its context is not extended (32768 of 32768), so that cos and sin are not scaled.
[[nodiscard]] inline Config minicpm3_4b() {
    Config config = detail::deepseek_geometry(2560, 40, 768);
    config.kv_lora_rank = 256;
    config.qk_nope_head_dim = 64;
    config.qk_rope_head_dim = 32;
    config.v_head_dim = 64;
    config.rope.pairing = RopePairing::half_split;
    config.rope.scaling = LongRope{
        {1.0591234137867171, 1.1241891283591912, 1.2596935748670968, 1.5380380402321725, 2.093982484148734, 3.1446935121267696,
         4.937952647693647, 7.524541999994549, 10.475458000005451, 13.062047352306353, 14.85530648787323, 15.906017515851266,
         16.461961959767827, 16.740306425132907, 16.87581087164081, 16.940876586213285},
        1.0};
    return config;
}

/// LongCat-Flash-Chat. Source: the defaults of transformers' LongcatFlashConfig, which equal config.json of
/// meituan-longcat/LongCat-Flash-Chat; the multipliers are those of its attention class (LongcatFlashMLA).
[[nodiscard]] inline Config longcat_flash() {
    Config config = detail::deepseek_geometry(6144, 64, 1536);
    config.query_multiplier = std::sqrt(6144.0 / 1536.0);
    config.latent_multiplier = std::sqrt(6144.0 / 512.0);
    config.rope.base = 1e7;
    return config;
}

/// GLM-4.7-Flash. Source: config.json of zai-org/GLM-4.7-Flash; the geometry is also the default of transformers'
/// Glm4MoeLiteConfig, whose default rope base is 10,000.
[[nodiscard]] inline Config glm_4_7_flash() {
    Config config = detail::deepseek_geometry(2048, 20, 768);
    config.qk_nope_head_dim = 192;
    config.v_head_dim = 256;
    config.rope.base = 1e6;
    return config;
}

/// Mistral-Large-3-675B. Source: params.json of mistralai/Mistral-Large-3-675B-Instruct-2512; transformers has no class
/// for that format, its Mistral4Attention is the same attention. `apply_scale` is false there: YaRN changes frequencies
/// and no magnitude, neither of cos and sin (the two coefficients cancel) nor of the softmax scale.
[[nodiscard]] inline Config mistral_large_3() {
    Config config = detail::deepseek_geometry(7168, 128, 1536);
    Yarn yarn;
    yarn.factor = 36.0;
    yarn.original_max_position = 8192;
    yarn.mscale = 1.0;
    yarn.mscale_all_dim = 1.0;
    yarn.scales_softmax = false;
    config.rope.scaling = yarn;
    config.position_scale = {0.1, 8192};
    return config;
}

/// GLM-5, a layer with an indexer (others may take its selection: `indexer.heads` is then 0). Source: the defaults of
/// transformers' GlmMoeDsaConfig.
[[nodiscard]] inline Config glm_5() {
    Config config = detail::deepseek_geometry(6144, 64, 2048);
    config.qk_nope_head_dim = 192;
    config.v_head_dim = 256;
    config.indexer = {.top_k = 2048, .heads = 32, .head_dim = 128, .pairing = RopePairing::interleaved};
    return config;
}

/// A.X-K2-Light. Source: the defaults of transformers' AXK2Config.
[[nodiscard]] inline Config ax_k2_light() {
    Config config = detail::deepseek_geometry(2048, 32, 384);
    config.kv_lora_rank = 128;
    config.qk_nope_head_dim = 64;
    config.qk_rope_head_dim = 32;
    config.v_head_dim = 64;
    config.output_gate = OutputGate::with_query;
    config.indexer = {.top_k = 2048, .heads = 16, .head_dim = 128};
    return config;
}

/// Hunyuan 4, a layer with an indexer. Source: the defaults of transformers' HYV4Config.
[[nodiscard]] inline Config hunyuan_4() {
    Config config = detail::deepseek_geometry(2816, 32, 1536);
    config.qk_nope_head_dim = 192;
    config.v_head_dim = 256;
    config.rope.pairing = RopePairing::half_split;
    config.sinks = true;
    config.output_gate = OutputGate::per_value;
    config.indexer = {.top_k = 2048, .heads = 16, .head_dim = 128, .rope_is_last = true, .norm_eps = 1e-5};
    return config;
}

/// dots3-note, a layer with an indexer. Source: the defaults of transformers' Dots3NoteTextConfig.
[[nodiscard]] inline Config dots3_note() {
    Config config = detail::deepseek_geometry(5120, 128, 1024);
    config.latent_norm_eps = 1e-5;
    config.query_multiplier = std::sqrt(5120.0 / 1024.0);
    config.latent_multiplier = std::sqrt(5120.0 / 512.0);
    config.rope.base = 8e7;
    config.rope_key_norm = true;
    config.output_gate = OutputGate::per_head;
    config.indexer = {.top_k = 2048, .heads = 64, .head_dim = 128, .pairing = RopePairing::interleaved};
    return config;
}

/// dots3-note, a layer with a sliding window. Source: the defaults of transformers' Dots3NoteTextConfig.
[[nodiscard]] inline Config dots3_note_sliding() {
    Config config = dots3_note();
    config.num_attention_heads = 64;
    config.kv_lora_rank = 1024;
    config.qk_nope_head_dim = 192;
    config.latent_multiplier = std::sqrt(5120.0 / 1024.0);
    config.rope.base = 5e4;
    config.sliding_window = 512;
    config.indexer = {};
    return config;
}

/// Kimi-Linear-48B-A3B, a layer of latent attention. Source: the defaults of transformers' KimiLinearConfig.
[[nodiscard]] inline Config kimi_linear_48b() {
    Config config = detail::deepseek_geometry(2304, 32, 0);
    config.rope.rotates = false;
    return config;
}

/// Ling 3, a layer of latent attention. Source: the defaults of transformers' BailingHybridConfig.
[[nodiscard]] inline Config ling_3() {
    Config config = detail::deepseek_geometry(2560, 32, 0);
    config.rope.base = 6e6;
    config.output_gate = OutputGate::per_head;
    return config;
}

struct Preset {
    const char* name;
    Config (*config)();
};

/// Every preset, under the name of its function.
[[nodiscard]] constexpr std::array<Preset, 17> all() {
    return {{{"deepseek_v2_lite", deepseek_v2_lite},
             {"deepseek_v2", deepseek_v2},
             {"deepseek_v3", deepseek_v3},
             {"deepseek_v3_2", deepseek_v3_2},
             {"kimi_k2", kimi_k2},
             {"moonlight_16b", moonlight_16b},
             {"minicpm3_4b", minicpm3_4b},
             {"longcat_flash", longcat_flash},
             {"glm_4_7_flash", glm_4_7_flash},
             {"mistral_large_3", mistral_large_3},
             {"glm_5", glm_5},
             {"ax_k2_light", ax_k2_light},
             {"hunyuan_4", hunyuan_4},
             {"dots3_note", dots3_note},
             {"dots3_note_sliding", dots3_note_sliding},
             {"kimi_linear_48b", kimi_linear_48b},
             {"ling_3", ling_3}}};
}

}  // namespace mla::inline MLA_ISA::presets
