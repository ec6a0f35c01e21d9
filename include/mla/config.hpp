// The geometry of an MLA layer and the constants of its maths.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA {

/// Which two dimensions of a rope vector turn together. Queries, cached keys and the layer must agree on it.
enum class RopePairing : std::uint8_t {
    interleaved,  ///< (2i, 2i+1): DeepSeek
    half_split,   ///< (i, i + Dr/2): GPT-NeoX style; MiniCPM3, the DeepSeek-V3.2 indexer
};

[[nodiscard]] constexpr const char* name(RopePairing pairing) noexcept {
    return pairing == RopePairing::interleaved ? "interleaved" : "half_split";
}

/// YaRN (Peng et al. 2023, section 3.4) with DeepSeek's two magnitude scales.
struct Yarn {
    double factor = 1.0;                     ///< context extension s
    Index original_max_position = 4096;      ///< L0, the context length before extension
    double beta_fast = 32.0;                 ///< rotations within L0 above which a frequency is kept
    double beta_slow = 1.0;                  ///< rotations within L0 below which it is divided by s
    std::optional<double> mscale;            ///< magnitude coefficient of cos and sin
    std::optional<double> mscale_all_dim;    ///< magnitude coefficient of the softmax scale (squared)
    std::optional<double> attention_factor;  ///< magnitude of cos and sin, in place of what mscale gives
    bool truncate = true;                    ///< the ramp's ends are rounded outwards to whole dimensions
    bool scales_softmax = true;              ///< false: mscale_all_dim leaves the softmax scale alone
    bool operator==(const Yarn&) const = default;

    /// m(s, a) = 0.1·a·ln s + 1 for s > 1, else 1.
    [[nodiscard]] static double magnitude(double factor, double coefficient) {
        return factor <= 1.0 ? 1.0 : 0.1 * coefficient * std::log(factor) + 1.0;
    }
};

/// LongRoPE: every frequency is divided by a factor of its own.
struct LongRope {
    std::vector<double> factors;    ///< [Dr/2], the short or the long list of a checkpoint, whichever the context asks for
    double attention_factor = 1.0;  ///< magnitude of cos and sin
    bool operator==(const LongRope&) const = default;
};

struct Rope {
    double base = 10000.0;
    RopePairing pairing = RopePairing::interleaved;
    std::variant<std::monostate, Yarn, LongRope> scaling;
    bool rotates = true;  ///< false: the rope parts of queries and keys stay as they are (Kimi-Linear)
    /// [Dr/2]: added to the logarithms of the frequencies, scaled ones too; learned (mistral_large4). Or empty.
    std::vector<double> log_factors = {};
    bool operator==(const Rope&) const = default;
};

/// Query scale that grows with the position p: 1 + beta·ln(1 + ⌊p / period⌋), on the whole query after RoPE (transformers:
/// mistral4 and ministral3, `llama_4_scaling_beta` and `original_max_position_embeddings`).
struct PositionScale {
    double beta = 0.0;
    Index period = 1;
    bool operator==(const PositionScale&) const = default;
};

/// What the heads' outputs are multiplied by before o_proj: the sigmoid of a linear function of the token.
enum class OutputGate : std::uint8_t {
    none,
    per_head,    ///< one factor a head (transformers: bailing_hybrid, dots3_note)
    per_value,   ///< one factor for each value of each head (hy_v4)
    with_query,  ///< the same, and it comes with the queries from the query latent before and after its norm (axk2)
};

/// Sparse attention (DeepSeek-V3.2, section 2.1): a query attends to the `top_k` keys that an indexer scores highest.
struct IndexerConfig {
    Index top_k = 0;     ///< 0: every query attends to all keys it may see
    Index heads = 0;     ///< Hi; 0 where top_k > 0: the layer has no indexer, its caller hands it another layer's selection
    Index head_dim = 0;  ///< Di, at least Dr
    RopePairing pairing = RopePairing::half_split;
    bool rope_is_last = false;  ///< the last Dr values of a head are rotated, not the first (hy_v4)
    double norm_eps = 1e-6;     ///< of the LayerNorm of index keys
    /// Consecutive tokens that are selected together, by one key: a learned average of theirs (glm5_next). Divides top_k.
    Index pool = 1;
    bool selects_tail = false;  ///< with pools: tokens after the last whole one are selected, too
    bool operator==(const IndexerConfig&) const = default;

    /// The most tokens that a query attends to.
    [[nodiscard]] Index most_selected() const noexcept { return top_k + (selects_tail ? pool - 1 : 0); }
    /// Values that a cache keeps of a token: its key, and with pools beside it what weighs it in its pool's.
    [[nodiscard]] Index row_dim() const noexcept { return (pool > 1 ? 2 : 1) * head_dim; }
};

/// Geometry and constants of one MLA layer. Names are those of a Hugging Face config.json.
struct Config {
    Index hidden_size = 0;
    Index num_attention_heads = 0;   ///< H
    Index q_lora_rank = 0;           ///< Rq; 0: queries come straight from q_proj
    Index kv_lora_rank = 0;          ///< Dc
    Index qk_nope_head_dim = 0;      ///< Dn
    Index qk_rope_head_dim = 0;      ///< Dr; 0: no rotary part
    Index v_head_dim = 0;            ///< Dv
    bool attention_bias = false;     ///< biases on q_a_proj, kv_a_proj_with_mqa and o_proj
    double latent_norm_eps = 1e-6;   ///< of all norms below; not always the model's rms_norm_eps
    double query_multiplier = 1.0;   ///< on queries after q_b_proj (LongCat-Flash)
    double latent_multiplier = 1.0;  ///< on the normalised latent, not on the rope key (LongCat-Flash)
    PositionScale position_scale;
    Rope rope;
    bool rope_key_norm = false;  ///< RMSNorm of the rope key before it is rotated (dots3_note)
    bool sinks = false;          ///< a learned logit a head, which takes its share of the softmax and has no value (hy_v4)
    Index sliding_window = 0;    ///< keys that a query sees, its own included; 0: all before it
    /// Queries of a head, and of an indexer's head, are multiplied by scale·ln(position + 1) + bias, both learned
    /// (mistral_large4).
    bool learned_query_scale = false;
    /// The layer attends to the latents of a layer before it and caches none (mistral_large4); its index keys, if it has an
    /// indexer, are its own: SharedLatents.
    bool shares_cache = false;
    OutputGate output_gate = OutputGate::none;
    IndexerConfig indexer;
    bool operator==(const Config&) const = default;

    [[nodiscard]] Index qk_head_dim() const noexcept { return qk_nope_head_dim + qk_rope_head_dim; }
    /// Values cached a token, Dc + Dr, for all heads together.
    [[nodiscard]] Index cache_dim() const noexcept { return kv_lora_rank + qk_rope_head_dim; }
    [[nodiscard]] Index q_dim() const noexcept { return num_attention_heads * qk_head_dim(); }
    [[nodiscard]] Index o_dim() const noexcept { return num_attention_heads * v_head_dim; }
    /// Factors of the output gate.
    [[nodiscard]] Index gate_dim() const noexcept {
        if (output_gate == OutputGate::none) return 0;
        return output_gate == OutputGate::per_head ? num_attention_heads : o_dim();
    }

    /// (Dn+Dr)^-1/2, times m(factor, mscale_all_dim)² under YaRN (DeepSeek-V2, section 2.1 and modeling_deepseek).
    [[nodiscard]] double softmax_scale() const {
        const double scale = 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
        const auto* yarn = std::get_if<Yarn>(&rope.scaling);
        if (yarn == nullptr || !yarn->scales_softmax || yarn->mscale_all_dim.value_or(0.0) == 0.0) return scale;
        const double magnitude = Yarn::magnitude(yarn->factor, *yarn->mscale_all_dim);
        return scale * magnitude * magnitude;
    }
};

namespace detail {

/// Far above every published model, and low enough that no product of two dimensions overflows 64 bits.
inline constexpr Index max_dimension = Index{1} << 24;

inline void require_positive(const char* field, double value) {
    require(std::isfinite(value) && value > 0.0, field, value, "finite and positive");
}

inline void validate(const Yarn& yarn) {
    require(std::isfinite(yarn.factor) && yarn.factor >= 1.0, "rope.yarn.factor", yarn.factor, "finite and at least 1");
    require_in_range("rope.yarn.original_max_position", yarn.original_max_position, Index{1}, std::numeric_limits<Index>::max());
    require_positive("rope.yarn.beta_fast", yarn.beta_fast);
    require_positive("rope.yarn.beta_slow", yarn.beta_slow);
    require(yarn.beta_fast >= yarn.beta_slow, "rope.yarn.beta_fast", yarn.beta_fast, "at least rope.yarn.beta_slow");
    const auto finite = [](const char* field, const std::optional<double>& value) {
        require(!value || (std::isfinite(*value) && *value >= 0.0), field, value.value_or(0.0), "finite and not negative");
    };
    finite("rope.yarn.mscale", yarn.mscale);
    finite("rope.yarn.mscale_all_dim", yarn.mscale_all_dim);
    finite("rope.yarn.attention_factor", yarn.attention_factor);
}

inline void validate(const LongRope& longrope, Index rope_dim) {
    require_equal("rope.longrope.factors.size()", static_cast<Index>(longrope.factors.size()), "qk_rope_head_dim / 2",
                  rope_dim / 2);
    for (const double factor : longrope.factors) require_positive("rope.longrope.factors[i]", factor);
    require_positive("rope.longrope.attention_factor", longrope.attention_factor);
}

inline void validate(const IndexerConfig& indexer, const Config& config) {
    require_in_range("indexer.top_k", indexer.top_k, Index{0}, max_dimension);
    require_in_range("indexer.heads", indexer.heads, Index{0}, Index{1} << 16);
    require(indexer.top_k == 0 || config.sliding_window == 0, "sliding_window", config.sliding_window,
            "0 where indexer.top_k is positive");
    if (indexer.heads == 0) return;
    require_at_least("indexer.top_k", indexer.top_k, Index{1});
    require_in_range("indexer.pool", indexer.pool, Index{1}, indexer.top_k);
    require(indexer.top_k % indexer.pool == 0, "indexer.top_k", indexer.top_k, "a multiple of indexer.pool");
    require(indexer.pool > 1 || !indexer.selects_tail, "indexer.selects_tail", "true", "false without pools");
    require_in_range("indexer.head_dim", indexer.head_dim, std::max<Index>(config.qk_rope_head_dim, 1), max_dimension);
    require(!config.shares_cache || indexer.pool == 1, "indexer.pool", indexer.pool, "1 for a layer that shares a cache");
    require(std::isfinite(indexer.norm_eps) && indexer.norm_eps >= 0.0, "indexer.norm_eps", indexer.norm_eps,
            "finite and not negative");
}

}  // namespace detail

/// @throws std::invalid_argument when `rope` cannot rotate vectors of `dim` values
inline void validate_rope(const Rope& rope, Index dim) {
    require(std::isfinite(rope.base) && rope.base > 1.0, "rope.base", rope.base, "finite and above 1");
    if (const auto* yarn = std::get_if<Yarn>(&rope.scaling)) detail::validate(*yarn);
    if (const auto* longrope = std::get_if<LongRope>(&rope.scaling)) detail::validate(*longrope, dim);
    if (rope.log_factors.empty()) return;
    require_equal("rope.log_factors.size()", static_cast<Index>(rope.log_factors.size()), "qk_rope_head_dim / 2", dim / 2);
    for (const double factor : rope.log_factors) require(std::isfinite(factor), "rope.log_factors[i]", factor, "finite");
}

/// @throws std::invalid_argument naming the field, its value and the rule, when `config` describes no layer
inline void validate(const Config& config) {
    using detail::max_dimension;
    require_in_range("hidden_size", config.hidden_size, Index{1}, max_dimension);
    require_in_range("num_attention_heads", config.num_attention_heads, Index{1}, Index{1} << 16);
    require_in_range("q_lora_rank", config.q_lora_rank, Index{0}, max_dimension);
    require_in_range("kv_lora_rank", config.kv_lora_rank, Index{1}, max_dimension);
    require_in_range("qk_nope_head_dim", config.qk_nope_head_dim, Index{1}, max_dimension);
    require_in_range("qk_rope_head_dim", config.qk_rope_head_dim, Index{0}, max_dimension);
    require(config.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", config.qk_rope_head_dim, "even");
    require_in_range("v_head_dim", config.v_head_dim, Index{1}, max_dimension);
    require(std::isfinite(config.latent_norm_eps) && config.latent_norm_eps >= 0.0, "latent_norm_eps", config.latent_norm_eps,
            "finite and not negative");
    detail::require_positive("query_multiplier", config.query_multiplier);
    detail::require_positive("latent_multiplier", config.latent_multiplier);
    require(std::isfinite(config.position_scale.beta) && config.position_scale.beta >= 0.0, "position_scale.beta",
            config.position_scale.beta, "finite and not negative");
    require_at_least("position_scale.period", config.position_scale.period, Index{1});
    validate_rope(config.rope, config.qk_rope_head_dim);
    require_in_range("sliding_window", config.sliding_window, Index{0}, std::numeric_limits<Index>::max());
    require(!config.rope_key_norm || config.qk_rope_head_dim > 0, "rope_key_norm", "true", "false where qk_rope_head_dim is 0");
    require(config.output_gate != OutputGate::with_query || config.q_lora_rank > 0, "output_gate", "with_query",
            "another where q_lora_rank is 0");
    detail::validate(config.indexer, config);
}

}  // namespace mla::inline MLA_ISA
