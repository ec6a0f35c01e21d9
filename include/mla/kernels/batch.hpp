// Several requests in one call: how their caches and options are handed over.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "mla/cache/latent_view.hpp"
#include "mla/cache/paged_view.hpp"
#include "mla/kernels/row_group.hpp"

namespace mla::inline MLA_ISA {

/// The cached tokens of one request as the kernels read them: LatentView, PagedView.
template <class V>
concept LatentSource = CacheElement<typename V::Element> && requires(const V& view) {
    { detail::token_rows(view) } -> std::same_as<detail::TokenRows>;
    validate(view);
};

/// The caches of a batch, indexable by request: a span or vector of views, or a PagedBatch.
template <class B>
concept LatentBatch = requires(const B& batch) {
    { batch.size() } -> std::convertible_to<std::size_t>;
    requires LatentSource<std::remove_cvref_t<decltype(batch[0])>>;
};

namespace detail {

/// A batch without the type of its views; refers to it.
class BatchRows {
  public:
    template <class B>
    explicit BatchRows(const B& batch) noexcept
        : batch_(&batch), size_(static_cast<std::size_t>(batch.size())), at_([](const void* object, std::size_t index) {
              return TokenRows(token_rows((*static_cast<const B*>(object))[index]));
          }) {}

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] TokenRows operator[](std::size_t index) const noexcept { return at_(batch_, index); }

  private:
    const void* batch_;
    std::size_t size_;
    TokenRows (*at_)(const void*, std::size_t);
};

}  // namespace detail

template <LatentBatch B>
using batch_view_t = std::remove_cvref_t<decltype(std::declval<const B&>()[0])>;

/// What a workspace is sized for.
struct BatchLimits {
    Index requests = 1;
    Index queries = 1;           ///< of all requests together
    bool shared_prefix = false;  ///< whether the batch may share a prefix
};

/// What a batch may have beside its queries and caches.
template <Compute A>
struct BatchOptions {
    /// [H]: a logit a head that takes its share of the softmax and has no value, ±inf legal; or empty. The LSE leaves it out.
    std::span<const A> sinks = {};
    /// [R]: for a request of T queries a mask [T, N], true where query t sees the s-th of its last N cached tokens (for tree
    /// speculation; all earlier tokens are seen), or an empty view for the causal rule; or no masks at all.
    std::span<const MatrixView<const bool>> trees = {};
    /// Tokens at the beginning of every request that has queries which are the same rows of memory for all of them, all before
    /// their queries: read once for the whole batch, and merged. At most `shared_prefix(caches, query_begin)`.
    Index shared_prefix = 0;
    /// Keys that a query sees, its own token included; 0: all before it. Without trees and a shared prefix.
    Index sliding_window = 0;
    Precision precision = Precision::operand;
};

namespace detail {

[[nodiscard]] inline Index shared_prefix(const BatchRows& caches, std::span<const std::int32_t> query_begin) noexcept {
    const auto queries = [&](std::size_t r) { return Index{query_begin[r + 1]} - query_begin[r]; };
    std::size_t first = 0;
    while (first < caches.size() && queries(first) == 0) ++first;
    if (first == caches.size()) return 0;
    const TokenRows reference = caches[first];
    Index shared = reference.length - queries(first);
    for (std::size_t r = first + 1; r < caches.size(); ++r) {
        if (queries(r) == 0) continue;
        const TokenRows rows = caches[r];
        shared = std::min(shared, rows.length - queries(r));
        for (Index t = 0; t < shared;) {
            if (rows.row(t) != reference.row(t)) shared = t;
            t += std::max<Index>(reference.run(t, shared - t), 1);
        }
    }
    return std::max<Index>(shared, 0);
}

}  // namespace detail

/// How many tokens, whole pages in a paged cache, all requests with queries have in common at their beginning, all before their
/// queries.
template <LatentBatch Batch>
[[nodiscard]] Index shared_prefix(const Batch& caches, std::span<const std::int32_t> query_begin) noexcept {
    return detail::shared_prefix(detail::BatchRows(caches), query_begin);
}

namespace detail {

/// Slots and tokens that a selection can name.
inline constexpr Index max_slots = std::numeric_limits<std::int32_t>::max();

/// The request that a query of a batch belongs to.
[[nodiscard]] inline std::size_t request_of(std::span<const std::int32_t> query_begin, Index query) noexcept {
    return static_cast<std::size_t>(std::upper_bound(query_begin.begin(), query_begin.end(), query) - query_begin.begin()) - 1;
}

template <Compute A>
[[nodiscard]] KeyTree tree_of(const BatchOptions<A>& options, std::size_t request, Index length) noexcept {
    if (options.trees.empty()) return {};
    return {options.trees[request], length - options.trees[request].cols};
}

inline void check_query_begin(std::span<const std::int32_t> query_begin, Index requests, Index queries) {
    require_equal("query_begin.size()", static_cast<Index>(query_begin.size()), "requests + 1", requests + 1);
    require_equal("query_begin[0]", query_begin.front(), "the first query", 0);
    for (std::size_t r = 1; r < query_begin.size(); ++r)
        if (query_begin[r] < query_begin[r - 1]) [[unlikely]]
            require_at_least(("query_begin[" + std::to_string(r) + "]").c_str(), query_begin[r], query_begin[r - 1]);
    require_equal("query_begin[requests]", Index{query_begin.back()}, "q.tokens", queries);
}

template <LatentBatch Batch>
void validate_batch(const Batch& caches) {
    if constexpr (requires { validate(caches); }) {
        validate(caches);
    } else {
        for (std::size_t r = 0; r < static_cast<std::size_t>(caches.size()); ++r) validate(caches[r]);
    }
}

/// Checks what queries and options of a batch have to do with its caches, which are valid each by itself.
template <Compute A>
void check_batch(const HeadsView<const A>& q, const BatchRows& caches, std::span<const std::int32_t> query_begin,
                 const BatchOptions<A>& options) {
    check_query_begin(query_begin, static_cast<Index>(caches.size()), q.tokens);
    for (std::size_t r = 0; r < caches.size(); ++r) {
        const TokenRows rows = caches[r];
        require_equal("cache.latent_dim", rows.latent_dim, "that of the first request", caches[0].latent_dim);
        require_equal("q.dim", q.dim, "cache.latent_dim + cache.rope_dim", rows.row_dim());
        if (options.trees.empty()) continue;
        require_equal("options.trees.size()", options.trees.size(), "requests", caches.size());
        const MatrixView<const bool>& tree = options.trees[r];
        if (tree.data == nullptr) continue;
        const Index queries = query_begin[r + 1] - query_begin[r];
        require_equal("options.trees[r].rows", tree.rows, "queries of the request", queries);
        require_in_range("options.trees[r].cols", tree.cols, Index{0}, rows.length);
        require_at_least("options.trees[r].stride", tree.stride, tree.cols);
        require_in_range("options.shared_prefix", options.shared_prefix, Index{0}, rows.length - tree.cols);
    }
    if (!options.sinks.empty())
        require_equal("options.sinks.size()", static_cast<Index>(options.sinks.size()), "q.heads", q.heads);
    require_at_least("options.sliding_window", options.sliding_window, Index{0});
    if (options.sliding_window > 0) {
        require(options.trees.empty(), "options.trees", "given", "empty with a sliding window");
        require_equal("options.shared_prefix with a sliding window", options.shared_prefix, "none", Index{0});
    }
    if (options.shared_prefix != 0)
        require_in_range("options.shared_prefix", options.shared_prefix, Index{0}, shared_prefix(caches, query_begin));
}

}  // namespace detail
}  // namespace mla::inline MLA_ISA
