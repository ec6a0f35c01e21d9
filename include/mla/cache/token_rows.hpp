// Cached tokens without the type of their elements: what the loops above the kernels know of a cache, so that they are compiled
// once for all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of a contiguous cache or, with a block table, of pages in a pool. Strides are in bytes.
struct TokenRows {
    const std::byte* data = nullptr;
    Index length = 0;  ///< L, tokens
    Index latent_dim = 0;
    Index rope_dim = 0;
    Index stride = 0;  ///< from token to token, within a page
    Index slots = 0;
    const std::int32_t* block_table = nullptr;
    Index page_size = 0;    ///< tokens
    Index page_stride = 0;  ///< from page to page

    [[nodiscard]] Index row_dim() const noexcept { return latent_dim + rope_dim; }
    [[nodiscard]] const std::byte* row(Index token) const noexcept {
        if (block_table == nullptr) return data + token * stride;
        return data + Index{block_table[token / page_size]} * page_stride + token % page_size * stride;
    }
    /// How many tokens, `most` at the most, lie one after another from `token` on.
    [[nodiscard]] Index run(Index token, Index most) const noexcept {
        if (block_table == nullptr) return most;
        const Index rest = page_size - token % page_size;
        return rest < most ? rest : most;
    }
    [[nodiscard]] Index slot_of(Index token) const noexcept {
        if (block_table == nullptr) return token;
        return Index{block_table[token / page_size]} * page_size + token % page_size;
    }
    [[nodiscard]] const std::byte* slot(Index index) const noexcept {
        if (page_size == 0) return data + index * stride;
        return data + index / page_size * page_stride + index % page_size * stride;
    }
    /// The first `count` tokens.
    [[nodiscard]] TokenRows prefix(Index count) const noexcept {
        TokenRows first = *this;
        first.length = count;
        return first;
    }
};

[[nodiscard]] inline const TokenRows& token_rows(const TokenRows& rows) noexcept { return rows; }

}  // namespace mla::inline MLA_ISA::detail
