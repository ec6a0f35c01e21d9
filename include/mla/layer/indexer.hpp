// The indexer of sparse attention (DeepSeek-V3.2, section 2.1): a small attention of its own beside the layer, whose scores say
// which keys the layer looks at.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/select_keys.hpp"
#include "mla/layer/projection.hpp"
#include "mla/math/layer_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA {

/// The packed weights of an indexer stored as T, and nothing that changes from call to call, so that threads may share it. A
/// layer whose config has one owns it; one without, in an engine of its own, is used by itself.
template <Storage T>
class Indexer {
  public:
    using Activation = compute_t<T>;

    /// Packs the weights once; the tensors are not needed afterwards.
    /// @throws std::invalid_argument when the config is invalid or has no indexer, or a tensor is missing or misshapen
    Indexer(const Config& config, const IndexerWeights& weights, Precision precision = Precision::operand)
        : Indexer(checked(config, weights), weights, precision, 0) {}

    [[nodiscard]] const IndexerConfig& config() const noexcept { return config_.indexer; }
    /// Bytes of packed weights.
    [[nodiscard]] std::size_t weight_bytes() const noexcept { return query_.bytes() + key_.bytes() + head_weights_.bytes(); }

    /// keys = RoPE(LayerNorm(wk x)): what the cache takes beside each latent. x [T, hidden]; angles [T, Dr]: what
    /// `RotaryEmbedding::angles` gives for the tokens' positions; keys [T, Di], which overlap neither.
    void project_keys(MatrixView<const Activation> x, MatrixView<const Activation> angles, MatrixView<Activation> keys,
                      ExecutorRef executor) const noexcept {
        key_(x, keys, executor, precision_);
        layer_norm(keys, norm_.data(), norm_bias_.data(), config_.indexer.norm_eps);
        rotate({keys.data, keys.rows, 1, keys.cols, keys.stride, keys.cols}, angles, executor);
    }

    /// Bytes of workspace that `select` needs for up to `queries` queries over any number of keys.
    [[nodiscard]] std::size_t workspace_bytes(Index queries, Index concurrency) const {
        Arena counter;
        static_cast<void>(carve(counter, queries, concurrency));
        return counter.bytes();
    }

    /// selection[t] = the keys that query t attends to, as `select_keys` chooses them.
    ///
    /// latent [T, Rq]: RMSNorm(q_a(x)), of which the layer's queries are made too; x [T, hidden]; angles [T, Dr] as above;
    /// query_begin [requests + 1]; index_keys: the keys of each request by `project_keys`, those of these tokens included;
    /// selection [T, k], k at most `config().top_k`.
    /// @throws std::invalid_argument when sizes or offsets do not fit, std::length_error when a caller's workspace is too small
    template <LatentBatch Batch>
    void select(MatrixView<const Activation> latent, MatrixView<const Activation> x, MatrixView<const Activation> angles,
                const Batch& index_keys, std::span<const std::int32_t> query_begin, MatrixView<std::int32_t> selection,
                Workspace& workspace, ExecutorRef executor) const {
        check(latent, x, angles, selection);
        const Index tokens = x.rows;
        const auto s = workspace.carve([&](Arena& arena) { return carve(arena, tokens, executor.concurrency()); });
        query_(latent, detail::side_by_side(s.queries), executor, precision_);
        head_weights_(x, s.head_weights, executor, precision_);
        const auto scale = static_cast<A>(1.0 / std::sqrt(static_cast<double>(config_.indexer.heads * config_.indexer.head_dim)));
        for (Index i = 0; i < tokens * config_.indexer.heads; ++i) s.head_weights.data[i] *= scale;
        rotate(s.queries, angles, executor);
        Workspace kernel(s.kernel);
        select_keys<A>(s.queries, s.head_weights, index_keys, query_begin, selection, kernel, executor, precision_);
    }

  private:
    using A = Activation;

    struct Scratch {
        HeadsView<A> queries;        ///< [T, Hi, Di]
        MatrixView<A> head_weights;  ///< [T, Hi]
        std::span<std::byte> kernel;
    };

    [[nodiscard]] Scratch carve(Arena& arena, Index tokens, Index concurrency) const {
        const Index heads = config_.indexer.heads;
        const Index dim = config_.indexer.head_dim;
        Scratch s;
        s.queries = {arena.take<A>(tokens * heads * dim), tokens, heads, dim};
        s.head_weights = {arena.take<A>(tokens * heads), tokens, heads};
        const std::size_t bytes = selection_workspace_bytes<A>(tokens, heads, dim, config_.indexer.top_k, concurrency);
        s.kernel = {arena.take<std::byte>(static_cast<Index>(bytes)), bytes};
        return s;
    }

    static const Config& checked(const Config& config, const IndexerWeights& weights) {
        validate(config);
        require_at_least("indexer.heads", config.indexer.heads, Index{1});
        for_each_indexer_tensor(config, weights, [](const char* name, const TensorRef& found, Index rows, Index cols) {
            require_tensor(name, found, rows, cols);
        });
        return config;
    }

    Indexer(const Config& config, const IndexerWeights& weights, Precision precision, int)
        : config_(config),
          precision_(precision),
          rope_(rope_of(config), config.qk_rope_head_dim),
          query_(weights.wq_b),
          key_(weights.wk),
          head_weights_(weights.weights_proj),
          norm_(detail::to_vector<A>(weights.k_norm)),
          norm_bias_(detail::to_vector<A>(weights.k_norm_bias)) {}

    [[nodiscard]] static Rope rope_of(const Config& config) {
        Rope rope = config.rope;
        rope.pairing = config.indexer.pairing;
        return rope;
    }

    void check(const MatrixView<const A>& latent, const MatrixView<const A>& x, const MatrixView<const A>& angles,
               const MatrixView<std::int32_t>& selection) const {
        require_equal("latent.rows", latent.rows, "x.rows", x.rows);
        require_equal("latent.cols", latent.cols, "q_lora_rank", config_.q_lora_rank);
        require_equal("x.cols", x.cols, "hidden_size", config_.hidden_size);
        require_equal("angles.rows", angles.rows, "x.rows", x.rows);
        require_equal("angles.cols", angles.cols, "qk_rope_head_dim", config_.qk_rope_head_dim);
        require_in_range("selection.cols", selection.cols, Index{1}, config_.indexer.top_k);
    }

    /// heads [T, H, Di], in place.
    void rotate(const HeadsView<A>& heads, const MatrixView<const A>& angles, ExecutorRef executor) const noexcept {
        const Index first = config_.indexer.rope_is_last ? heads.dim - rope_.dim() : 0;
        for_each_item(executor, heads.tokens, [&](Index t, Index) {
            for (Index h = 0; h < heads.heads; ++h) rope_.rotate(angles.row(t), heads.at(t, h) + first);
        });
    }

    Config config_;
    Precision precision_;
    RotaryEmbedding rope_;
    detail::Projection<T> query_;         ///< Rq → Hi·Di
    detail::Projection<T> key_;           ///< hidden → Di
    detail::Projection<T> head_weights_;  ///< hidden → Hi
    std::vector<A> norm_, norm_bias_;
};

}  // namespace mla::inline MLA_ISA
