// The geometry of multi-head and grouped-query attention, and its weights.
#pragma once

#include "mla/config.hpp"
#include "mla/core/tensor_ref.hpp"

namespace mla::inline MLA_ISA::baselines {

/// Grouped-query attention (Ainslie et al. 2023): `num_key_value_heads` keys and values serve `num_attention_heads` queries.
/// As many as queries is multi-head attention, one is multi-query attention. RoPE turns whole heads; the scale is head_dim^-1/2.
struct GroupedQueryConfig {
    Index hidden_size = 0;
    Index num_attention_heads = 0;  ///< H
    Index num_key_value_heads = 0;  ///< G, divides H
    Index head_dim = 0;             ///< D
    Rope rope;

    [[nodiscard]] Index q_dim() const noexcept { return num_attention_heads * head_dim; }
    [[nodiscard]] Index kv_dim() const noexcept { return num_key_value_heads * head_dim; }
};

/// Tensors of one layer, each [out, in], named as in a Hugging Face Llama checkpoint.
struct GroupedQueryWeights {
    TensorRef q_proj;  ///< [H·D, hidden]
    TensorRef k_proj;  ///< [G·D, hidden]
    TensorRef v_proj;  ///< [G·D, hidden]
    TensorRef o_proj;  ///< [hidden, H·D]
};

/// @throws std::invalid_argument naming the field, its value and the rule, when `config` describes no layer
inline void validate(const GroupedQueryConfig& config) {
    using mla::detail::max_dimension;
    require_in_range("hidden_size", config.hidden_size, Index{1}, max_dimension);
    require_in_range("num_attention_heads", config.num_attention_heads, Index{1}, Index{1} << 16);
    require_in_range("num_key_value_heads", config.num_key_value_heads, Index{1}, config.num_attention_heads);
    require(config.num_attention_heads % config.num_key_value_heads == 0, "num_key_value_heads", config.num_key_value_heads,
            "a divisor of num_attention_heads");
    require_in_range("head_dim", config.head_dim, Index{2}, max_dimension);
    require(config.head_dim % 2 == 0, "head_dim", config.head_dim, "even");
    validate_rope(config.rope, config.head_dim);
}

}  // namespace mla::inline MLA_ISA::baselines
