// Expanded attention of fewer heads than keep all workers even: they decompress some blocks of keys together, every head's, then
// attend to them, each with some of a head's queries, and so on. Blocks are those of a worker that takes a head by itself, and
// rows attend to them in the same order: so results have the same bits.
#pragma once

#include <algorithm>

#include "mla/core/executor.hpp"
#include "mla/kernels/attention_kernels.hpp"
#include "mla/kernels/block_source.hpp"
#include "mla/kernels/latent_expansion.hpp"
#include "mla/kernels/segment.hpp"

namespace mla::inline MLA_ISA::detail {

/// How that is shared out.
struct TogetherPlan {
    ExpandedPlan plan;      ///< with groups of queries for all workers
    Index most_blocks = 1;  ///< that are decompressed at a time

    /// About four items a worker, of 64 queries at least: as many take 1.03 times as long each as 128 (Zen 3). No group has few
    /// rows, which are rounded in another way.
    TogetherPlan(const ExpandedPlan& whole, Index workers) noexcept
        : plan(whole), most_blocks(divide_up(2 * workers, whole.heads)) {
        constexpr Index step = 32;
        const Index wanted = divide_up(plan.queries, divide_up(4 * workers, plan.heads));
        plan.group_queries = std::max(round_up(wanted, step), 2 * step);
        const auto last = [this] { return plan.queries - (plan.groups() - 1) * plan.group_queries; };
        while (plan.group_queries < plan.queries && last() <= few_rows) plan.group_queries += step;
        plan.group_queries = std::min(plan.group_queries, plan.queries);
    }

    /// Whether workers should, a group of the plan after the other. A plan of smaller groups than it might have wants less
    /// scratch than this takes.
    [[nodiscard]] static bool pays(const ExpandedPlan& plan, Index workers) noexcept {
        return workers > 1 && plan.group_queries >= std::min(plan.queries, ExpandedPlan::most_group_queries) &&
               uneven(plan.heads, workers);
    }

    [[nodiscard]] Index portions(Index keys) const noexcept { return divide_up(divide_up(keys, block_tokens), most_blocks); }
    /// The first key of a portion, and of portion `portions` the number of keys.
    [[nodiscard]] Index portion_begin(Index portion, Index keys) const noexcept {
        return std::min(divide_up(keys, block_tokens) * portion / portions(keys) * block_tokens, keys);
    }
    [[nodiscard]] Index attending() const noexcept { return plan.heads * plan.groups(); }
    /// Halves of blocks, keys or values, of a portion of `keys`.
    [[nodiscard]] Index decompressing(Index keys) const noexcept { return 2 * plan.heads * divide_up(keys, block_tokens); }
    /// Of item `item` that attends, those that see most keys first.
    [[nodiscard]] Index group(Index item) const noexcept { return plan.groups() - 1 - item / plan.heads; }
    [[nodiscard]] Index head(Index item) const noexcept { return item % plan.heads; }
};

/// Keys and values of a portion, [H, most_blocks · block_tokens], packed queries and states of all rows [H, T], and what each
/// worker has for itself. Grows with T alone, whatever the groups.
template <Compute A>
struct TogetherScratch {
    struct Worker {
        A* latents = nullptr;
        A* scores = nullptr;
        Index* visible = nullptr;
    };

    SegmentTotals<A> sizes;
    Index slot = 0;  ///< rows of a head, with their padding
    std::byte* queries = nullptr;
    A* factors = nullptr;
    States<A> states;
    A* keys = nullptr;
    A* values = nullptr;
    std::byte* workers = nullptr;
    Index worker_bytes = 0;
    Index row_dim = 0;

    static TogetherScratch carve(Arena& arena, const TogetherPlan& shared, Index row_dim, Index key_dim, Index value_dim,
                                 Index workers) {
        TogetherScratch s;
        s.sizes.lanes = tile_shape<A>().lanes;
        s.sizes.depth = key_dim;
        s.slot = s.sizes.padded(shared.plan.queries);
        s.row_dim = row_dim;
        const Index heads = shared.plan.heads;
        s.queries = arena.take<std::byte>(heads * s.sizes.slot_bytes(s.slot));
        s.factors = arena.take<A>(heads * s.slot);
        s.states = States<A>::carve(arena, heads * s.slot, round_up(value_dim, s.sizes.lanes));
        const Index blocks = heads * shared.most_blocks;
        s.keys = arena.take<A>(blocks * staged_elements<A>(key_dim));
        s.values = arena.take<A>(blocks * staged_elements<A>(value_dim));
        Arena counter;
        static_cast<void>(s.carve_worker(counter));
        s.worker_bytes = static_cast<Index>(counter.bytes());
        s.workers = arena.take<std::byte>(workers * s.worker_bytes);
        return s;
    }
    [[nodiscard]] Worker worker(Index index) const noexcept {
        Arena arena(workers + index * worker_bytes);
        return carve_worker(arena);
    }

  private:
    [[nodiscard]] Worker carve_worker(Arena& arena) const noexcept {
        Worker w;
        w.latents = arena.take<A>(staged_elements<A>(row_dim));
        w.scores = arena.take<A>(score_elements(slot, sizes.lanes));
        w.visible = arena.take<Index>(slot);
        return w;
    }
};

template <Compute A>
class ExpandTogether {
  public:
    ExpandTogether(const TogetherPlan& shared, const TogetherScratch<A>& scratch, const LatentExpansion<A>& expansion,
                   const CallView<A>& call)
        : shared_(shared), scratch_(scratch), expansion_(expansion), call_(call) {}

    void run(ExecutorRef executor) const noexcept {
        const Index length = expansion_.cache().length;
        const Index portions = shared_.portions(length);
        for_each_item(executor, shared_.attending(), [&](Index item, Index worker) { start(item, scratch_.worker(worker)); });
        for (Index portion = 0; portion < portions; ++portion) {
            const KeyRange keys{0, shared_.portion_begin(portion, length), shared_.portion_begin(portion + 1, length)};
            for_each_item(executor, shared_.decompressing(keys.end - keys.begin),
                          [&](Index item, Index worker) { decompress(keys, item, scratch_.worker(worker)); });
            for_each_item(executor, shared_.attending(), [&](Index item, Index worker) {
                expansion_.run_item([&] { attend(keys, item, scratch_.worker(worker)); });
            });
        }
        for_each_item(executor, shared_.attending(), [&](Index item, Index worker) { finish(item, scratch_.worker(worker)); });
    }

  private:
    using Worker = typename TogetherScratch<A>::Worker;

    [[nodiscard]] Segment segment(Index item) const noexcept {
        return head_segment(shared_.plan, shared_.head(item), expansion_.cache().length);
    }
    [[nodiscard]] RowGroup<A> rows_of(Index item, const Worker& own) const noexcept {
        const Segment its = segment(item);
        const Index first_row = shared_.group(item) * shared_.plan.group_queries;
        const Index place = shared_.head(item) * scratch_.slot + first_row;
        const States<A> states = scratch_.states.from(place);
        RowGroup<A> rows{};
        rows.rows = its.plan.rows_of(shared_.group(item));
        rows.depth = scratch_.sizes.depth;
        rows.out_stride = states.out_stride;
        rows.queries = scratch_.queries + shared_.head(item) * scratch_.sizes.slot_bytes(scratch_.slot) +
                       scratch_.sizes.slot_bytes(first_row);
        rows.factors = scratch_.factors + place;
        rows.max = states.max;
        rows.sum = states.sum;
        rows.out = states.out;
        rows.visible = own.visible;
        rows.first_row = first_row;
        rows.heads = 1;
        set_visible(rows, scratch_.sizes.padded(rows.rows), its.visible, its.visible_step);
        return rows;
    }
    /// Block `block` of a portion, `tokens` keys and values of a head from key `begin` on.
    [[nodiscard]] abi::AttendExpanded<A> block_of(Index head, Index block, Index begin, Index tokens) const noexcept {
        const Index place = head * shared_.most_blocks + block;
        const Index key_dim = expansion_.key_dim();
        const Index value_dim = expansion_.value_dim();
        return {.group = nullptr,
                .keys = scratch_.keys + place * staged_elements<A>(key_dim),
                .values = scratch_.values + place * staged_elements<A>(value_dim),
                .key_stride = staged_stride<A>(key_dim),
                .value_stride = staged_stride<A>(value_dim),
                .value_dim = value_dim,
                .tokens = tokens,
                .begin = begin,
                .scores = nullptr};
    }

    void start(Index item, const Worker& own) const noexcept {
        const RowGroup<A> rows = rows_of(item, own);
        clear(rows, scratch_.sizes.padded(rows.rows));
        expansion_.pack(queries_of(call_, segment(item), rows, 0, 1));
    }
    void decompress(const KeyRange& keys, Index item, const Worker& own) const noexcept {
        const Index head = item / 2 % shared_.plan.heads;
        const Index block = item / 2 / shared_.plan.heads;
        const KeyRange range{0, keys.begin + block * block_tokens, keys.end};
        RowList<std::byte> listed;
        list_rows(expansion_.cache(), range.begin, range.block(), listed);
        const auto latents = staged_rows(own.latents, listed.size(), scratch_.row_dim);
        expansion_.read(listed, latents);
        RowGroup<A> many{};
        many.rows = shared_.plan.group_queries;
        many.depth = scratch_.sizes.depth;
        abi::AttendExpanded<A> to = block_of(head, block, range.begin, listed.size());
        to.group = &many;
        if (item % 2 == 0) {
            expansion_.decompress_keys(latents, head, staged_rows(to.keys, to.tokens, expansion_.key_dim()));
            to.values = nullptr;
        } else {
            expansion_.decompress_values(latents, head, staged_rows(to.values, to.tokens, to.value_dim));
            to.keys = nullptr;
        }
        expansion_.round(to);
    }
    void attend(const KeyRange& keys, Index item, const Worker& own) const noexcept {
        const RowGroup<A> rows = rows_of(item, own);
        const Index visible = rows.visible[rows.rows - 1];
        KeyRange rest = keys;
        for (Index block = 0; rest.begin < std::min(rest.end, visible); ++block, rest.begin += block_tokens) {
            abi::AttendExpanded<A> of = block_of(shared_.head(item), block, rest.begin, rest.block());
            of.group = &rows;
            of.scores = own.scores;
            expansion_.attend(of);
        }
    }
    void finish(Index item, const Worker& own) const noexcept {
        const RowGroup<A> rows = rows_of(item, own);
        const States<A> states{rows.max, rows.sum, rows.out, rows.out_stride};
        for (Index r = 0; r < rows.rows; ++r) finish_row(states.from(r), call_, segment(item), rows.first_row + r);
    }

    const TogetherPlan& shared_;
    const TogetherScratch<A>& scratch_;
    const LatentExpansion<A>& expansion_;
    const CallView<A>& call_;
};

}  // namespace mla::inline MLA_ISA::detail
