// The two halves of kv_b_proj, a small matrix a head.
#pragma once

#include <algorithm>

#include "mla/config.hpp"
#include "mla/core/views.hpp"
#include "mla/linear/packed_matrix.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::detail {

/// W_UK and W_UV as both forms of attention want them.
template <Storage T>
struct HeadProjections {
    PackedMatrix<T> absorb_key;  ///< a head: q_nope Dn → Dc
    PackedMatrix<T>
        expand_key;         ///< a head: c Dc → Dn; the transpose of absorb_key, since a product reads its matrix in one order
    PackedMatrix<T> value;  ///< a head: c Dc → Dv

    HeadProjections(const Config& config, const TensorRef& kv_b, ExecutorRef executor)
        : absorb_key(config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank),
          expand_key(config.num_attention_heads, config.kv_lora_rank, config.qk_nope_head_dim),
          value(config.num_attention_heads, config.kv_lora_rank, config.v_head_dim) {
        const Index stride = config.qk_nope_head_dim + config.v_head_dim;
        for (Index h = 0; h < config.num_attention_heads; ++h) {
            const TensorRef key = kv_b.row_range(h * stride, config.qk_nope_head_dim);
            absorb_key.pack_transposed(h, key, executor);
            expand_key.pack(h, key, executor);
            value.pack(h, kv_b.row_range(h * stride + config.qk_nope_head_dim, config.v_head_dim), executor);
        }
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return absorb_key.bytes() + expand_key.bytes() + value.bytes(); }
};

/// Each head's values, of the same sizes.
template <Compute A>
void copy_heads(HeadsView<const A> from, HeadsView<A> to) {
    for (Index t = 0; t < from.tokens; ++t)
        for (Index h = 0; h < from.heads; ++h) std::copy_n(from.at(t, h), from.dim, to.at(t, h));
}

}  // namespace mla::inline MLA_ISA::detail
