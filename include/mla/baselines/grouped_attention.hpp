// Attention over a KV cache in which a key and a value serve a group of query heads.
#pragma once

#include <utility>

#include "mla/baselines/kv_cache.hpp"
#include "mla/core/executor.hpp"
#include "mla/kernels/split_attention.hpp"

namespace mla::baselines {
namespace detail {

using namespace mla::detail;

/// Elements that a worker stages keys and values in: pieces of a block, or, for few rows, all of it.
template <class Arch, Compute A>
[[nodiscard]] constexpr Index staged_key_values(Index head_dim) noexcept {
    return std::max(PieceBuffers<Arch, A>::elements, 2 * staged_elements<A>(head_dim));
}

/// The rows of one key-value head.
[[nodiscard]] inline Segment stream_segment(const SplitPlan& plan, Index stream, Index heads, Index queries) noexcept {
    Segment segment;
    segment.plan = plan;
    segment.source = stream;
    segment.first_head = stream * heads;
    segment.heads = heads;
    segment.visible = plan.keys - queries + 1;
    return segment;
}

template <class Arch, Compute A>
[[nodiscard]] SplitScratch<Arch, A> carve_grouped(Arena& arena, const SplitPlan& plan, Index head_dim, Index workers) noexcept {
    SegmentTotals<Arch, A> totals;
    totals.depth = head_dim;
    for (Index stream = 0; stream < plan.streams; ++stream) {
        Segment segment = stream_segment(plan, stream, 1, 0);
        totals.place(segment);
    }
    return SplitScratch<Arch, A>::carve(arena, totals, head_dim, staged_key_values<Arch, A>(head_dim), workers);
}

/// One item: the rows of a key-value head over a range of tokens, block by block.
template <class Arch, Compute A, Storage C>
void attend_key_values(const SplitItem<A>& item, const KvView<C>& cache) noexcept {
    using Source = CachedBlock<Arch, Unit<Arch, A, C>, A, C>;
    const Index dim = cache.head_dim;
    const RowFormat<C> format{dim, 0};
    const PieceBuffers<Arch, A> buffers(item.staged);
    const auto list = [&](const C* heads, const KeyRange& range) {
        RowList<C> rows;
        rows.add(heads + range.source * cache.head_stride + range.begin * cache.token_stride, cache.token_stride,
                 std::clamp<Index>(range.end - range.begin, 0, block_tokens));
        return rows;
    };
    auto keys = list(cache.keys, item.keys);
    auto values = list(cache.values, item.keys);
    for (KeyRange rest = item.keys; rest.begin < rest.end;) {
        const Index t = std::exchange(rest.begin, rest.begin + keys.size());
        const KeyRange& after = rest.begin < rest.end ? rest : item.following;
        auto next = list(cache.keys, after);
        auto next_values = list(cache.values, after);
        if (item.rows.few()) {
            next.cover(keys);
            next_values.cover(values);
            if (few_in_place<Arch, A, C>(dim, dim)) {
                // Values are wanted right after their keys, the next keys after those.
                attend_few<Arch>(item.rows, Block<C>{keys, values, dim, t}, item.scores, values, next);
            } else {
                const auto read = [&](const C* row, A* target) { format.template read<Arch>(row, target); };
                const Block<A> copies{copy_rows(keys, dim, item.staged, read),
                                      copy_rows(values, dim, item.staged + staged_elements<A>(dim), read), dim, t};
                attend_few<Arch>(item.rows, copies, item.scores, next, next_values);
            }
        } else {
            const Index steps = prefetch_steps<Arch, A, Source>(item.rows.rows, keys.size(), dim, dim);
            attend_block<Arch>(item.rows, Source(keys, values, format, t, buffers), item.scores,
                               next.prefetch(0, next_values, dim, steps));
        }
        keys = next;
        values = next_values;
    }
}

template <Storage C>
void check_view(const KvView<C>& cache) {
    require_at_least("cache.length", cache.length, Index{0});
    require_at_least("cache.kv_heads", cache.kv_heads, Index{1});
    require_at_least("cache.head_dim", cache.head_dim, Index{1});
    require_at_least("cache.token_stride", cache.token_stride, cache.head_dim);
    require_at_least("cache.head_stride", cache.head_stride, Index{0});
    require((cache.keys != nullptr && cache.values != nullptr) || cache.length == 0, "cache.keys or cache.values", "null",
            "not null when cache.length > 0");
}

}  // namespace detail

/// The plan of grouped attention: every key-value head is a stream of its own.
[[nodiscard]] inline SplitPlan plan_grouped(Index queries, Index heads, Index kv_heads, Index keys) noexcept {
    return plan_splits(queries, heads / kv_heads, keys, kv_heads);
}

/// Bytes of workspace that `grouped_attention` needs for this plan; the same for any number of keys.
template <Compute A, class Arch = simd::DefaultArch>
[[nodiscard]] std::size_t grouped_workspace_bytes(const SplitPlan& plan, Index head_dim, Index concurrency) {
    Arena counter;
    static_cast<void>(detail::carve_grouped<Arch, A>(counter, plan, head_dim, concurrency));
    return counter.bytes();
}

/// out[t, h] = softmax(scale · q[t, h] · keys[h / (H/G)]) · values[h / (H/G)] under the bottom-right causal mask.
/// q, out [T, H, D]; cache: L tokens of G heads, the queries' own tokens last; lse [T, H] natural logarithm, or an empty view.
/// out and lse do not overlap the inputs. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <class Arch = simd::DefaultArch, Compute A, Storage C>
void grouped_attention(HeadsView<std::type_identity_t<const A>> q, KvView<C> cache, std::type_identity_t<A> scale,
                       HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor) {
    detail::check_view(cache);
    detail::check_attention<A>(q, scale, out, lse);
    require_equal("q.dim", q.dim, "cache.head_dim", cache.head_dim);
    require_equal("out.dim", out.dim, "cache.head_dim", cache.head_dim);
    require(q.heads % cache.kv_heads == 0, "q.heads", q.heads, "a multiple of cache.kv_heads");
    if (q.tokens == 0) return;
    const SplitPlan plan = plan_grouped(q.tokens, q.heads, cache.kv_heads, cache.length);
    const auto scratch = workspace.carve(
        [&](Arena& arena) { return detail::carve_grouped<Arch, A>(arena, plan, cache.head_dim, executor.concurrency()); });
    detail::SegmentTotals<Arch, A> totals;
    totals.depth = cache.head_dim;
    for (Index stream = 0; stream < cache.kv_heads; ++stream) {
        detail::Segment segment = detail::stream_segment(plan, stream, q.heads / cache.kv_heads, q.tokens);
        totals.place(segment);
        scratch.segments[stream] = segment;
    }
    detail::run_segments<Arch, C>(scratch, detail::CallView<A>{q, scale, out, lse}, executor,
                                  [&](const detail::SplitItem<A>& item) { detail::attend_key_values<Arch, A>(item, cache); });
}

}  // namespace mla::baselines
