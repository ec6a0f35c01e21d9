// The work of a call, cut for the threads: segments of rows that attend to one range of keys, each cut by a plan into items; and
// what they have in common.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <tuple>

#include "mla/kernels/partial_results.hpp"
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
    bool one_range = false;  ///< whether keys are never cut, however many there are, nor groups of rows
    KeyTree tree;
    Index item_splits = 1;  ///< ranges of keys that an item has, a power of two

    // Where its data starts among all segments'.
    Index first_item = 0;
    Index first_state = 0;  ///< in rows
    Index first_query_byte = 0;
    Index first_merged = 0;  ///< of the rows that are merged

    /// Items of a group.
    [[nodiscard]] Index parts() const noexcept { return divide_up(plan.splits, item_splits); }
};

/// The rows of one head over all keys, in the expanded form.
[[nodiscard]] inline Segment head_segment(const ExpandedPlan& plan, Index head, Index keys) noexcept {
    Segment segment;
    segment.plan.rows = plan.queries;
    segment.plan.group_rows = plan.group_queries;
    segment.plan.keys = keys;
    segment.source = head;
    segment.first_head = head;
    segment.visible = keys - plan.queries + 1;
    segment.one_range = true;
    return segment;
}

/// Results of ranges of keys that a worker has at a time beside the first, when it merges as it goes: one of each power of two.
[[nodiscard]] constexpr Index merge_levels(Index splits) noexcept {
    return static_cast<Index>(std::bit_width(static_cast<std::size_t>(std::max<Index>(splits, 1) - 1)));
}

/// Whether the busiest of some workers would do a seventh more than its part of so many equal items.
[[nodiscard]] constexpr bool uneven(Index items, Index workers) noexcept {
    return items > 0 && divide_up(items, workers) * workers > items + items / 7;
}

/// What the segments of a call add up to, and how they are shared out among its workers. Segments whose groups are one item each,
/// in a call without a prefix, have no part in what is merged: a worker finishes their rows where it computes them.
template <Compute A>
class SegmentTotals {
  public:
    Index lanes = 1;      ///< rows in a vector of the target
    Index depth = 0;      ///< values of a query
    Index workers = 1;    ///< that may run at a time
    bool prefix = false;  ///< whether all rows attend to a shared prefix too
    Index segments = 0;
    Index items = 0;
    Index merged = 0;     ///< rows that are merged
    Index slot_rows = 0;  ///< of the largest group

    [[nodiscard]] Index states() const noexcept { return states_; }            ///< rows of partial results
    [[nodiscard]] Index query_bytes() const noexcept { return query_bytes_; }  ///< of groups that several items share

    [[nodiscard]] Index padded(Index rows) const noexcept { return padded_rows(rows, lanes); }

    /// Whether a segment's rows are finished by the worker that computes them.
    [[nodiscard]] bool alone(const Segment& segment) const noexcept { return segment.parts() == 1 && !prefix; }

    /// Packed queries of a group.
    [[nodiscard]] Index slot_bytes(Index rows) const noexcept {
        return round_up(rows * query_elements(depth) * static_cast<Index>(sizeof(A)), static_cast<Index>(scratch_alignment));
    }

    /// Gives the segment its place behind those before it.
    void place(Segment& segment) noexcept {
        const SplitPlan& plan = segment.plan;
        const Index slot = padded(plan.group_rows);
        segment.first_item = items;
        segment.first_state = states_;
        segment.first_query_byte = query_bytes_;
        segment.first_merged = merged;
        ++segments;
        items += plan.groups() * segment.parts();
        cost_ += cost_of(segment);
        ranges_ += plan.groups() * plan.splits;
        slot_rows = std::max(slot_rows, slot);
        level_rows_ = std::max(level_rows_, merge_levels(most_splits(segment)) * slot);
        groups_ += plan.groups();
        if (most_splits(segment) > 1 || prefix) {
            merged_slot_ = std::max(merged_slot_, slot);
            group_rows_ += plan.groups() * slot;
            range_rows_ += plan.groups() * slot * most_splits(segment);
            group_bytes_ += plan.groups() * slot_bytes(slot);
        }
        if (alone(segment)) return;
        states_ += plan.groups() * segment.parts() * slot;
        query_bytes_ += plan.groups() * slot_bytes(slot);
        merged += plan.rows;
    }

    /// Cuts a segment into items for the workers, `this` being what all segments add up to before that: each gets its share of
    /// about eight items a worker. Where there are too few ranges of keys to keep workers even, groups of rows are cut too, which
    /// changes no row's bits.
    void share_out(Segment& segment) const noexcept {
        SplitPlan& plan = segment.plan;
        segment.item_splits = static_cast<Index>(std::bit_ceil(static_cast<std::size_t>(plan.splits)));
        if (workers == 1 || segment.one_range) return;
        plan.group_rows = cut_rows(plan);
        const double share = cost_ > 0.0 ? cost_of(segment) / cost_ : 0.0;
        const double parts = share * static_cast<double>(wanted_items()) / static_cast<double>(std::max<Index>(plan.groups(), 1));
        while (segment.item_splits > 1 && static_cast<double>(divide_up(plan.splits, segment.item_splits / 2)) <= parts)
            segment.item_splits /= 2;
    }

    // What there must be room for, however the segments are shared out and however many keys they have: up to wanted_items()
    // parts beside one of each group; and where groups are cut, fewer than fourteen a worker more, whose rows with their padding
    // come to less than twice as many.

    [[nodiscard]] Index most_items() const noexcept { return 2 * groups_ + 3 * wanted_items(); }
    [[nodiscard]] Index most_states() const noexcept {
        return merges() ? 2 * std::min(range_rows_, group_rows_ + wanted_items() * merged_slot_ / 2) : 0;
    }
    [[nodiscard]] Index most_query_bytes() const noexcept { return merges() ? 2 * group_bytes_ : 0; }
    /// Rows of results that a worker keeps beside those of an item.
    [[nodiscard]] Index level_rows() const noexcept { return level_rows_; }

    /// At least what `place` adds up to for any division of `queries` queries of `heads` heads among `requests` requests, and,
    /// with `prefix`, for a segment of all rows besides.
    ///
    /// A request of n rows in a single group rounds n up to whole vectors; more groups are of at least 65 rows, all but the last
    /// filled, and take at most 3·n. With more rows than all items that are wanted its keys are not cut.
    [[nodiscard]] static SegmentTotals bound(SegmentTotals total, Index requests, Index queries, Index heads) noexcept {
        const Index rows = queries * heads;
        const Index group = plan_splits(std::max<Index>(queries, 1), heads, 0).group_rows;
        total.slot_rows = total.padded(group);
        for (Index r = 1; r <= group; ++r)
            total.level_rows_ = std::max(total.level_rows_, merge_levels(plan_splits(1, r, 0).wanted_splits()) * total.padded(r));
        total.merged_slot_ = total.slot_rows;
        constexpr Index most_cut = 3 * SplitPlan::wanted_items * SplitPlan::item_rows;
        const auto add = [&](Index count) {  // `count` requests share all rows
            const Index groups = count + std::max<Index>(rows - 1, 0) / group;
            Index padded = std::min(3 * rows + count * total.padded(1), groups * total.slot_rows);
            if (!total.prefix) padded = std::min(padded, count * most_cut);
            total.segments += count;
            total.groups_ += groups;
            total.group_rows_ += padded;
            total.range_rows_ += padded * SplitPlan::wanted_items;
            total.group_bytes_ += padded * query_elements(total.depth) * static_cast<Index>(sizeof(A)) +
                                  groups * static_cast<Index>(scratch_alignment);
        };
        add(requests);
        if (total.prefix) add(1);
        return total;
    }

  private:
    /// Items that a call of any size is to have.
    [[nodiscard]] Index wanted_items() const noexcept { return workers == 1 ? 1 : 8 * workers; }
    [[nodiscard]] bool merges() const noexcept { return workers > 1 || prefix; }
    [[nodiscard]] static double cost_of(const Segment& segment) noexcept {
        return static_cast<double>(segment.plan.rows) * static_cast<double>(segment.plan.keys);
    }
    /// Ranges that a plan of as many rows over any number of keys may have.
    [[nodiscard]] static Index most_splits(const Segment& segment) noexcept {
        return segment.one_range ? 1 : segment.plan.most_splits();
    }
    /// Rows of groups, cut into halves until all items are even: down to `item_rows`, or to a vector where half of the workers
    /// had nothing else to do. None but those that were are few, which are summed in another order.
    [[nodiscard]] Index cut_rows(const SplitPlan& plan) const noexcept {
        Index pieces = 1;
        const Index vector = std::max(lanes, 2 * few_rows);
        const auto least = [&] { return 2 * ranges_ * pieces <= workers ? vector : SplitPlan::item_rows; };
        while (plan.group_rows >= 2 * pieces * least() && uneven(ranges_ * pieces, workers)) pieces *= 2;
        const auto last = [&](Index group_rows) { return plan.rows - (divide_up(plan.rows, group_rows) - 1) * group_rows; };
        Index rows = round_up(divide_up(plan.group_rows, pieces), vector);
        while (rows < plan.group_rows && std::min(last(rows), last(plan.group_rows)) <= few_rows &&
               last(rows) != last(plan.group_rows))
            rows += vector;
        return std::min(rows, plan.group_rows);
    }

    Index states_ = 0;
    Index query_bytes_ = 0;
    double cost_ = 0.0;
    Index ranges_ = 0;
    Index level_rows_ = 0;
    Index groups_ = 0;
    // Of segments that may be merged:
    Index merged_slot_ = 0;
    Index group_rows_ = 0;   ///< with their padding
    Index range_rows_ = 0;   ///< as many for each range of keys
    Index group_bytes_ = 0;  ///< of their packed queries
};

/// A piece of work: one group of a segment's rows over some neighbouring ranges of its keys.
struct WorkItem {
    Index segment = 0;
    Index group = 0;
    Index part = 0;
    Index cost = 0;
};

/// Items [segment][group][part], the most expensive first, so that no worker starts on a long one when the others are done.
inline void list_items(const Segment* segments, Index count, WorkItem* items) noexcept {
    WorkItem* item = items;
    for (Index s = 0; s < count; ++s) {
        const SplitPlan& plan = segments[s].plan;
        const Index most = segments[s].item_splits;
        for (Index group = 0; group < plan.groups(); ++group)
            for (Index part = 0; part < segments[s].parts(); ++part) {
                const Index end = std::min((part + 1) * most, plan.splits);
                const Index keys = plan.split_begin(end) - plan.split_begin(part * most);
                *item++ = {s, group, part, plan.rows_of(group) * keys};
            }
    }
    std::sort(items, item, [](const WorkItem& a, const WorkItem& b) {
        if (a.cost != b.cost) return a.cost > b.cost;
        return std::tie(a.segment, a.group, a.part) < std::tie(b.segment, b.group, b.part);
    });
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

    /// Of some of the tokens.
    [[nodiscard]] CallView token_range(Index begin, Index count) const noexcept {
        CallView some = *this;
        some.q = q.token_range(begin, count);
        some.out = out.token_range(begin, count);
        if (lse.data != nullptr) some.lse = lse.row_range(begin, count);
        return some;
    }
};

/// Writes the outputs of row `row` of a segment from its whole state.
template <Compute A>
void finish_row(const States<A>& whole, const CallView<A>& call, const Segment& segment, Index row) noexcept {
    const Index token = segment.first_query + row / segment.heads;
    const Index head = segment.first_head + row % segment.heads;
    const A sink = call.sinks == nullptr ? -std::numeric_limits<A>::infinity() : call.sinks[head];
    write_output(whole, sink, call.out.dim, call.out.at(token, head),
                 call.lse.data == nullptr ? nullptr : &call.lse(token, head));
}

/// How a share of a group's queries is packed, every `shares`-th panel.
template <Compute A>
[[nodiscard]] abi::PackQueries<A> queries_of(const CallView<A>& call, const Segment& segment, const RowGroup<A>& rows,
                                             Index share, Index shares) noexcept {
    return {.group = &rows,
            .latent_dim = call.out.dim,
            .scale = call.scale,
            .queries = call.q.data,
            .token_stride = call.q.token_stride,
            .head_stride = call.q.head_stride,
            .first_query = segment.first_query,
            .first_head = segment.first_head,
            .share = share,
            .share_count = shares};
}

}  // namespace mla::inline MLA_ISA::detail
