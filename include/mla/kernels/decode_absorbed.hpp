// Absorbed attention: multi-query attention on the latents themselves (DeepSeek-V2, section 2.1.2).
#pragma once

#include "mla/kernels/batch.hpp"
#include "mla/kernels/driver.hpp"
#include "mla/kernels/latent_blocks.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

/// One request, by a plan.
template <Compute A>
void decode_planned(const TokenRows& cache, const abi::AttentionKernels<A>& kernels, const CallView<A>& call,
                    Workspace& workspace, ExecutorRef executor, const SplitPlan& plan) {
    const HeadsView<const A>& q = call.q;
    require_equal("q.dim", q.dim, "cache.latent_dim + cache.rope_dim", cache.row_dim());
    require_equal("out.dim", call.out.dim, "cache.latent_dim", cache.latent_dim);
    check_attention(q, call.scale, call.out, call.lse);
    check_plan(plan, 1, q.tokens * q.heads, cache.length);
    if (plan.rows == 0) return;
    const auto list = [&](const KeyRange& range, RowList<std::byte>& rows) {
        list_rows(cache, range.begin, range.block(), rows);
    };
    const auto segment = [&](Index) {
        Segment only = request_segment(0, 0, q.tokens, q.heads, 0, cache.length, {});
        only.plan = plan;
        return only;
    };
    run_call(1, false, call, workspace, executor, LatentBlocks<A>(kernels, cache.latent_dim, cache.rope_dim, list), segment);
}

/// A batch, whose caches are valid each by itself.
template <Compute A>
void decode_batch(const BatchRows& caches, const abi::AttentionKernels<A>& kernels, std::span<const std::int32_t> query_begin,
                  CallView<A> call, Workspace& workspace, ExecutorRef executor, const BatchOptions<A>& options) {
    const HeadsView<const A>& q = call.q;
    check_batch(q, caches, query_begin, options);
    check_attention(q, call.scale, call.out, call.lse);
    if (q.tokens == 0) return;
    const auto requests = static_cast<Index>(caches.size());
    require_equal("out.dim", call.out.dim, "cache.latent_dim", caches[0].latent_dim);
    const bool prefix = options.shared_prefix > 0;
    const auto segment = [&](Index r) {
        if (options.sliding_window > 0) return window_segment(caches, query_begin, r, q.heads, options.sliding_window);
        if (r == requests) return prefix_segment(q.tokens, q.heads, options.shared_prefix);
        const auto request = static_cast<std::size_t>(r);
        const Index first = query_begin[request];
        const Index queries = query_begin[request + 1] - first;
        const Index length = caches[request].length;
        // A request without queries may be shorter than the prefix.
        const Index begin = std::min(options.shared_prefix, length);
        return request_segment(r, first, queries, q.heads, begin, length, tree_of(options, request, length));
    };
    const auto list = [&](const KeyRange& range, RowList<std::byte>& rows) {
        list_rows(caches[static_cast<std::size_t>(range.source)], range.begin, range.block(), rows);
    };
    if (!options.sinks.empty()) call.sinks = options.sinks.data();
    const Index segments = options.sliding_window > 0 ? q.tokens : requests + (prefix ? 1 : 0);
    run_call(segments, prefix, call, workspace, executor,
             LatentBlocks<A>(kernels, caches[0].latent_dim, caches[0].rope_dim, list), segment);
}

}  // namespace detail

/// Bytes of workspace that `decode_absorbed` needs for one request and this plan; the same for any number of keys.
/// @throws std::invalid_argument when the plan is out of range
template <Compute A>
[[nodiscard]] std::size_t absorbed_workspace_bytes(const SplitPlan& plan, Index latent_dim, Index rope_dim, Index concurrency) {
    validate(plan);
    detail::SegmentTotals<A> totals;
    totals.lanes = detail::tile_shape<A>().lanes;
    totals.depth = latent_dim + rope_dim;
    totals.workers = concurrency;
    detail::Segment segment;
    segment.plan = plan;
    totals.place(segment);
    return detail::split_workspace_bytes(totals, latent_dim, detail::staged_blocks<A>(totals.depth), concurrency);
}

/// Bytes of workspace that suffice for any batch within the limits, whatever its lengths and however its queries are divided.
template <Compute A>
[[nodiscard]] std::size_t absorbed_workspace_bytes(const BatchLimits& limits, Index heads, Index latent_dim, Index rope_dim,
                                                   Index concurrency) {
    detail::SegmentTotals<A> totals;
    totals.lanes = detail::tile_shape<A>().lanes;
    totals.depth = latent_dim + rope_dim;
    totals.workers = concurrency;
    totals.prefix = limits.shared_prefix;
    totals = detail::SegmentTotals<A>::bound(totals, limits.requests, limits.queries, heads);
    return detail::split_workspace_bytes(totals, latent_dim, detail::staged_blocks<A>(latent_dim + rope_dim), concurrency);
}

/// out[t, h] = softmax(scale · q[t, h] · rows) · latents under the bottom-right causal mask: of L cached tokens, query t of T
/// sees 0 … L−T+t. A query that sees none gets output 0 and LSE −inf.
///
/// q [T, H, Dc+Dr]: absorbed query W_UKᵀ q_nope, then the rotated q_pe. cache: L rows [latent | rope key], contiguous or in
/// pages; the queries' own tokens are its last. out [T, H, Dc]: still latent, to be multiplied by W_UV. lse [T, H] natural
/// logarithm, or an empty view. out and lse do not overlap the inputs. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <Compute A, LatentSource View>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, View cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor, const SplitPlan& plan,
                     Precision precision = Precision::operand) {
    validate(cache);
    detail::decode_planned<A>(detail::token_rows(cache), detail::attention_kernels<A, typename View::Element>(precision),
                              {q, scale, out, lse}, workspace, executor, plan);
}

/// As above, with the plan of `plan_absorbed`.
template <Compute A, LatentSource View>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, View cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor,
                     Precision precision = Precision::operand) {
    require_at_least("q.heads", q.heads, Index{1});
    decode_absorbed(q, cache, scale, out, lse, workspace, executor, plan_absorbed(q.tokens, q.heads, cache.length), precision);
}

/// A batch of requests in one call, each as `decode_absorbed` computes it alone, to the bit unless they share a prefix: prefill,
/// decode and speculative rows mixed, requests without queries or without tokens included.
///
/// q, out [T, H, …], lse [T, H] hold the queries of all requests, those of request r from query_begin[r] to query_begin[r + 1]
/// (query_begin [R + 1], from 0 to T). caches: indexable by request, see `LatentBatch`.
/// @throws std::invalid_argument when sizes, offsets, indices or options do not fit, std::length_error when a caller's workspace
/// is too small
template <Compute A, LatentBatch Batch>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, const Batch& caches, std::span<const std::int32_t> query_begin,
                     std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse,
                     Workspace& workspace, ExecutorRef executor, const std::type_identity_t<BatchOptions<A>>& options = {}) {
    detail::validate_batch(caches);
    detail::decode_batch<A>(detail::BatchRows(caches),
                            detail::attention_kernels<A, typename batch_view_t<Batch>::Element>(options.precision), query_begin,
                            {q, scale, out, lse}, workspace, executor, options);
}

}  // namespace mla::inline MLA_ISA
