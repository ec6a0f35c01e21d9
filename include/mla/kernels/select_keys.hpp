// The selection of sparse attention: for each query the keys that its indexer scores highest (DeepSeek-V3.2, section 2.1).
#pragma once

#include <algorithm>

#include "mla/core/executor.hpp"
#include "mla/kernels/attention_kernels.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/block_source.hpp"
#include "mla/kernels/merge_keys.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/kernels/run_item.hpp"
#include "mla/kernels/top_keys.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

/// What a worker has for itself.
template <Compute A>
struct SelectionWorker {
    A* staged = nullptr;
    A* scores = nullptr;
    A* index = nullptr;  ///< [block_tokens]: of one block
    Index* visible = nullptr;
    RankedKey<A>* keys = nullptr;

    static SelectionWorker carve(Arena& arena, Index padded, Index head_dim, Index top_k) {
        const abi::TileShape shape = tile_shape<A>();
        SelectionWorker w;
        w.staged = arena.take<A>(shape.piece_values + staged_elements<A>(head_dim));
        w.scores = arena.take<A>(score_elements(padded, shape.lanes));
        w.index = arena.take<A>(block_tokens);
        w.visible = arena.take<Index>(padded);
        w.keys = arena.take<RankedKey<A>>(TopKeys<A>::room(top_k, block_tokens));
        return w;
    }
};

/// How keys are cut among workers, two ranges for each: the result is the same for any number of ranges, so that it may depend on
/// the workers.
struct SelectionPlan {
    Index queries = 0;
    Index ranges = 1;      ///< of the keys of each query
    Index most_items = 0;  ///< of no more queries, where there are several ranges

    SelectionPlan(Index query_count, Index workers) noexcept
        : queries(query_count),
          ranges(workers > 1 ? divide_up(2 * workers, std::max<Index>(query_count, 1)) : 1),
          most_items(workers > 1 ? std::min(query_count + 2 * workers, 4 * workers) : 0) {}

    [[nodiscard]] Index items() const noexcept { return queries * ranges; }

    /// The first of `keys` keys of a range, whole blocks from the last.
    [[nodiscard]] Index begin(Index range, Index keys) const noexcept {
        return std::min(divide_up(keys, block_tokens) * range / ranges * block_tokens, keys);
    }
};

/// Scratch of a call.
template <Compute A>
struct SelectionScratch {
    Index padded = 0;  ///< rows of a query: its heads, in whole vectors
    Index head_dim = 0;
    Index top_k = 0;
    Index query_bytes = 0;
    Index worker_bytes = 0;
    std::byte* queries = nullptr;  ///< packed
    A* factors = nullptr;          ///< [T, padded]
    A* weights = nullptr;          ///< [T, padded]
    OfferedKeys<A> offered;        ///< of several ranges
    std::byte* workers = nullptr;

    static SelectionScratch carve(Arena& arena, const SelectionPlan& plan, Index heads, Index head_dim, Index top_k,
                                  Index concurrency) {
        SelectionScratch s;
        s.padded = round_up(heads, tile_shape<A>().lanes);
        s.head_dim = head_dim;
        s.top_k = top_k;
        s.query_bytes =
            round_up(s.padded * query_elements(head_dim) * static_cast<Index>(sizeof(A)), static_cast<Index>(scratch_alignment));
        s.queries = arena.take<std::byte>(plan.queries * s.query_bytes);
        s.factors = arena.take<A>(plan.queries * s.padded);
        s.weights = arena.take<A>(plan.queries * s.padded);
        s.offered = OfferedKeys<A>::carve(arena, std::min(plan.queries, plan.most_items), plan.most_items, top_k);
        Arena counter;
        static_cast<void>(SelectionWorker<A>::carve(counter, s.padded, head_dim, top_k));
        s.worker_bytes = static_cast<Index>(counter.bytes());
        s.workers = arena.take<std::byte>(std::max<Index>(concurrency, 1) * s.worker_bytes);
        return s;
    }

    [[nodiscard]] SelectionWorker<A> worker(Index index) const {
        Arena arena(workers + index * worker_bytes);
        return SelectionWorker<A>::carve(arena, padded, head_dim, top_k);
    }
    /// The heads of query t as rows of a group.
    [[nodiscard]] RowGroup<A> group(Index t, Index heads) const noexcept {
        RowGroup<A> rows{};
        rows.rows = heads;
        rows.depth = head_dim;
        rows.heads = heads;
        rows.queries = queries + t * query_bytes;
        rows.factors = factors + t * padded;
        return rows;
    }
};

/// Packs query t, and its weights with what its packed heads must be multiplied by.
template <Compute A>
void pack_index_query(const SelectionScratch<A>& s, const abi::IndexKernels<A>& kernels, const HeadsView<const A>& q,
                      const A* head_weights, Index t) noexcept {
    const RowGroup<A> group = s.group(t, q.heads);
    const abi::PackQueries<A> call{.group = &group,
                                   .latent_dim = q.dim,
                                   .scale = A(1),
                                   .queries = q.data,
                                   .token_stride = q.token_stride,
                                   .head_stride = q.head_stride,
                                   .first_query = t,
                                   .first_head = 0,
                                   .share = 0,
                                   .share_count = 1};
    kernels.pack(&call);
    A* const weights = s.weights + t * s.padded;
    std::fill_n(weights, s.padded, A(0));
    for (Index h = 0; h < q.heads; ++h) weights[h] = head_weights[h] * group.factors[h];
}

/// Offers `top` keys [begin, end) of `keys` with their scores for query t.
template <Compute A>
void score_range(const SelectionScratch<A>& s, const abi::IndexKernels<A>& kernels, const SelectionWorker<A>& own,
                 const TokenRows& keys, Index t, Index heads, Index begin, Index end, TopKeys<A>& top) noexcept {
    RowGroup<A> group = s.group(t, heads);
    group.visible = own.visible;
    std::fill_n(own.visible, s.padded, end);
    RowList<std::byte> lists[2];
    RowList<std::byte>* rows = &lists[0];
    RowList<std::byte>* next = &lists[1];
    list_rows(keys, begin, std::min(block_tokens, end - begin), *rows);
    for (bool fetched = false; begin < end; fetched = true, std::swap(rows, next)) {
        const Index count = rows->size();
        next->clear();
        list_rows(keys, begin + count, std::min(block_tokens, end - begin - count), *next);
        next->cover(*rows);
        const abi::ScoreIndex<A> call{.block = {.group = &group,
                                                .keys = rows->data(),
                                                .values = rows->data(),
                                                .tokens = count,
                                                .begin = begin,
                                                .latent_dim = s.head_dim,
                                                .rope_dim = 0,
                                                .fetched = fetched ? count : 0,
                                                .next_keys = next->data(),
                                                .next_values = next->data(),
                                                .next_tokens = next->size(),
                                                .staged = own.staged,
                                                .scores = own.scores},
                                      .weights = s.weights + t * s.padded,
                                      .index = own.index};
        kernels.score(&call);
        top.offer(own.index, begin, count);
        begin += count;
    }
}

/// A row of the selection: keys in ascending order, −1 behind them.
template <Compute A>
void write_selection(std::span<const RankedKey<A>> best, MatrixView<std::int32_t> selection, Index t) noexcept {
    std::int32_t* end = selection.row(t);
    for (const RankedKey<A>& key : best) *end++ = key.token;
    std::fill(end, selection.row(t) + selection.cols, -1);
}

/// Of a query that sees no more keys than are wanted.
inline void select_all(Index keys, MatrixView<std::int32_t> selection, Index t) noexcept {
    for (Index i = 0; i < selection.cols; ++i) selection(t, i) = i < keys ? static_cast<std::int32_t>(i) : -1;
}

/// Merges what ranges have offered to the queries that see more keys than are wanted.
template <Compute A>
void merge_ranges(const SelectionPlan& plan, const OfferedKeys<A>& offered, const MatrixView<std::int32_t>& selection,
                  ExecutorRef executor, FunctionRef<Index(Index)> visible) noexcept {
    const auto chooses = [&](Index t) { return visible(t) > selection.cols; };
    Index none = 0;
    while (none < plan.queries && !chooses(none)) ++none;
    if (none == plan.queries) return;
    const auto each_range = [&](FunctionRef<void(Index, Index)> f) {
        for_each_item(executor, plan.items(), [&](Index item, Index) {
            const Index query = item / plan.ranges;
            if (chooses(query)) f(item, query);
        });
    };
    for (int digit = 0; digit < OfferedKeys<A>::digits; ++digit) {
        if (digit > 0) each_range([&](Index item, Index query) { offered.count(item, query, digit); });
        for_each_item(executor, plan.queries, [&](Index query, Index) {
            if (chooses(query)) offered.narrow(query, plan.ranges, digit);
        });
    }
    each_range([&](Index item, Index query) { offered.write(item, query, selection.row(query)); });
}

template <Compute A>
void check_select_keys(const HeadsView<const A>& q, const MatrixView<const A>& head_weights, const BatchRows& index_keys,
                       std::span<const std::int32_t> query_begin, const MatrixView<std::int32_t>& selection) {
    check_batch<A>(q, index_keys, query_begin, {});
    for (std::size_t r = 0; r < index_keys.size(); ++r)
        require_in_range("index_keys length", index_keys[r].length, Index{0}, max_slots);
    require_at_least("q.heads", q.heads, Index{1});
    require_equal("head_weights.rows", head_weights.rows, "q.tokens", q.tokens);
    require_equal("head_weights.cols", head_weights.cols, "q.heads", q.heads);
    require_at_least("head_weights.stride", head_weights.stride, head_weights.cols);
    require_equal("selection.rows", selection.rows, "q.tokens", q.tokens);
    require_at_least("selection.cols", selection.cols, Index{1});
    require_at_least("selection.stride", selection.stride, selection.cols);
}

/// `select_keys` of keys that are valid each by themselves, of which query t sees the first visible(t) of its request.
template <Compute A>
void select_visible_keys(const HeadsView<const A>& q, const MatrixView<const A>& head_weights, const BatchRows& index_keys,
                         const abi::IndexKernels<A>& kernels, std::span<const std::int32_t> query_begin,
                         const MatrixView<std::int32_t>& selection, Workspace& workspace, ExecutorRef executor,
                         FunctionRef<Index(Index)> visible) {
    check_select_keys<A>(q, head_weights, index_keys, query_begin, selection);
    if (q.tokens == 0) return;
    const SelectionPlan plan(q.tokens, executor.concurrency());
    const Index top_k = selection.cols;
    const auto s = workspace.carve(
        [&](Arena& arena) { return SelectionScratch<A>::carve(arena, plan, q.heads, q.dim, top_k, executor.concurrency()); });
    for_each_item(executor, q.tokens, [&](Index t, Index) { pack_index_query(s, kernels, q, head_weights.row(t), t); });
    for_each_item(executor, plan.items(), [&](Index item, Index worker) {
        const Index t = item / plan.ranges;
        const Index range = item % plan.ranges;
        const Index keys = visible(t);
        if (keys <= top_k) {
            if (range == 0) select_all(keys, selection, t);
            return;
        }
        const SelectionWorker<A> own = s.worker(worker);
        TopKeys<A> top(own.keys, top_k, block_tokens);
        run_item(kernels.run_item, [&] {
            score_range(s, kernels, own, index_keys[request_of(query_begin, t)], t, q.heads, plan.begin(range, keys),
                        plan.begin(range + 1, keys), top);
        });
        const auto best = top.best();
        plan.ranges == 1 ? write_selection(best, selection, t) : s.offered.offer(item, best);
    });
    if (plan.ranges > 1) merge_ranges(plan, s.offered, selection, executor, visible);
}

}  // namespace detail

/// Bytes of workspace that `select_keys` needs for up to `queries` queries over any number of keys.
template <Compute A>
[[nodiscard]] std::size_t selection_workspace_bytes(Index queries, Index heads, Index head_dim, Index top_k, Index concurrency) {
    Arena counter;
    const detail::SelectionPlan plan(queries, concurrency);
    static_cast<void>(detail::SelectionScratch<A>::carve(counter, plan, heads, head_dim, top_k, concurrency));
    return counter.bytes();
}

/// selection[t] = the k = selection.cols keys of largest score that query t may see, or all of them where there are no more:
/// token numbers within the query's request in ascending order, then −1. The score of key s is Σ_h head_weights[t, h] · relu(q[t,
/// h] · key[s]); of equal scores the earlier key is chosen, and one that is NaN before all others. Under the causal mask, bottom
/// right: of L keys, query t of T sees 0 … L−T+t.
///
/// q [T, Hi, Di], head_weights [T, Hi] hold the queries of all requests, those of request r from query_begin[r] to
/// query_begin[r + 1]; index_keys: rows [Di] of each request, the queries' own the last. The same for any executor; takes time
/// linear in the number of keys. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes or offsets do not fit, std::length_error when a caller's workspace is too small
template <Compute A, LatentBatch Batch>
void select_keys(HeadsView<std::type_identity_t<const A>> q, MatrixView<const A> head_weights, const Batch& index_keys,
                 std::span<const std::int32_t> query_begin, MatrixView<std::int32_t> selection, Workspace& workspace,
                 ExecutorRef executor, Precision precision = Precision::operand) {
    detail::validate_batch(index_keys);
    const detail::BatchRows keys(index_keys);
    detail::select_visible_keys<A>(q, head_weights, keys,
                                   detail::index_kernels<A, typename batch_view_t<Batch>::Element>(precision), query_begin,
                                   selection, workspace, executor, [&](Index t) {
                                       const std::size_t request = detail::request_of(query_begin, t);
                                       return std::max<Index>(keys[request].length - (query_begin[request + 1] - t) + 1, 0);
                                   });
}

}  // namespace mla::inline MLA_ISA
