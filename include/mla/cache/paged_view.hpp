// How a kernel sees cached tokens that lie in pages of a pool, whoever owns it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "mla/cache/latent_view.hpp"

namespace mla::inline MLA_ISA {

/// Cached tokens [length, latent_dim + rope_dim] of one request in a pool [pages, page_size, Dc + Dr] in foreign memory. Token t
/// lies in row t % page_size of page block_table[t / page_size]; a row is [normalised latent | rotated rope key]. Entries of
/// the table past the last token's, and rows past the last token, are never read. A page may stand in several tables.
template <CacheElement C>
struct PagedView {
    using Element = C;

    const C* pool = nullptr;
    Index pages = 0;                            ///< in the pool
    Index page_size = 0;                        ///< tokens a page
    Index page_stride = 0;                      ///< elements from page to page
    const std::int32_t* block_table = nullptr;  ///< [⌈L / page_size⌉]
    Index length = 0;                           ///< L, tokens
    Index latent_dim = 0;                       ///< Dc
    Index rope_dim = 0;                         ///< Dr
    Index stride = 0;                           ///< elements from token to token within a page, at least Dc + Dr

    [[nodiscard]] constexpr Index row_dim() const noexcept { return latent_dim + rope_dim; }
    [[nodiscard]] constexpr const C* row(Index token) const noexcept {
        return pool + Index{block_table[token / page_size]} * page_stride + token % page_size * stride;
    }
    /// Entries of the block table that the tokens use.
    [[nodiscard]] constexpr Index used_pages() const noexcept { return length > 0 ? (length - 1) / page_size + 1 : 0; }
    /// The slot by which a selection names a token: page · page_size + row of the page, whichever request's block table names the
    /// page.
    [[nodiscard]] constexpr Index slot_of(Index token) const noexcept {
        return Index{block_table[token / page_size]} * page_size + token % page_size;
    }
    /// The first `count` tokens.
    [[nodiscard]] constexpr PagedView prefix(Index count) const noexcept {
        PagedView first = *this;
        first.length = count;
        return first;
    }
};

/// Block tables and lengths of a batch of requests on one pool, as they lie in a host's memory; indexable by request.
template <CacheElement C>
struct PagedBatch {
    const C* pool = nullptr;
    Index pages = 0;                              ///< in the pool
    Index page_size = 0;                          ///< tokens a page
    Index page_stride = 0;                        ///< elements from page to page
    MatrixView<const std::int32_t> block_tables;  ///< [R, most pages a request may have]
    std::span<const std::int32_t> lengths;        ///< [R], tokens
    Index latent_dim = 0;                         ///< Dc
    Index rope_dim = 0;                           ///< Dr
    Index stride = 0;                             ///< elements from token to token within a page, at least Dc + Dr

    /// R, requests
    [[nodiscard]] constexpr std::size_t size() const noexcept { return lengths.size(); }
    [[nodiscard]] constexpr PagedView<C> operator[](std::size_t request) const noexcept {
        return {.pool = pool,
                .pages = pages,
                .page_size = page_size,
                .page_stride = page_stride,
                .block_table = block_tables.row(static_cast<Index>(request)),
                .length = lengths[request],
                .latent_dim = latent_dim,
                .rope_dim = rope_dim,
                .stride = stride};
    }
};

namespace detail {

template <CacheElement C>
[[nodiscard]] TokenRows token_rows(const PagedView<C>& cache) noexcept {
    constexpr auto element = static_cast<Index>(sizeof(C));
    return {.data = reinterpret_cast<const std::byte*>(cache.pool),
            .length = cache.length,
            .latent_dim = cache.latent_dim,
            .rope_dim = cache.rope_dim,
            .stride = cache.stride * element,
            .slots = cache.pool == nullptr ? 0 : cache.pages * cache.page_size,
            .block_table = cache.block_table,
            .page_size = cache.page_size,
            .page_stride = cache.page_stride * element};
}

/// Checks the pool that a PagedView or a PagedBatch refers to. `used`: whether any of its rows will be read.
template <class Paged>
void validate_pool(const Paged& cache, bool used) {
    require_at_least("cache.pages", cache.pages, Index{0});
    require_at_least("cache.page_size", cache.page_size, Index{1});
    validate_rows(cache.pool, cache.latent_dim, cache.rope_dim, cache.stride);
    const Index row = RowFormat<std::remove_cvref_t<decltype(*cache.pool)>>{cache.latent_dim, cache.rope_dim}.elements();
    // In quotients, which cannot overflow whatever the caller's strides are.
    require(cache.page_stride >= row && (cache.page_stride - row) / cache.stride >= cache.page_size - 1, "cache.page_stride",
            cache.page_stride, "at least (page_size - 1) * stride + a row's elements");
    require_row_alignment<std::remove_cvref_t<decltype(*cache.pool)>>("cache.page_stride", cache.page_stride);
    require(cache.pool != nullptr || !used, "cache.pool", "null", "not null when a length is > 0");
}

/// Checks the entries of a block table that a request uses. `name(i)` is what a message calls the i-th.
template <class Name>
void validate_block_table(std::span<const std::int32_t> used, Index pages, Name&& name) {
    for (std::size_t i = 0; i < used.size(); ++i) {
        const Index page = used[i];
        if (page < 0 || page >= pages) [[unlikely]]
            require_in_range(name(i).c_str(), page, Index{0}, pages - 1);
    }
}

/// "<array>[<index>]"
[[nodiscard]] inline std::string element_name(const std::string& array, std::size_t index) {
    return array + '[' + std::to_string(index) + ']';
}

/// The entries of its block table that a request's tokens use.
template <CacheElement C>
[[nodiscard]] std::span<const std::int32_t> used_entries(const PagedView<C>& cache) noexcept {
    return {cache.block_table, static_cast<std::size_t>(cache.used_pages())};
}

}  // namespace detail

/// @throws std::invalid_argument when the view's sizes contradict each other, or an entry of the block table that its tokens
/// use names no page of the pool
template <CacheElement C>
void validate(const PagedView<C>& cache) {
    require_at_least("cache.length", cache.length, Index{0});
    detail::validate_pool(cache, cache.length > 0);
    require(cache.block_table != nullptr || cache.length == 0, "cache.block_table", "null", "not null when cache.length > 0");
    detail::validate_block_table(detail::used_entries(cache), cache.pages,
                                 [](std::size_t i) { return detail::element_name("cache.block_table", i); });
}

/// @throws std::invalid_argument when the batch's sizes contradict each other, a request is longer than its block table, or an
/// entry that its tokens use names no page of the pool
template <CacheElement C>
void validate(const PagedBatch<C>& cache) {
    const MatrixView<const std::int32_t>& tables = cache.block_tables;
    require_equal("cache.block_tables.rows", tables.rows, "cache.lengths.size()", static_cast<Index>(cache.size()));
    require_at_least("cache.block_tables.cols", tables.cols, Index{0});
    require_at_least("cache.block_tables.stride", tables.stride, tables.cols);
    bool used = false;
    for (const std::int32_t length : cache.lengths) used = used || length > 0;
    detail::validate_pool(cache, used);
    require(tables.data != nullptr || !used, "cache.block_tables.data", "null", "not null when a length is > 0");
    for (std::size_t row = 0; row < cache.size(); ++row) {
        const PagedView<C> request = cache[row];
        if (request.length < 0 || request.used_pages() > tables.cols) [[unlikely]]
            throw_invalid(detail::element_name("cache.lengths", row).c_str(), request.length,
                          "in [0, block_tables.cols * page_size] = [0, " + std::to_string(tables.cols) + " * " +
                              std::to_string(cache.page_size) + "]");
        detail::validate_block_table(detail::used_entries(request), cache.pages, [row](std::size_t i) {
            return detail::element_name(detail::element_name("cache.block_tables", row), i);
        });
    }
}

}  // namespace mla::inline MLA_ISA
