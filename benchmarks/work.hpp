// What a computation amounts to: its flops (a multiply-add is two) and the bytes it must read, each once.
#pragma once

#include "mla/baselines/grouped_query_config.hpp"
#include "mla/config.hpp"
#include "mla/kernels/plan.hpp"

namespace mla::bench {

/// Pairs of a query and a key that the causal mask leaves, when the queries are the last of the keys.
[[nodiscard]] inline double visible_pairs(Index queries, Index keys) {
    return static_cast<double>(queries) * (static_cast<double>(keys) - 0.5 * static_cast<double>(queries - 1));
}

[[nodiscard]] inline double absorbed_flops(const Config& c, Index queries, Index keys) {
    return 2.0 * static_cast<double>(c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)) *
           visible_pairs(queries, keys);
}

/// Attention on decompressed keys and values, without decompressing them.
[[nodiscard]] inline double expanded_flops(const Config& c, Index queries, Index keys) {
    return 2.0 * static_cast<double>(c.num_attention_heads * (c.qk_head_dim() + c.v_head_dim)) * visible_pairs(queries, keys);
}

[[nodiscard]] inline double grouped_flops(const baselines::GroupedQueryConfig& c, Index queries, Index keys) {
    return 2.0 * static_cast<double>(c.num_attention_heads * 2 * c.head_dim) * visible_pairs(queries, keys);
}

/// Parameters of kv_b_proj: those that decompress, or absorb, a token's latent.
[[nodiscard]] inline double expansion_parameters(const Config& c) {
    return static_cast<double>(c.num_attention_heads * c.kv_lora_rank * (c.qk_nope_head_dim + c.v_head_dim));
}

/// Decompressing every key and value once.
[[nodiscard]] inline double expansion_flops(const Config& c, Index keys) {
    return 2.0 * static_cast<double>(keys) * expansion_parameters(c);
}

/// Parameters of a layer's projections, kv_b_proj apart.
[[nodiscard]] inline double projection_parameters(const Config& c) {
    const Index query = c.q_lora_rank > 0 ? c.q_lora_rank * (c.hidden_size + c.q_dim()) : c.hidden_size * c.q_dim();
    return static_cast<double>(query + c.hidden_size * c.cache_dim() + c.o_dim() * c.hidden_size);
}

[[nodiscard]] inline double layer_parameters(const Config& c) { return projection_parameters(c) + expansion_parameters(c); }

[[nodiscard]] inline double layer_parameters(const baselines::GroupedQueryConfig& c) {
    return static_cast<double>(2 * c.hidden_size * (c.q_dim() + c.kv_dim()));
}

/// A whole layer in the form that the plan chooses.
[[nodiscard]] inline double layer_flops(const Config& c, Index queries, Index keys) {
    const double projections = 2.0 * static_cast<double>(queries) * projection_parameters(c);
    if (choose_form(c, queries, keys) == Form::absorbed)
        return projections + 2.0 * static_cast<double>(queries) * expansion_parameters(c) + absorbed_flops(c, queries, keys);
    return projections + expansion_flops(c, keys) + expanded_flops(c, queries, keys);
}

[[nodiscard]] inline double layer_flops(const baselines::GroupedQueryConfig& c, Index queries, Index keys) {
    return 2.0 * static_cast<double>(queries) * layer_parameters(c) + grouped_flops(c, queries, keys);
}

}  // namespace mla::bench
