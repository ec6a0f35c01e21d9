// Runs the segments of a call: packs queries, lets workers take items, walks over the blocks of each, and merges partial results
// in the order of the keys. Every form of attention is this, over a block source of its own.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>

#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/attention_kernels.hpp"
#include "mla/kernels/block_source.hpp"
#include "mla/kernels/partial_results.hpp"
#include "mla/kernels/segment.hpp"

namespace mla::inline MLA_ISA::detail {

/// What a worker has for itself: room for a group of rows that it finishes, for ranges of keys that it merges, and for a block.
template <Compute A>
struct WorkerScratch {
    std::byte* queries = nullptr;
    A* factors = nullptr;
    States<A> own;     ///< of an item that is alone
    States<A> levels;  ///< of ranges of keys that are still to be merged
    Index* visible = nullptr;
    A* staged = nullptr;
    A* scores = nullptr;

    static WorkerScratch carve(Arena& arena, const SegmentTotals<A>& totals, Index out_stride, Index staged) {
        const Index rows = totals.slot_rows;
        WorkerScratch s;
        s.queries = arena.take<std::byte>(totals.slot_bytes(rows));
        s.factors = arena.take<A>(rows);
        s.own = States<A>::carve(arena, rows, out_stride);
        s.levels = States<A>::carve(arena, totals.level_rows(), out_stride);
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
    Index out_dim = 0;
    Index out_stride = 0;
    Index staged = 0;        ///< elements of a worker's staged block
    Index worker_bytes = 0;  ///< from worker to worker
    Segment* segments = nullptr;
    WorkItem* items = nullptr;
    std::byte* queries = nullptr;
    A* factors = nullptr;
    States<A> states;  ///< partial results
    std::byte* workers = nullptr;

    static SplitScratch carve(Arena& arena, const SegmentTotals<A>& totals, Index out_dim, Index staged, Index workers) {
        SplitScratch s;
        s.totals = totals;
        s.out_dim = out_dim;
        s.out_stride = round_up(out_dim, totals.lanes);
        s.staged = staged;
        s.segments = arena.take<Segment>(totals.segments);
        s.items = arena.take<WorkItem>(totals.most_items());
        s.queries = arena.take<std::byte>(totals.most_query_bytes());
        s.factors = arena.take<A>(totals.most_states());
        s.states = States<A>::carve(arena, totals.most_states(), s.out_stride);
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

/// The partial results of one row: one for each item of its group.
template <Compute A>
[[nodiscard]] Partials partials_of(const SplitScratch<A>& scratch, const Segment& segment, Index row) noexcept {
    const SplitPlan& plan = segment.plan;
    const Index slot = scratch.totals.padded(plan.group_rows);
    return {segment.first_state + row / plan.group_rows * segment.parts() * slot + row % plan.group_rows, segment.parts(), slot};
}

/// Merges row `row` of a segment into the outputs.
template <Compute A>
void merge_row(const SplitScratch<A>& scratch, const CallView<A>& call, const Segment& segment, Index row) noexcept {
    const States<A>& states = scratch.states;
    const Partials own = partials_of(scratch, segment, row);
    merge_partials(states, own, call.out.dim);
    if (call.prefix == nullptr) return finish_row(states.from(own.first), call, segment, row);
    const Partials before = partials_of(scratch, *call.prefix, segment.first_query * segment.heads + row);
    merge_partials(states, before, call.out.dim);
    merge_states(states.from(before.first), states.from(own.first), 1, call.out.dim);
    finish_row(states.from(before.first), call, segment, row);
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
    source.pack(queries_of(call, segment, rows, share, shares));
}

/// Range `split` of a segment's keys.
[[nodiscard]] inline KeyRange keys_of(const Segment& segment, Index split) noexcept {
    return {segment.source, segment.begin + segment.plan.split_begin(split), segment.begin + segment.plan.split_begin(split + 1)};
}

/// The ranges of an item.
[[nodiscard]] inline Index first_split(const Segment& segment, const WorkItem& work) noexcept {
    return work.part * segment.item_splits;
}
[[nodiscard]] inline Index last_split(const Segment& segment, const WorkItem& work) noexcept {
    return std::min(first_split(segment, work) + segment.item_splits, segment.plan.splits) - 1;
}

/// What worker `worker` needs to attend with the rows of an item, but for its keys and where their states go.
template <Compute A>
[[nodiscard]] SplitItem<A> start_item(const SplitScratch<A>& scratch, const WorkerScratch<A>& own, const Segment& segment,
                                      Index group) noexcept {
    SplitItem<A> item;
    item.rows = group_of(scratch, segment, group);
    if (scratch.totals.alone(segment)) {
        item.rows.queries = own.queries;
        item.rows.factors = own.factors;
    }
    item.rows.visible = own.visible;
    set_visible(item.rows, scratch.totals.padded(item.rows.rows), segment.visible, segment.visible_step);
    item.staged = own.staged;
    item.scores = own.scores;
    return item;
}

/// Lets an item attend to its keys, block by block, from a clear state.
template <Compute A>
void walk_blocks(const SplitItem<A>& item, const BlockSource<A>& source, Index padded) noexcept {
    clear(item.rows, padded);
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

/// Lets the rows of an item attend to its ranges of keys, the first of which may have been fetched, and merges what they give
/// into `result`: two neighbours, then two pairs, as soon as there are. `following`: what the worker will most likely attend to
/// next.
template <Compute A>
void walk_ranges(SplitItem<A> item, const Segment& segment, const WorkItem& work, const KeyRange& following,
                 const SplitScratch<A>& scratch, const States<A>& result, const States<A>& levels,
                 const BlockSource<A>& source) noexcept {
    RowGroup<A>& rows = item.rows;
    const Index padded = scratch.totals.padded(rows.rows);
    const Index first = first_split(segment, work);
    const Index last = last_split(segment, work);
    const Index visible = rows.visible[rows.rows - 1];
    Index level = 0;
    const auto state = [&](Index at) { return at == 0 ? result : levels.from((at - 1) * padded); };
    const auto merge_top = [&] {
        --level;
        merge_states(state(level - 1), state(level), rows.rows, scratch.out_dim);
    };
    for (Index split = first; split <= last; ++split) {
        const States<A> to = state(level++);
        rows.max = to.max;
        rows.sum = to.sum;
        rows.out = to.out;
        item.keys = keys_of(segment, split);
        item.keys.end = std::min(item.keys.end, visible);
        item.following = split < last ? keys_of(segment, split + 1) : following;
        walk_blocks(item, source, padded);
        item.fetched = true;
        for (Index done = split - first + 1; done % 2 == 0; done /= 2) merge_top();
    }
    while (level > 1) merge_top();
}

/// One item: the worker's own where it is alone, else a partial result. With as many workers as `workers`, the one that takes it
/// takes the item as many places further next.
template <Compute A>
void compute_item(const SplitScratch<A>& scratch, const CallView<A>& call, const BlockSource<A>& source, Index index,
                  Index worker, Index workers) noexcept {
    const WorkItem& work = scratch.items[index];
    const Segment& segment = scratch.segments[work.segment];
    const WorkerScratch<A> own = scratch.worker(worker);
    const bool alone = scratch.totals.alone(segment);
    SplitItem<A> item = start_item(scratch, own, segment, work.group);
    item.fetched = index >= workers;
    if (alone) pack_share(source, call, segment, item.rows, 0, 1);
    KeyRange following;
    if (index + workers < scratch.totals.items) {
        const WorkItem& next = scratch.items[index + workers];
        const Segment& its = scratch.segments[next.segment];
        following = keys_of(its, first_split(its, next));
    }
    const Partials parts = partials_of(scratch, segment, item.rows.first_row);
    const States<A> result = alone ? own.own : scratch.states.from(parts.first + work.part * parts.step);
    walk_ranges(item, segment, work, following, scratch, result, own.levels, source);
    if (!alone) return;
    for (Index r = 0; r < item.rows.rows; ++r) finish_row(result.from(r), call, segment, item.rows.first_row + r);
}

/// Computes the segments over a source and writes the outputs. A prefix is the last segment.
template <Compute A>
void run_segments(const SplitScratch<A>& scratch, const CallView<A>& call, ExecutorRef executor,
                  const BlockSource<A>& source) noexcept {
    const SegmentTotals<A>& totals = scratch.totals;
    list_items(scratch.segments, totals.segments, scratch.items);
    for_each_item(executor, totals.merged == 0 ? 0 : totals.items, [&](Index index, Index) {
        const WorkItem& work = scratch.items[index];
        const Segment& segment = scratch.segments[work.segment];
        if (totals.alone(segment)) return;
        pack_share(source, call, segment, group_of(scratch, segment, work.group), work.part, segment.parts());
    });
    const Index workers = std::max<Index>(executor.concurrency(), 1);
    for_each_item(executor, totals.items, [&](Index index, Index worker) {
        source.run_item([&] { compute_item(scratch, call, source, index, worker, workers); });
    });

    const Index owners = totals.segments - (call.prefix == nullptr ? 0 : 1);
    const Index merged = call.prefix == nullptr ? totals.merged : call.prefix->first_merged;
    for_each_item(executor, merged, [&](Index index, Index) {
        const Segment* const after = std::upper_bound(scratch.segments, scratch.segments + owners, index,
                                                      [](Index row, const Segment& s) { return row < s.first_merged; });
        merge_row(scratch, call, after[-1], index - after[-1].first_merged);
    });
}

/// Places what `segment(i)` gives for i in [0, count) and runs it; with `prefix` the last is that of all rows.
template <Compute A>
void run_call(Index count, bool prefix, CallView<A> call, Workspace& workspace, ExecutorRef executor,
              const BlockSource<A>& source, FunctionRef<Segment(Index)> segment) {
    SegmentTotals<A> shared;
    shared.lanes = tile_shape<A>().lanes;
    shared.depth = call.q.dim;
    shared.workers = std::max<Index>(executor.concurrency(), 1);
    shared.prefix = prefix;
    SegmentTotals<A> totals = shared;
    for (Index i = 0; i < count; ++i) {
        Segment whole = segment(i);
        totals.place(whole);
    }
    auto scratch = workspace.carve([&](Arena& arena) {
        return SplitScratch<A>::carve(arena, totals, call.out.dim, source.staged_elements(), shared.workers);
    });
    for (Index i = 0; i < count; ++i) {
        Segment placed = segment(i);
        totals.share_out(placed);
        shared.place(placed);
        scratch.segments[i] = placed;
    }
    scratch.totals.items = shared.items;
    scratch.totals.merged = shared.merged;
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
