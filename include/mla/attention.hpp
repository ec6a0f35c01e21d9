// The MLA layer (DeepSeek-V2, section 2.1): packed weights, and one `forward` for prefill, chunked prefill and decode.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <ranges>
#include <span>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/chosen_target.hpp"
#include "mla/core/executor.hpp"
#include "mla/core/float_environment.hpp"
#include "mla/core/workspace.hpp"
#include "mla/eigen.hpp"
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/decode_sparse.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/kernels/prefill_expanded.hpp"
#include "mla/layer/call_rows.hpp"
#include "mla/layer/head_projections.hpp"
#include "mla/layer/indexer.hpp"
#include "mla/layer/latent_projection.hpp"
#include "mla/layer/output_projection.hpp"
#include "mla/layer/query_projection.hpp"
#include "mla/layer/selection.hpp"
#include "mla/layer/way.hpp"
#include "mla/linear/linear.hpp"
#include "mla/math/rope.hpp"
#include "mla/requests.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA {

/// One MLA layer with weights stored as T (double, float, bf16 or fp16), its projections perhaps as fp8, int8 or int4.
/// Activations are float, or double when T is double; what is rounded of them to meet weights of bf16 and caches of bf16 or less
/// is the layer's `Precision`. DcStatic and DrStatic fix kv_lora_rank and qk_rope_head_dim at compile time, or are mla::Dynamic.
/// Owns its packed weights and nothing that changes from call to call, so that threads may share it.
template <Storage T, int DcStatic = Dynamic, int DrStatic = (DcStatic == Dynamic ? Dynamic : 64)>
class Attention {
  public:
    using Activation = compute_t<T>;
    using Matrix = RowMatrix<Activation>;

    /// Packs the weights once, as `packing` says, over the executor; the tensors are not needed afterwards.
    /// @throws std::invalid_argument when the config is invalid, contradicts DcStatic or DrStatic, a tensor is missing or
    /// misshapen, or MLA_TARGET asks for a target that is not there
    Attention(const Config& config, const AttentionWeights& weights, Precision precision = Precision::operand,
              const PackOptions& packing = {}, ExecutorRef executor = SerialExecutor{})
        : Attention(checked(config, weights), weights, precision, detail::Packer{packing, executor}) {}

    [[nodiscard]] const Config& config() const noexcept { return config_; }
    [[nodiscard]] Precision precision() const noexcept { return precision_; }

    /// Bytes of packed weights.
    [[nodiscard]] std::size_t weight_bytes() const noexcept {
        return queries_.bytes() + latents_.bytes() + heads_.bytes() + output_.bytes() + (indexer_ ? indexer_->weight_bytes() : 0);
    }

    /// Bytes of workspace that `forward` needs for up to `tokens` tokens of a request; the same for any number of cached ones.
    [[nodiscard]] std::size_t workspace_bytes(Index tokens, Index concurrency) const {
        return workspace_bytes(BatchLimits{1, tokens}, concurrency);
    }

    /// Bytes of workspace that suffice for any batch within the limits.
    [[nodiscard]] std::size_t workspace_bytes(const BatchLimits& limits, Index concurrency) const {
        Arena counter;
        static_cast<void>(Scratch::carve(counter, *this, limits, concurrency));
        return counter.bytes();
    }

    /// y = MLA(x): appends the tokens of x to the cache, then lets each attend to all cached tokens up to itself.
    ///
    /// x [T, hidden] activations after the input norm; positions [T] of the tokens, which rotate queries and keys; cache holds
    /// the tokens before these; y [T, hidden], which may be x itself. Prefill, chunked prefill and decode are this one call;
    /// `form` forces the way it is computed. Allocates only when the workspace must grow, and the result depends neither
    /// on the executor nor on its concurrency.
    /// @throws std::invalid_argument when sizes, positions or the cache's geometry do not fit, std::length_error when the cache
    /// is full or a caller's workspace too small; cache and y are then as they were
    template <LatentStore Cache>
    void forward(const Eigen::Ref<const Matrix>& x, std::span<const std::int64_t> positions, Cache& cache, Eigen::Ref<Matrix> y,
                 ExecutorRef executor, Workspace& workspace, Form form = Form::automatic) const {
        const std::array<Request<Cache>, 1> only{{{&cache, x.rows()}}};
        forward(x, positions, only, y, executor, workspace, {.form = form});
    }

    /// As above, with a workspace of its own: allocates.
    template <LatentStore Cache>
    void forward(const Eigen::Ref<const Matrix>& x, std::span<const std::int64_t> positions, Cache& cache, Eigen::Ref<Matrix> y,
                 ExecutorRef executor = SerialExecutor{}) const {
        Workspace workspace;
        forward(x, positions, cache, y, executor, workspace);
    }

    /// A batch: the rows of x are the next tokens of the requests, in their order, some of one and some of many tokens, or of
    /// none. Every request gets what it would get alone, to the bit unless options.share_prefix is set.
    /// @throws as above, and std::invalid_argument when two requests name one cache; all caches and y are then as they were
    template <Requests List>
    void forward(const Eigen::Ref<const Matrix>& x, std::span<const std::int64_t> positions, const List& requests,
                 Eigen::Ref<Matrix> y, ExecutorRef executor, Workspace& workspace,
                 const ForwardOptions<Activation>& options = {}) const {
        using Cache = typename std::ranges::range_value_t<List>::Store;
        const std::span<const Request<Cache>> list(requests);
        check(x, positions, list, y, options);
        const Index tokens = x.rows();
        if (tokens == 0) return;
        const FloatEnvironment environment;
        const BatchLimits limits{static_cast<Index>(list.size()), tokens, options.share_prefix};
        const auto s =
            workspace.carve([&](Arena& arena) { return Scratch::carve(arena, *this, limits, executor.concurrency()); });
        detail::require_distinct(list, s.caches);
        const detail::RoomForAll<Cache> room(detail::appends(config_) ? list : std::span<const Request<Cache>>());

        for_each_item(executor, tokens,
                      [&](Index t, Index) { rope_.angles(positions[static_cast<std::size_t>(t)], s.angles.row(t)); });
        queries_(view(x), positions, rope_, s.angles, s.query, executor);
        const IndexTokens<A> index_tokens{view(x), queries_.latent(s.query), s.angles, positions};
        if (!config_.shares_cache) latents_(view(x), rope_, s.angles, s.latents, executor);
        if (indexer_) indexer_->project_keys(index_tokens, s.index_keys, executor);
        if (detail::appends(config_)) detail::append_to_all<A>(list, s.latents, s.index_keys, executor);
        if constexpr (OwnIndexedStore<Cache>)
            if (config_.indexer.pool > 1) detail::fill_pools<A>(*indexer_, list, s.pool_rows, s.pool_keys, executor);
        s.requests.read(list);
        const auto kernels = detail::cache_kernels<A, detail::latent_t<Cache>>(precision_);
        attend(kernels, select<Cache>(index_tokens, s, executor, options), s, executor, options);
        output_(view(x), s.o, gate(s), s.gate_logits, {y.data(), tokens, y.cols(), y.outerStride()}, executor);
    }

  private:
    using A = Activation;

    /// Activations between the steps of a call.
    struct Scratch {
        typename detail::QueryProjection<T>::Scratch query;
        MatrixView<A> angles;                ///< [T, Dr]
        MatrixView<A> latents;               ///< [T, Dc+Dr]: what the cache takes
        MatrixView<A> index_keys;            ///< [T, Di]: and beside them, with an indexer
        MatrixView<A> pool_rows;             ///< [workers · pool, 2·Di]: of one pool each
        MatrixView<A> pool_keys;             ///< [workers, Di]
        MatrixView<std::int32_t> selection;  ///< [T, most_selected], with an indexer
        HeadsView<A> o;                      ///< [T, H, Dv]
        MatrixView<A> gate_logits;           ///< of an output gate that is made of the tokens
        HeadsView<A> q_latent;               ///< [t, H, Dc+Dr] of one chunk of queries
        HeadsView<A> o_latent;               ///< [t, H, Dc]
        MatrixView<std::int32_t> slots;      ///< [t, most_selected]
        detail::CallRows requests;
        std::int32_t* query_begin = nullptr;  ///< [requests + 1]
        const void** caches = nullptr;        ///< [requests]
        std::span<std::byte> kernel;

        static Scratch carve(Arena& arena, const Attention& layer, const BatchLimits& limits, Index concurrency) {
            const Config& c = layer.config_;
            const Index tokens = limits.queries;
            const Index chunk = std::min(tokens, layer.absorbed_chunk());
            const auto matrix = [&](Index rows, Index cols) { return MatrixView<A>(arena.take<A>(rows * cols), rows, cols); };
            const auto heads = [&](Index count, Index dim) {
                return HeadsView<A>(arena.take<A>(count * c.num_attention_heads * dim), count, c.num_attention_heads, dim);
            };
            const auto selection = [&](Index rows, Index cols) {
                return MatrixView<std::int32_t>(arena.take<std::int32_t>(rows * cols), rows, cols);
            };
            Scratch s;
            s.query = layer.queries_.carve(arena, tokens);
            s.angles = matrix(tokens, c.qk_rope_head_dim);
            s.latents = matrix(tokens, c.cache_dim());
            s.index_keys = matrix(tokens, layer.indexer_ ? c.indexer.row_dim() : 0);
            const Index poolers = layer.indexer_ && c.indexer.pool > 1 ? std::max<Index>(concurrency, 1) : 0;
            s.pool_rows = matrix(poolers * c.indexer.pool, c.indexer.row_dim());
            s.pool_keys = matrix(poolers, c.indexer.head_dim);
            s.selection = selection(tokens, layer.indexer_ ? c.indexer.most_selected() : 0);
            s.o = heads(tokens, c.v_head_dim);
            s.gate_logits = layer.output_.carve(arena, tokens);
            s.q_latent = heads(chunk, c.cache_dim());
            s.o_latent = heads(chunk, c.kv_lora_rank);
            s.slots = selection(chunk, c.indexer.most_selected());
            s.requests = detail::CallRows::carve(arena, limits.requests, layer.indexer_.has_value());
            s.query_begin = arena.take<std::int32_t>(limits.requests + 1);
            s.caches = arena.take<const void*>(limits.requests);
            const std::size_t bytes = layer.kernel_bytes(limits, chunk, concurrency);
            s.kernel = {arena.take<std::byte>(static_cast<Index>(bytes)), bytes};
            return s;
        }
    };

    /// Workspace of the kernels, one of which runs at a time.
    [[nodiscard]] std::size_t kernel_bytes(const BatchLimits& limits, Index chunk, Index concurrency) const {
        const Config& c = config_;
        const Index heads = c.num_attention_heads;
        // Each query of a sliding window, or of a selection, is planned by itself.
        const Index requests = c.sliding_window > 0 ? chunk : limits.requests;
        std::size_t bytes = std::max(absorbed_workspace_bytes<A>(BatchLimits{requests, chunk, limits.shared_prefix}, heads,
                                                                 c.kv_lora_rank, c.qk_rope_head_dim, concurrency),
                                     expanded_workspace_bytes<A>(plan_expanded(limits.queries, heads), c.cache_dim(),
                                                                 c.qk_head_dim(), c.v_head_dim, concurrency));
        if (c.indexer.top_k > 0)
            bytes = std::max(bytes, sparse_workspace_bytes<A>(BatchLimits{limits.requests, chunk}, c.indexer.most_selected(),
                                                              heads, c.kv_lora_rank, c.qk_rope_head_dim, concurrency));
        if (indexer_)
            bytes = std::max(bytes, indexer_->workspace_bytes(std::min(limits.queries, detail::index_chunk), concurrency));
        return bytes;
    }

    static const Config& checked(const Config& config, const AttentionWeights& weights) {
        validate(config);
        validate(config, weights);
        detail::require_target();
        if constexpr (DcStatic != Dynamic) require_equal("kv_lora_rank", config.kv_lora_rank, "Attention's Dc", Index{DcStatic});
        if constexpr (DrStatic != Dynamic)
            require_equal("qk_rope_head_dim", config.qk_rope_head_dim, "Attention's Dr", Index{DrStatic});
        return config;
    }

    Attention(const Config& config, const AttentionWeights& weights, Precision precision, const detail::Packer& pack)
        : config_(config),
          precision_(precision),
          rope_(config.rope, config.qk_rope_head_dim),
          queries_(config, weights, precision, pack),
          latents_(config, weights, precision, pack),
          heads_(config, weights.kv_b_proj, pack),
          output_(config, weights, precision, pack) {
        if (config.sinks) sinks_ = detail::to_vector<A>(weights.sinks);
        if (config.indexer.heads > 0) indexer_.emplace(config, weights.indexer, precision, pack.options.indexer, pack.executor);
    }

    template <LatentStore Cache>
    void check(const Eigen::Ref<const Matrix>& x, std::span<const std::int64_t> positions,
               std::span<const Request<Cache>> requests, const Eigen::Ref<Matrix>& y, const ForwardOptions<A>& options) const {
        require_equal("x.cols()", x.cols(), "hidden_size", config_.hidden_size);
        require_equal("positions.size()", static_cast<Index>(positions.size()), "x.rows()", x.rows());
        for (const std::int64_t position : positions) require_at_least("positions[t]", position, std::int64_t{0});
        require_equal("y.rows()", y.rows(), "x.rows()", x.rows());
        require_equal("y.cols()", y.cols(), "hidden_size", config_.hidden_size);
        detail::check_requests(requests, config_, x.rows());
        detail::check_options(options, requests, config_, x.rows());
    }

    /// Which tokens each token attends to, [T, k]; empty where that is all before it.
    template <LatentStore Cache>
    [[nodiscard]] MatrixView<const std::int32_t> select(const IndexTokens<A>& tokens, const Scratch& s, ExecutorRef executor,
                                                        const ForwardOptions<A>& options) const {
        if constexpr (IndexedStore<Cache>) {
            const MatrixView<std::int32_t> selected = options.selected.data != nullptr ? options.selected : s.selection;
            Workspace kernel(s.kernel);
            const auto kernels = indexer_->template kernels<detail::index_key_t<Cache>>();
            detail::select_for_call<A>(*indexer_, kernels, tokens, s.requests, s.query_begin, selected, kernel, executor);
            return selected;
        }
        return options.selection;
    }

    /// Every request in its cheaper form; absorbed ones that follow each other together, up to a chunk of queries.
    void attend(const detail::CacheKernels<A>& kernels, const MatrixView<const std::int32_t>& selection, const Scratch& s,
                ExecutorRef executor, const ForwardOptions<A>& options) const {
        const detail::CallRows& requests = s.requests;
        const auto way = [&](std::size_t r, Index begin) { return way_of(config_, requests, r, selection, begin, options); };
        Index first = 0;
        for (std::size_t r = 0; r < requests.size();) {
            const Index tokens = requests.tokens[r];
            const detail::Way here = way(r, first);
            if (here == detail::Way::expanded) {
                attend_expanded(kernels, requests.latents[r], first, tokens, s, executor, options);
                first += tokens;
                ++r;
                continue;
            }
            std::size_t end = r + 1;
            Index count = tokens;
            for (; end < requests.size() && count + requests.tokens[end] <= s.q_latent.tokens; ++end) {
                if (way(end, first + count) != here) break;
                count += requests.tokens[end];
            }
            const auto selected =
                here == detail::Way::sparse ? selection.row_range(first, count) : MatrixView<const std::int32_t>();
            if (count <= s.q_latent.tokens) {
                attend_batch(kernels, r, end - r, first, selected, s, executor, options);
            } else {
                attend_chunks(kernels, r, first, selected, s, executor, options);
            }
            first += count;
            r = end;
        }
    }

    /// `count` requests from number `index` on, in one call.
    void attend_batch(const detail::CacheKernels<A>& kernels, std::size_t index, std::size_t count, Index first,
                      const MatrixView<const std::int32_t>& selection, const Scratch& s, ExecutorRef executor,
                      const ForwardOptions<A>& options) const {
        const detail::CallRows requests = s.requests.range(index, count);
        const std::span<std::int32_t> query_begin(s.query_begin, count + 1);
        query_begin[0] = 0;
        for (std::size_t r = 0; r < count; ++r)
            query_begin[r + 1] = query_begin[r] + static_cast<std::int32_t>(requests.tokens[r]);
        const detail::BatchRows caches(requests.latents);
        BatchOptions<A> batch = batch_options(options);
        if (!options.trees.empty()) batch.trees = options.trees.subspan(index, count);
        if (options.share_prefix && count > 1 && batch.sliding_window == 0)
            batch.shared_prefix = detail::shared_prefix(caches, query_begin);
        attend_absorbed(kernels, caches, query_begin, first, selection, s, executor, batch, options.lse);
    }

    /// One request of more queries than a chunk takes.
    void attend_chunks(const detail::CacheKernels<A>& kernels, std::size_t index, Index first,
                       const MatrixView<const std::int32_t>& selection, const Scratch& s, ExecutorRef executor,
                       const ForwardOptions<A>& options) const {
        const detail::TokenRows& cache = s.requests.latents[index];
        const Index tokens = s.requests.tokens[index];
        for (Index begin = 0; begin < tokens; begin += s.q_latent.tokens) {
            const Index count = std::min(s.q_latent.tokens, tokens - begin);
            BatchOptions<A> batch = batch_options(options);
            MatrixView<const bool> tree;
            if (!options.trees.empty()) tree = options.trees[index];
            if (tree.data != nullptr) {
                tree = tree.row_range(begin, count);
                batch.trees = {&tree, 1};
            }
            // A tree shows what lies behind the chunk's last query too.
            const std::array caches{tree.data != nullptr ? cache : cache.prefix(cache.length - tokens + begin + count)};
            const std::array<std::int32_t, 2> query_begin{0, static_cast<std::int32_t>(count)};
            const auto selected = selection.data != nullptr ? selection.row_range(begin, count) : selection;
            attend_absorbed(kernels, detail::BatchRows(caches), query_begin, first + begin, selected, s, executor, batch,
                            options.lse);
        }
    }

    // q_lat[h] = W_UK[h]ᵀ q_nope[h];  s = (q_lat·c + q_pe·k_pe)·scale;  o[h] = W_UV[h] (softmax(s) c)
    void attend_absorbed(const detail::CacheKernels<A>& kernels, const detail::BatchRows& caches,
                         std::span<const std::int32_t> query_begin, Index first, const MatrixView<const std::int32_t>& selection,
                         const Scratch& s, ExecutorRef executor, const BatchOptions<A>& options, const MatrixView<A>& lse) const {
        const Index count = query_begin.back();
        if (count == 0) return;
        Workspace kernel(s.kernel);
        const HeadsView<A> q = queries_.queries(s.query).token_range(first, count);
        const HeadsView<A> q_latent = s.q_latent.token_range(0, count);
        const HeadsView<A> o_latent = s.o_latent.token_range(0, count);
        detail::multiply_heads<A>(q.slice(0, config_.qk_nope_head_dim), heads_.absorb_key(precision_),
                                  q_latent.slice(0, config_.kv_lora_rank), executor);
        detail::copy_heads<A>(q.slice(config_.qk_nope_head_dim, config_.qk_rope_head_dim),
                              q_latent.slice(config_.kv_lora_rank, config_.qk_rope_head_dim), executor);
        const detail::CallView<A> call{q_latent, scale(), o_latent, lse_of(lse, first, count)};
        if (selection.data != nullptr) {
            const MatrixView<std::int32_t> slots(s.slots.data, count, selection.cols);
            detail::find_slots(caches, query_begin, selection, slots, executor);
            detail::decode_selected<A>(caches, kernels.absorbed, query_begin, slots, call, kernel, executor,
                                       {.sinks = options.sinks});
        } else {
            detail::decode_batch<A>(caches, kernels.absorbed, query_begin, call, kernel, executor, options);
        }
        detail::multiply_heads<A>(o_latent, heads_.value(precision_), s.o.token_range(first, count), executor);
    }

    // k_nope[h] = W_UK[h] c;  v[h] = W_UV[h] c;  o[h] = softmax((q_nope·k_nope + q_pe·k_pe)·scale) v[h]
    void attend_expanded(const detail::CacheKernels<A>& kernels, const detail::TokenRows& cache, Index first, Index count,
                         const Scratch& s, ExecutorRef executor, const ForwardOptions<A>& options) const {
        Workspace kernel(s.kernel);
        const detail::CallView<A> call{queries_.queries(s.query).token_range(first, count), scale(),
                                       s.o.token_range(first, count), lse_of(options.lse, first, count)};
        const detail::ExpansionViews<A> weights{heads_.expand_key(precision_), heads_.value(precision_)};
        detail::attend_decompressed<A>(cache, kernels.rows, weights, kernels.expanded, call, kernel, executor,
                                       plan_expanded(count, config_.num_attention_heads), sinks(options));
    }

    [[nodiscard]] BatchOptions<A> batch_options(const ForwardOptions<A>& options) const noexcept {
        return {.sinks = sinks(options), .sliding_window = config_.sliding_window, .precision = precision_};
    }
    [[nodiscard]] std::span<const A> sinks(const ForwardOptions<A>& options) const noexcept {
        return config_.sinks ? std::span<const A>(sinks_) : options.sinks;
    }
    [[nodiscard]] HeadsView<const A> gate(const Scratch& s) const noexcept {
        return config_.output_gate == OutputGate::with_query ? queries_.gate(s.query) : HeadsView<const A>();
    }

    [[nodiscard]] static MatrixView<A> lse_of(const MatrixView<A>& lse, Index first, Index count) noexcept {
        return lse.data == nullptr ? lse : lse.row_range(first, count);
    }

    static MatrixView<const A> view(const Eigen::Ref<const Matrix>& x) noexcept {
        return {x.data(), x.rows(), x.cols(), x.outerStride()};
    }

    /// query_multiplier belongs to the queries; on their scores it is a part of the scale.
    [[nodiscard]] A scale() const { return static_cast<A>(config_.softmax_scale() * config_.query_multiplier); }
    /// Queries that the absorbed form takes at a time: 2048 rows keep absorbed queries and outputs (9 MiB at Dc 512) near the
    /// caches.
    [[nodiscard]] Index absorbed_chunk() const noexcept { return std::max<Index>(2048 / config_.num_attention_heads, 1); }

    Config config_;
    Precision precision_;
    RotaryEmbedding rope_;
    detail::QueryProjection<T> queries_;
    detail::LatentProjection<T> latents_;
    detail::HeadProjections<T> heads_;
    detail::OutputProjection<T> output_;
    std::optional<Indexer<T>> indexer_;
    std::vector<A> sinks_;
};

}  // namespace mla::inline MLA_ISA
