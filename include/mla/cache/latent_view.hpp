// How a kernel sees cached tokens that lie one after another, whoever owns them.
#pragma once

#include "mla/cache/token_rows.hpp"
#include "mla/core/errors.hpp"
#include "mla/core/views.hpp"
#include "mla/formats/formats.hpp"

namespace mla::inline MLA_ISA {

/// Cached tokens [length, latent_dim + rope_dim] in foreign memory: a row is [normalised latent | rotated rope key], rows lie
/// `stride` elements apart (see RowFormat). Rows at `length` and beyond are never read.
template <CacheElement C>
struct LatentView {
    using Element = C;

    const C* data = nullptr;
    Index length = 0;      ///< L, tokens
    Index latent_dim = 0;  ///< Dc
    Index rope_dim = 0;    ///< Dr
    Index stride = 0;      ///< elements from token to token, at least a row's

    [[nodiscard]] constexpr Index row_dim() const noexcept { return latent_dim + rope_dim; }
    [[nodiscard]] constexpr const C* row(Index token) const noexcept { return data + token * stride; }
    /// The slot by which a selection names a token: its number, here.
    [[nodiscard]] constexpr Index slot_of(Index token) const noexcept { return token; }
    /// The first `count` tokens.
    [[nodiscard]] constexpr LatentView prefix(Index count) const noexcept { return {data, count, latent_dim, rope_dim, stride}; }
};

namespace detail {

template <CacheElement C>
[[nodiscard]] TokenRows token_rows(const LatentView<C>& cache) noexcept {
    return {.data = reinterpret_cast<const std::byte*>(cache.data),
            .length = cache.length,
            .latent_dim = cache.latent_dim,
            .rope_dim = cache.rope_dim,
            .stride = cache.stride * static_cast<Index>(sizeof(C)),
            .slots = cache.length};
}

/// Checks that rows `stride` elements apart are aligned as their format wants it.
template <CacheElement C>
void require_row_alignment(const char* name, Index stride) {
    constexpr Index elements = Format<C>::row_alignment / static_cast<Index>(sizeof(C));
    if (stride % elements != 0) [[unlikely]]
        require(false, name, stride, "a multiple of " + std::to_string(elements));
}

/// Checks what LatentView and the paged views have in common: the geometry of a row at `data`, `stride` elements from the next.
template <CacheElement C>
void validate_rows(const C* data, Index latent_dim, Index rope_dim, Index stride) {
    require_at_least("cache.latent_dim", latent_dim, Index{1});
    require_at_least("cache.rope_dim", rope_dim, Index{0});
    require_at_least("cache.stride", stride, RowFormat<C>{latent_dim, rope_dim}.elements());
    require_row_alignment<C>("cache.stride", stride);
    constexpr auto alignment = static_cast<std::uintptr_t>(Format<C>::row_alignment);
    const auto misaligned = reinterpret_cast<std::uintptr_t>(data) % alignment;
    if (alignment > sizeof(C) && misaligned != 0) [[unlikely]]
        require(false, ("cache address modulo " + std::to_string(alignment)).c_str(), misaligned, 0);
}

}  // namespace detail

/// @throws std::invalid_argument when the view's sizes contradict each other
template <CacheElement C>
void validate(const LatentView<C>& cache) {
    require_at_least("cache.length", cache.length, Index{0});
    detail::validate_rows(cache.data, cache.latent_dim, cache.rope_dim, cache.stride);
    require(cache.data != nullptr || cache.length == 0, "cache.data", "null", "not null when cache.length > 0");
}

}  // namespace mla::inline MLA_ISA
