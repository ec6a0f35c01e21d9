// Absorbed attention: multi-query attention on the latents themselves (DeepSeek-V2, section 2.1.2).
#pragma once

#include "mla/cache/latent_view.hpp"
#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/split_attention.hpp"

namespace mla {
namespace detail {

/// A worker stages a block of keys, and, for pairs of bf16, one of values.
template <Compute A>
[[nodiscard]] constexpr Index staged_latents(Index row_dim) noexcept {
    return 2 * staged_elements<A>(row_dim);
}

/// One item: rows over a range of cached tokens, block by block. A token's latent is the first part of its key and its value.
template <class Arch, Compute A, Storage C>
void attend_latents(const SplitItem<A>& item, const LatentView<C>& cache) noexcept {
    using U = Unit<Arch, A, C>;
    const Index dim = cache.row_dim();
    const bool few_in_place = item.rows.few() && cache.latent_dim % simd::lanes<Arch, A> == 0;
    const StageBuffer<A> buffer{item.staged, item.staged + (std::is_same_v<U, A> ? 0 : staged_elements<A>(dim))};
    for (Index t = item.begin; t < item.end; t += block_tokens) {
        const Index count = std::min(block_tokens, item.end - t);
        const Index next_count = std::min(block_tokens, item.end - t - count);
        const C* row = cache.row(t);
        const CachedRows<C> rows{row, cache.stride, dim, row, cache.stride, cache.latent_dim};
        if (few_in_place) {
            attend_few<Arch>(item.rows, Block<C>{row, cache.stride, row, cache.stride, cache.latent_dim, t, count}, item.scores, next_count);
        } else if (item.rows.few()) {
            attend_few<Arch>(item.rows, stage<Arch, A>(rows, t, count, buffer), item.scores, 0);
        } else {
            const Index steps = prefetch_steps<Arch, A, U>(item.rows.rows, count, dim);
            attend_block<Arch>(item.rows, stage<Arch, U>(rows, t, count, buffer), item.scores, Prefetch(row + count * cache.stride, row + (count + next_count) * cache.stride, steps));
        }
    }
}

template <Compute A, Storage C>
void check_absorbed(const HeadsView<const A>& q, const LatentView<C>& cache, A scale, const HeadsView<A>& out,
                    const MatrixView<A>& lse, const SplitPlan& plan) {
    validate(cache);
    require_equal("q.dim", q.dim, "cache.latent_dim + cache.rope_dim", cache.row_dim());
    require_equal("out.dim", out.dim, "cache.latent_dim", cache.latent_dim);
    check_attention(q, scale, out, lse);
    check_plan(plan, 1, q, cache.length);
}

}  // namespace detail

/// Bytes of workspace that `decode_absorbed` needs for this plan; the same for any number of keys.
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] std::size_t absorbed_workspace_bytes(const SplitPlan& plan, Index latent_dim, Index rope_dim, Index concurrency) {
    Arena counter;
    const Index row_dim = latent_dim + rope_dim;
    const Index staged = detail::staged_latents<A>(row_dim);
    static_cast<void>(detail::SplitScratch<Arch, A>::carve(counter, plan, row_dim, latent_dim, staged, concurrency));
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
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor, const SplitPlan& plan) {
    detail::check_absorbed<A>(q, cache, scale, out, lse, plan);
    if (plan.rows == 0) return;
    const auto scratch = workspace.carve([&](Arena& arena) {
        return detail::SplitScratch<Arch, A>::carve(arena, plan, cache.row_dim(), cache.latent_dim,
                                                    detail::staged_latents<A>(cache.row_dim()), executor.concurrency());
    });
    detail::run_plan<Arch, detail::Unit<Arch, A, C>>(plan, scratch, q, scale, out, lse, executor,
                              [&](const detail::SplitItem<A>& item) { detail::attend_latents<Arch, A>(item, cache); });
}

/// As above, with the plan of `plan_absorbed`.
template <class Arch = simd::DefaultArch, Compute A, Storage C>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, LatentView<C> cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor) {
    require_at_least("q.heads", q.heads, Index{1});
    decode_absorbed<Arch>(q, cache, scale, out, lse, workspace, executor, plan_absorbed(q.tokens, q.heads, cache.length));
}

}  // namespace mla
