// Absorbed attention: multi-query attention on the latents themselves (DeepSeek-V2, section 2.1.2).
#pragma once

#include "mla/cache/latent_view.hpp"
#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/block_attention.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/kernels/stage.hpp"
#include "mla/math/softmax_state.hpp"

namespace mla {
namespace detail {

/// Scratch of one absorbed call: what all items share, and what a worker needs for itself.
template <class Arch, Compute A>
struct AbsorbedScratch {
    Index padded_rows = 0;  ///< rows of a group's slot, whole vectors
    Index out_stride = 0;
    Index staged = 0;  ///< elements of a worker's staged block
    A* queries = nullptr;
    A* max = nullptr;
    A* sum = nullptr;
    A* out = nullptr;
    A* blocks = nullptr;
    A* scores = nullptr;
    Index* visible = nullptr;

    static AbsorbedScratch carve(Arena& arena, const AbsorbedPlan& plan, Index latent_dim, Index row_dim, Index workers) {
        using Shape = AttentionTile<Arch, A>;
        AbsorbedScratch s;
        s.padded_rows = round_up(plan.group_rows, Shape::lanes);
        s.out_stride = round_up(latent_dim, Shape::lanes);
        s.staged = staged_elements<A>(row_dim);
        s.queries = arena.take<A>(plan.groups() * s.padded_rows * row_dim);
        const Index states = plan.groups() * plan.most_splits() * s.padded_rows;
        s.max = arena.take<A>(states);
        s.sum = arena.take<A>(states);
        s.out = arena.take<A>(states * s.out_stride);
        s.blocks = arena.take<A>(workers * s.staged);
        s.scores = arena.take<A>(workers * block_tokens * Shape::panel_rows);
        s.visible = arena.take<Index>(workers * s.padded_rows);
        return s;
    }

    /// The rows of item (group, split), on the state slot of that item.
    [[nodiscard]] RowGroup<A> item(const AbsorbedPlan& plan, Index group, Index split, Index row_dim, Index worker) const {
        const Index slot = (group * plan.splits() + split) * padded_rows;
        return {plan.rows_of(group), row_dim,    out_stride, queries + group * padded_rows * row_dim,
                max + slot,          sum + slot, out + slot * out_stride, visible + worker * padded_rows};
    }
};

/// One item: a group's rows over one range of tokens, block by block.
template <class Arch, Compute A, Storage C>
void attend_range(const RowGroup<A>& group, const LatentView<C>& cache, Index begin, Index end, A* staged, A* scores) noexcept {
    clear<Arch>(group);
    const Index last = std::min(end, group.visible[group.rows - 1]);
    for (Index t = begin; t < last; t += block_tokens) {
        const Index count = std::min(block_tokens, last - t);
        const StagedRows<A> rows = stage<Arch, A>(cache, t, count, staged);
        attend_block<Arch>(group, Block<A>{rows.data, rows.stride, rows.data, rows.stride, cache.latent_dim, t, count}, scores);
    }
}

/// Merges the partial results of `splits` states, `step` rows apart, for one row, in order, into out [dim] and lse.
/// A row that saw no key gets output 0 and LSE −inf.
template <Compute A>
void merge_row(const A* max, const A* sum, const A* partial, Index splits, Index step, Index partial_stride, Index dim, A* out,
               A* lse) noexcept {
    SoftmaxState<A> total;
    for (Index s = 0; s < splits; ++s) total = merge(total, SoftmaxState<A>{max[s * step], sum[s * step]});
    std::fill_n(out, dim, A(0));
    // A sum that is NaN is not equal to 0 either: a poisoned row must not pass for an empty one.
    if (total.sum != A(0)) {
        for (Index s = 0; s < splits; ++s) {
            const A weight = SoftmaxState<A>{max[s * step], A(0)}.weight(total.max) / total.sum;
            const A* from = partial + s * step * partial_stride;
            for (Index c = 0; c < dim; ++c) out[c] += weight * from[c];
        }
    }
    if (lse != nullptr) *lse = total.lse();
}

template <Compute A, Storage C>
void check_absorbed(const HeadsView<const A>& q, const LatentView<C>& cache, A scale, const HeadsView<A>& out,
                    const MatrixView<A>& lse, const AbsorbedPlan& plan) {
    validate(cache);
    require_equal("q.dim", q.dim, "cache.latent_dim + cache.rope_dim", cache.row_dim());
    require_equal("out.dim", out.dim, "cache.latent_dim", cache.latent_dim);
    check_attention(q, scale, out, lse);
    require_equal("plan.rows", plan.rows, "q.tokens * q.heads", q.tokens * q.heads);
    require_equal("plan.keys", plan.keys, "cache.length", cache.length);
    require_at_least("plan.group_rows", plan.group_rows, Index{1});
    require(plan.split_keys > 0 && plan.split_keys % block_tokens == 0, "plan.split_keys", plan.split_keys,
            "a positive multiple of 96");
}

}  // namespace detail

/// Bytes of workspace that `decode_absorbed` needs for this plan; the same for any number of keys.
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] std::size_t absorbed_workspace_bytes(const AbsorbedPlan& plan, Index latent_dim, Index rope_dim, Index concurrency) {
    Arena counter;
    static_cast<void>(detail::AbsorbedScratch<Arch, A>::carve(counter, plan, latent_dim, latent_dim + rope_dim, concurrency));
    return counter.bytes();
}

/// out[t, h] = softmax(scale · q[t, h] · rows) · latents under the bottom-right causal mask: of L cached tokens, query t of T
/// sees 0 … L−T+t. A query that sees none gets output 0 and LSE −inf.
///
/// q [T, H, Dc+Dr]: absorbed query W_UKᵀ q_nope, then the rotated q_pe. cache: L rows [latent | rope key]; the queries' own
/// tokens are its last. out [T, H, Dc]: still latent, to be multiplied by W_UV. lse [T, H] natural logarithm, or an empty view.
/// out and lse do not overlap the inputs. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <class Arch = simd::DefaultArch, Compute A, Storage C>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, LatentView<C> cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor, const AbsorbedPlan& plan) {
    detail::check_absorbed<A>(q, cache, scale, out, lse, plan);
    if (plan.rows == 0) return;
    const Index row_dim = cache.row_dim();
    const auto scratch = workspace.carve([&](Arena& arena) {
        return detail::AbsorbedScratch<Arch, A>::carve(arena, plan, cache.latent_dim, row_dim, executor.concurrency());
    });
    const auto query = [&](Index row) { return q.at(row / q.heads, row % q.heads); };

    for_each_item(executor, plan.groups(), [&](Index group, Index) {
        detail::pack_queries<Arch, A>(
            plan.rows_of(group), row_dim, scale, [&](Index r) { return query(group * plan.group_rows + r); },
            scratch.queries + group * scratch.padded_rows * row_dim);
    });
    for_each_item(executor, plan.items(), [&](Index item, Index worker) {
        const Index group = item / plan.splits();
        const Index split = item % plan.splits();
        const auto rows = scratch.item(plan, group, split, row_dim, worker);
        detail::set_causal<Arch>(rows, group * plan.group_rows, q.heads, q.tokens, cache.length);
        detail::attend_range<Arch>(rows, cache, split * plan.split_keys, std::min((split + 1) * plan.split_keys, cache.length),
                                   scratch.blocks + worker * scratch.staged,
                                   scratch.scores + worker * detail::block_tokens * detail::AttentionTile<Arch, A>::panel_rows);
    });
    for_each_item(executor, plan.rows, [&](Index row, Index) {
        const Index slot = row / plan.group_rows * plan.splits() * scratch.padded_rows + row % plan.group_rows;
        const Index token = row / q.heads;
        const Index head = row % q.heads;
        detail::merge_row(scratch.max + slot, scratch.sum + slot, scratch.out + slot * scratch.out_stride, plan.splits(),
                          scratch.padded_rows, scratch.out_stride, cache.latent_dim, out.at(token, head),
                          lse.data == nullptr ? nullptr : &lse(token, head));
    });
}

/// As above, with the plan of `plan_absorbed`.
template <class Arch = simd::DefaultArch, Compute A, Storage C>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, LatentView<C> cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor) {
    require_at_least("q.heads", q.heads, Index{1});
    decode_absorbed<Arch>(q, cache, scale, out, lse, workspace, executor, plan_absorbed(q.tokens, q.heads, cache.length));
}

}  // namespace mla
