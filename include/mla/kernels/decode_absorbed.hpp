// Absorbed attention: multi-query attention on the latents themselves (DeepSeek-V2, section 2.1.2).
#pragma once

#include <utility>

#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/split_attention.hpp"

namespace mla {
namespace detail {

/// Elements that a worker stages latents in: pieces of a block, or, for few rows, all of it.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index staged_latents(Index row_dim) noexcept {
    return std::max(PieceBuffers<Arch, A>::elements, staged_elements<A>(row_dim));
}

/// A block of latents copied to rows of the type computed in.
template <class Arch, Compute A, CacheElement C>
[[nodiscard]] Block<A> copy_latents(const SplitItem<A>& item, const RowList<C>& rows, const RowFormat<C>& format,
                                    Index begin) noexcept {
    const auto copies =
        copy_rows(rows, format.values(), item.staged, [&](const C* row, A* target) { format.template read<Arch>(row, target); });
    return {copies, copies, format.latent_dim, begin};
}

/// Lets few rows attend to one block: to its rows where they lie, or to copies. Fetches `next` meanwhile.
template <class Arch, Compute A, CacheElement C>
void attend_few_latents(const SplitItem<A>& item, const RowList<C>& rows, const RowFormat<C>& format, Index begin,
                        const RowList<C>& next) noexcept {
    if constexpr (Storage<C>) {
        if (few_in_place<Arch, A, C>(format.values(), format.latent_dim))
            return attend_few<Arch>(item.rows, Block<C>{rows, rows, format.latent_dim, begin}, item.scores, next, next);
    }
    attend_few<Arch>(item.rows, copy_latents<Arch>(item, rows, format, begin), item.scores, next, next);
}

/// Whether a block of C is converted once for keys and values, and not for each by pieces that stay in L1: scaled values are dear
/// to convert, and vectors of AVX2 twice as many (bf16, 16 heads: 5 % dearer by pieces there, 9 % cheaper with AVX-512).
template <class Arch, Compute A, CacheElement C>
inline constexpr bool converts_whole_blocks =
    std::is_same_v<Unit<Arch, A, C>, A> && !std::is_same_v<C, A> && (Quantised<C> || !AttentionTile<Arch, A>::many_registers);

/// A block of latents as more rows attend to it.
template <class Arch, Compute A, CacheElement C>
using LatentBlock = std::conditional_t<converts_whole_blocks<Arch, A, C>, Block<A>, CachedBlock<Arch, Unit<Arch, A, C>, A, C>>;

/// The same for more rows.
template <class Arch, Compute A, CacheElement C>
void attend_many_latents(const SplitItem<A>& item, const RowList<C>& rows, const RowFormat<C>& format, Index begin,
                         const simd::Prefetch& next) noexcept {
    if constexpr (converts_whole_blocks<Arch, A, C>) {
        attend_block<Arch>(item.rows, copy_latents<Arch>(item, rows, format, begin), item.scores, next);
    } else {
        const PieceBuffers<Arch, A> buffers(item.staged);
        attend_block<Arch>(item.rows, LatentBlock<Arch, A, C>(rows, rows, format, begin, buffers), item.scores, next);
    }
}

/// One item: rows over a range of cached tokens, block by block. A token's latent is the first part of its key and its value.
/// `view(source)`: the cache of a source.
template <class Arch, Compute A, class C, class View>
void attend_latents(const SplitItem<A>& item, const RowFormat<C>& format, View view) noexcept {
    const auto list = [&](const KeyRange& keys) {
        return list_rows(view(keys.source), keys.begin, std::clamp<Index>(keys.end - keys.begin, 0, block_tokens));
    };
    auto rows = list(item.keys);
    for (KeyRange rest = item.keys; rest.begin < rest.end;) {
        const Index begin = std::exchange(rest.begin, rest.begin + rows.size());
        auto next = list(rest.begin < rest.end ? rest : item.following);
        if (item.rows.few()) {
            next.cover(rows);
            attend_few_latents<Arch>(item, rows, format, begin, next);
        } else {
            const Index steps =
                prefetch_steps<Arch, A, LatentBlock<Arch, A, C>>(item.rows.rows, rows.size(), format.values(), format.latent_dim);
            // Of a block that no item has fetched the rest is fetched while the first keys are scored.
            const bool fetched = item.fetched || begin > item.keys.begin;
            const Index first = fetched ? rows.size() : std::min(rows.size(), scored_tokens);
            attend_many_latents<Arch>(item, rows, format, begin, rows.prefetch(first, next, format.elements(), steps));
        }
        rows = next;
    }
}

/// Request `index` of a batch, or the whole of it: the rows of its queries over its keys from `begin` on.
[[nodiscard]] inline Segment request_segment(Index index, Index first_query, Index queries, Index heads, Index begin,
                                             Index length, const KeyTree& tree) noexcept {
    Segment segment;
    segment.plan = plan_absorbed(queries, heads, length - begin);
    segment.source = index;
    segment.first_query = first_query;
    segment.heads = heads;
    segment.begin = begin;
    segment.visible = tree.empty() ? length - queries + 1 : length;
    segment.visible_step = tree.empty() ? 1 : 0;
    segment.tree = tree;
    return segment;
}

/// All rows over the keys that all requests share, each of which every row sees.
[[nodiscard]] inline Segment prefix_segment(Index queries, Index heads, Index length) noexcept {
    Segment segment = request_segment(0, 0, queries, heads, 0, length, {});
    segment.visible = length;
    segment.visible_step = 0;
    return segment;
}

/// Carves, places what `segment(i)` gives for i in [0, count) and runs it; `view(source)` is the cache of a source.
template <class Arch, class C, Compute A, class MakeSegment, class View>
void run_absorbed(Index count, bool prefix, CallView<A> call, const RowFormat<C>& format, Workspace& workspace,
                  ExecutorRef executor, MakeSegment segment, View view) {
    SegmentTotals<Arch, A> totals;
    totals.depth = format.values();
    for (Index i = 0; i < count; ++i) {
        Segment placed = segment(i);
        totals.place(placed);
    }
    const auto scratch = workspace.carve([&](Arena& arena) {
        return SplitScratch<Arch, A>::carve(arena, totals, format.latent_dim, staged_latents<Arch, A>(format.values()),
                                            executor.concurrency());
    });
    SegmentTotals<Arch, A> again;
    again.depth = totals.depth;
    for (Index i = 0; i < count; ++i) {
        Segment placed = segment(i);
        again.place(placed);
        scratch.segments[i] = placed;
    }
    if (prefix) call.prefix = scratch.segments + count - 1;
    run_segments<Arch, C>(scratch, call, executor, [&](const SplitItem<A>& item) { attend_latents<Arch>(item, format, view); });
}

template <Compute A, LatentSource View>
void check_absorbed(const HeadsView<const A>& q, const View& cache, A scale, const HeadsView<A>& out, const MatrixView<A>& lse) {
    validate(cache);
    require_equal("q.dim", q.dim, "cache.latent_dim + cache.rope_dim", cache.row_dim());
    require_equal("out.dim", out.dim, "cache.latent_dim", cache.latent_dim);
    check_attention(q, scale, out, lse);
}

}  // namespace detail

/// Bytes of workspace that `decode_absorbed` needs for one request and this plan; the same for any number of keys.
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] std::size_t absorbed_workspace_bytes(const SplitPlan& plan, Index latent_dim, Index rope_dim, Index concurrency) {
    detail::SegmentTotals<Arch, A> totals;
    totals.depth = latent_dim + rope_dim;
    detail::Segment segment;
    segment.plan = plan;
    totals.place(segment);
    Arena counter;
    const Index staged = detail::staged_latents<Arch, A>(totals.depth);
    static_cast<void>(detail::SplitScratch<Arch, A>::carve(counter, totals, latent_dim, staged, concurrency));
    return counter.bytes();
}

/// Bytes of workspace that suffice for any batch within the limits, whatever its lengths and however its queries are divided.
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] std::size_t absorbed_workspace_bytes(const BatchLimits& limits, Index heads, Index latent_dim, Index rope_dim,
                                                   Index concurrency) {
    const auto totals = detail::SegmentTotals<Arch, A>::bound(limits.requests, limits.queries, heads, latent_dim + rope_dim,
                                                              limits.shared_prefix);
    Arena counter;
    const Index staged = detail::staged_latents<Arch, A>(latent_dim + rope_dim);
    static_cast<void>(detail::SplitScratch<Arch, A>::carve(counter, totals, latent_dim, staged, concurrency));
    return counter.bytes();
}

/// out[t, h] = softmax(scale · q[t, h] · rows) · latents under the bottom-right causal mask: of L cached tokens, query t of T
/// sees 0 … L−T+t. A query that sees none gets output 0 and LSE −inf.
///
/// q [T, H, Dc+Dr]: absorbed query W_UKᵀ q_nope, then the rotated q_pe. cache: L rows [latent | rope key], contiguous or in
/// pages; the queries' own tokens are its last. out [T, H, Dc]: still latent, to be multiplied by W_UV. lse [T, H] natural
/// logarithm, or an empty view. out and lse do not overlap the inputs. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <class Arch = simd::DefaultArch, Compute A, LatentSource View>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, View cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor, const SplitPlan& plan) {
    using C = typename View::Element;
    detail::check_absorbed<A>(q, cache, scale, out, lse);
    detail::check_plan(plan, 1, q.tokens * q.heads, cache.length);
    if (plan.rows == 0) return;
    const auto segment = [&](Index) {
        auto only = detail::request_segment(0, 0, q.tokens, q.heads, 0, cache.length, {});
        only.plan = plan;
        return only;
    };
    detail::run_absorbed<Arch, C, A>(1, false, {q, scale, out, lse}, {cache.latent_dim, cache.rope_dim}, workspace, executor,
                                     segment, [&](Index) { return cache; });
}

/// As above, with the plan of `plan_absorbed`.
template <class Arch = simd::DefaultArch, Compute A, LatentSource View>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, View cache, std::type_identity_t<A> scale, HeadsView<A> out,
                     std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor) {
    require_at_least("q.heads", q.heads, Index{1});
    decode_absorbed<Arch>(q, cache, scale, out, lse, workspace, executor, plan_absorbed(q.tokens, q.heads, cache.length));
}

/// A batch of requests in one call, each as `decode_absorbed` computes it alone, to the bit unless they share a prefix: prefill,
/// decode and speculative rows mixed, requests without queries or without tokens included.
///
/// q, out [T, H, …], lse [T, H] hold the queries of all requests, those of request r from query_begin[r] to query_begin[r + 1]
/// (query_begin [R + 1], from 0 to T). caches: indexable by request, see `LatentBatch`.
/// @throws std::invalid_argument when sizes, offsets, indices or options do not fit, std::length_error when a caller's workspace
/// is too small
template <class Arch = simd::DefaultArch, Compute A, LatentBatch Batch>
void decode_absorbed(HeadsView<std::type_identity_t<const A>> q, const Batch& caches, std::span<const std::int32_t> query_begin,
                     std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse,
                     Workspace& workspace, ExecutorRef executor, const std::type_identity_t<BatchOptions<A>>& options = {}) {
    using C = typename batch_view_t<Batch>::Element;
    detail::check_batch<A>(q, caches, query_begin, options);
    detail::check_attention(q, scale, out, lse);
    if (q.tokens == 0) return;
    const auto requests = static_cast<Index>(caches.size());
    const RowFormat<C> format{caches[0].latent_dim, caches[0].rope_dim};
    require_equal("out.dim", out.dim, "cache.latent_dim", format.latent_dim);
    const bool prefix = options.shared_prefix > 0;
    const auto segment = [&](Index r) {
        if (r == requests) return detail::prefix_segment(q.tokens, q.heads, options.shared_prefix);
        const auto request = static_cast<std::size_t>(r);
        const Index first = query_begin[request];
        const Index queries = query_begin[request + 1] - first;
        const Index length = caches[request].length;
        // A request without queries may be shorter than the prefix.
        const Index begin = std::min(options.shared_prefix, length);
        return detail::request_segment(r, first, queries, q.heads, begin, length, detail::tree_of(options, request, length));
    };
    const detail::CallView<A> call{q, scale, out, lse, options.sinks.empty() ? nullptr : options.sinks.data()};
    detail::run_absorbed<Arch, C, A>(requests + (prefix ? 1 : 0), prefix, call, format, workspace, executor, segment,
                                     [&](Index source) { return caches[static_cast<std::size_t>(source)]; });
}

}  // namespace mla
