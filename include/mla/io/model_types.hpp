// What the model types with latent attention have beside DeepSeek-V3's layer, as transformers 5.23 has them.
#pragma once

#include <string_view>

#include "mla/config.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// Where the pairing of the rope comes from.
enum class PairingRule : std::uint8_t {
    field,  ///< rope_interleave, true where it is absent
    interleaved,
    half_split,
    not_rotated,
};

/// Sparse attention of a model type: its indexer, with the sizes that its configuration class has where a file gives none.
struct IndexerRule {
    Index heads = 0;  ///< 0: none
    RopePairing pairing = RopePairing::half_split;
    bool rope_is_last = false;
    bool takes_norm_eps = false;     ///< its norm takes rms_norm_eps, not 1e-6
    bool shares_selections = false;  ///< whether layers may take the selection of one before them
    bool pools = false;              ///< whether it selects pools of tokens
};

/// Which of a model's layers are of another kind than its first ones.
enum class LayerRule : std::uint8_t {
    uniform,
    kimi_linear,     ///< delta rule, but for those that linear_attn_config lists, or every fourth
    bailing_hybrid,  ///< delta rule, but for the last of each layer_group_size
    glm5_next,       ///< delta rule, but for every fourth
    dots3_note,      ///< a sliding window, but for the first two and every fourth
    mistral_large4,  ///< nothing rotated in every fourth; some attend to the cache of a layer before them
};

struct ModelType {
    std::string_view name;
    PairingRule pairing = PairingRule::field;
    double rope_base = 1e4;  ///< where a file gives none
    LayerRule layers = LayerRule::uniform;
    OutputGate gate = OutputGate::none;
    IndexerRule indexer = {};
    bool takes_norm_eps = false;  ///< the latents' norms take rms_norm_eps, not 1e-6
    bool dots3 = false;           ///< normed rope keys, and latents times √(hidden/rank)
    bool sinks = false;
};

inline constexpr IndexerRule deepseek_indexer{.heads = 64};
inline constexpr IndexerRule glm_indexer{.heads = 32, .pairing = RopePairing::interleaved, .shares_selections = true};
inline constexpr IndexerRule hy_indexer{.heads = 16, .rope_is_last = true, .takes_norm_eps = true, .shares_selections = true};
inline constexpr IndexerRule dots3_indexer{.heads = 64, .pairing = RopePairing::interleaved};

inline constexpr ModelType model_types[] = {
    {.name = "axk1"},
    {.name = "axk2", .pairing = PairingRule::interleaved, .gate = OutputGate::with_query, .indexer = {.heads = 16}},
    {.name = "bailing_hybrid",
     .pairing = PairingRule::interleaved,
     .rope_base = 6e6,
     .layers = LayerRule::bailing_hybrid,
     .gate = OutputGate::per_head},
    {.name = "deepseek_v2", .pairing = PairingRule::interleaved},
    {.name = "deepseek_v3"},
    {.name = "deepseek_v32", .pairing = PairingRule::interleaved, .indexer = deepseek_indexer},
    {.name = "dots3_note_text",
     .pairing = PairingRule::interleaved,
     .rope_base = 8e7,
     .layers = LayerRule::dots3_note,
     .gate = OutputGate::per_head,
     .indexer = dots3_indexer,
     .takes_norm_eps = true,
     .dots3 = true},
    {.name = "glm4_moe_lite"},
    {.name = "glm5_next_text",
     .pairing = PairingRule::interleaved,
     .layers = LayerRule::glm5_next,
     .indexer = {.heads = 32, .shares_selections = true, .pools = true},
     .takes_norm_eps = true},
    {.name = "glm_moe_dsa", .pairing = PairingRule::interleaved, .indexer = glm_indexer},
    {.name = "hy_v4", .pairing = PairingRule::half_split, .gate = OutputGate::per_value, .indexer = hy_indexer, .sinks = true},
    {.name = "kimi_k2"},
    {.name = "kimi_linear", .pairing = PairingRule::not_rotated, .layers = LayerRule::kimi_linear},
    {.name = "longcat_flash", .pairing = PairingRule::interleaved, .rope_base = 1e7},
    {.name = "minicpm3", .pairing = PairingRule::half_split},
    {.name = "mistral4"},
    {.name = "mistral_large4_text",
     .pairing = PairingRule::interleaved,
     .layers = LayerRule::mistral_large4,
     .indexer = glm_indexer,
     .takes_norm_eps = true},
    {.name = "youtu"},
};

/// Null where the type is not known.
[[nodiscard]] inline const ModelType* find_model_type(std::string_view name) noexcept {
    for (const ModelType& type : model_types)
        if (type.name == name) return &type;
    return nullptr;
}

}  // namespace mla::inline MLA_ISA::io::detail
