// Expanded attention: keys and values are decompressed a head at a time, a block of tokens at a time, and attended to as in
// multi-head attention. Fewer multiply-adds than the absorbed form once many queries share a decompressed block.
#pragma once

#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/block_attention.hpp"
#include "mla/kernels/few_rows.hpp"
#include "mla/kernels/pack_queries.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/kernels/stage.hpp"
#include "mla/linear/linear.hpp"
#include "mla/math/softmax_state.hpp"

namespace mla {

/// The two halves of kv_b_proj, a matrix a head.
template <Storage S>
struct ExpansionWeights {
    const PackedMatrix<S>& key;    ///< W_UKᵀ: H matrices [Dc → Dn]
    const PackedMatrix<S>& value;  ///< W_UVᵀ: H matrices [Dc → Dv]
};

namespace detail {

/// Scratch of one worker of an expanded call.
template <class Arch, Compute A>
struct ExpandedScratch {
    Index key_stride = 0;
    Index value_stride = 0;
    A* latents = nullptr;  ///< staged block [tokens, Dc + Dr]
    A* keys = nullptr;     ///< [tokens, Dn + Dr]
    A* values = nullptr;   ///< [tokens, Dv]
    A* scores = nullptr;
    RowGroup<A> group;

    static ExpandedScratch carve(Arena& arena, const ExpandedPlan& plan, Index row_dim, Index key_dim, Index value_dim) {
        using Shape = AttentionTile<Arch, A>;
        const Index padded = padded_rows<Arch, A>(plan.group_queries);
        ExpandedScratch s;
        s.key_stride = staged_stride<A>(key_dim);
        s.value_stride = staged_stride<A>(value_dim);
        s.latents = arena.take<A>(staged_elements<A>(row_dim));
        s.keys = arena.take<A>(staged_elements<A>(key_dim));
        s.values = arena.take<A>(staged_elements<A>(value_dim));
        s.scores = arena.take<A>(score_elements<Arch, A>(plan.group_queries));
        s.group.depth = key_dim;
        s.group.out_stride = round_up(value_dim, Shape::lanes);
        s.group.queries = arena.take<std::byte>(padded * key_dim * static_cast<Index>(sizeof(A)));
        s.group.factors = arena.take<A>(padded);
        s.group.max = arena.take<A>(padded);
        s.group.sum = arena.take<A>(padded);
        s.group.out = arena.take<A>(padded * s.group.out_stride);
        s.group.visible = arena.take<Index>(padded);
        return s;
    }
};

/// Decompresses tokens [begin, begin + count) of one head: keys [W_UK c | k_pe], values W_UV c.
template <class Arch, Compute A, LatentSource View, Storage S>
Block<A> expand_block(const View& cache, const ExpansionWeights<S>& weights, Index head, Index begin, Index count,
                      const ExpandedScratch<Arch, A>& scratch) noexcept {
    const RowFormat<typename View::Element> format{cache.latent_dim, cache.rope_dim};
    const Index nope = weights.key.out();
    const Index value_dim = weights.value.out();
    static_cast<void>(copy_rows(list_rows(cache, begin, count), format.values(), scratch.latents,
                                [&](const auto* row, A* target) { format.template read<Arch>(row, target); }));
    const MatrixView<const A> latents(scratch.latents, count, cache.latent_dim, staged_stride<A>(format.values()));
    linear_panels<Arch, A>(latents, weights.key, head, 0, weights.key.panels(),
                           MatrixView<A>(scratch.keys, count, nope, scratch.key_stride));
    linear_panels<Arch, A>(latents, weights.value, head, 0, weights.value.panels(),
                           MatrixView<A>(scratch.values, count, value_dim, scratch.value_stride));
    for (Index t = 0; t < count; ++t) {
        A* const key = scratch.keys + t * scratch.key_stride;
        A* const end = std::copy_n(latents.row(t) + cache.latent_dim, cache.rope_dim, key + nope);
        std::fill(end, key + scratch.key_stride, A(0));
        std::fill_n(scratch.values + t * scratch.value_stride + value_dim, scratch.value_stride - value_dim, A(0));
    }
    Block<A> block{.key_rows = {}, .value_rows = {}, .value_dim = value_dim, .begin = begin};
    block.key_rows.add(scratch.keys, scratch.key_stride, count);
    block.value_rows.add(scratch.values, scratch.value_stride, count);
    return block;
}

/// The block in pairs of bf16, rounded where it lies: a key to the first half of its row, the values of two tokens to the row of
/// the first.
template <class Arch>
    requires(simd::has_dot_bf16<Arch>)
auto round_block(const Block<float>& block, const ExpandedScratch<Arch, float>& scratch) noexcept {
    using Pair = simd::Bf16Pair;
    using Batch = simd::Batch<Arch, float>;
    const Index count = block.count();
    for (Index t = 0; t < count; ++t) {
        float* const key = scratch.keys + t * scratch.key_stride;
        simd::round_row<Arch>(key, scratch.group.depth, reinterpret_cast<Pair*>(key));
    }
    for (Index t = 0; t < count; t += 2) {
        float* const row = scratch.values + t * scratch.value_stride;
        for (Index c = 0; c < scratch.value_stride; c += simd::lanes<Arch, float>) {
            Batch first = Batch::load_unaligned(row + c);
            Batch second = t + 1 < count ? Batch::load_unaligned(row + scratch.value_stride + c) : Batch(0.0F);
            simd::round_to_pairs<Arch>(first, second).store_unaligned(reinterpret_cast<std::uint32_t*>(row + c));
        }
    }
    Block<Pair> rounded{.key_rows = {}, .value_rows = {}, .value_dim = block.value_dim, .begin = block.begin};
    rounded.key_rows.add(reinterpret_cast<const Pair*>(scratch.keys), scratch.key_stride, count);
    rounded.value_rows.add(reinterpret_cast<const Pair*>(scratch.values), 2 * scratch.value_stride, divide_up(count, Index{2}));
    return rounded;
}

/// Lets a group attend to a block in units U.
template <class Arch, class U, Compute A>
void attend_expanded(const Block<A>& block, const ExpandedScratch<Arch, A>& scratch) noexcept {
    // Nothing is to be fetched: its own rows lie in the caches.
    if (scratch.group.few()) return attend_few<Arch>(scratch.group, block, scratch.scores, block.key_rows, block.value_rows);
    if constexpr (std::is_same_v<U, A>) {
        attend_block<Arch>(scratch.group, block, scratch.scores, {});
    } else {
        attend_block<Arch>(scratch.group, round_block(block, scratch), scratch.scores, {});
    }
}

/// Divides the outputs of a group by their sums, and the sink's share, into out rows [rows, dim] of one head, and writes their
/// LSE.
template <Compute A>
void finish_head(const RowGroup<A>& group, MatrixView<A> out, const MatrixView<A>& lse, A sink, Index first_query,
                 Index head) noexcept {
    for (Index r = 0; r < group.rows; ++r) {
        const SoftmaxState<A> state{group.max[r], group.sum[r]};
        const A scale = state.sum != A(0) ? A(1) / (state.sum + std::exp(sink - state.max)) : A(0);
        for (Index c = 0; c < out.cols; ++c) out(r, c) = group.out[r * group.out_stride + c] * scale;
        if (lse.data != nullptr) lse(first_query + r, head) = state.lse();
    }
}

template <Compute A, LatentSource View, Storage S>
void check_expanded(const HeadsView<const A>& q, const View& cache, const ExpansionWeights<S>& weights, A scale,
                    const HeadsView<A>& out, const MatrixView<A>& lse) {
    validate(cache);
    check_attention(q, scale, out, lse);
    require_equal("weights.key.count()", weights.key.count(), "q.heads", q.heads);
    require_equal("weights.value.count()", weights.value.count(), "q.heads", q.heads);
    require_equal("weights.key.in()", weights.key.in(), "cache.latent_dim", cache.latent_dim);
    require_equal("weights.value.in()", weights.value.in(), "cache.latent_dim", cache.latent_dim);
    require_equal("q.dim", q.dim, "weights.key.out() + cache.rope_dim", weights.key.out() + cache.rope_dim);
    require_equal("out.dim", out.dim, "weights.value.out()", weights.value.out());
}

}  // namespace detail

/// Bytes of workspace that one worker of `prefill_expanded` needs: whole cache lines.
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] std::size_t expanded_worker_bytes(const ExpandedPlan& plan, Index row_dim, Index key_dim, Index value_dim) {
    Arena counter;
    static_cast<void>(detail::ExpandedScratch<Arch, A>::carve(counter, plan, row_dim, key_dim, value_dim));
    return counter.bytes();
}

/// The plan of `plan_expanded`, with as many queries at a time as a worker's scratch of `bytes` takes.
/// @throws std::length_error when it does not take one, naming the bytes that one needs
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] ExpandedPlan plan_expanded_within(std::size_t bytes, Index queries, Index heads, Index row_dim, Index key_dim,
                                                Index value_dim) {
    ExpandedPlan plan = plan_expanded(queries, heads);
    const auto needed = [&](Index group) {
        return expanded_worker_bytes<A, Arch>({queries, heads, group}, row_dim, key_dim, value_dim);
    };
    require_capacity("bytes of a worker's scratch for one query", needed(1), bytes);
    while (needed(plan.group_queries) > bytes) plan.group_queries = divide_up(plan.group_queries, Index{2});
    return plan;
}

/// out[t, h] = softmax(scale · (q_nope·W_UK c + q_pe·k_pe)) · W_UV c under the bottom-right causal mask: of L cached tokens,
/// query t of T sees 0 … L−T+t. A query that sees none gets output 0 and LSE −inf.
///
/// q [T, H, Dn+Dr]: nope, then rotated rope. cache: L rows [latent | rope key]; the queries' own tokens are its last.
/// out [T, H, Dv]. lse [T, H] natural logarithm, or an empty view. out and lse do not overlap the inputs. sinks [H]: a logit a
/// head that takes its share of the softmax and has no value, or empty; the LSE leaves it out.
///
/// Where bf16 are multiplied in pairs (simd::prefers_dot_bf16) and the weights are of bf16, more than four queries meet keys,
/// values and probabilities rounded to bf16.
///
/// A block of the cache is decompressed, attended to and forgotten before the next, so that scratch does not grow with L but with
/// the plan's `group_queries`, the caller's to set: every group decompresses the cache anew. Allocates only when the workspace
/// must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <class Arch = simd::DefaultArch, Compute A, LatentSource View, Storage S>
void prefill_expanded(HeadsView<std::type_identity_t<const A>> q, View cache, ExpansionWeights<S> weights,
                      std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse,
                      Workspace& workspace, ExecutorRef executor, const ExpandedPlan& plan,
                      std::span<const std::type_identity_t<A>> sinks = {}) {
    using Unit = detail::LinearUnit<Arch, A, S>;
    detail::check_expanded<A>(q, cache, weights, scale, out, lse);
    require_equal("plan.queries", plan.queries, "q.tokens", q.tokens);
    require_equal("plan.heads", plan.heads, "q.heads", q.heads);
    require_at_least("plan.group_queries", plan.group_queries, Index{1});
    if (!sinks.empty()) require_equal("sinks.size()", static_cast<Index>(sinks.size()), "q.heads", q.heads);
    if (q.tokens == 0) return;
    const auto bytes = static_cast<Index>(expanded_worker_bytes<A, Arch>(plan, cache.row_dim(), q.dim, out.dim));
    auto* const memory = workspace.carve([&](Arena& arena) { return arena.take<std::byte>(executor.concurrency() * bytes); });

    for_each_item(executor, plan.items(), [&](Index item, Index worker) {
        Arena arena(memory + worker * bytes);
        auto scratch = detail::ExpandedScratch<Arch, A>::carve(arena, plan, cache.row_dim(), q.dim, out.dim);
        auto& group = scratch.group;
        const Index head = item / plan.groups();
        const Index first = item % plan.groups() * plan.group_queries;
        group.rows = std::min(plan.group_queries, q.tokens - first);
        detail::pack_queries<Arch, Unit, A>(group, q.dim, scale, {}, [&](Index r) { return q.at(first + r, head); });
        group.first_row = first;
        detail::set_visible<Arch>(group, cache.length - q.tokens + 1, Index{1});
        detail::clear<Arch>(group);
        const Index end = group.visible[group.rows - 1];
        for (Index t = 0; t < end; t += detail::block_tokens) {
            const Index count = std::min(detail::block_tokens, end - t);
            detail::attend_expanded<Arch, Unit>(detail::expand_block(cache, weights, head, t, count, scratch), scratch);
        }
        const A sink = sinks.empty() ? -std::numeric_limits<A>::infinity() : sinks[static_cast<std::size_t>(head)];
        detail::finish_head(group, out.head(head).row_range(first, group.rows), lse, sink, first, head);
    });
}

/// As above, with the plan of `plan_expanded`.
template <class Arch = simd::DefaultArch, Compute A, LatentSource View, Storage S>
void prefill_expanded(HeadsView<std::type_identity_t<const A>> q, View cache, ExpansionWeights<S> weights,
                      std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse,
                      Workspace& workspace, ExecutorRef executor, std::span<const std::type_identity_t<A>> sinks = {}) {
    require_at_least("q.heads", q.heads, Index{1});
    require_at_least("q.tokens", q.tokens, Index{0});
    prefill_expanded<Arch>(q, cache, weights, scale, out, lse, workspace, executor, plan_expanded(q.tokens, q.heads), sinks);
}

}  // namespace mla
