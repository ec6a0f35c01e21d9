// The indexer of sparse attention (DeepSeek-V3.2, section 2.1): a small attention of its own beside the layer, whose scores say
// which keys the layer looks at.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/select_keys.hpp"
#include "mla/layer/projection.hpp"
#include "mla/layer/query_scale.hpp"
#include "mla/math/layer_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA {

namespace detail {

/// A row of selected pools, ascending and then −1, becomes one of their tokens and of those after the last of `visible` tokens'
/// whole pools, in place: from the last pool on, whose tokens lie behind it.
inline void expand_pools(const IndexerConfig& indexer, Index visible, std::int32_t* row) noexcept {
    const Index pool = indexer.pool;
    Index chosen = 0;
    while (chosen < indexer.top_k / pool && row[chosen] >= 0) ++chosen;
    for (Index i = chosen - 1; i >= 0; --i) {
        const std::int32_t first = row[i] * static_cast<std::int32_t>(pool);
        for (Index p = 0; p < pool; ++p) row[i * pool + p] = first + static_cast<std::int32_t>(p);
    }
    Index count = chosen * pool;
    if (indexer.selects_tail)
        for (Index token = visible / pool * pool; token < visible; ++token) row[count++] = static_cast<std::int32_t>(token);
    std::fill(row + count, row + indexer.most_selected(), -1);
}

}  // namespace detail

/// Tokens as an indexer takes them.
template <Compute A>
struct IndexTokens {
    MatrixView<const A> x;  ///< [T, hidden]
    MatrixView<const A>
        latent;  ///< [T, Rq]: RMSNorm(q_a(x)), of which the layer's queries are made too; without q_lora_rank empty
    MatrixView<const A> angles;               ///< [T, Dr]: what `RotaryEmbedding::angles` gives for the positions
    std::span<const std::int64_t> positions;  ///< [T]

    [[nodiscard]] IndexTokens range(Index begin, Index count) const noexcept {
        return {x.row_range(begin, count), latent.row_range(begin, count), angles.row_range(begin, count),
                positions.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count))};
    }
};

/// The packed weights of an indexer stored as T, and nothing that changes from call to call, so that threads may share it. A
/// layer whose config has one owns it; one without, in an engine of its own, is used by itself.
template <Storage T>
class Indexer {
  public:
    using Activation = compute_t<T>;

    /// Packs the weights once, over the executor; the tensors are not needed afterwards.
    /// @throws std::invalid_argument when the config is invalid or has no indexer, or a tensor is missing or misshapen
    Indexer(const Config& config, const IndexerWeights& weights, Precision precision = Precision::operand,
            Packing packing = Packing::as_stored, ExecutorRef executor = SerialExecutor{})
        : Indexer(Checked{checked(config, weights)}, weights, precision, packing, executor) {}

    [[nodiscard]] const IndexerConfig& config() const noexcept { return config_.indexer; }
    /// Bytes of packed weights.
    [[nodiscard]] std::size_t weight_bytes() const noexcept {
        return query_.bytes() + key_.bytes() + head_weights_.bytes() + pool_gate_.bytes();
    }

    /// What the cache takes beside each latent: keys = RoPE(LayerNorm(wk x)), with pools beside them what weighs their values,
    /// pool_gate(x). rows [T, config().row_dim()], which overlap nothing of the tokens.
    void project_keys(const IndexTokens<Activation>& tokens, MatrixView<Activation> rows, ExecutorRef executor) const noexcept {
        const Index dim = config_.indexer.head_dim;
        const MatrixView<Activation> keys = rows.columns(0, dim);
        key_(tokens.x, keys, executor, precision_);
        if (config_.indexer.pool > 1) pool_gate_(tokens.x, rows.columns(dim, dim), executor, precision_);
        for_each_piece(executor, keys.rows, tokens_a_piece, [&](Index begin, Index count) {
            layer_norm(keys.row_range(begin, count), norm_.data(), norm_bias_.data(), config_.indexer.norm_eps);
            for (Index t = begin; t < begin + count; ++t) rotate(tokens.angles.row(t), {keys.row(t), 1, 1, keys.cols});
        });
    }

    /// The key of a pool from its tokens' rows as a cache holds them: of value c, Σ_p softmax_p(gate[p, c] + positions[p, c]) ·
    /// k[p, c]. rows [pool, 2·Di], key [Di].
    void pool_key(MatrixView<const Activation> rows, Activation* key) const noexcept {
        const Index dim = config_.indexer.head_dim;
        for (Index c = 0; c < dim; ++c) {
            const auto logit = [&](Index p) { return rows(p, dim + c) + pool_positions_[static_cast<std::size_t>(p * dim + c)]; };
            Activation largest = logit(0);
            for (Index p = 1; p < rows.rows; ++p) largest = std::max(largest, logit(p));
            Activation sum = Activation(0);
            Activation weighted = Activation(0);
            for (Index p = 0; p < rows.rows; ++p) {
                const Activation weight = std::exp(logit(p) - largest);
                sum += weight;
                weighted += weight * rows(p, c);
            }
            key[c] = weighted / sum;
        }
    }

    /// Bytes of workspace that `select` needs for up to `queries` queries over any number of keys.
    [[nodiscard]] std::size_t workspace_bytes(Index queries, Index concurrency) const {
        Arena counter;
        static_cast<void>(carve(counter, queries, concurrency));
        return counter.bytes();
    }

    /// selection[t] = the tokens that query t attends to: those whose keys `select_keys` chooses; with pools those of the pools
    /// that it chooses among whole ones, and those after the last where the config says so.
    ///
    /// query_begin [requests + 1]; keys: indexable by request, the keys by `project_keys`, or of whole pools by `pool_key`;
    /// lengths(request): its tokens, these included; selection [T, config().most_selected()].
    /// @throws std::invalid_argument when sizes or offsets do not fit, std::length_error when a caller's workspace is too small
    template <LatentBatch Batch>
    void select(const IndexTokens<Activation>& tokens, const Batch& keys, FunctionRef<Index(std::size_t)> lengths,
                std::span<const std::int32_t> query_begin, MatrixView<std::int32_t> selection, Workspace& workspace,
                ExecutorRef executor) const {
        detail::validate_batch(keys);
        select(tokens, detail::BatchRows(keys), kernels<typename batch_view_t<Batch>::Element>(), lengths, query_begin, selection,
               workspace, executor);
    }

    /// As above, of keys that are valid, in any type that has these kernels.
    void select(const IndexTokens<Activation>& tokens, const detail::BatchRows& keys,
                const abi::IndexKernels<Activation>& index_kernels, FunctionRef<Index(std::size_t)> lengths,
                std::span<const std::int32_t> query_begin, MatrixView<std::int32_t> selection, Workspace& workspace,
                ExecutorRef executor) const {
        check(tokens, selection);
        const auto s = workspace.carve([&](Arena& arena) { return carve(arena, tokens.x.rows, executor.concurrency()); });
        project_queries(tokens, s, executor);
        head_weights_(tokens.x, s.head_weights, executor, precision_);
        const auto scale = static_cast<A>(1.0 / std::sqrt(static_cast<double>(config_.indexer.heads * config_.indexer.head_dim)));
        for_each_piece(executor, tokens.x.rows, tokens_a_piece, [&](Index begin, Index count) {
            for (Index i = begin * s.head_weights.cols; i < (begin + count) * s.head_weights.cols; ++i)
                s.head_weights.data[i] *= scale;
        });
        Workspace kernel(s.kernel);
        const Index pool = config_.indexer.pool;
        const auto visible = [&](Index t) -> Index {
            const std::size_t request = detail::request_of(query_begin, t);
            return std::max<Index>(lengths(request) - (query_begin[request + 1] - t) + 1, 0);
        };
        // Pools lie in the first columns until they become tokens.
        detail::select_visible_keys<A>(s.queries, s.head_weights, keys, index_kernels, query_begin,
                                       selection.columns(0, config_.indexer.top_k / pool), kernel, executor,
                                       [&](Index t) { return visible(t) / pool; });
        if (pool == 1) return;
        for_each_item(executor, tokens.x.rows,
                      [&](Index t, Index) { detail::expand_pools(config_.indexer, visible(t), selection.row(t)); });
    }

    /// What scores keys of K.
    template <CacheElement K>
    [[nodiscard]] abi::IndexKernels<Activation> kernels() const {
        return detail::index_kernels<Activation, K>(precision_);
    }

  private:
    using A = Activation;

    struct Scratch {
        MatrixView<A> input;         ///< [T, hidden], without q_lora_rank
        HeadsView<A> queries;        ///< [T, Hi, Di]
        MatrixView<A> head_weights;  ///< [T, Hi]
        std::span<std::byte> kernel;
    };

    [[nodiscard]] Scratch carve(Arena& arena, Index tokens, Index concurrency) const {
        const Index heads = config_.indexer.heads;
        const Index dim = config_.indexer.head_dim;
        const Index hidden = config_.q_lora_rank > 0 ? 0 : config_.hidden_size;
        Scratch s;
        s.input = {arena.take<A>(tokens * hidden), tokens, hidden};
        s.queries = {arena.take<A>(tokens * heads * dim), tokens, heads, dim};
        s.head_weights = {arena.take<A>(tokens * heads), tokens, heads};
        const std::size_t bytes =
            selection_workspace_bytes<A>(tokens, heads, dim, config_.indexer.top_k / config_.indexer.pool, concurrency);
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

    struct Checked {
        const Config& config;
    };

    Indexer(const Checked& checked, const IndexerWeights& weights, Precision precision, Packing packing, ExecutorRef executor)
        : config_(checked.config),
          precision_(precision),
          rope_(rope_of(config_), config_.qk_rope_head_dim),
          query_(weights.wq_b, packing, executor),
          key_(weights.wk, packing, executor),
          head_weights_(weights.weights_proj, packing, executor),
          norm_(detail::to_vector<A>(weights.k_norm)),
          norm_bias_(detail::to_vector<A>(weights.k_norm_bias)) {
        if (config_.q_lora_rank == 0) {
            input_norm_ = detail::to_vector<A>(weights.q_input_norm);
            input_norm_bias_ = detail::to_vector<A>(weights.q_input_norm_bias);
        }
        if (config_.indexer.pool > 1) {
            const Index dim = config_.indexer.head_dim;
            pool_gate_ = detail::Projection<T>(weights.pool_gate, packing, executor);
            pool_positions_.resize(static_cast<std::size_t>(config_.indexer.pool * dim));
            weights.pool_positions.visit([&](const auto& element) {
                for (Index p = 0; p < config_.indexer.pool; ++p)
                    for (Index c = 0; c < dim; ++c)
                        pool_positions_[static_cast<std::size_t>(p * dim + c)] = simd::convert<A>(element(p, c));
            });
        }
        if (config_.learned_query_scale) scale_ = detail::QueryScale<A>(weights.query_scale, weights.query_scale_bias);
    }

    [[nodiscard]] static Rope rope_of(const Config& config) {
        Rope rope = config.rope;
        rope.pairing = config.indexer.pairing;
        return rope;
    }

    void check(const IndexTokens<A>& tokens, const MatrixView<std::int32_t>& selection) const {
        const Index count = tokens.x.rows;
        require_equal("tokens.x.cols", tokens.x.cols, "hidden_size", config_.hidden_size);
        require_equal("tokens.latent.cols", tokens.latent.cols, "q_lora_rank", config_.q_lora_rank);
        if (config_.q_lora_rank > 0) require_equal("tokens.latent.rows", tokens.latent.rows, "tokens.x.rows", count);
        require_equal("tokens.angles.rows", tokens.angles.rows, "tokens.x.rows", count);
        require_equal("tokens.angles.cols", tokens.angles.cols, "qk_rope_head_dim", config_.qk_rope_head_dim);
        require_equal("tokens.positions.size()", static_cast<Index>(tokens.positions.size()), "tokens.x.rows", count);
        require_equal("selection.cols", selection.cols, "indexer.most_selected()", config_.indexer.most_selected());
    }

    // q = RoPE(wq_b RMSNorm(q_a x)), without a low rank RoPE(wq_b LayerNorm(x)); times the learned scale
    void project_queries(const IndexTokens<A>& tokens, const Scratch& s, ExecutorRef executor) const {
        MatrixView<const A> input = tokens.latent;
        if (config_.q_lora_rank == 0) {
            for_each_item(executor, tokens.x.rows, [&](Index t, Index) {
                std::copy_n(tokens.x.row(t), tokens.x.cols, s.input.row(t));
                layer_norm(s.input.row_range(t, 1), input_norm_.data(), input_norm_bias_.data(), config_.indexer.norm_eps);
            });
            input = s.input;
        }
        query_(input, detail::side_by_side(s.queries), executor, precision_);
        for_each_item(executor, s.queries.tokens, [&](Index t, Index) {
            rotate(tokens.angles.row(t), s.queries.token_range(t, 1));
            for (Index h = 0; config_.learned_query_scale && h < s.queries.heads; ++h) {
                const A factor = scale_(tokens.positions[static_cast<std::size_t>(t)], h);
                A* const query = s.queries.at(t, h);
                for (Index i = 0; i < s.queries.dim; ++i) query[i] *= factor;
            }
        });
    }

    /// heads [1, H, Di] of a token, in place.
    void rotate(const A* angles, const HeadsView<A>& heads) const noexcept {
        const Index first = config_.indexer.rope_is_last ? heads.dim - rope_.dim() : 0;
        for (Index h = 0; h < heads.heads; ++h) rope_.rotate(angles, heads.at(0, h) + first);
    }

    Config config_;
    Precision precision_;
    RotaryEmbedding rope_;
    detail::Projection<T> query_;         ///< Rq or hidden → Hi·Di
    detail::Projection<T> key_;           ///< hidden → Di
    detail::Projection<T> head_weights_;  ///< hidden → Hi
    detail::Projection<T> pool_gate_;     ///< hidden → Di, with pools
    std::vector<A> norm_, norm_bias_, input_norm_, input_norm_bias_, pool_positions_;
    detail::QueryScale<A> scale_;
};

}  // namespace mla::inline MLA_ISA
