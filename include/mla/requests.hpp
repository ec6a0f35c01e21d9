// The requests of a call to a layer: their caches, and room in all of them before anything is written to one.
#pragma once

#include <algorithm>
#include <concepts>
#include <functional>
#include <ranges>
#include <span>
#include <string>

#include "mla/cache/latent_cache.hpp"
#include "mla/cache/paged_cache.hpp"
#include "mla/cache/shared_latents.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/plan.hpp"

namespace mla::inline MLA_ISA {

/// A cache with an index key for each token, which a layer with an indexer needs: LatentCache<C, K>, PagedSequence<C, K>,
/// SharedLatents.
template <class S>
concept IndexedStore = requires(const S& constant) {
    { constant.index_dim() } -> std::same_as<Index>;
    { constant.index_view() } -> LatentSource;
    { constant.pool_view() } -> LatentSource;
    { constant.pool() } -> std::same_as<Index>;
};

/// One whose latents are another layer's.
template <class S>
concept SharingStore = IndexedStore<S> && requires(S& store) {
    store.append_index_keys(MatrixView<const float>(), ExecutorRef(SerialExecutor{}));
};

/// One that takes latents and index keys together, and the keys of pools.
template <class S>
concept OwnIndexedStore = IndexedStore<S> && requires(S& store) {
    store.append(MatrixView<const float>(), MatrixView<const float>(), ExecutorRef(SerialExecutor{}));
    store.set_pool_key(Index{0}, static_cast<const float*>(nullptr));
};

/// The cache of one request, which a layer appends to: LatentCache, PagedSequence, SharedLatents.
template <class S>
concept LatentStore = requires(const S& constant, Index count) {
    { constant.size() } -> std::same_as<Index>;
    { constant.latent_dim() } -> std::same_as<Index>;
    { constant.rope_dim() } -> std::same_as<Index>;
    { constant.pairing() } -> std::same_as<RopePairing>;
    { constant.view() } -> LatentSource;
    constant.require_room(count);
}
&&(OwnIndexedStore<S> || SharingStore<S> ||
   requires(S & store) { store.append(MatrixView<const float>(), ExecutorRef(SerialExecutor{})); });

/// A request's part in a call: its next `tokens` rows of x, after those of the requests before it.
template <LatentStore Cache>
struct Request {
    using Store = Cache;

    Cache* cache = nullptr;
    Index tokens = 0;
};

/// A list of requests whose caches are of one type: a vector, an array, a span.
template <class R>
concept Requests = std::ranges::contiguous_range<R> && requires {
    typename std::ranges::range_value_t<R>::Store;
} && std::same_as<std::ranges::range_value_t<R>, Request<typename std::ranges::range_value_t<R>::Store>>;

/// What a call may have beside its inputs.
template <Compute A>
struct ForwardOptions {
    Form form = Form::automatic;  ///< forces the way attention is computed; a request with a tree is absorbed all the same
    /// [H]: a logit a head that takes its share of the softmax and has no value, ±inf legal; or empty, as for a layer that has
    /// its own.
    std::span<const A> sinks = {};
    /// [requests]: for a request of T tokens a mask [T, T], true where token t sees token s of the same request (for tree
    /// speculation; all earlier tokens are seen), or an empty view for the causal rule; or no masks at all.
    std::span<const MatrixView<const bool>> trees = {};
    /// Reads tokens that all requests share in memory (pages of forks) once for the whole batch. Results then depend on the
    /// batch, by rounding.
    bool share_prefix = false;
    MatrixView<A> lse = {};  ///< [T, H], natural logarithm; or empty
    /// [T, k]: for each token the numbers of the tokens in its request that it attends to, none after itself, −1 for none, in any
    /// order: what a layer without an indexer takes from one with it. Empty for any other layer.
    MatrixView<const std::int32_t> selection = {};
    /// [T, indexer.most_selected()]: where a layer with an indexer writes its selection for layers that share it; or empty.
    MatrixView<std::int32_t> selected = {};
};

namespace detail {

/// Whether a layer writes to its caches.
[[nodiscard]] inline bool appends(const Config& config) noexcept { return !config.shares_cache || config.indexer.heads > 0; }

/// Tokens of a request before those of a call: all that are cached, unless they are there already, put by a layer whose cache
/// this one shares.
template <LatentStore Cache>
[[nodiscard]] Index tokens_before(const Request<Cache>& request, const Config& config) noexcept {
    return request.cache->size() - (config.shares_cache ? request.tokens : 0);
}

/// Room for every request's tokens, taken before any is appended: requests may draw on one pool, where the room that each finds
/// for itself does not add up. What is left when this goes is given back.
template <LatentStore Cache>
class RoomForAll {
  public:
    /// @throws std::length_error when a request's tokens find no room; nothing is then taken
    explicit RoomForAll(std::span<const Request<Cache>> requests) : requests_(requests) {
        for (const Request<Cache>& request : requests) {
            if constexpr (reserves) {
                try {
                    request.cache->reserve(request.tokens);
                } catch (...) {
                    release();
                    throw;
                }
            } else {
                request.cache->require_room(request.tokens);
            }
        }
    }
    RoomForAll(const RoomForAll&) = delete;
    RoomForAll& operator=(const RoomForAll&) = delete;
    ~RoomForAll() { release(); }

  private:
    static constexpr bool reserves = requires(Cache & cache) { cache.reserve(Index{1}); };

    void release() noexcept {
        if constexpr (reserves)
            for (const Request<Cache>& request : requests_) request.cache->release_reserved();
    }

    std::span<const Request<Cache>> requests_;
};

/// Appends the rows of `latents`, with those of `index_keys` where caches keep them, to the caches of their requests; without the
/// former where latents are another layer's.
template <Compute A, LatentStore Cache>
void append_to_all(std::span<const Request<Cache>> requests, MatrixView<const A> latents, MatrixView<const A> index_keys,
                   ExecutorRef executor) {
    Index first = 0;
    for (const Request<Cache>& request : requests) {
        const MatrixView<const A> tokens = latents.row_range(first, request.tokens);
        if constexpr (SharingStore<Cache>) {
            request.cache->append_index_keys(index_keys.row_range(first, request.tokens), executor);
        } else if constexpr (IndexedStore<Cache>) {
            request.cache->append(tokens, index_keys.row_range(first, request.tokens), executor);
        } else {
            request.cache->append(tokens, executor);
        }
        first += request.tokens;
    }
}

/// Checks that no cache is named twice; `sorted` [requests] is scratch.
template <LatentStore Cache>
void require_distinct(std::span<const Request<Cache>> requests, const void** sorted) {
    for (std::size_t r = 0; r < requests.size(); ++r) {
        if constexpr (SharingStore<Cache>) {
            sorted[r] = &requests[r].cache->index_keys();
        } else {
            sorted[r] = requests[r].cache;
        }
    }
    std::sort(sorted, sorted + requests.size(), std::less<>());
    require(std::adjacent_find(sorted, sorted + requests.size()) == sorted + requests.size(), "requests[r].cache",
            "that of another request too", "a cache of its own");
}

/// Checks that a cache has index keys if and only if the layer makes them, and of shared latents those of the tokens before the
/// last `tokens`.
template <LatentStore Cache>
void check_index_keys([[maybe_unused]] const Cache& cache, const Config& config, [[maybe_unused]] Index tokens) {
    if constexpr (IndexedStore<Cache>) {
        require(SharingStore<Cache> == config.shares_cache, "cache", config.shares_cache ? "one of its own" : "SharedLatents",
                config.shares_cache ? "SharedLatents for a layer that shares a cache and has an indexer"
                                    : "one of its own for a layer that shares none");
        if constexpr (SharingStore<Cache>)
            require_equal("cache.index_keys().size()", cache.index_keys().size(), "tokens before these", cache.size() - tokens);
        require_equal("cache.index_dim()", cache.index_dim(), "indexer.head_dim", config.indexer.row_dim());
        require_equal("cache.pool()", cache.pool(), "indexer.pool", config.indexer.pool);
    } else {
        require(config.indexer.heads == 0, "cache", "one without index keys",
                "one with them for a layer with an indexer: LatentCache<C, K>, PagedCache<C, K>");
    }
}

/// Checks that every request has a cache of the layer's geometry with room for its tokens, and that these are the `rows` of a
/// call.
template <LatentStore Cache>
void check_requests(std::span<const Request<Cache>> requests, const Config& config, Index rows) {
    Index tokens = 0;
    for (const Request<Cache>& request : requests) {
        require(request.cache != nullptr, "requests[r].cache", "null", "not null");
        require_in_range("requests[r].tokens", request.tokens, Index{0}, rows);
        tokens += request.tokens;
        const Cache& cache = *request.cache;
        require_equal("cache.latent_dim()", cache.latent_dim(), "kv_lora_rank", config.kv_lora_rank);
        require_equal("cache.rope_dim()", cache.rope_dim(), "qk_rope_head_dim", config.qk_rope_head_dim);
        require(cache.pairing() == config.rope.pairing, "cache.pairing()", name(cache.pairing()), name(config.rope.pairing));
        if (config.shares_cache) require_at_least("cache.size() of a layer that shares it", cache.size(), request.tokens);
        check_index_keys(cache, config, request.tokens);
        if (appends(config)) cache.require_room(request.tokens);
    }
    require_equal("requests' tokens", tokens, "x.rows()", rows);
    if (config.indexer.top_k == 0) return;
    for (const Request<Cache>& request : requests)  // selections name slots by int32
        require_in_range("slots of the cache of a layer that selects keys", token_rows(request.cache->view()).slots, Index{0},
                         max_slots);
}

/// Checks the selection that a layer without an indexer is handed: tokens that each token may see.
template <Compute A, LatentStore Cache>
void check_selection(const MatrixView<const std::int32_t>& selection, std::span<const Request<Cache>> requests,
                     const Config& config, Index tokens) {
    require_equal("options.selection.rows", selection.rows, "x.rows()", tokens);
    require_at_least("options.selection.cols", selection.cols, Index{1});
    require_at_least("options.selection.stride", selection.stride, selection.cols);
    Index t = 0;
    for (const Request<Cache>& request : requests)
        for (Index own = tokens_before(request, config), end = own + request.tokens; own < end; ++own, ++t)
            for (Index i = 0; i < selection.cols; ++i)
                if (selection(t, i) < -1 || selection(t, i) > own) [[unlikely]]
                    require_in_range(("options.selection[" + std::to_string(t) + "][" + std::to_string(i) + "]").c_str(),
                                     Index{selection(t, i)}, Index{-1}, own);
}

template <Compute A, LatentStore Cache>
void check_sparse_options(const ForwardOptions<A>& options, std::span<const Request<Cache>> requests, const Config& config,
                          Index tokens) {
    const bool takes = config.indexer.top_k > 0 && config.indexer.heads == 0;
    require(
        takes == (options.selection.data != nullptr) || tokens == 0, "options.selection", takes ? "empty" : "given",
        takes ? "given: the layer selects no keys itself" : "empty: only a layer with top_k and without an indexer takes one");
    if (takes && tokens > 0) check_selection<A>(options.selection, requests, config, tokens);
    if (options.selected.data != nullptr) {
        require(config.indexer.heads > 0, "options.selected", "given", "empty for a layer without an indexer");
        require_equal("options.selected.rows", options.selected.rows, "x.rows()", tokens);
        require_equal("options.selected.cols", options.selected.cols, "indexer.top_k", config.indexer.most_selected());
        require_at_least("options.selected.stride", options.selected.stride, options.selected.cols);
    }
    if (options.trees.empty()) return;
    require(config.indexer.top_k == 0 && config.sliding_window == 0, "options.trees", "given",
            "empty for a layer that selects keys or has a sliding window");
}

template <Compute A, LatentStore Cache>
void check_options(const ForwardOptions<A>& options, std::span<const Request<Cache>> requests, const Config& config,
                   Index tokens) {
    const Index heads = config.num_attention_heads;
    if (!options.sinks.empty()) {
        require(!config.sinks, "options.sinks", "given", "empty: the layer has its own");
        require_equal("options.sinks.size()", static_cast<Index>(options.sinks.size()), "num_attention_heads", heads);
    }
    check_sparse_options(options, requests, config, tokens);
    if (options.lse.data != nullptr) {
        require_equal("options.lse.rows", options.lse.rows, "x.rows()", tokens);
        require_equal("options.lse.cols", options.lse.cols, "num_attention_heads", heads);
        require_at_least("options.lse.stride", options.lse.stride, options.lse.cols);
    }
    if (options.trees.empty()) return;
    require_equal("options.trees.size()", options.trees.size(), "requests.size()", requests.size());
    for (std::size_t r = 0; r < requests.size(); ++r) {
        const MatrixView<const bool>& tree = options.trees[r];
        if (tree.data == nullptr) continue;
        require_equal("options.trees[r].rows", tree.rows, "requests[r].tokens", requests[r].tokens);
        require_equal("options.trees[r].cols", tree.cols, "requests[r].tokens", requests[r].tokens);
        require_at_least("options.trees[r].stride", tree.stride, tree.cols);
    }
}

}  // namespace detail
}  // namespace mla::inline MLA_ISA
