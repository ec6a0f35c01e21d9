// Filling the panels of packed weights: words that move as they are, and values that are converted on the way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "mla/core/tensor_ref.hpp"
#include "mla/formats/weight_values.hpp"
#include "mla/linear/panels.hpp"
#include "mla/simd/transpose.hpp"

namespace mla::inline MLA_ISA::detail {

/// Where row `row` of a weight begins; a row of int4 must begin with a byte.
[[nodiscard]] inline const std::byte* row_bytes(const TensorRef& weight, Index row) noexcept {
    return static_cast<const std::byte*>(weight.data) + row * weight.stride * bits_of(weight.dtype) / 8;
}

/// panel[j · panel width + n] = word j of row n, for `columns` rows of `count` words each; rows lie `stride` bytes apart. A line
/// of a row at a time, as rows may lie a power of two apart, where few of their lines fit L1.
template <Index Width, class Word>
void gather_words(const std::byte* rows, Index stride, Index columns, Index count, Word* panel) noexcept {
    constexpr auto bytes = static_cast<Index>(sizeof(Word));
    constexpr Index block = 64 / bytes;
    constexpr Index square = simd::lanes<targets::native, float>;
    for (Index begin = 0; begin < count; begin += block) {
        const Index end = std::min(begin + block, count);
        Index n = 0;
        if constexpr (sizeof(Word) == sizeof(float))
            for (; stride % bytes == 0 && end - begin == block && n + square <= columns; n += square)
                simd::transpose_squares<targets::native>(reinterpret_cast<const Word*>(rows + n * stride) + begin, stride / bytes,
                                                         block, panel + begin * Width + n, Width);
        for (; n < columns; ++n) {
            const std::byte* const row = rows + n * stride;
            for (Index j = begin; j < end; ++j) std::memcpy(panel + j * Width + n, row + j * bytes, sizeof(Word));
        }
    }
}

/// The same of bytes, eight rows at a time: the lines of more, a power of two apart, would drive each other out of L1.
template <Index Width>
void gather_bytes(const std::byte* rows, Index stride, Index columns, Index count, std::byte* panel) noexcept {
    Index n = 0;
    for (; n + 8 <= columns; n += 8) {
        const std::byte* const eight = rows + n * stride;
        const Index done = simd::transpose_bytes<targets::native>(eight, stride, count, panel + n, Width);
        gather_words<Width>(eight + done, stride, Index{8}, count - done, panel + done * Width + n);
    }
    gather_words<Width>(rows + n * stride, stride, columns - n, count, panel + n);
}

/// Rows [first, first + columns) of a weight whose elements are words of a panel of S, or whole numbers of them are.
template <Weight S, class Word>
void gather_rows(const TensorRef& weight, Index first, Index columns, Index words, Word* panel) noexcept {
    const std::byte* const rows = row_bytes(weight, first);
    const Index stride = weight.stride * bits_of(weight.dtype) / 8;
    if constexpr (sizeof(Word) == 1) {
        gather_bytes<panel_columns<S>>(rows, stride, columns, words, reinterpret_cast<std::byte*>(panel));
    } else {
        gather_words<panel_columns<S>>(rows, stride, columns, words, panel);
    }
}

/// Rows [first, first + columns) of a weight, converted to S. What lies beside the last column and below the last k becomes 0.
template <Storage S>
void fill_panel(const TensorRef& weight, Index first, Index columns, S* panel) noexcept {
    constexpr Index width = panel_columns<S>;
    constexpr Index side_by_side = Format<S>::panel_interleave;
    using Word = std::conditional_t<side_by_side == 2, std::uint32_t, S>;
    if (weight.dtype == dtype_of<S> && columns == width && weight.cols % side_by_side == 0)
        return gather_rows<S>(weight, first, columns, weight.cols / side_by_side, reinterpret_cast<Word*>(panel));
    constexpr Index block = 64;
    compute_t<S> values[simd::extent<block>];
    S rows[simd::extent<width>][simd::extent<block>] = {};
    for (Index k = 0; k < weight.cols; k += block) {
        const Index count = std::min(block, weight.cols - k);
        for (Index n = 0; n < columns; ++n) {
            read_values(weight, first + n, k, count, values);
            simd::convert_row<targets::native>(rows[n], values, count);
            if (count % side_by_side != 0) rows[n][count] = S(0.0F);
        }
        gather_words<width>(reinterpret_cast<const std::byte*>(rows), sizeof rows[0], width, divide_up(count, side_by_side),
                            reinterpret_cast<Word*>(panel + k * width));
    }
}

/// Elements (row, first) and `count` − 1 after it as S: where they lie, or converted to a buffer.
template <Storage S>
[[nodiscard]] const S* read_row(const TensorRef& weight, Index row, Index first, Index count, S* buffer) noexcept {
    if (weight.dtype == dtype_of<S>) return static_cast<const S*>(weight.data) + row * weight.stride + first;
    compute_t<S> values[simd::extent<panel_columns<S>>];
    read_values(weight, row, first, count, values);
    simd::convert_row<targets::native>(buffer, values, count);
    return buffer;
}

/// Rows [first, first + rows) of a weight as elements S: where they lie, or converted to memory for rows · cols of them.
template <Storage S>
[[nodiscard]] TensorRef read_rows(const TensorRef& weight, Index first, Index rows, S* memory) noexcept {
    if (weight.dtype == dtype_of<S>) return weight.row_range(first, rows);
    constexpr Index block = 256;
    compute_t<S> values[simd::extent<block>];
    for (Index row = 0; row < rows; ++row)
        for (Index k = 0; k < weight.cols; k += block) {
            const Index count = std::min(block, weight.cols - k);
            read_values(weight, first + row, k, count, values);
            simd::convert_row<targets::native>(memory + row * weight.cols + k, values, count);
        }
    return {memory, rows, weight.cols};
}

/// The same of columns [first, first + columns), of a matrix whose rows are the k.
template <Storage S>
void fill_transposed_panel(const TensorRef& weight, Index first, Index columns, S* panel) noexcept {
    constexpr Index width = panel_columns<S>;
    constexpr Index side_by_side = Format<S>::panel_interleave;
    if (columns < width) std::fill_n(panel, panel_elements<S>(weight.rows), S(0.0F));
    S buffers[simd::extent<side_by_side>][simd::extent<width>] = {};
    for (Index k = 0; k < weight.rows; k += side_by_side) {
        S* const row = panel + k * width;
        const S* const even = read_row(weight, k, first, columns, buffers[0]);
        if constexpr (side_by_side == 1) {
            std::copy_n(even, columns, row);
        } else {
            constexpr S zeros[simd::extent<width>] = {};
            const S* const odd = k + 1 < weight.rows ? read_row(weight, k + 1, first, columns, buffers[1]) : zeros;
            simd::interleave<targets::native>(even, odd, columns, reinterpret_cast<simd::Bf16Pair*>(row));
        }
    }
}

}  // namespace mla::inline MLA_ISA::detail
