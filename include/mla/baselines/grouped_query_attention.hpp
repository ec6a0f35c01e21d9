// A grouped-query attention layer: what MLA is compared with. As many key-value heads as queries make it multi-head attention.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "mla/baselines/grouped_attention.hpp"
#include "mla/eigen.hpp"
#include "mla/linear/linear.hpp"
#include "mla/math/rope.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::baselines {

/// Weights stored as T, activations in float, or in double when T is double. Owns its packed weights and nothing that changes
/// from call to call.
template <Storage T>
class GroupedQueryAttention {
  public:
    using Activation = compute_t<T>;
    using Matrix = RowMatrix<Activation>;

    /// Packs the weights once; the tensors are not needed afterwards.
    /// @throws std::invalid_argument when the config is invalid or a tensor is missing or misshapen
    GroupedQueryAttention(const GroupedQueryConfig& config, const GroupedQueryWeights& weights)
        : config_(checked(config, weights)),
          rope_(config.rope, config.head_dim),
          q_(weights.q_proj),
          k_(weights.k_proj),
          v_(weights.v_proj),
          o_(weights.o_proj) {}

    [[nodiscard]] const GroupedQueryConfig& config() const noexcept { return config_; }

    /// Bytes of packed weights.
    [[nodiscard]] std::size_t weight_bytes() const noexcept { return q_.bytes() + k_.bytes() + v_.bytes() + o_.bytes(); }

    /// y = o_proj(attention(x)): appends the tokens of x to the cache, then lets each attend to all cached tokens up to itself.
    /// x [T, hidden], positions [T], y [T, hidden], which may be x itself. Allocates only when the workspace must grow.
    /// @throws std::invalid_argument when sizes do not fit, std::length_error when the cache is full; cache and y are then as
    /// they were
    template <Storage C>
    void forward(const Eigen::Ref<const Matrix>& x, std::span<const std::int64_t> positions, KvCache<C>& cache,
                 Eigen::Ref<Matrix> y, ExecutorRef executor, Workspace& workspace) const {
        check(x, positions, cache, y);
        const Index tokens = x.rows();
        if (tokens == 0) return;
        const auto s =
            workspace.carve([&](Arena& arena) { return Scratch::carve(arena, config_, tokens, executor.concurrency()); });
        const MatrixView<const A> input(x.data(), tokens, x.cols(), x.outerStride());
        project(input, q_, s.q, executor);
        project(input, k_, s.k, executor);
        project(input, v_, s.v, executor);
        for_each_item(executor, tokens, [&](Index t, Index) {
            A* table = s.angles + t * config_.head_dim;
            rope_.angles(positions[static_cast<std::size_t>(t)], table);
            for (Index h = 0; h < s.q.heads; ++h) rope_.rotate(table, s.q.at(t, h));
            for (Index g = 0; g < s.k.heads; ++g) rope_.rotate(table, s.k.at(t, g));
        });
        cache.append(HeadsView<const A>(s.k), HeadsView<const A>(s.v));
        Workspace kernel(s.kernel);
        const A scale = static_cast<A>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
        grouped_attention(s.q, cache.view(), scale, s.o, {}, kernel, executor);
        const MatrixView<const A> o(s.o.data, tokens, config_.q_dim());
        linear<A>(o, o_, nullptr, MatrixView<A>(y.data(), tokens, y.cols(), y.outerStride()), executor);
    }

  private:
    using A = Activation;

    /// Activations between the steps of a call.
    struct Scratch {
        HeadsView<A> q;       ///< [T, H, D]
        HeadsView<A> k;       ///< [T, G, D]
        HeadsView<A> v;       ///< [T, G, D]
        HeadsView<A> o;       ///< [T, H, D]
        A* angles = nullptr;  ///< [T, D]
        std::span<std::byte> kernel;

        static Scratch carve(Arena& arena, const GroupedQueryConfig& c, Index tokens, Index concurrency) {
            const auto heads = [&](Index count) {
                return HeadsView<A>(arena.take<A>(tokens * count * c.head_dim), tokens, count, c.head_dim);
            };
            Scratch s;
            s.q = heads(c.num_attention_heads);
            s.k = heads(c.num_key_value_heads);
            s.v = heads(c.num_key_value_heads);
            s.o = heads(c.num_attention_heads);
            s.angles = arena.take<A>(tokens * c.head_dim);
            const SplitPlan plan = plan_grouped(tokens, c.num_attention_heads, c.num_key_value_heads, 0);
            const std::size_t bytes = grouped_workspace_bytes<A>(plan, c.head_dim, concurrency);
            s.kernel = {arena.take<std::byte>(static_cast<Index>(bytes)), bytes};
            return s;
        }
    };

    static const GroupedQueryConfig& checked(const GroupedQueryConfig& config, const GroupedQueryWeights& weights) {
        validate(config);
        require_tensor("q_proj", weights.q_proj, config.q_dim(), config.hidden_size);
        require_tensor("k_proj", weights.k_proj, config.kv_dim(), config.hidden_size);
        require_tensor("v_proj", weights.v_proj, config.kv_dim(), config.hidden_size);
        require_tensor("o_proj", weights.o_proj, config.hidden_size, config.q_dim());
        return config;
    }

    template <Storage C>
    void check(const Eigen::Ref<const Matrix>& x, std::span<const std::int64_t> positions, const KvCache<C>& cache,
               const Eigen::Ref<Matrix>& y) const {
        require_equal("x.cols()", x.cols(), "hidden_size", config_.hidden_size);
        require_equal("positions.size()", static_cast<Index>(positions.size()), "x.rows()", x.rows());
        for (const std::int64_t position : positions) require_at_least("positions[t]", position, std::int64_t{0});
        require_equal("y.rows()", y.rows(), "x.rows()", x.rows());
        require_equal("y.cols()", y.cols(), "hidden_size", config_.hidden_size);
        require_equal("cache.kv_heads()", cache.kv_heads(), "num_key_value_heads", config_.num_key_value_heads);
        require_equal("cache.head_dim()", cache.head_dim(), "head_dim", config_.head_dim);
        cache.require_room(x.rows());
    }

    static void project(MatrixView<const A> x, const PackedMatrix<T>& weight, const HeadsView<A>& y, ExecutorRef executor) {
        linear<A>(x, weight, nullptr, MatrixView<A>(y.data, y.tokens, y.heads * y.dim), executor);
    }

    GroupedQueryConfig config_;
    RotaryEmbedding rope_;
    PackedMatrix<T> q_, k_, v_, o_;
};

}  // namespace mla::inline MLA_ISA::baselines
