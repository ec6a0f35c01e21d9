// The weights of a layer as they lie in a checkpoint: references, not owned, of any storage type.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "mla/config.hpp"
#include "mla/core/errors.hpp"
#include "mla/core/tensor_ref.hpp"

namespace mla::inline MLA_ISA {

/// Tensors of an indexer (`self_attn.indexer.*`).
struct IndexerWeights {
    TensorRef wq_b;               ///< [Hi·Di, Rq], without q_lora_rank [Hi·Di, hidden]
    TensorRef q_input_norm;       ///< [1, hidden]   without q_lora_rank
    TensorRef q_input_norm_bias;  ///< [1, hidden]   without q_lora_rank
    TensorRef wk;                 ///< [Di, hidden]
    TensorRef k_norm;             ///< [1, Di]
    TensorRef k_norm_bias;        ///< [1, Di]
    TensorRef weights_proj;       ///< [Hi, hidden]
    TensorRef pool_gate;          ///< [Di, hidden]  with pools
    TensorRef pool_positions;     ///< [pool, Di]    with pools
    TensorRef query_scale;        ///< [1, Hi]       with learned_query_scale
    TensorRef query_scale_bias;   ///< [1, Hi]       with learned_query_scale
};

/// Tensors of one layer, each [out, in], named as in a Hugging Face checkpoint (`model.layers.N.self_attn.*`).
/// A vector is a matrix of one row. What the config does not use stays empty.
struct AttentionWeights {
    TensorRef q_a_proj;            ///< [Rq, hidden]           with q_lora_rank
    TensorRef q_a_layernorm;       ///< [1, Rq]                with q_lora_rank
    TensorRef q_b_proj;            ///< [H·(Dn+Dr), Rq]        with q_lora_rank; rows a head: nope, then rope
    TensorRef q_proj;              ///< [H·(Dn+Dr), hidden]    without q_lora_rank
    TensorRef kv_a_proj_with_mqa;  ///< [Dc+Dr, hidden]        unless shares_cache; latent, then the one rope key of all heads
    TensorRef kv_a_layernorm;      ///< [1, Dc]                unless shares_cache
    TensorRef kv_b_proj;           ///< [H·(Dn+Dv), Dc]        rows a head: W_UK, then W_UV
    TensorRef o_proj;              ///< [hidden, H·Dv]
    TensorRef q_a_bias;            ///< [1, Rq]                with attention_bias and q_lora_rank
    TensorRef kv_a_bias;           ///< [1, Dc+Dr]             with attention_bias, unless shares_cache
    TensorRef o_bias;              ///< [1, hidden]            with attention_bias
    TensorRef q_gate_proj;         ///< [H·(Dn+Dr+Dv), 2·Rq]   instead of q_b_proj with OutputGate::with_query; rows a head:
                                   ///<                        nope, rope, gate; columns: the latent normalised, and as it came
    TensorRef gate_proj;           ///< [H or H·Dv, hidden]    with another output gate
    TensorRef k_rope_layernorm;    ///< [1, Dr]                with rope_key_norm, unless shares_cache
    TensorRef sinks;               ///< [1, H]                 with sinks
    TensorRef query_scale;         ///< [1, H]                 with learned_query_scale
    TensorRef query_scale_bias;    ///< [1, H]                 with learned_query_scale
    IndexerWeights indexer;        ///<                        with indexer.heads
};

/// Calls `f(name, tensor, rows, cols)` for each tensor of an indexer, with the shape it must have.
template <class Weights, class F>
void for_each_indexer_tensor(const Config& config, Weights& weights, F&& f) {
    const Index dim = config.indexer.head_dim;
    const bool low_rank = config.q_lora_rank > 0;
    f("indexer.wq_b", weights.wq_b, config.indexer.heads * dim, low_rank ? config.q_lora_rank : config.hidden_size);
    if (!low_rank) {
        f("indexer.q_input_norm", weights.q_input_norm, Index{1}, config.hidden_size);
        f("indexer.q_input_norm_bias", weights.q_input_norm_bias, Index{1}, config.hidden_size);
    }
    f("indexer.wk", weights.wk, dim, config.hidden_size);
    f("indexer.k_norm", weights.k_norm, Index{1}, dim);
    f("indexer.k_norm_bias", weights.k_norm_bias, Index{1}, dim);
    f("indexer.weights_proj", weights.weights_proj, config.indexer.heads, config.hidden_size);
    if (config.indexer.pool > 1) {
        f("indexer.pool_gate", weights.pool_gate, dim, config.hidden_size);
        f("indexer.pool_positions", weights.pool_positions, config.indexer.pool, dim);
    }
    if (!config.learned_query_scale) return;
    f("indexer.query_scale", weights.query_scale, Index{1}, config.indexer.heads);
    f("indexer.query_scale_bias", weights.query_scale_bias, Index{1}, config.indexer.heads);
}

/// Calls `f(name, tensor, rows, cols)` for each tensor of `weights` that `config` calls for, with the shape it must have.
template <class Weights, class F>
void for_each_tensor(const Config& config, Weights& weights, F&& f) {
    const Index heads = config.num_attention_heads;
    if (config.q_lora_rank > 0) {
        f("q_a_proj", weights.q_a_proj, config.q_lora_rank, config.hidden_size);
        f("q_a_layernorm", weights.q_a_layernorm, Index{1}, config.q_lora_rank);
        if (config.output_gate == OutputGate::with_query) {
            f("q_gate_proj", weights.q_gate_proj, config.q_dim() + config.gate_dim(), 2 * config.q_lora_rank);
        } else {
            f("q_b_proj", weights.q_b_proj, config.q_dim(), config.q_lora_rank);
        }
    } else {
        f("q_proj", weights.q_proj, config.q_dim(), config.hidden_size);
    }
    if (!config.shares_cache) {
        f("kv_a_proj_with_mqa", weights.kv_a_proj_with_mqa, config.cache_dim(), config.hidden_size);
        f("kv_a_layernorm", weights.kv_a_layernorm, Index{1}, config.kv_lora_rank);
        if (config.attention_bias) f("kv_a_bias", weights.kv_a_bias, Index{1}, config.cache_dim());
        if (config.rope_key_norm) f("k_rope_layernorm", weights.k_rope_layernorm, Index{1}, config.qk_rope_head_dim);
    }
    f("kv_b_proj", weights.kv_b_proj, heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank);
    f("o_proj", weights.o_proj, config.hidden_size, config.o_dim());
    if (config.attention_bias) {
        if (config.q_lora_rank > 0) f("q_a_bias", weights.q_a_bias, Index{1}, config.q_lora_rank);
        f("o_bias", weights.o_bias, Index{1}, config.hidden_size);
    }
    if (config.output_gate == OutputGate::per_head || config.output_gate == OutputGate::per_value)
        f("gate_proj", weights.gate_proj, config.gate_dim(), config.hidden_size);
    if (config.learned_query_scale) {
        f("query_scale", weights.query_scale, Index{1}, heads);
        f("query_scale_bias", weights.query_scale_bias, Index{1}, heads);
    }
    if (config.sinks) f("sinks", weights.sinks, Index{1}, heads);
    if (config.indexer.heads > 0) for_each_indexer_tensor(config, weights.indexer, f);
}

/// What a matrix is kept as in its panels. Of fp8, int8 and int4 the codes and scales of a weight that is stored so are kept as
/// they are; of any other they are made, with one scale for 128 neighbours of a row (int4: 32).
enum class Packing : std::uint8_t {
    as_stored,   ///< fp8, int8 and int4 where the weight is one, with blocks of whole eights; else the layer's type
    layer_type,  ///< the layer's type: quantised weights are multiplied out, and rounded to it
    fp8,
    int8,
    int4,
};

/// A recipe for the matrices of a layer. A layer of double keeps all in double.
struct PackOptions {
    Packing q_a_proj = Packing::as_stored;
    Packing q_b_proj = Packing::as_stored;  ///< or q_proj, or q_gate_proj
    Packing kv_a_proj_with_mqa = Packing::as_stored;
    Packing kv_b_proj = Packing::as_stored;  ///< or layer_type; as stored only where blocks are whole eights of rows too
    Packing o_proj = Packing::as_stored;
    Packing gate_proj = Packing::as_stored;
    Packing indexer = Packing::as_stored;  ///< all of its projections

    /// The same for all, but for kv_b_proj, of which no codes are made.
    [[nodiscard]] static constexpr PackOptions all(Packing packing) noexcept {
        const Packing heads = packing == Packing::layer_type ? packing : Packing::as_stored;
        return {packing, packing, packing, heads, packing, packing, packing};
    }
};

namespace detail {

struct TensorShape {
    Index rows;
    Index cols;
};

inline std::ostream& operator<<(std::ostream& stream, const TensorShape& shape) {
    return stream << '[' << shape.rows << ", " << shape.cols << ']';
}

}  // namespace detail

/// @throws std::invalid_argument unless the tensor `name` is there and is [rows, cols], with scales where its type asks for them
inline void require_tensor(const char* name, const TensorRef& found, Index rows, Index cols) {
    const detail::TensorShape expected{rows, cols};
    if (found.empty()) throw_invalid(name, "missing", expected);
    if (found.rows != rows || found.cols != cols) throw_invalid(name, detail::TensorShape{found.rows, found.cols}, expected);
    if (is_quantised(found.dtype) && found.scales.empty())
        throw_invalid((std::string(name) + " scales").c_str(), "missing", std::string("there, beside ") + mla::name(found.dtype));
    if (found.stride < cols) require_at_least((std::string(name) + " row stride").c_str(), found.stride, cols);
}

/// @throws std::invalid_argument when a tensor that `config` calls for is missing or has another shape
inline void validate(const Config& config, const AttentionWeights& weights) {
    for_each_tensor(config, weights, [](const char* name, const TensorRef& found, Index rows, Index cols) {
        require_tensor(name, found, rows, cols);
    });
}

}  // namespace mla::inline MLA_ISA
