// Runs the segments of a call: packs queries, lets workers take items, walks over the blocks of each, and merges partial results
// in the order of the keys. Every form of attention is this, over a block source of its own.
#pragma once

#include <cmath>
#include <numbers>
#include <span>

#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/attention_kernels.hpp"
#include "mla/kernels/block_source.hpp"
#include "mla/kernels/segment.hpp"
#include "mla/math/softmax_state.hpp"

namespace mla::inline MLA_ISA::detail {

/// What a worker has for itself: room for a group of rows that it finishes, and for a block.
template <Compute A>
struct WorkerScratch {
    std::byte* queries = nullptr;
    A* factors = nullptr;
    A* max = nullptr;
    A* sum = nullptr;
    A* out = nullptr;
    Index* visible = nullptr;
    A* staged = nullptr;
    A* scores = nullptr;

    static WorkerScratch carve(Arena& arena, const SegmentTotals<A>& totals, Index out_stride, Index staged) {
        const Index rows = totals.slot_rows;
        WorkerScratch s;
        s.queries = arena.take<std::byte>(totals.slot_bytes(rows));
        s.factors = arena.take<A>(rows);
        s.max = arena.take<A>(rows);
        s.sum = arena.take<A>(rows);
        s.out = arena.take<A>(rows * out_stride);
        s.visible = arena.take<Index>(rows);
        s.staged = arena.take<A>(staged);
        s.scores = arena.take<A>(score_elements(rows, totals.lanes));
        return s;
    }
};

/// Scratch of one call: what all items share, and each worker's own.
template <Compute A>
struct SplitScratch {
    SegmentTotals<A> totals;
    Index out_stride = 0;
    Index staged = 0;        ///< elements of a worker's staged block
    Index worker_bytes = 0;  ///< from worker to worker
    Segment* segments = nullptr;
    WorkItem* items = nullptr;
    std::byte* queries = nullptr;
    A* factors = nullptr;
    A* max = nullptr;
    A* sum = nullptr;
    A* out = nullptr;
    std::byte* workers = nullptr;

    static SplitScratch carve(Arena& arena, const SegmentTotals<A>& totals, Index out_dim, Index staged, Index workers) {
        SplitScratch s;
        s.totals = totals;
        s.out_stride = round_up(out_dim, totals.lanes);
        s.staged = staged;
        s.segments = arena.take<Segment>(totals.segments);
        s.items = arena.take<WorkItem>(totals.most_items());
        s.queries = arena.take<std::byte>(totals.query_bytes);
        s.factors = arena.take<A>(totals.state_rows);
        s.max = arena.take<A>(totals.state_rows);
        s.sum = arena.take<A>(totals.state_rows);
        s.out = arena.take<A>(totals.state_rows * s.out_stride);
        Arena counter;
        static_cast<void>(WorkerScratch<A>::carve(counter, totals, s.out_stride, staged));
        s.worker_bytes = static_cast<Index>(counter.bytes());
        s.workers = arena.take<std::byte>(workers * s.worker_bytes);
        return s;
    }

    [[nodiscard]] WorkerScratch<A> worker(Index index) const noexcept {
        Arena arena(workers + index * worker_bytes);
        return WorkerScratch<A>::carve(arena, totals, out_stride, staged);
    }
    [[nodiscard]] std::byte* packed_queries(const Segment& segment, Index group) const noexcept {
        return queries + segment.first_query_byte + group * totals.slot_bytes(totals.padded(segment.plan.group_rows));
    }
};

/// Bytes of workspace of a call whose segments add up to `totals`.
template <Compute A>
[[nodiscard]] std::size_t split_workspace_bytes(const SegmentTotals<A>& totals, Index out_dim, Index staged, Index concurrency) {
    Arena counter;
    static_cast<void>(SplitScratch<A>::carve(counter, totals, out_dim, staged, concurrency));
    return counter.bytes();
}

/// Where the partial results of one row lie: one for each range of keys, `step` rows apart.
struct Partials {
    Index first = 0;
    Index count = 0;
    Index step = 0;
};

template <Compute A>
[[nodiscard]] Partials partials_of(const SplitScratch<A>& scratch, const Segment& segment, Index row) noexcept {
    const SplitPlan& plan = segment.plan;
    const Index slot = scratch.totals.padded(plan.group_rows);
    return {segment.first_state + row / plan.group_rows * plan.splits * slot + row % plan.group_rows, plan.splits, slot};
}

/// Rows of partial results: a maximum, a sum and an output each.
template <Compute A>
struct States {
    const A* max;
    const A* sum;
    const A* out;
    Index out_stride;
};

/// Merges the partial results of one row, in order, into out [dim] and lse (when not null). A row that saw no key gets output 0
/// and LSE −inf. `sink` is the logit of a key without a value, −inf for none; it is no part of the LSE.
template <Compute A>
void merge_row(const States<A>& states, std::span<const Partials> parts, A sink, Index dim, A* out, A* lse) noexcept {
    SoftmaxState<A> total;
    for (const Partials& part : parts)
        for (Index i = 0; i < part.count; ++i) {
            const Index state = part.first + i * part.step;
            total = merge(total, SoftmaxState<A>{states.max[state], states.sum[state]});
        }
    std::fill_n(out, dim, A(0));
    // A sum that is NaN is not equal to 0 either: a poisoned row must not pass for an empty one.
    if (total.sum != A(0)) {
        const A sum = total.sum + std::exp2(sink * std::numbers::log2e_v<A> - total.max);
        for (const Partials& part : parts)
            for (Index i = 0; i < part.count; ++i) {
                const Index state = part.first + i * part.step;
                const A weight = SoftmaxState<A>{states.max[state], A(0)}.weight(total.max) / sum;
                const A* from = states.out + state * states.out_stride;
                for (Index c = 0; c < dim; ++c) out[c] += weight * from[c];
            }
    }
    if (lse != nullptr) *lse = total.lse();
}

/// What a call computes, beside its segments.
template <Compute A>
struct CallView {
    HeadsView<const A> q;
    A scale;
    HeadsView<A> out;
    MatrixView<A> lse;
    const A* sinks = nullptr;         ///< [H], or null
    const Segment* prefix = nullptr;  ///< of all rows: their partial results come before a segment's own
};

/// Merges row `row` of a segment into the outputs.
template <Compute A>
void finish_row(const States<A>& states, const CallView<A>& call, const Segment& segment, Index row,
                std::span<const Partials> parts) noexcept {
    const Index token = segment.first_query + row / segment.heads;
    const Index head = segment.first_head + row % segment.heads;
    const A sink = call.sinks == nullptr ? -std::numeric_limits<A>::infinity() : call.sinks[head];
    merge_row(states, parts, sink, call.out.dim, call.out.at(token, head),
              call.lse.data == nullptr ? nullptr : &call.lse(token, head));
}

/// Merges rows [chunk·merge_rows, …) of a segment into the outputs.
template <Compute A>
void merge_chunk(const SplitScratch<A>& scratch, const CallView<A>& call, const Segment& segment, Index chunk) noexcept {
    const Index end = std::min((chunk + 1) * merge_rows, segment.plan.rows);
    for (Index row = chunk * merge_rows; row < end; ++row) {
        Partials parts[2];
        std::size_t count = 0;
        if (call.prefix != nullptr)
            parts[count++] = partials_of(scratch, *call.prefix, segment.first_query * segment.heads + row);
        parts[count++] = partials_of(scratch, segment, row);
        finish_row<A>({scratch.max, scratch.sum, scratch.out, scratch.out_stride}, call, segment, row, {parts, count});
    }
}

/// The rows of one group, with their queries' place.
template <Compute A>
[[nodiscard]] RowGroup<A> group_of(const SplitScratch<A>& scratch, const Segment& segment, Index group) noexcept {
    const SplitPlan& plan = segment.plan;
    RowGroup<A> rows{};
    rows.rows = plan.rows_of(group);
    rows.depth = scratch.totals.depth;
    rows.out_stride = scratch.out_stride;
    rows.queries = scratch.packed_queries(segment, group);
    rows.factors = scratch.factors + partials_of(scratch, segment, group * plan.group_rows).first;
    rows.tree = segment.tree.visible.data;
    rows.tree_stride = segment.tree.visible.stride;
    rows.tree_begin = segment.tree.begin;
    rows.first_row = group * plan.group_rows;
    rows.heads = segment.heads;
    return rows;
}

/// Packs a share of a group's queries, every `shares`-th panel.
template <Compute A>
void pack_share(const BlockSource<A>& source, const CallView<A>& call, const Segment& segment, const RowGroup<A>& rows,
                Index share, Index shares) noexcept {
    source.pack({.group = &rows,
                 .latent_dim = call.out.dim,
                 .scale = call.scale,
                 .queries = call.q.data,
                 .token_stride = call.q.token_stride,
                 .head_stride = call.q.head_stride,
                 .first_query = segment.first_query,
                 .first_head = segment.first_head,
                 .share = share,
                 .share_count = shares});
}

template <Compute A>
[[nodiscard]] KeyRange keys_of(const SplitScratch<A>& scratch, const WorkItem& work) noexcept {
    const Segment& segment = scratch.segments[work.segment];
    return {segment.source, segment.begin + segment.plan.split_begin(work.split),
            segment.begin + segment.plan.split_begin(work.split + 1)};
}

/// Item `index` as its source wants it, its running state cleared. With as many workers as `workers`, the one that takes it takes
/// the item as many places further next.
template <Compute A>
[[nodiscard]] SplitItem<A> start_item(const SplitScratch<A>& scratch, const WorkerScratch<A>& own, Index index,
                                      Index workers) noexcept {
    const WorkItem& work = scratch.items[index];
    const Segment& segment = scratch.segments[work.segment];
    const SplitPlan& plan = segment.plan;
    SplitItem<A> item;
    item.rows = group_of(scratch, segment, work.group);
    RowGroup<A>& rows = item.rows;
    if (scratch.totals.alone(segment)) {
        rows.queries = own.queries;
        rows.factors = own.factors;
        rows.max = own.max;
        rows.sum = own.sum;
        rows.out = own.out;
    } else {
        const Partials parts = partials_of(scratch, segment, work.group * plan.group_rows);
        const Index state = parts.first + work.split * parts.step;
        rows.max = scratch.max + state;
        rows.sum = scratch.sum + state;
        rows.out = scratch.out + state * scratch.out_stride;
    }
    rows.visible = own.visible;
    const Index padded = scratch.totals.padded(rows.rows);
    set_visible(rows, padded, segment.visible, segment.visible_step);
    clear(rows, padded);
    item.keys = keys_of(scratch, work);
    item.keys.end = std::min(item.keys.end, rows.visible[rows.rows - 1]);
    item.fetched = index >= workers;
    if (index + workers < scratch.totals.items) item.following = keys_of(scratch, scratch.items[index + workers]);
    item.staged = own.staged;
    item.scores = own.scores;
    return item;
}

/// Lets an item attend to its keys, block by block.
template <Compute A>
void walk_blocks(const SplitItem<A>& item, const BlockSource<A>& source) noexcept {
    BlockRows lists[2];
    BlockRows* rows = &lists[0];
    BlockRows* next = &lists[1];
    source.list(item.keys, *rows);
    for (KeyRange rest = item.keys; rest.begin < rest.end; std::swap(rows, next)) {
        const Index begin = rest.begin;
        rest.begin += rows->size();
        next->clear();
        source.list(rest.begin < rest.end ? rest : item.following, *next);
        next->cover(*rows);
        source.attend(item, *rows, begin, *next);
    }
}

/// One item: the worker's own where it is alone, else a partial result.
template <Compute A>
void compute_item(const SplitScratch<A>& scratch, const CallView<A>& call, const BlockSource<A>& source, Index index,
                  Index worker, Index workers) noexcept {
    const WorkItem& work = scratch.items[index];
    const Segment& segment = scratch.segments[work.segment];
    const WorkerScratch<A> own = scratch.worker(worker);
    const SplitItem<A> item = start_item(scratch, own, index, workers);
    const bool alone = scratch.totals.alone(segment);
    if (alone) pack_share(source, call, segment, item.rows, 0, 1);
    walk_blocks(item, source);
    if (!alone) return;
    for (Index r = 0; r < item.rows.rows; ++r) {
        const Partials only{r, 1, 0};
        finish_row<A>({own.max, own.sum, own.out, scratch.out_stride}, call, segment, item.rows.first_row + r, {&only, 1});
    }
}

/// Computes the segments over a source and writes the outputs. A prefix is the last segment.
template <Compute A>
void run_segments(const SplitScratch<A>& scratch, const CallView<A>& call, ExecutorRef executor,
                  const BlockSource<A>& source) noexcept {
    const SegmentTotals<A>& totals = scratch.totals;
    list_items(scratch.segments, totals.segments, scratch.items);
    for_each_item(executor, totals.chunks == 0 ? 0 : totals.items, [&](Index index, Index) {
        const WorkItem& work = scratch.items[index];
        const Segment& segment = scratch.segments[work.segment];
        if (totals.alone(segment)) return;
        pack_share(source, call, segment, group_of(scratch, segment, work.group), work.split, segment.plan.splits);
    });
    const Index workers = std::max<Index>(executor.concurrency(), 1);
    for_each_item(executor, totals.items,
                  [&](Index index, Index worker) { compute_item(scratch, call, source, index, worker, workers); });

    const Index owners = totals.segments - (call.prefix == nullptr ? 0 : 1);
    const Index chunks = call.prefix == nullptr ? totals.chunks : call.prefix->first_chunk;
    for_each_item(executor, chunks, [&](Index index, Index) {
        const Segment* const after = std::upper_bound(scratch.segments, scratch.segments + owners, index,
                                                      [](Index chunk, const Segment& s) { return chunk < s.first_chunk; });
        merge_chunk(scratch, call, after[-1], index - after[-1].first_chunk);
    });
}

/// Places what `segment(i)` gives for i in [0, count) and runs it; with `prefix` the last is that of all rows.
template <Compute A>
void run_call(Index count, bool prefix, CallView<A> call, Workspace& workspace, ExecutorRef executor,
              const BlockSource<A>& source, FunctionRef<Segment(Index)> segment) {
    SegmentTotals<A> totals;
    totals.lanes = tile_shape<A>().lanes;
    totals.depth = call.q.dim;
    totals.prefix = prefix;
    SegmentTotals<A> again = totals;
    for (Index i = 0; i < count; ++i) {
        Segment placed = segment(i);
        totals.place(placed);
    }
    const auto scratch = workspace.carve([&](Arena& arena) {
        return SplitScratch<A>::carve(arena, totals, call.out.dim, source.staged_elements(), executor.concurrency());
    });
    for (Index i = 0; i < count; ++i) {
        Segment placed = segment(i);
        again.place(placed);
        scratch.segments[i] = placed;
    }
    if (prefix) call.prefix = scratch.segments + count - 1;
    run_segments(scratch, call, executor, source);
}

/// Checks a caller's plan of `rows` rows over `keys` keys.
inline void check_plan(const SplitPlan& plan, Index streams, Index rows, Index keys) {
    validate(plan);
    require_equal("plan.streams", plan.streams, "key-value heads", streams);
    require_equal("plan.rows", plan.rows, "q.tokens * heads of a stream", rows);
    require_equal("plan.keys", plan.keys, "cache.length", keys);
}

}  // namespace mla::inline MLA_ISA::detail
