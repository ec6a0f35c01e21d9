// What published checkpoints call the tensors of a layer.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// The name below `self_attn.` of a tensor that AttentionWeights calls `name`, in files of a model type: itself and ".weight",
/// unless listed here.
[[nodiscard]] inline std::string published_name(std::string_view name, std::string_view model_type) {
    static constexpr std::pair<std::string_view, std::string_view> others[] = {
        {"q_a_bias", "q_a_proj.bias"},
        {"kv_a_bias", "kv_a_proj_with_mqa.bias"},
        {"o_bias", "o_proj.bias"},
        {"k_rope_layernorm", "k_rope_only_layernorm.weight"},
        {"sinks", "sinks"},
        {"query_scale", "softmax_scaling.scale"},
        {"query_scale_bias", "softmax_scaling.bias"},
        {"indexer.k_norm_bias", "indexer.k_norm.bias"},
        {"indexer.q_input_norm_bias", "indexer.q_input_norm.bias"},
        {"indexer.pool_gate", "indexer.index_kpool_compress_gate"},
        {"indexer.pool_positions", "indexer.index_kpool_compress_ape"},
        {"indexer.query_scale", "indexer.softmax_scaling.scale"},
        {"indexer.query_scale_bias", "indexer.softmax_scaling.bias"},
    };
    for (const auto& [ours, published] : others)
        if (name == ours) return std::string(published);
    if (name == "gate_proj" && model_type != "hy_v4") return "g_proj.weight";
    return std::string(name) + ".weight";
}

}  // namespace mla::inline MLA_ISA::io::detail
