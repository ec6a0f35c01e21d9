// Pages of FlashMLA's cache for DeepSeek-V4 (its README, "FP8 KV cache"), which hold the values of all their tokens before the
// scales of all: copied from there to rows of ours, and back.
#pragma once

#include <cstring>

#include "mla/core/errors.hpp"
#include "mla/core/views.hpp"
#include "mla/formats/fp8_v4.hpp"

namespace mla::inline MLA_ISA {
namespace detail {

/// 448 e4m3 and 64 bf16; seven UE8M0 and a zero.
inline constexpr Index flashmla_value_bytes = Format<fp8_v4>::scale_offset(512, 0);
inline constexpr Index flashmla_row_bytes = Format<fp8_v4>::elements(512, 0);
static_assert(flashmla_value_bytes == 576 && flashmla_row_bytes == 584);

/// Calls `copy(offset in the page, offset in the row, bytes)` for both parts of each token's row.
template <class Rows, class F>
void for_each_flashmla_part(const Rows& rows, Index page_size, F&& copy) {
    require_equal("rows.cols", rows.cols, "bytes of a row of 512 values", flashmla_row_bytes);
    require_in_range("rows.rows", rows.rows, Index{0}, page_size);
    constexpr Index scale_bytes = flashmla_row_bytes - flashmla_value_bytes;
    for (Index t = 0; t < rows.rows; ++t) {
        copy(t * flashmla_value_bytes, rows.row(t), flashmla_value_bytes);
        copy(page_size * flashmla_value_bytes + t * scale_bytes, rows.row(t) + flashmla_value_bytes, scale_bytes);
    }
}

}  // namespace detail

/// Bytes of a page of `page_size` tokens, padded as FlashMLA pads it: from page to page of a pool.
[[nodiscard]] constexpr Index flashmla_page_bytes(Index page_size) noexcept {
    return round_up(page_size * detail::flashmla_row_bytes, detail::flashmla_value_bytes);
}

/// Copies the first rows.rows tokens of a page [flashmla_page_bytes(page_size)] to rows [T, 584] of ours, such as those of a
/// PagedView's page.
/// @throws std::invalid_argument where rows are no such rows, or more than a page has
inline void read_flashmla_page(const void* page, Index page_size, MatrixView<fp8_v4> rows) {
    const auto* const bytes = static_cast<const char*>(page);
    detail::for_each_flashmla_part(rows, page_size, [=](Index offset, fp8_v4* part, Index count) {
        std::memcpy(static_cast<void*>(part), bytes + offset, static_cast<std::size_t>(count));
    });
}

/// Copies rows [T, 584] to the first T tokens of a page; what else lies in the page stays as it is.
/// @throws std::invalid_argument where rows are no such rows, or more than a page has
inline void write_flashmla_page(MatrixView<const fp8_v4> rows, Index page_size, void* page) {
    auto* const bytes = static_cast<char*>(page);
    detail::for_each_flashmla_part(rows, page_size, [=](Index offset, const fp8_v4* part, Index count) {
        std::memcpy(bytes + offset, part, static_cast<std::size_t>(count));
    });
}

}  // namespace mla::inline MLA_ISA
