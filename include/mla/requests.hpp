// The requests of a call to a layer: their caches, and room in all of them before anything is written to one.
#pragma once

#include <algorithm>
#include <concepts>
#include <functional>
#include <ranges>
#include <span>

#include "mla/cache/latent_cache.hpp"
#include "mla/cache/paged_cache.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/plan.hpp"

namespace mla::inline MLA_ISA {

/// The cache of one request, which a layer appends to: LatentCache, PagedSequence.
template <class S>
concept LatentStore = requires(S& store, const S& constant, Index count) {
    { constant.size() } -> std::same_as<Index>;
    { constant.latent_dim() } -> std::same_as<Index>;
    { constant.rope_dim() } -> std::same_as<Index>;
    { constant.pairing() } -> std::same_as<RopePairing>;
    { constant.view() } -> LatentSource;
    constant.require_room(count);
    store.append(MatrixView<const float>());
};

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
    /// [H]: a logit a head that takes its share of the softmax and has no value, ±inf legal; or empty.
    std::span<const A> sinks = {};
    /// [requests]: for a request of T tokens a mask [T, T], true where token t sees token s of the same request (for tree
    /// speculation; all earlier tokens are seen), or an empty view for the causal rule; or no masks at all.
    std::span<const MatrixView<const bool>> trees = {};
    /// Reads tokens that all requests share in memory (pages of forks) once for the whole batch. Results then depend on the
    /// batch, by rounding.
    bool share_prefix = false;
    MatrixView<A> lse = {};  ///< [T, H], natural logarithm; or empty
};

namespace detail {

/// Views of some requests' caches, as a batch.
template <LatentStore Cache>
struct RequestViews {
    std::span<const Request<Cache>> requests;

    [[nodiscard]] std::size_t size() const noexcept { return requests.size(); }
    [[nodiscard]] auto operator[](std::size_t index) const noexcept { return requests[index].cache->view(); }
};

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

/// Checks that no cache is named twice; `sorted` [requests] is scratch.
template <LatentStore Cache>
void require_distinct(std::span<const Request<Cache>> requests, const void** sorted) {
    for (std::size_t r = 0; r < requests.size(); ++r) sorted[r] = requests[r].cache;
    std::sort(sorted, sorted + requests.size(), std::less<>());
    require(std::adjacent_find(sorted, sorted + requests.size()) == sorted + requests.size(), "requests[r].cache",
            "that of another request too", "a cache of its own");
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
        cache.require_room(request.tokens);
    }
    require_equal("requests' tokens", tokens, "x.rows()", rows);
}

template <Compute A, LatentStore Cache>
void check_options(const ForwardOptions<A>& options, std::span<const Request<Cache>> requests, Index heads, Index tokens) {
    if (!options.sinks.empty())
        require_equal("options.sinks.size()", static_cast<Index>(options.sinks.size()), "num_attention_heads", heads);
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
