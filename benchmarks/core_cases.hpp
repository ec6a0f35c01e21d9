// The attention core alone, between the projections: MLA in both forms, and grouped-query attention.
#pragma once

#include <cmath>
#include <memory>

#include "mla/baselines/grouped_attention.hpp"
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/prefill_expanded.hpp"
#include "mla/kernels/row_group.hpp"
#include "support.hpp"
#include "work.hpp"

namespace mla::bench {

/// Queries, outputs and scratch of an attention kernel.
struct CoreBuffers {
    CoreBuffers(Index queries, Index heads, Index query_dim, Index out_dim)
        : q_values(random_values<float>(queries * heads * query_dim)),
          out_values(detail::allocate_aligned<float>(queries * heads * out_dim)),
          q(q_values.get(), queries, heads, query_dim),
          out(out_values.get(), queries, heads, out_dim) {}

    [[nodiscard]] MatrixView<const float> result() const { return {out.data, out.tokens * out.heads, out.dim}; }

    detail::AlignedArray<float> q_values, out_values;
    HeadsView<const float> q;
    HeadsView<float> out;
    Workspace workspace;
};

/// Caches of `length` random tokens, `count` of them, made by `make(capacity)`.
template <class Cache, class Make>
[[nodiscard]] Ring<Cache> filled_caches(Index count, Index length, Make make) {
    return Ring<Cache>(count, [&] {
        Cache cache = make(length);
        fill(cache, length);
        return cache;
    });
}

/// Bytes of `length` cached tokens, without padding.
template <CacheElement C>
[[nodiscard]] double cached_bytes(const Config& config, Index length) {
    return static_cast<double>(length * RowFormat<C>{config.kv_lora_rank, config.qk_rope_head_dim}.elements()) * sizeof(C);
}

template <CacheElement C>
[[nodiscard]] Ring<LatentCache<C>> latent_caches(const Config& config, Index length) {
    const double bytes = cached_bytes<C>(config, length);
    return filled_caches<LatentCache<C>>(cold_copies(bytes), length,
                                         [&](Index capacity) { return LatentCache<C>(config, capacity); });
}

/// The probe of what attention could reach of `rows` rows that meet the same keys of C: few rows take no tile registers.
template <CacheElement C>
[[nodiscard]] ArithmeticProbe attention_peak(Index rows) {
    constexpr bool is_bf16 = dot_rate<C> == ArithmeticProbe{bf16_rate};
    return is_bf16 && rows <= mla::detail::few_rows ? vector_bf16_rate : dot_rate<C>;
}

/// What decoding `queries` tokens over `length` cached ones amounts to, absorbed.
template <CacheElement C>
[[nodiscard]] Work decode_work(const Config& config, Index queries, Index length, Index threads) {
    return {.flops = absorbed_flops(config, queries, length),
            .bytes = cached_bytes<C>(config, length),
            .tokens = static_cast<double>(queries),
            .peak = attention_peak<C>(queries * config.num_attention_heads),
            .threads = threads};
}

/// Decoding: `queries` tokens over `length` cached ones, absorbed.
template <CacheElement C>
class DecodeCase : public Case {
  public:
    DecodeCase(const Config& config, Index queries, Index length, Index threads)
        : Case(decode_work<C>(config, queries, length, threads)),
          scale_(static_cast<float>(config.softmax_scale())),
          buffers_(queries, config.num_attention_heads, config.cache_dim(), config.kv_lora_rank),
          caches_(latent_caches<C>(config, length)) {
        counters.emplace_back("cache_bytes_a_token", static_cast<double>(caches_.first().bytes_per_token()));
    }

    void step() override {
        decode_absorbed(buffers_.q, caches_.turn().view(), scale_, buffers_.out, {}, buffers_.workspace, team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return buffers_.result(); }

  private:
    float scale_;
    CoreBuffers buffers_;
    Ring<LatentCache<C>> caches_;
};

/// The two halves of kv_b_proj, random.
template <Storage S>
struct Expansion {
    explicit Expansion(const Config& c)
        : key(c.num_attention_heads, c.kv_lora_rank, c.qk_nope_head_dim),
          value(c.num_attention_heads, c.kv_lora_rank, c.v_head_dim) {
        RandomTensors<S> tensors;
        const Index rows = c.qk_nope_head_dim + c.v_head_dim;
        const TensorRef kv_b = tensors.add(c.num_attention_heads * rows, c.kv_lora_rank);
        for (Index h = 0; h < c.num_attention_heads; ++h) {
            key.pack(h, kv_b.row_range(h * rows, c.qk_nope_head_dim));
            value.pack(h, kv_b.row_range(h * rows + c.qk_nope_head_dim, c.v_head_dim));
        }
    }
    PackedMatrix<S> key, value;
};

/// The type of weights that go with a cache of C: the same, where weights have it.
template <CacheElement C>
using WeightsBeside = std::conditional_t<Storage<C>, C, bf16>;

/// Prefill: `queries` tokens over `length` cached ones, their own included, expanded.
template <CacheElement C>
class PrefillCase : public Case {
    using S = WeightsBeside<C>;

  public:
    PrefillCase(const Config& config, Index queries, Index length, Index threads)
        : Case({.flops = expanded_flops(config, queries, length),
                .bytes = cached_bytes<C>(config, length) + expansion_parameters(config) * sizeof(S),
                .tokens = static_cast<double>(queries),
                .peak = dot_rate<S>,
                .threads = threads}),
          scale_(static_cast<float>(config.softmax_scale())),
          buffers_(queries, config.num_attention_heads, config.qk_head_dim(), config.v_head_dim),
          caches_(latent_caches<C>(config, length)),
          expansion_(config) {
        counters.emplace_back("expansion_flops", expansion_flops(config, length));
    }

    void step() override {
        prefill_expanded(buffers_.q, caches_.turn().view(), ExpansionWeights<S>{expansion_.key, expansion_.value}, scale_,
                         buffers_.out, {}, buffers_.workspace, team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return buffers_.result(); }

  private:
    float scale_;
    CoreBuffers buffers_;
    Ring<LatentCache<C>> caches_;
    Expansion<S> expansion_;
};

template <Storage C>
[[nodiscard]] Ring<baselines::KvCache<C>> grouped_caches(const baselines::GroupedQueryConfig& config, Index length) {
    const double bytes = static_cast<double>(2 * length * config.kv_dim()) * sizeof(C);
    require_memory(static_cast<double>(cold_copies(bytes)) * bytes);
    return filled_caches<baselines::KvCache<C>>(cold_copies(bytes), length,
                                                [&](Index capacity) { return baselines::KvCache<C>(config, capacity); });
}

/// Grouped-query attention with the heads and hidden size of an MLA model, of head dimension 128.
[[nodiscard]] inline baselines::GroupedQueryConfig grouped_config(const Config& mla, Index kv_heads) {
    baselines::GroupedQueryConfig config;
    config.hidden_size = mla.hidden_size;
    config.num_attention_heads = mla.num_attention_heads;
    config.num_key_value_heads = kv_heads;
    config.head_dim = 128;
    return config;
}

/// Key-value heads of the grouped-query attention that a model is compared with: 8, as Llama 3 and its like have beside 32 to
/// 128 heads; beside 16 heads 4, a group of as many queries as those with 32 have.
[[nodiscard]] inline Index group_heads(Index heads) { return heads >= 32 ? 8 : 4; }

/// Grouped-query or multi-head attention of `queries` tokens over `length` cached ones.
template <Storage C>
class GroupedCase : public Case {
  public:
    GroupedCase(const baselines::GroupedQueryConfig& config, Index queries, Index length, Index threads)
        : Case({.flops = grouped_flops(config, queries, length),
                .bytes = static_cast<double>(2 * length * config.kv_dim()) * sizeof(C),
                .tokens = static_cast<double>(queries),
                .peak = attention_peak<C>(queries * config.num_attention_heads / config.num_key_value_heads),
                .threads = threads}),
          scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)))),
          buffers_(queries, config.num_attention_heads, config.head_dim, config.head_dim),
          caches_(grouped_caches<C>(config, length)) {
        counters.emplace_back("cache_bytes_a_token", static_cast<double>(caches_.first().bytes_per_token()));
    }

    void step() override {
        baselines::grouped_attention(buffers_.q, caches_.turn().view(), scale_, buffers_.out, {}, buffers_.workspace, team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return buffers_.result(); }

  private:
    float scale_;
    CoreBuffers buffers_;
    Ring<baselines::KvCache<C>> caches_;
};

}  // namespace mla::bench
