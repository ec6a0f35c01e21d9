// Cached tokens as every kind of cache stores them: contiguous, and scattered over the pages of a pool.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "mla/cache/paged_view.hpp"
#include "mla/cache/rows.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/testing/random.hpp"

namespace mla {

/// An element whose row reads back as NaN, or, where bytes have no NaN, as values that no sum survives unseen.
template <CacheElement C>
[[nodiscard]] C poison() {
    if constexpr (std::is_same_v<C, int8>) {
        return int8(std::int8_t{-1});  // its scale's bytes are then a NaN's
    } else if constexpr (std::is_same_v<C, fp8_v4>) {
        return {0xff};
    } else if constexpr (std::is_same_v<C, double>) {
        return std::numeric_limits<double>::quiet_NaN();
    } else {
        return C(std::numeric_limits<float>::quiet_NaN());
    }
}

/// What strides are multiples of.
template <CacheElement C>
inline constexpr Index elements_of_alignment = std::max<Index>(Format<C>::row_alignment / static_cast<Index>(sizeof(C)), 1);

/// Tokens [L, Dc + Dr] from N(0, 1), rounded to C, rows `padding` elements more than they need apart; poison beside and behind
/// them.
template <CacheElement C>
struct StoredRows {
    RowFormat<C> format;
    Index length;
    Index stride;
    std::vector<C> elements;

    StoredRows(Index tokens, Index latent_dim, Index rope_dim, std::uint64_t seed, Index padding = 0)
        : format{latent_dim, rope_dim},
          length(tokens),
          stride(round_up(format.elements(), elements_of_alignment<C>) + padding),
          elements(static_cast<std::size_t>((tokens + 2) * stride), poison<C>()) {
        testing::Generator generator(seed);
        const auto values = testing::gaussian_values<float>(generator, tokens * format.values());
        append(MatrixView<const float>(values.data(), tokens, format.values()), format,
               MatrixView<C>(elements.data(), tokens, format.elements(), stride));
    }

    [[nodiscard]] LatentView<C> view() const { return {elements.data(), length, format.latent_dim, format.rope_dim, stride}; }

    /// What the rows read back as.
    [[nodiscard]] reference::Matrix matrix() const {
        reference::Matrix rows(length, format.values());
        for (Index t = 0; t < length; ++t) read_row(format, view().row(t), rows.row(t));
        return rows;
    }
};

/// The same tokens in pages that lie in a random order in a pool. Rows past the last token are poison, and entries of the table
/// past the last page name no page.
template <CacheElement C>
struct ScatteredRows {
    Index pages;
    Index page_size;
    Index stride;
    Index length;
    RowFormat<C> format;
    std::vector<C> pool;
    std::vector<std::int32_t> table;

    ScatteredRows(const StoredRows<C>& rows, Index tokens_a_page, std::uint64_t seed)
        : pages(divide_up(rows.length, tokens_a_page) + 3),
          page_size(tokens_a_page),
          stride(rows.stride),
          length(rows.length),
          format(rows.format),
          pool(static_cast<std::size_t>(pages * page_stride()), poison<C>()),
          table(static_cast<std::size_t>(pages)) {
        std::iota(table.begin(), table.end(), 0);
        testing::Generator generator(seed);
        testing::shuffle(generator, table);
        for (Index t = 0; t < length; ++t)
            std::copy_n(rows.view().row(t), format.elements(),
                        pool.data() + table[static_cast<std::size_t>(t / page_size)] * page_stride() + t % page_size * stride);
        std::fill(table.begin() + divide_up(length, page_size), table.end(), 2147480000);
    }

    [[nodiscard]] Index page_stride() const { return round_up(page_size * stride, elements_of_alignment<C>); }
    [[nodiscard]] PagedView<C> view() const {
        return {pool.data(), pages, page_size, page_stride(), table.data(), length, format.latent_dim, format.rope_dim, stride};
    }
};

}  // namespace mla
