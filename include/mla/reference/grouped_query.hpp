// A grouped-query attention layer, as in Llama: what MLA is compared with. G = H makes it multi-head attention.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "mla/config.hpp"
#include "mla/reference/attention.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/rope.hpp"
#include "mla/reference/weights.hpp"

namespace mla::inline MLA_ISA::reference {

struct GroupedQueryLayer {
    TensorRef q_proj;    // [H*D, hidden]
    TensorRef k_proj;    // [G*D, hidden]
    TensorRef v_proj;    // [G*D, hidden]
    TensorRef o_proj;    // [hidden, H*D]
    Index heads = 0;     // H
    Index kv_heads = 0;  // G, divides H
    Index head_dim = 0;  // D
    Rope rope;           // turns whole heads of q and k
};

/// Rotates every head of x [T, heads*dim] by its token's position, in place.
inline void rotate_heads(const Rope& rope, Index dim, std::span<const std::int64_t> positions, Matrix& x) {
    for (Index t = 0; t < x.rows; ++t)
        for (Index i = 0; i < x.cols; i += dim) rotate(rope, dim, positions[static_cast<std::size_t>(t)], x.row(t) + i);
}

/// x [T, hidden], positions [T], k_cache and v_cache [L, G*D], which grow by T rows -> y [T, hidden]; scale D^-½
[[nodiscard]] inline Matrix forward_grouped_query(const GroupedQueryLayer& layer, const Matrix& x,
                                                  std::span<const std::int64_t> positions, Matrix& k_cache, Matrix& v_cache) {
    const Index T = x.rows;
    const Index H = layer.heads;
    const Index D = layer.head_dim;
    require_equal("reference::forward_grouped_query positions.size()", static_cast<Index>(positions.size()), "x.rows", T);

    Matrix q = linear(x, to_matrix(layer.q_proj));        // [T, H*D]
    Matrix k = linear(x, to_matrix(layer.k_proj));        // [T, G*D]
    const Matrix v = linear(x, to_matrix(layer.v_proj));  // [T, G*D]
    rotate_heads(layer.rope, D, positions, q);
    rotate_heads(layer.rope, D, positions, k);
    append_rows(k_cache, k);
    append_rows(v_cache, v);

    const double scale = 1.0 / std::sqrt(static_cast<double>(D));
    const Attended attended = attend_multi_head(reshape(q, T * H, D), k_cache, v_cache, T, H, layer.kv_heads, scale);
    return linear(reshape(attended.output, T, H * D), to_matrix(layer.o_proj));
}

}  // namespace mla::inline MLA_ISA::reference
