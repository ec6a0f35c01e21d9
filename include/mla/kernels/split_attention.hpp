// Runs the segments of a call: packs queries, lets workers take items, and merges the partial results in the order of the keys.
#pragma once

#include <cmath>
#include <span>

#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/block_attention.hpp"
#include "mla/kernels/few_rows.hpp"
#include "mla/kernels/pack_queries.hpp"
#include "mla/kernels/segment.hpp"
#include "mla/kernels/stage.hpp"
#include "mla/math/softmax_state.hpp"

namespace mla::detail {

/// Scratch of one call: what all items share, and what a worker needs for itself.
template <class Arch, Compute A>
struct SplitScratch {
    SegmentTotals<Arch, A> totals;
    Index out_stride = 0;
    Index staged = 0;  ///< elements of a worker's staged block
    Segment* segments = nullptr;
    WorkItem* items = nullptr;
    std::byte* queries = nullptr;
    A* factors = nullptr;
    A* max = nullptr;
    A* sum = nullptr;
    A* out = nullptr;
    A* blocks = nullptr;
    A* scores = nullptr;
    Index* visible = nullptr;

    static SplitScratch carve(Arena& arena, const SegmentTotals<Arch, A>& totals, Index out_dim, Index staged, Index workers) {
        SplitScratch s;
        s.totals = totals;
        s.out_stride = round_up(out_dim, simd::lanes<Arch, A>);
        s.staged = staged;
        s.segments = arena.take<Segment>(totals.segments);
        s.items = arena.take<WorkItem>(totals.most_items());
        s.queries = arena.take<std::byte>(totals.query_bytes);
        s.factors = arena.take<A>(totals.state_rows);
        s.max = arena.take<A>(totals.state_rows);
        s.sum = arena.take<A>(totals.state_rows);
        s.out = arena.take<A>(totals.state_rows * s.out_stride);
        s.blocks = arena.take<A>(workers * staged);
        s.scores = arena.take<A>(workers * score_elements<Arch, A>(totals.slot_rows));
        s.visible = arena.take<Index>(workers * totals.slot_rows);
        return s;
    }

    [[nodiscard]] std::byte* packed_queries(const Segment& segment, Index group) const noexcept {
        return queries + segment.first_query_byte + group * totals.slot_bytes(padded_rows<Arch, A>(segment.plan.group_rows));
    }
};

/// Keys [begin, end) of a source.
struct KeyRange {
    Index source = 0;
    Index begin = 0;
    Index end = 0;
};

/// A group of rows and what it attends to.
template <Compute A>
struct SplitItem {
    RowGroup<A> rows;
    KeyRange keys;         ///< up to the last that any row may see
    KeyRange following;    ///< what the worker will most likely attend to next, to be fetched meanwhile; perhaps nothing
    bool fetched = false;  ///< whether an item before this one has fetched its first block
    A* staged = nullptr;
    A* scores = nullptr;
};

/// Where the partial results of one row lie: one for each range of keys, `step` rows apart.
struct Partials {
    Index first = 0;
    Index count = 0;
    Index step = 0;
};

template <class Arch, Compute A>
[[nodiscard]] Partials partials_of(const Segment& segment, Index row) noexcept {
    const SplitPlan& plan = segment.plan;
    const Index slot = padded_rows<Arch, A>(plan.group_rows);
    return {segment.first_state + row / plan.group_rows * plan.splits * slot + row % plan.group_rows, plan.splits, slot};
}

/// Merges the partial results of one row, in order, into out [dim] and lse (when not null). A row that saw no key gets output 0
/// and LSE −inf. `sink` is the logit of a key without a value, −inf for none; it is no part of the LSE.
template <class Arch, Compute A>
void merge_row(const SplitScratch<Arch, A>& scratch, std::span<const Partials> parts, A sink, Index dim, A* out,
               A* lse) noexcept {
    SoftmaxState<A> total;
    for (const Partials& part : parts)
        for (Index i = 0; i < part.count; ++i) {
            const Index state = part.first + i * part.step;
            total = merge(total, SoftmaxState<A>{scratch.max[state], scratch.sum[state]});
        }
    std::fill_n(out, dim, A(0));
    // A sum that is NaN is not equal to 0 either: a poisoned row must not pass for an empty one.
    if (total.sum != A(0)) {
        const A sum = total.sum + std::exp(sink - total.max);
        for (const Partials& part : parts)
            for (Index i = 0; i < part.count; ++i) {
                const Index state = part.first + i * part.step;
                const A weight = SoftmaxState<A>{scratch.max[state], A(0)}.weight(total.max) / sum;
                const A* from = scratch.out + state * scratch.out_stride;
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

/// The rows of one group, with their queries' place.
template <class Arch, Compute A>
[[nodiscard]] RowGroup<A> group_of(const SplitScratch<Arch, A>& scratch, const Segment& segment, Index group) noexcept {
    const SplitPlan& plan = segment.plan;
    RowGroup<A> rows;
    rows.rows = plan.rows_of(group);
    rows.depth = scratch.totals.depth;
    rows.out_stride = scratch.out_stride;
    rows.queries = scratch.packed_queries(segment, group);
    rows.factors = scratch.factors + partials_of<Arch, A>(segment, group * plan.group_rows).first;
    rows.tree = segment.tree;
    rows.first_row = group * plan.group_rows;
    rows.heads = segment.heads;
    return rows;
}

/// Packs an item's share of its group's queries for keys of C.
template <class Arch, class C, Compute A>
void pack_share(const SplitScratch<Arch, A>& scratch, const CallView<A>& call, const WorkItem& work) noexcept {
    const Segment& segment = scratch.segments[work.segment];
    const RowGroup<A> rows = group_of(scratch, segment, work.group);
    pack_queries<Arch, Unit<Arch, A, C>, C>(rows, call.out.dim, call.scale, {work.split, segment.plan.splits}, [&](Index r) {
        const Index row = rows.first_row + r;
        return call.q.at(segment.first_query + row / segment.heads, segment.first_head + row % segment.heads);
    });
}

template <class Arch, Compute A>
[[nodiscard]] KeyRange keys_of(const SplitScratch<Arch, A>& scratch, const WorkItem& work) noexcept {
    const Segment& segment = scratch.segments[work.segment];
    return {segment.source, segment.begin + segment.plan.split_begin(work.split),
            segment.begin + segment.plan.split_begin(work.split + 1)};
}

/// Item `index` as its kernel wants it, its running state cleared. With as many workers as `workers`, the one that takes it takes
/// the item as many places further next.
template <class Arch, Compute A>
[[nodiscard]] SplitItem<A> start_item(const SplitScratch<Arch, A>& scratch, Index index, Index worker, Index workers) noexcept {
    const WorkItem& work = scratch.items[index];
    const Segment& segment = scratch.segments[work.segment];
    const SplitPlan& plan = segment.plan;
    const Partials parts = partials_of<Arch, A>(segment, work.group * plan.group_rows);
    const Index state = parts.first + work.split * parts.step;
    SplitItem<A> item;
    item.rows = group_of(scratch, segment, work.group);
    RowGroup<A>& rows = item.rows;
    rows.max = scratch.max + state;
    rows.sum = scratch.sum + state;
    rows.out = scratch.out + state * scratch.out_stride;
    rows.visible = scratch.visible + worker * scratch.totals.slot_rows;
    set_visible<Arch>(rows, segment.visible, segment.visible_step);
    clear<Arch>(rows);
    item.keys = keys_of(scratch, work);
    item.keys.end = std::min(item.keys.end, rows.visible[rows.rows - 1]);
    item.fetched = index >= workers;
    if (index + workers < scratch.totals.items) item.following = keys_of(scratch, scratch.items[index + workers]);
    item.staged = scratch.blocks + worker * scratch.staged;
    item.scores = scratch.scores + worker * score_elements<Arch, A>(scratch.totals.slot_rows);
    return item;
}

/// Merges rows [chunk·merge_rows, …) of a segment into the outputs.
template <class Arch, Compute A>
void merge_chunk(const SplitScratch<Arch, A>& scratch, const CallView<A>& call, const Segment& segment, Index chunk) noexcept {
    const Index end = std::min((chunk + 1) * merge_rows, segment.plan.rows);
    for (Index row = chunk * merge_rows; row < end; ++row) {
        Partials parts[2];
        std::size_t count = 0;
        if (call.prefix != nullptr)
            parts[count++] = partials_of<Arch, A>(*call.prefix, segment.first_query * segment.heads + row);
        parts[count++] = partials_of<Arch, A>(segment, row);
        const Index token = segment.first_query + row / segment.heads;
        const Index head = segment.first_head + row % segment.heads;
        const A sink = call.sinks == nullptr ? -std::numeric_limits<A>::infinity() : call.sinks[head];
        merge_row(scratch, {parts, count}, sink, call.out.dim, call.out.at(token, head),
                  call.lse.data == nullptr ? nullptr : &call.lse(token, head));
    }
}

/// Computes the segments with `attend(item)`, which lets item.rows attend to the item's keys of C, and writes the outputs. A
/// prefix is the last segment.
template <class Arch, class C, Compute A, class Attend>
void run_segments(const SplitScratch<Arch, A>& scratch, const CallView<A>& call, ExecutorRef executor, Attend attend) noexcept {
    const SegmentTotals<Arch, A>& totals = scratch.totals;
    list_items(scratch.segments, totals.segments, scratch.items);
    for_each_item(executor, totals.items,
                  [&](Index index, Index) { pack_share<Arch, C>(scratch, call, scratch.items[index]); });
    const Index workers = std::max<Index>(executor.concurrency(), 1);
    for_each_item(executor, totals.items,
                  [&](Index index, Index worker) { attend(start_item(scratch, index, worker, workers)); });

    const Index owners = totals.segments - (call.prefix == nullptr ? 0 : 1);
    const Index chunks = call.prefix == nullptr ? totals.chunks : call.prefix->first_chunk;
    for_each_item(executor, chunks, [&](Index index, Index) {
        const Segment* const after = std::upper_bound(scratch.segments, scratch.segments + owners, index,
                                                      [](Index chunk, const Segment& s) { return chunk < s.first_chunk; });
        merge_chunk(scratch, call, after[-1], index - after[-1].first_chunk);
    });
}

/// Checks a caller's plan of `rows` rows over `keys` keys.
inline void check_plan(const SplitPlan& plan, Index streams, Index rows, Index keys) {
    require_equal("plan.streams", plan.streams, "key-value heads", streams);
    require_equal("plan.rows", plan.rows, "q.tokens * heads of a stream", rows);
    require_equal("plan.keys", plan.keys, "cache.length", keys);
    require_at_least("plan.group_rows", plan.group_rows, Index{1});
    require_at_least("plan.splits", plan.splits, Index{1});
}

}  // namespace mla::detail
