// Which tokens the queries of a call attend to, where a layer selects its keys or is handed a selection.
#pragma once

#include <algorithm>

#include "mla/layer/call_rows.hpp"
#include "mla/layer/indexer.hpp"
#include "mla/requests.hpp"

namespace mla::inline MLA_ISA::detail {

/// Tokens [begin, end) of a call and the requests that they are of: the last one's later tokens are not among them.
struct CallPart {
    CallRows requests;
    Index pool = 1;
    Index cut = 0;  ///< tokens of the last request behind `end`

    [[nodiscard]] std::size_t size() const noexcept { return requests.size(); }
    /// Tokens of a request up to the part's last one.
    [[nodiscard]] Index length(std::size_t index) const noexcept {
        return requests.latents[index].length - (index + 1 < requests.size() ? 0 : cut);
    }
    /// The keys of these tokens, or of their whole pools.
    [[nodiscard]] TokenRows operator[](std::size_t index) const noexcept {
        return requests.index_keys[index].prefix(length(index) / pool);
    }
};

/// Queries that an indexer takes at a time, so that its scratch (64 heads of 128 values: 2 MiB) does not grow with the call.
inline constexpr Index index_chunk = 64;

/// The part of a call from token `begin` on, of at most `most` tokens: writes where its requests' tokens begin, counted from
/// `begin`, to query_begin. `first`: the request that token `begin` is of; `before`: its tokens before that one.
[[nodiscard]] inline CallPart take_part(const CallRows& requests, Index pool, std::size_t first, Index before, Index most,
                                        std::int32_t* query_begin) noexcept {
    std::size_t end = first;
    Index tokens = 0;
    Index cut = 0;
    query_begin[0] = 0;
    while (end < requests.size() && tokens < most) {
        const Index rest = requests.tokens[end] - (end == first ? before : 0);
        const Index taken = std::min(rest, most - tokens);
        tokens += taken;
        cut = rest - taken;
        query_begin[++end - first] = static_cast<std::int32_t>(tokens);
    }
    return {requests.range(first, end - first), pool, cut};
}

/// Lets an indexer select keys for all tokens of a call, some at a time. selection [T, most_selected];
/// query_begin: scratch [requests + 1].
template <Compute A, Storage T>
void select_for_call(const Indexer<T>& indexer, const abi::IndexKernels<A>& kernels, const IndexTokens<A>& tokens,
                     const CallRows& requests, std::int32_t* query_begin, MatrixView<std::int32_t> selection,
                     Workspace& workspace, ExecutorRef executor) {
    std::size_t request = 0;
    Index before = 0;
    for (Index begin = 0; begin < tokens.x.rows;) {
        const CallPart part = take_part(requests, indexer.config().pool, request, before, index_chunk, query_begin);
        const Index count = query_begin[part.size()];
        indexer.select(
            tokens.range(begin, count), BatchRows(part), kernels, [&](std::size_t index) { return part.length(index); },
            {query_begin, part.size() + 1}, selection.row_range(begin, count), workspace, executor);
        begin += count;
        request += part.size() - (part.cut > 0 ? 1 : 0);
        before = part.cut > 0 ? requests.tokens[request] - part.cut : 0;
    }
}

/// Writes the keys of the pools that the last tokens of each request have filled. rows [workers · pool, 2·Di], keys [workers,
/// Di]: scratch. Read from the caches, so that they are the same however tokens arrive.
template <Compute A, Storage T, OwnIndexedStore Cache>
void fill_pools(const Indexer<T>& indexer, std::span<const Request<Cache>> requests, MatrixView<A> rows, MatrixView<A> keys,
                ExecutorRef executor) {
    using K = typename std::remove_cvref_t<decltype(requests[0].cache->index_view())>::Element;
    const abi::RowKernels<A> kernels = row_kernels<A, K>();
    for (const Request<Cache>& request : requests) {
        Cache& cache = *request.cache;
        const auto view = cache.index_view();
        const Index size = cache.pool();
        const Index first = (cache.size() - request.tokens) / size;
        for_each_item(executor, cache.size() / size - first, [&](Index pool, Index worker) {
            const MatrixView<A> own = rows.row_range(worker * size, size);
            for (Index p = 0; p < size; ++p) {
                const void* const row = view.row((first + pool) * size + p);
                kernels.read(&row, 1, view.latent_dim, 0, own.row(p), own.stride);
            }
            indexer.pool_key(own, keys.row(worker));
            cache.set_pool_key(first + pool, static_cast<const A*>(keys.row(worker)));
        });
    }
}

/// Whether each of a request's tokens, rows of `selection`, attends to all tokens up to itself: then the whole is dense
/// attention. `length`: of the request.
[[nodiscard]] inline bool selects_all(const MatrixView<const std::int32_t>& selection, Index length) noexcept {
    for (Index t = 0; t < selection.rows; ++t) {
        const Index visible = length - selection.rows + t + 1;
        if (visible > selection.cols) return false;
        if (std::count_if(selection.row(t), selection.row(t) + selection.cols, [](std::int32_t s) { return s >= 0; }) < visible)
            return false;
    }
    return true;
}

/// Slots of the tokens that the queries of a batch selected.
inline void find_slots(const BatchRows& caches, std::span<const std::int32_t> query_begin,
                       const MatrixView<const std::int32_t>& selection, const MatrixView<std::int32_t>& slots,
                       ExecutorRef executor) noexcept {
    for_each_item(executor, selection.rows, [&](Index t, Index) {
        const TokenRows rows = caches[request_of(query_begin, t)];
        std::transform(selection.row(t), selection.row(t) + selection.cols, slots.row(t), [&](std::int32_t token) {
            return token < 0 ? std::int32_t{-1} : static_cast<std::int32_t>(rows.slot_of(token));
        });
    });
}

}  // namespace mla::inline MLA_ISA::detail
