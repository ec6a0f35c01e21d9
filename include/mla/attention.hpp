// The MLA layer (DeepSeek-V2, section 2.1): packed weights, and one `forward` for prefill, chunked prefill and decode.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <ranges>
#include <span>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/executor.hpp"
#include "mla/core/float_environment.hpp"
#include "mla/core/workspace.hpp"
#include "mla/eigen.hpp"
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/kernels/prefill_expanded.hpp"
#include "mla/linear/linear.hpp"
#include "mla/math/rms_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/requests.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA {

/// One MLA layer with weights stored as T (double, float, bf16 or fp16). Activations are float, or double when T is double; what
/// is rounded of them to meet weights of bf16 and caches of bf16 or less is the layer's `Precision`. DcStatic and DrStatic fix
/// kv_lora_rank and qk_rope_head_dim at compile time, or are mla::Dynamic. Owns its packed weights and nothing that changes from
/// call to call, so that threads may share it.
template <Storage T, int DcStatic = Dynamic, int DrStatic = (DcStatic == Dynamic ? Dynamic : 64)>
class Attention {
  public:
    using Activation = compute_t<T>;
    using Matrix = RowMatrix<Activation>;

    /// Packs the weights once; the tensors are not needed afterwards.
    /// @throws std::invalid_argument when the config is invalid, contradicts DcStatic or DrStatic, or a tensor is missing or
    /// misshapen
    Attention(const Config& config, const AttentionWeights& weights, Precision precision = Precision::operand)
        : Attention(checked(config, weights), weights, precision, Checked{}) {}

    [[nodiscard]] const Config& config() const noexcept { return config_; }
    [[nodiscard]] Precision precision() const noexcept { return precision_; }

    /// Bytes of packed weights.
    [[nodiscard]] std::size_t weight_bytes() const noexcept {
        return q_a_.bytes() + q_.bytes() + kv_a_.bytes() + absorb_key_.bytes() + expand_key_.bytes() + value_.bytes() +
               o_.bytes();
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
        const detail::RoomForAll<Cache> room(list);

        project_queries(view(x), positions, s, executor);
        project_latents(view(x), s, executor);
        append(list, s.latents);
        attend(list, s, executor, options);
        linear<A>(rows(s.o), o_, bias(o_bias_), MatrixView<Activation>(y.data(), tokens, y.cols(), y.outerStride()), executor,
                  precision_);
    }

  private:
    using A = Activation;
    struct Checked {};

    /// Activations between the steps of a call.
    struct Scratch {
        MatrixView<A> q_a;                    ///< [T, Rq]
        HeadsView<A> q;                       ///< [T, H, Dn+Dr]
        MatrixView<A> latents;                ///< [T, Dc+Dr]: what the cache takes
        HeadsView<A> o;                       ///< [T, H, Dv]
        HeadsView<A> q_latent;                ///< [t, H, Dc+Dr] of one chunk of queries
        HeadsView<A> o_latent;                ///< [t, H, Dc]
        A* angles = nullptr;                  ///< [T, Dr]
        std::int32_t* query_begin = nullptr;  ///< [requests + 1]
        const void** caches = nullptr;        ///< [requests]
        std::span<std::byte> kernel;

        static Scratch carve(Arena& arena, const Attention& layer, const BatchLimits& limits, Index concurrency) {
            const Config& c = layer.config_;
            const Index heads = c.num_attention_heads;
            const Index tokens = limits.queries;
            const Index chunk = std::min(tokens, layer.absorbed_chunk());
            const auto heads_view = [&](Index count, Index dim) {
                return HeadsView<A>(arena.take<A>(count * heads * dim), count, heads, dim);
            };
            Scratch s;
            s.q_a = {arena.take<A>(tokens * c.q_lora_rank), tokens, c.q_lora_rank};
            s.q = heads_view(tokens, c.qk_head_dim());
            s.latents = {arena.take<A>(tokens * c.cache_dim()), tokens, c.cache_dim()};
            s.o = heads_view(tokens, c.v_head_dim);
            s.q_latent = heads_view(chunk, c.cache_dim());
            s.o_latent = heads_view(chunk, c.kv_lora_rank);
            s.angles = arena.take<A>(tokens * c.qk_rope_head_dim);
            s.query_begin = arena.take<std::int32_t>(limits.requests + 1);
            s.caches = arena.take<const void*>(limits.requests);
            const auto absorbed = absorbed_workspace_bytes<A>(BatchLimits{limits.requests, chunk, limits.shared_prefix}, heads,
                                                              c.kv_lora_rank, c.qk_rope_head_dim, concurrency);
            const auto expanded = expanded_workspace_bytes<A>(plan_expanded(tokens, heads), c.cache_dim(), c.qk_head_dim(),
                                                              c.v_head_dim, concurrency);
            const std::size_t bytes = std::max(absorbed, expanded);
            s.kernel = {arena.take<std::byte>(static_cast<Index>(bytes)), bytes};
            return s;
        }
    };

    static const Config& checked(const Config& config, const AttentionWeights& weights) {
        validate(config);
        validate(config, weights);
        if constexpr (DcStatic != Dynamic) require_equal("kv_lora_rank", config.kv_lora_rank, "Attention's Dc", Index{DcStatic});
        if constexpr (DrStatic != Dynamic)
            require_equal("qk_rope_head_dim", config.qk_rope_head_dim, "Attention's Dr", Index{DrStatic});
        return config;
    }

    Attention(const Config& config, const AttentionWeights& weights, Precision precision, Checked)
        : config_(config),
          precision_(precision),
          rope_(config.rope, config.qk_rope_head_dim),
          q_(config.q_lora_rank > 0 ? weights.q_b_proj : weights.q_proj),
          kv_a_(weights.kv_a_proj_with_mqa),
          absorb_key_(config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank),
          expand_key_(config.num_attention_heads, config.kv_lora_rank, config.qk_nope_head_dim),
          value_(config.num_attention_heads, config.kv_lora_rank, config.v_head_dim),
          o_(weights.o_proj),
          kv_a_norm_(to_vector(weights.kv_a_layernorm)) {
        if (config.q_lora_rank > 0) {
            q_a_ = PackedMatrix<T>(weights.q_a_proj);
            q_a_norm_ = to_vector(weights.q_a_layernorm);
        }
        const Index stride = config.qk_nope_head_dim + config.v_head_dim;
        for (Index h = 0; h < config.num_attention_heads; ++h) {
            const TensorRef key = weights.kv_b_proj.row_range(h * stride, config.qk_nope_head_dim);
            absorb_key_.pack_transposed(h, key);
            expand_key_.pack(h, key);
            value_.pack(h, weights.kv_b_proj.row_range(h * stride + config.qk_nope_head_dim, config.v_head_dim));
        }
        if (!config.attention_bias) return;
        if (config.q_lora_rank > 0) q_a_bias_ = to_vector(weights.q_a_bias);
        kv_a_bias_ = to_vector(weights.kv_a_bias);
        o_bias_ = to_vector(weights.o_bias);
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
        detail::check_options(options, requests, config_.num_attention_heads, x.rows());
    }

    template <LatentStore Cache>
    void append(std::span<const Request<Cache>> requests, const MatrixView<A>& latents) const {
        Index first = 0;
        for (const Request<Cache>& request : requests) {
            request.cache->append(MatrixView<const A>(latents.row_range(first, request.tokens)));
            first += request.tokens;
        }
    }

    // q = q_b(RMSNorm(q_a(x))) or q_proj(x);  q_pe = RoPE(q_pe, position)
    void project_queries(MatrixView<const A> x, std::span<const std::int64_t> positions, const Scratch& s,
                         ExecutorRef executor) const {
        MatrixView<const A> input = x;
        if (config_.q_lora_rank > 0) {
            project(x, q_a_, q_a_bias_, s.q_a, executor);
            rms_norm(s.q_a, q_a_norm_.data(), config_.latent_norm_eps);
            input = s.q_a;
        }
        project(input, q_, {}, rows(s.q), executor);
        const Index nope = config_.qk_nope_head_dim;
        for_each_item(executor, x.rows, [&](Index t, Index) {
            A* table = s.angles + t * rope_.dim();
            rope_.angles(positions[static_cast<std::size_t>(t)], table);
            for (Index h = 0; h < config_.num_attention_heads; ++h) rope_.rotate(table, s.q.at(t, h) + nope);
            scale_by_position(positions[static_cast<std::size_t>(t)], s.q.at(t, 0));
        });
    }

    // q ← q · (1 + beta·ln(1 + ⌊position / period⌋))
    void scale_by_position(std::int64_t position, A* q) const {
        const PositionScale& rule = config_.position_scale;
        if (rule.beta == 0.0) return;
        const A factor = static_cast<A>(1.0 + rule.beta * std::log1p(static_cast<double>(position / rule.period)));
        for (Index i = 0; i < config_.q_dim(); ++i) q[i] *= factor;
    }

    // c, k_pe = split(kv_a(x));  c = RMSNorm(c);  k_pe = RoPE(k_pe, position)
    void project_latents(MatrixView<const A> x, const Scratch& s, ExecutorRef executor) const {
        project(x, kv_a_, kv_a_bias_, s.latents, executor);
        rms_norm(s.latents.columns(0, config_.kv_lora_rank), kv_a_norm_.data(), config_.latent_norm_eps,
                 config_.latent_multiplier);
        for (Index t = 0; t < x.rows; ++t) rope_.rotate(s.angles + t * rope_.dim(), s.latents.row(t) + config_.kv_lora_rank);
    }

    /// Every request in its cheaper form; absorbed ones that follow each other together, up to a chunk of queries.
    template <LatentStore Cache>
    void attend(std::span<const Request<Cache>> requests, const Scratch& s, ExecutorRef executor,
                const ForwardOptions<A>& options) const {
        Index first = 0;
        for (std::size_t r = 0; r < requests.size();) {
            const Index tokens = requests[r].tokens;
            if (form_of(requests[r], r, options) == Form::expanded) {
                attend_expanded(requests[r].cache->view(), first, tokens, s, executor, options);
                first += tokens;
                ++r;
                continue;
            }
            std::size_t end = r + 1;
            Index count = tokens;
            for (; end < requests.size() && form_of(requests[end], end, options) == Form::absorbed; ++end) {
                if (count + requests[end].tokens > s.q_latent.tokens) break;
                count += requests[end].tokens;
            }
            if (count <= s.q_latent.tokens) {
                attend_batch(requests.subspan(r, end - r), r, first, s, executor, options);
            } else {
                attend_chunks(requests[r].cache->view(), r, first, tokens, s, executor, options);
            }
            first += count;
            r = end;
        }
    }

    template <LatentStore Cache>
    [[nodiscard]] Form form_of(const Request<Cache>& request, std::size_t index,
                               const ForwardOptions<A>& options) const noexcept {
        if (!options.trees.empty() && options.trees[index].data != nullptr) return Form::absorbed;
        return options.form == Form::automatic ? choose_form(config_, request.tokens, request.cache->size()) : options.form;
    }

    /// Requests from number `index` on, in one call.
    template <LatentStore Cache>
    void attend_batch(std::span<const Request<Cache>> requests, std::size_t index, Index first, const Scratch& s,
                      ExecutorRef executor, const ForwardOptions<A>& options) const {
        const std::span<std::int32_t> query_begin(s.query_begin, requests.size() + 1);
        query_begin[0] = 0;
        for (std::size_t r = 0; r < requests.size(); ++r)
            query_begin[r + 1] = query_begin[r] + static_cast<std::int32_t>(requests[r].tokens);
        const detail::RequestViews<Cache> caches{requests};
        BatchOptions<A> batch{.sinks = options.sinks, .precision = precision_};
        if (!options.trees.empty()) batch.trees = options.trees.subspan(index, requests.size());
        if (options.share_prefix && requests.size() > 1) batch.shared_prefix = shared_prefix(caches, query_begin);
        attend_absorbed(caches, query_begin, first, s, executor, batch, options.lse);
    }

    /// One request of more queries than a chunk takes.
    template <LatentSource View>
    void attend_chunks(const View& cache, std::size_t index, Index first, Index tokens, const Scratch& s, ExecutorRef executor,
                       const ForwardOptions<A>& options) const {
        for (Index begin = 0; begin < tokens; begin += s.q_latent.tokens) {
            const Index count = std::min(s.q_latent.tokens, tokens - begin);
            BatchOptions<A> batch{.sinks = options.sinks, .precision = precision_};
            MatrixView<const bool> tree;
            if (!options.trees.empty()) tree = options.trees[index];
            if (tree.data != nullptr) {
                tree = tree.row_range(begin, count);
                batch.trees = {&tree, 1};
            }
            // A tree shows what lies behind the chunk's last query too.
            const std::array<View, 1> caches{tree.data != nullptr ? cache : cache.prefix(cache.length - tokens + begin + count)};
            const std::array<std::int32_t, 2> query_begin{0, static_cast<std::int32_t>(count)};
            attend_absorbed(caches, query_begin, first + begin, s, executor, batch, options.lse);
        }
    }

    // q_lat[h] = W_UK[h]ᵀ q_nope[h];  s = (q_lat·c + q_pe·k_pe)·scale;  o[h] = W_UV[h] (softmax(s) c)
    template <LatentBatch Batch>
    void attend_absorbed(const Batch& caches, std::span<const std::int32_t> query_begin, Index first, const Scratch& s,
                         ExecutorRef executor, const BatchOptions<A>& options, const MatrixView<A>& lse) const {
        const Index count = query_begin.back();
        if (count == 0) return;
        Workspace kernel(s.kernel);
        const HeadsView<A> q = s.q.token_range(first, count);
        const HeadsView<A> q_latent = s.q_latent.token_range(0, count);
        const HeadsView<A> o_latent = s.o_latent.token_range(0, count);
        linear_heads<A>(q.slice(0, config_.qk_nope_head_dim), absorb_key_, q_latent.slice(0, config_.kv_lora_rank), executor,
                        precision_);
        copy_heads(q.slice(config_.qk_nope_head_dim, config_.qk_rope_head_dim),
                   q_latent.slice(config_.kv_lora_rank, config_.qk_rope_head_dim));
        decode_absorbed(q_latent, caches, query_begin, scale(), o_latent, lse_of(lse, first, count), kernel, executor, options);
        linear_heads<A>(o_latent, value_, s.o.token_range(first, count), executor, precision_);
    }

    // k_nope[h] = W_UK[h] c;  v[h] = W_UV[h] c;  o[h] = softmax((q_nope·k_nope + q_pe·k_pe)·scale) v[h]
    template <LatentSource View>
    void attend_expanded(const View& cache, Index first, Index count, const Scratch& s, ExecutorRef executor,
                         const ForwardOptions<A>& options) const {
        Workspace kernel(s.kernel);
        prefill_expanded(s.q.token_range(first, count), cache, ExpansionWeights<T>{expand_key_, value_}, scale(),
                         s.o.token_range(first, count), lse_of(options.lse, first, count), kernel, executor, options.sinks,
                         precision_);
    }

    [[nodiscard]] static MatrixView<A> lse_of(const MatrixView<A>& lse, Index first, Index count) noexcept {
        return lse.data == nullptr ? lse : lse.row_range(first, count);
    }

    void project(MatrixView<const A> x, const PackedMatrix<T>& weight, const std::vector<A>& bias_values, MatrixView<A> y,
                 ExecutorRef executor) const {
        linear<A>(x, weight, bias(bias_values), y, executor, precision_);
    }

    static void copy_heads(HeadsView<const A> from, HeadsView<A> to) {
        for (Index t = 0; t < from.tokens; ++t)
            for (Index h = 0; h < from.heads; ++h) std::copy_n(from.at(t, h), from.dim, to.at(t, h));
    }

    static std::vector<A> to_vector(const TensorRef& tensor) {
        std::vector<A> values(static_cast<std::size_t>(tensor.cols));
        tensor.visit([&](const auto& element) {
            for (std::size_t i = 0; i < values.size(); ++i) values[i] = simd::convert<A>(element(0, static_cast<Index>(i)));
        });
        return values;
    }

    static const A* bias(const std::vector<A>& values) noexcept { return values.empty() ? nullptr : values.data(); }
    static MatrixView<const A> view(const Eigen::Ref<const Matrix>& x) noexcept {
        return {x.data(), x.rows(), x.cols(), x.outerStride()};
    }
    /// Heads side by side: [T, H·dim].
    static MatrixView<A> rows(const HeadsView<A>& heads) noexcept { return {heads.data, heads.tokens, heads.heads * heads.dim}; }

    /// query_multiplier belongs to the queries; on their scores it is a part of the scale.
    [[nodiscard]] A scale() const { return static_cast<A>(config_.softmax_scale() * config_.query_multiplier); }
    /// Queries that the absorbed form takes at a time: 2048 rows keep absorbed queries and outputs (9 MiB at Dc 512) near the
    /// caches.
    [[nodiscard]] Index absorbed_chunk() const noexcept { return std::max<Index>(2048 / config_.num_attention_heads, 1); }

    Config config_;
    Precision precision_;
    RotaryEmbedding rope_;
    PackedMatrix<T> q_a_;         ///< hidden → Rq, with q_lora_rank
    PackedMatrix<T> q_;           ///< Rq or hidden → H·(Dn+Dr)
    PackedMatrix<T> kv_a_;        ///< hidden → Dc+Dr
    PackedMatrix<T> absorb_key_;  ///< a head: q_nope Dn → Dc
    PackedMatrix<T>
        expand_key_;         ///< a head: c Dc → Dn; the transpose of absorb_key_, since a product reads its matrix in one order
    PackedMatrix<T> value_;  ///< a head: c Dc → Dv
    PackedMatrix<T> o_;      ///< H·Dv → hidden
    std::vector<A> q_a_norm_, kv_a_norm_, q_a_bias_, kv_a_bias_, o_bias_;
};

}  // namespace mla::inline MLA_ISA
