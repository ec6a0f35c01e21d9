// A weight as it lies in a checkpoint or in a host's memory: of any type, with the scales of those that are quantised.
#pragma once

#include <array>
#include <limits>
#include <type_traits>

#include "mla/core/float8.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA {

/// What the elements of a quantised matrix are multiplied by: one number for each block of rows and columns, counted from the
/// whole matrix's first. Blocks at its right and lower edge may be cut off.
struct BlockScales {
    /// Of a block that is as long as the matrix.
    static constexpr Index all = std::numeric_limits<Index>::max();

    const void* data = nullptr;
    DType dtype = DType::f32;  ///< f32, bf16, f16 or f8_e8m0
    Index block_rows = 128;
    Index block_cols = 128;
    Index stride = 0;     ///< scales from one row of blocks to the next
    Index first_row = 0;  ///< row of the whole matrix that a view's row 0 is
    Index first_col = 0;  ///< and its column

    constexpr BlockScales() = default;
    /// One for each 128 × 128 elements (DeepSeek-V3, section 3.3; `weight_scale_inv` of its checkpoints).
    constexpr BlockScales(const float* scales, Index from_row_to_row) noexcept : data(scales), stride(from_row_to_row) {}
    constexpr BlockScales(const void* scales, DType type, Index rows, Index cols, Index from_row_to_row) noexcept
        : data(scales), dtype(type), block_rows(rows), block_cols(cols), stride(from_row_to_row) {}

    /// One for each row of the matrix, and so for each output of a projection.
    [[nodiscard]] static constexpr BlockScales per_row(const void* scales, DType type) noexcept {
        return {scales, type, 1, all, 1};
    }
    [[nodiscard]] static constexpr BlockScales per_tensor(const void* scale, DType type) noexcept {
        return {scale, type, all, all, 0};
    }
    /// One for each `count` neighbours of a row, of which a row has `per_row`.
    [[nodiscard]] static constexpr BlockScales per_group(const void* scales, DType type, Index count, Index per_row) noexcept {
        return {scales, type, 1, count, per_row};
    }

    [[nodiscard]] constexpr bool empty() const noexcept { return data == nullptr; }
    /// Calls f with a pointer to the first scale, in its own type.
    template <class F>
    constexpr decltype(auto) visit(F&& f) const {
        switch (dtype) {
            case DType::bf16: return f(static_cast<const bf16*>(data));
            case DType::f16: return f(static_cast<const fp16*>(data));
            case DType::f8_e8m0: return f(static_cast<const ue8m0*>(data));
            default: return f(static_cast<const float*>(data));
        }
    }
    /// Where the scales of a row begin, and which of them is a column's.
    [[nodiscard]] constexpr Index row_start(Index row) const noexcept { return (first_row + row) / block_rows * stride; }
    [[nodiscard]] constexpr Index block_of(Index col) const noexcept { return (first_col + col) / block_cols; }
    [[nodiscard]] constexpr float operator()(Index row, Index col) const noexcept {
        return visit([&](const auto* scales) { return static_cast<float>(scales[row_start(row) + block_of(col)]); });
    }
    /// Calls f(begin, end, scale) for the columns [begin, end) of a row that share a scale, from `first` up to `last`.
    template <class F>
    constexpr void for_each_block(Index row, Index first, Index last, F&& f) const {
        visit([&](const auto* scales) {
            scales += row_start(row) + block_of(first);
            Index left = block_cols - (first_col + first) % block_cols;
            for (; first < last; ++scales, left = block_cols) {
                const Index end = left < last - first ? first + left : last;
                f(first, end, static_cast<float>(*scales));
                first = end;
            }
        });
    }
};

namespace detail {

template <Storage S>
[[nodiscard]] constexpr auto elements(const void* data, Index stride) noexcept {
    return [source = static_cast<const S*>(data), stride](Index row, Index col) { return source[row * stride + col]; };
}

/// Every fp8, decoded.
inline constexpr std::array<float, 256> fp8_values = [] {
    std::array<float, 256> values{};
    for (std::size_t bits = 0; bits < values.size(); ++bits) values[bits] = fp8_value(static_cast<std::uint8_t>(bits));
    return values;
}();

}  // namespace detail

/// Constant row-major matrix [rows, cols]: a weight on its way into packed form. A vector is a matrix of one row.
struct TensorRef {
    const void* data = nullptr;
    DType dtype = DType::f32;
    Index rows = 0;
    Index cols = 0;
    Index stride = 0;        ///< elements from row to row
    BlockScales scales;      ///< of fp8, int8 and int4, which are nothing without
    Index first_nibble = 0;  ///< of int4: 1 where the first element is the upper half of its byte

    constexpr TensorRef() = default;
    template <Storage S>
    constexpr TensorRef(const S* pointer, Index row_count, Index col_count) noexcept
        : TensorRef(pointer, dtype_of<S>, row_count, col_count, col_count) {}
    constexpr TensorRef(const void* pointer, DType type, Index row_count, Index col_count, Index row_stride,
                        const BlockScales& block_scales = {}) noexcept
        : data(pointer), dtype(type), rows(row_count), cols(col_count), stride(row_stride), scales(block_scales) {}
    constexpr TensorRef(const fp8* pointer, Index row_count, Index col_count, const BlockScales& block_scales) noexcept
        : TensorRef(pointer, DType::f8_e4m3, row_count, col_count, col_count, block_scales) {}
    constexpr TensorRef(const int8* pointer, Index row_count, Index col_count, const BlockScales& block_scales) noexcept
        : TensorRef(pointer, DType::i8, row_count, col_count, col_count, block_scales) {}

    [[nodiscard]] constexpr bool empty() const noexcept { return data == nullptr; }
    [[nodiscard]] constexpr TensorRef row_range(Index begin, Index count) const noexcept { return range(begin, 0, count, cols); }
    [[nodiscard]] constexpr TensorRef column_range(Index begin, Index count) const noexcept {
        return range(0, begin, rows, count);
    }

    /// Calls `f` with a function of (row, column) that gives an element in its storage type; of a quantised one its exact value
    /// times its scale, in double.
    template <class F>
    constexpr decltype(auto) visit(F&& f) const {
        switch (dtype) {
            case DType::f64: return f(detail::elements<double>(data, stride));
            case DType::bf16: return f(detail::elements<bf16>(data, stride));
            case DType::f16: return f(detail::elements<fp16>(data, stride));
            case DType::f8_e4m3:
            case DType::i8:
            case DType::i4:
                return f([*this](Index row, Index col) {
                    return static_cast<double>(quantised(row, col)) * static_cast<double>(scales(row, col));
                });
            default: return f(detail::elements<float>(data, stride));
        }
    }

    /// A quantised element without its scale.
    [[nodiscard]] constexpr float quantised(Index row, Index col) const noexcept {
        const Index at = row * stride + col + first_nibble;
        if (dtype == DType::i8) return static_cast<const int8*>(data)[at];
        if (dtype == DType::f8_e4m3) return detail::fp8_values[static_cast<const fp8*>(data)[at].bits];
        const unsigned both = static_cast<const std::uint8_t*>(data)[at / 2];
        return static_cast<float>(at % 2 == 0 ? both & 15U : both >> 4U) - 8.0F;
    }

  private:
    [[nodiscard]] constexpr TensorRef range(Index row, Index col, Index row_count, Index col_count) const noexcept {
        TensorRef part = *this;
        const Index bits = (row * stride + col + first_nibble) * bits_of(dtype);
        part.data = static_cast<const char*>(data) + bits / 8;
        part.first_nibble = bits % 8 / 4;
        part.rows = row_count;
        part.cols = col_count;
        part.scales.first_row += row;
        part.scales.first_col += col;
        return part;
    }
};

}  // namespace mla::inline MLA_ISA
