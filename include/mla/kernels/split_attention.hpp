// Runs a split plan: packs queries, lets workers take items, and merges the partial results in the order of the plan.
#pragma once

#include <cmath>

#include "mla/core/executor.hpp"
#include "mla/core/workspace.hpp"
#include "mla/kernels/block_attention.hpp"
#include "mla/kernels/few_rows.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/kernels/stage.hpp"
#include "mla/math/softmax_state.hpp"

namespace mla::detail {

/// Scratch of one call: what all items share, and what a worker needs for itself.
template <class Arch, Compute A>
struct SplitScratch {
    Index slot_rows = 0;  ///< rows of a group's slot
    Index depth = 0;
    Index out_stride = 0;
    Index staged = 0;  ///< elements of a worker's staged block
    std::byte* queries = nullptr;
    A* max = nullptr;
    A* sum = nullptr;
    A* out = nullptr;
    A* blocks = nullptr;
    A* scores = nullptr;
    Index* visible = nullptr;

    static constexpr Index score_elements = block_tokens * std::max(AttentionTile<Arch, A>::panel_rows, few_rows);

    static SplitScratch carve(Arena& arena, const SplitPlan& plan, Index depth, Index out_dim, Index staged, Index workers) {
        SplitScratch s;
        s.slot_rows = padded_rows<Arch, A>(plan.group_rows);
        s.depth = depth;
        s.out_stride = round_up(out_dim, simd::lanes<Arch, A>);
        s.staged = staged;
        const Index groups = plan.streams * plan.groups();
        const Index states = groups * plan.most_splits() * s.slot_rows;
        s.queries = arena.take<std::byte>(groups * s.slot_bytes());
        s.max = arena.take<A>(states);
        s.sum = arena.take<A>(states);
        s.out = arena.take<A>(states * s.out_stride);
        s.blocks = arena.take<A>(workers * staged);
        s.scores = arena.take<A>(workers * score_elements);
        s.visible = arena.take<Index>(workers * s.slot_rows);
        return s;
    }

    /// Packed queries of a group; pairs of bf16 take as much for an odd value more.
    [[nodiscard]] Index slot_bytes() const noexcept { return slot_rows * (depth + 1) * static_cast<Index>(sizeof(A)); }
    [[nodiscard]] std::byte* group_queries(Index group) const noexcept { return queries + group * slot_bytes(); }
};

/// A piece of work: one group of rows over one range of keys.
template <Compute A>
struct SplitItem {
    Index stream = 0;
    RowGroup<A> rows;
    Index begin = 0;  ///< first key
    Index end = 0;    ///< one past the last key that any row may see
    A* staged = nullptr;
    A* scores = nullptr;
};

/// Merges the partial results of `splits` states, `step` rows apart, for one row, in order, into out [dim] and lse.
/// A row that saw no key gets output 0 and LSE −inf.
template <Compute A>
void merge_row(const A* max, const A* sum, const A* partial, Index splits, Index step, Index partial_stride, Index dim, A* out,
               A* lse) noexcept {
    SoftmaxState<A> total;
    for (Index s = 0; s < splits; ++s) total = merge(total, SoftmaxState<A>{max[s * step], sum[s * step]});
    std::fill_n(out, dim, A(0));
    // A sum that is NaN is not equal to 0 either: a poisoned row must not pass for an empty one.
    if (total.sum != A(0)) {
        for (Index s = 0; s < splits; ++s) {
            const A weight = SoftmaxState<A>{max[s * step], A(0)}.weight(total.max) / total.sum;
            const A* from = partial + s * step * partial_stride;
            for (Index c = 0; c < dim; ++c) out[c] += weight * from[c];
        }
    }
    if (lse != nullptr) *lse = total.lse();
}

template <Compute A>
void check_plan(const SplitPlan& plan, Index streams, const HeadsView<const A>& q, Index keys) {
    require_equal("plan.streams", plan.streams, "key-value heads", streams);
    require_equal("plan.rows", plan.rows, "q.tokens * heads of a stream", q.tokens * (q.heads / streams));
    require_equal("plan.keys", plan.keys, "cache.length", keys);
    require_at_least("plan.group_rows", plan.group_rows, Index{1});
    require(plan.split_keys > 0 && plan.split_keys % block_tokens == 0, "plan.split_keys", plan.split_keys,
            "a positive multiple of 96");
}

/// U: the unit that rows of more than a few are multiplied in.
/// Computes every item of the plan with `attend(item)`, which lets item.rows attend to keys [begin, end), and writes out
/// [T, H, dim] and lse [T, H] (or nothing to an empty view). Head h of H belongs to stream h / (H / streams).
template <class Arch, class U, Compute A, class Attend>
void run_plan(const SplitPlan& plan, const SplitScratch<Arch, A>& scratch, const HeadsView<const A>& q, A scale, const HeadsView<A>& out,
              const MatrixView<A>& lse, ExecutorRef executor, Attend attend) noexcept {
    const Index heads = q.heads / plan.streams;
    const Index groups = plan.groups();
    const Index splits = plan.splits();
    const auto placed = [&](Index group) { return place_scale<Arch, U>(plan.rows_of(group), scale); };

    for_each_item(executor, plan.streams * groups, [&](Index slot, Index) {
        const Index stream = slot / groups;
        const Index group = slot % groups;
        const auto query = [&](Index r) {
            const Index row = group * plan.group_rows + r;
            return q.at(row / heads, stream * heads + row % heads);
        };
        pack_queries<Arch, U>(plan.rows_of(group), scratch.depth, placed(group).of_queries, query, scratch.group_queries(slot));
    });

    for_each_item(executor, plan.items(), [&](Index index, Index worker) {
        const Index slot = index / splits;
        const Index group = slot % groups;
        const Index split = index % splits;
        const Index state = index * scratch.slot_rows;
        SplitItem<A> item;
        item.stream = slot / groups;
        item.rows = {plan.rows_of(group), scratch.depth,       scratch.out_stride,   placed(group).of_scores, scratch.group_queries(slot),
                     scratch.max + state, scratch.sum + state, scratch.out + state * scratch.out_stride,
                     scratch.visible + worker * scratch.slot_rows};
        set_causal<Arch>(item.rows, group * plan.group_rows, heads, q.tokens, plan.keys);
        clear<Arch>(item.rows);
        item.begin = split * plan.split_keys;
        item.end = std::min({item.begin + plan.split_keys, plan.keys, item.rows.visible[item.rows.rows - 1]});
        item.staged = scratch.blocks + worker * scratch.staged;
        item.scores = scratch.scores + worker * scratch.score_elements;
        attend(item);
    });

    for_each_item(executor, q.tokens, [&](Index token, Index) {
        for (Index head = 0; head < q.heads; ++head) {
            const Index row = token * heads + head % heads;
            const Index slot = head / heads * groups + row / plan.group_rows;
            const Index state = slot * splits * scratch.slot_rows + row % plan.group_rows;
            merge_row(scratch.max + state, scratch.sum + state, scratch.out + state * scratch.out_stride, splits, scratch.slot_rows,
                      scratch.out_stride, out.dim, out.at(token, head), lse.data == nullptr ? nullptr : &lse(token, head));
        }
    });
}

}  // namespace mla::detail
