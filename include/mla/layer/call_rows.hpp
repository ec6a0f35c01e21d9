// What a layer's call works on once the tokens are cached: rows, and the kernels that read them. From here on the types of the
// caches do not matter.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "mla/core/workspace.hpp"
#include "mla/formats/row_kernels.hpp"
#include "mla/kernels/attention_kernels.hpp"
#include "mla/requests.hpp"

namespace mla::inline MLA_ISA::detail {

/// What reads the latents of a cache.
template <Compute A>
struct CacheKernels {
    abi::AttentionKernels<A> absorbed;
    abi::ExpandedKernels<A> expanded;
    abi::RowKernels<A> rows;
};

template <LatentStore Cache>
using latent_t = typename std::remove_cvref_t<decltype(std::declval<const Cache&>().view())>::Element;
template <IndexedStore Cache>
using index_key_t = typename std::remove_cvref_t<decltype(std::declval<const Cache&>().index_view())>::Element;

template <Compute A, CacheElement C>
[[nodiscard]] CacheKernels<A> cache_kernels(Precision precision) {
    return {attention_kernels<A, C>(precision), expanded_kernels<A, C>(precision), row_kernels<A, C>()};
}

/// The requests of a call once their tokens are cached, without the types of their caches.
struct CallRows {
    std::span<TokenRows> latents;     ///< [requests]
    std::span<TokenRows> index_keys;  ///< [requests], of a layer with an indexer: keys, or those of whole pools
    std::span<Index> tokens;          ///< [requests], of the call

    static CallRows carve(Arena& arena, Index requests, bool indexed) {
        const auto count = static_cast<std::size_t>(requests);
        return {{arena.take<TokenRows>(requests), count},
                {arena.take<TokenRows>(indexed ? requests : 0), indexed ? count : 0},
                {arena.take<Index>(requests), count}};
    }
    template <LatentStore Cache>
    void read(std::span<const Request<Cache>> requests) const {
        for (std::size_t r = 0; r < requests.size(); ++r) {
            const Cache& cache = *requests[r].cache;
            latents[r] = token_rows(cache.view());
            if constexpr (IndexedStore<Cache>)
                index_keys[r] = cache.pool() == 1 ? token_rows(cache.index_view()) : token_rows(cache.pool_view());
            tokens[r] = requests[r].tokens;
        }
    }

    [[nodiscard]] std::size_t size() const noexcept { return tokens.size(); }
    [[nodiscard]] CallRows range(std::size_t first, std::size_t count) const noexcept {
        return {latents.subspan(first, count), index_keys.empty() ? index_keys : index_keys.subspan(first, count),
                tokens.subspan(first, count)};
    }
};

}  // namespace mla::inline MLA_ISA::detail
