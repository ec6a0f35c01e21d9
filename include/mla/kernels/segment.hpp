// The work of a call, cut for the threads: segments of rows that attend to one range of keys, each cut by a plan into items.
#pragma once

#include <algorithm>
#include <tuple>

#include "mla/kernels/plan.hpp"
#include "mla/kernels/row_group.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of consecutive queries, row = query·heads + head, that attend to keys [begin, begin + plan.keys) of one source: a
/// request's cache, or one key-value head's. `plan` cuts rows and keys; its streams do not matter here.
struct Segment {
    SplitPlan plan;
    Index source = 0;
    Index first_query = 0;   ///< among all queries of the call
    Index first_head = 0;    ///< among all heads of the call
    Index heads = 1;         ///< rows of a query
    Index begin = 0;         ///< first key
    Index visible = 0;       ///< keys of the source that the first query may see
    Index visible_step = 1;  ///< how many more each further query sees
    bool one_range = false;  ///< whether keys are never cut, however many there are
    KeyTree tree;

    // Where its data starts among all segments'.
    Index first_item = 0;
    Index first_state = 0;  ///< in rows
    Index first_query_byte = 0;
    Index first_chunk = 0;  ///< of the merge
};

/// Rows that are merged at a time.
inline constexpr Index merge_rows = 4;

/// What the segments of a call add up to, for any number of keys. Segments of one range of keys, in a call without a prefix, have
/// no part in what is merged: a worker finishes their rows where it computes them.
template <Compute A>
struct SegmentTotals {
    Index lanes = 1;      ///< rows in a vector of the target
    Index depth = 0;      ///< values of a query
    bool prefix = false;  ///< whether all rows attend to a shared prefix too
    Index segments = 0;
    Index items = 0;
    Index state_rows = 0;
    Index query_bytes = 0;
    Index chunks = 0;
    Index slot_rows = 0;  ///< of the largest group

    /// Values that a packed query may take beside its own: in pairs one each of an odd latent and an odd rope key; few rows lie
    /// in pairs of vectors, below 8 values a row of the slot; in tile registers 16 pairs are the least.
    static constexpr Index padding = 16;

    [[nodiscard]] Index padded(Index rows) const noexcept { return padded_rows(rows, lanes); }

    /// Whether a segment's rows are finished by the worker that computes them.
    [[nodiscard]] bool alone(const Segment& segment) const noexcept { return segment.plan.splits == 1 && !prefix; }

    /// Packed queries of a group.
    [[nodiscard]] Index slot_bytes(Index rows) const noexcept {
        return round_up(rows * (depth + padding) * static_cast<Index>(sizeof(A)), static_cast<Index>(scratch_alignment));
    }

    /// Gives the segment its place behind those before it.
    void place(Segment& segment) noexcept {
        const SplitPlan& plan = segment.plan;
        const Index slot = padded(plan.group_rows);
        segment.first_item = items;
        segment.first_state = state_rows;
        segment.first_query_byte = query_bytes;
        segment.first_chunk = chunks;
        ++segments;
        items += plan.groups() * plan.splits;
        slot_rows = std::max(slot_rows, slot);
        most_items_ += plan.groups() * most_splits(segment);
        if (most_splits(segment) == 1 && !prefix) return;
        state_rows += plan.groups() * most_splits(segment) * slot;
        query_bytes += plan.groups() * slot_bytes(slot);
        if (!alone(segment)) chunks += divide_up(plan.rows, merge_rows);
    }
    /// Items, were there keys without end.
    [[nodiscard]] Index most_items() const noexcept { return most_items_; }

    /// At least what `place` adds up to for any division of `queries` queries of `heads` heads among `requests` requests, and,
    /// with `prefix`, for a segment of all rows besides.
    ///
    /// A request of n rows in g groups has at most 8·g and at most g + 7 pairs of a group and a range of keys. A single group
    /// rounds n up to whole vectors; more groups are of at least 65 rows, all but the last filled, and take at most 3·n.
    [[nodiscard]] static SegmentTotals bound(Index lanes, Index requests, Index queries, Index heads, Index depth,
                                             bool prefix) noexcept {
        SegmentTotals total;
        total.lanes = lanes;
        total.depth = depth;
        total.prefix = prefix;
        const Index rows = queries * heads;
        const Index group = plan_splits(std::max<Index>(queries, 1), heads, 0).group_rows;
        total.slot_rows = total.padded(group);
        const Index least_rounded = total.padded(1);
        const auto add = [&](Index count) {  // `count` requests share all rows
            const Index groups = count + std::max<Index>(rows - 1, 0) / group;
            const Index group_rows = std::min(3 * rows + count * least_rounded, groups * total.slot_rows);
            const Index ranges = std::min(SplitPlan::wanted_items * groups, groups + (SplitPlan::wanted_items - 1) * count);
            total.segments += count;
            total.most_items_ += ranges;
            total.state_rows += std::min(SplitPlan::wanted_items * group_rows,
                                         group_rows + (SplitPlan::wanted_items - 1) * count * total.slot_rows);
            total.query_bytes +=
                group_rows * (depth + padding) * static_cast<Index>(sizeof(A)) + groups * static_cast<Index>(scratch_alignment);
            total.chunks += count + divide_up(rows, merge_rows);
        };
        add(requests);
        if (prefix) add(1);
        return total;
    }

  private:
    /// Ranges that a plan of as many rows over any number of keys may have.
    [[nodiscard]] static Index most_splits(const Segment& segment) noexcept {
        return segment.one_range ? 1 : segment.plan.most_splits();
    }

    Index most_items_ = 0;
};

/// A piece of work: one group of a segment's rows over one range of its keys.
struct WorkItem {
    Index segment = 0;
    Index group = 0;
    Index split = 0;
    Index cost = 0;
};

/// Items [segment][group][split], the most expensive first, so that no worker starts on a long one when the others are done.
inline void list_items(const Segment* segments, Index count, WorkItem* items) noexcept {
    WorkItem* item = items;
    for (Index s = 0; s < count; ++s) {
        const SplitPlan& plan = segments[s].plan;
        for (Index group = 0; group < plan.groups(); ++group)
            for (Index split = 0; split < plan.splits; ++split) {
                const Index keys = plan.split_begin(split + 1) - plan.split_begin(split);
                *item++ = {s, group, split, plan.rows_of(group) * keys};
            }
    }
    std::sort(items, item, [](const WorkItem& a, const WorkItem& b) {
        if (a.cost != b.cost) return a.cost > b.cost;
        return std::tie(a.segment, a.group, a.split) < std::tie(b.segment, b.group, b.split);
    });
}

}  // namespace mla::inline MLA_ISA::detail
