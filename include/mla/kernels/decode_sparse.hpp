// Sparse attention: absorbed attention in which each query attends to a list of keys of its own.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <span>
#include <string>

#include "mla/kernels/batch.hpp"
#include "mla/kernels/driver.hpp"
#include "mla/kernels/latent_blocks.hpp"

namespace mla::inline MLA_ISA {

/// What a sparse call may have beside its queries, caches and selection.
template <Compute A>
struct SparseOptions {
    /// [H]: a logit a head that takes its share of the softmax and has no value, ±inf legal; or empty. The LSE leaves it out.
    std::span<const A> sinks = {};
    Precision precision = Precision::operand;
};

namespace detail {

/// Slots of each query as they are walked over: valid ones, each once.
struct SlotLists {
    MatrixView<std::int32_t> slots;  ///< [T, k]
    Index* counts = nullptr;         ///< [T]
    std::int32_t* sets = nullptr;    ///< [workers, set_size]
    Index set_size = 0;              ///< a power of two, at least twice as many as a query may select

    static SlotLists carve(Arena& arena, Index queries, Index most, Index workers) noexcept {
        const auto set_size = static_cast<Index>(std::bit_ceil(2 * static_cast<std::size_t>(most) + 1));
        return {{arena.take<std::int32_t>(queries * most), queries, most},
                arena.take<Index>(queries),
                arena.take<std::int32_t>(std::max<Index>(workers, 1) * set_size),
                set_size};
    }
    [[nodiscard]] std::span<std::int32_t> set(Index worker) const noexcept {
        return {sets + worker * set_size, static_cast<std::size_t>(set_size)};
    }
};

/// Adds a slot to a set of less than half its size, in which −1 is nothing; false when it is there already.
[[nodiscard]] inline bool insert_slot(std::span<std::int32_t> set, std::int32_t slot) noexcept {
    const std::size_t last = set.size() - 1;
    // Fibonacci hashing (Knuth, volume 3, section 6.4): neighbouring slots, which are likely, fall far from each other.
    std::size_t place = (static_cast<std::uint64_t>(slot) * 0x9E3779B97F4A7C15U >> 32U) & last;
    for (; set[place] != -1; place = (place + 1) & last)
        if (set[place] == slot) return false;
    set[place] = slot;
    return true;
}

/// Writes the valid slots of a selection in their order, each where it is named first; returns how many.
[[nodiscard]] inline Index list_slots(std::span<const std::int32_t> selected, std::span<std::int32_t> set,
                                      std::int32_t* slots) noexcept {
    std::int32_t* end = std::copy_if(selected.begin(), selected.end(), slots, [](std::int32_t slot) { return slot >= 0; });
    const bool ascending = std::adjacent_find(slots, end, std::greater_equal<>()) == end;
    if (!ascending) {
        std::fill(set.begin(), set.end(), -1);
        end = std::remove_if(slots, end, [set](std::int32_t slot) { return !insert_slot(set, slot); });
    }
    return end - slots;
}

inline void check_selection(const BatchRows& caches, std::span<const std::int32_t> query_begin,
                            const MatrixView<const std::int32_t>& selection, Index queries) {
    require_equal("selection.rows", selection.rows, "q.tokens", queries);
    require_at_least("selection.cols", selection.cols, Index{0});
    require_at_least("selection.stride", selection.stride, selection.cols);
    require(selection.data != nullptr || queries * selection.cols == 0, "selection.data", "null", "not null");
    for (Index t = 0; t < queries; ++t) {
        const Index slots = caches[request_of(query_begin, t)].slots;
        for (Index i = 0; i < selection.cols; ++i)
            if (selection(t, i) < -1 || selection(t, i) >= slots) [[unlikely]]
                require_in_range(("selection[" + std::to_string(t) + "][" + std::to_string(i) + "]").c_str(),
                                 Index{selection(t, i)}, Index{-1}, slots - 1);
    }
}

template <Compute A>
struct SparseScratch {
    SlotLists lists;
    std::span<std::byte> kernel;
};

/// At least what the segments add up to, whatever the queries select.
template <Compute A>
[[nodiscard]] SegmentTotals<A> sparse_totals(const HeadsView<const A>& q, std::span<const std::int32_t> query_begin, Index most,
                                             Index workers) {
    SegmentTotals<A> totals;
    totals.lanes = tile_shape<A>().lanes;
    totals.depth = q.dim;
    totals.workers = workers;
    for (Index t = 0; t < q.tokens; ++t) {
        const std::size_t request = request_of(query_begin, t);
        Segment segment = query_segment(t, t, query_begin[request + 1] - query_begin[request], q.heads, 0, most);
        totals.place(segment);
    }
    return totals;
}

/// Checks a batch, whose caches are valid each by itself.
template <Compute A>
void check_sparse(const BatchRows& caches, std::span<const std::int32_t> query_begin,
                  const MatrixView<const std::int32_t>& selection, const CallView<A>& call, const SparseOptions<A>& options) {
    check_batch<A>(call.q, caches, query_begin, {.sinks = options.sinks});
    check_attention(call.q, call.scale, call.out, call.lse);
    if (call.q.tokens == 0) return;
    require_equal("out.dim", call.out.dim, "cache.latent_dim", caches[0].latent_dim);
    check_selection(caches, query_begin, selection, call.q.tokens);
}

/// A batch that has been checked, or is its caller's own.
template <Compute A>
void decode_selected(const BatchRows& caches, const abi::AttentionKernels<A>& kernels, std::span<const std::int32_t> query_begin,
                     const MatrixView<const std::int32_t>& selection, CallView<A> call, Workspace& workspace,
                     ExecutorRef executor, const SparseOptions<A>& options) {
    const HeadsView<const A>& q = call.q;
    if (q.tokens == 0) return;
    const TokenRows first = caches[0];
    const auto totals = sparse_totals<A>(q, query_begin, selection.cols, executor.concurrency());
    const auto scratch = workspace.carve([&](Arena& arena) {
        const auto lists = SlotLists::carve(arena, q.tokens, selection.cols, executor.concurrency());
        const std::size_t bytes =
            split_workspace_bytes(totals, call.out.dim, staged_blocks<A>(first.row_dim()), executor.concurrency());
        return SparseScratch<A>{lists, {arena.take<std::byte>(static_cast<Index>(bytes)), bytes}};
    });
    const SlotLists& lists = scratch.lists;
    for_each_item(executor, q.tokens, [&](Index t, Index worker) {
        const std::span selected(selection.row(t), static_cast<std::size_t>(selection.cols));
        lists.counts[t] = list_slots(selected, lists.set(worker), lists.slots.row(t));
    });
    const auto list = [&](const KeyRange& range, RowList<std::byte>& rows) {
        const TokenRows cache = caches[request_of(query_begin, range.source)];
        const std::int32_t* const slots = lists.slots.row(range.source) + range.begin;
        for (Index i = 0; i < range.block(); ++i) rows.add(cache.slot(slots[i]));
    };
    const auto segment = [&](Index t) {
        const std::size_t request = request_of(query_begin, t);
        return query_segment(t, t, query_begin[request + 1] - query_begin[request], q.heads, 0, lists.counts[t]);
    };
    if (!options.sinks.empty()) call.sinks = options.sinks.data();
    Workspace kernel(scratch.kernel);
    run_call(q.tokens, false, call, kernel, executor, LatentBlocks<A>(kernels, first.latent_dim, first.rope_dim, list), segment);
}

}  // namespace detail

/// Bytes of workspace that suffice for any batch within the limits whose queries select up to `most` keys each.
template <Compute A>
[[nodiscard]] std::size_t sparse_workspace_bytes(const BatchLimits& limits, Index most, Index heads, Index latent_dim,
                                                 Index rope_dim, Index concurrency) {
    Arena counter;
    static_cast<void>(detail::SlotLists::carve(counter, limits.queries, most, concurrency));
    return counter.bytes() +
           absorbed_workspace_bytes<A>(BatchLimits{limits.queries, limits.queries}, heads, latent_dim, rope_dim, concurrency);
}

/// out[t, h] = softmax(scale · q[t, h] · rows) · latents, over the rows that selection[t] names and no others: what of them a
/// query may see is for its caller to say. A query with none gets output 0 and LSE −inf.
///
/// q [T, H, Dc+Dr], out [T, H, Dc], lse [T, H] (natural logarithm, or an empty view) hold the queries of all requests, those of
/// request r from query_begin[r] to query_begin[r + 1]; caches: indexable by request, see `LatentBatch`. selection [T, k]: slots
/// of the request's cache (token numbers in a contiguous cache, page · page_size + row of the page in a paged one, whose block
/// table and length are not looked at), −1 for none, in any order, which is that of the sums; a slot that is named twice counts
/// once. The result depends neither on the executor nor on the batch nor on where pages lie, to the bit. out and lse do not
/// overlap the inputs. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes, offsets, slots or options do not fit, std::length_error when a caller's workspace is
/// too small
template <Compute A, LatentBatch Batch>
void decode_sparse(HeadsView<std::type_identity_t<const A>> q, const Batch& caches, std::span<const std::int32_t> query_begin,
                   MatrixView<const std::int32_t> selection, std::type_identity_t<A> scale, HeadsView<A> out,
                   std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor,
                   const std::type_identity_t<SparseOptions<A>>& options = {}) {
    detail::validate_batch(caches);
    const detail::BatchRows rows(caches);
    const detail::CallView<A> call{q, scale, out, lse};
    detail::check_sparse(rows, query_begin, selection, call, options);
    detail::decode_selected<A>(rows, detail::attention_kernels<A, typename batch_view_t<Batch>::Element>(options.precision),
                               query_begin, selection, call, workspace, executor, options);
}

/// As above, of one request or of requests whose slots lie in one pool.
template <Compute A, LatentSource View>
void decode_sparse(HeadsView<std::type_identity_t<const A>> q, const View& cache, MatrixView<const std::int32_t> selection,
                   std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse, Workspace& workspace,
                   ExecutorRef executor, const std::type_identity_t<SparseOptions<A>>& options = {}) {
    const std::array<View, 1> caches{cache};
    const std::array<std::int32_t, 2> query_begin{0, static_cast<std::int32_t>(q.tokens)};
    decode_sparse<A>(q, caches, query_begin, selection, scale, out, lse, workspace, executor, options);
}

}  // namespace mla::inline MLA_ISA
