// Non-owning views: a pointer, sizes and strides. They never allocate, never own, and are passed by value.
#pragma once

#include <array>
#include <type_traits>

#include "mla/core/float8.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA {

/// Row-major matrix [rows, cols] in foreign memory; rows lie `stride` elements apart, elements of a row are adjacent.
template <class T>
struct MatrixView {
    T* data = nullptr;
    Index rows = 0;
    Index cols = 0;
    Index stride = 0;

    constexpr MatrixView() = default;
    constexpr MatrixView(T* pointer, Index row_count, Index col_count) noexcept
        : MatrixView(pointer, row_count, col_count, col_count) {}
    constexpr MatrixView(T* pointer, Index row_count, Index col_count, Index row_stride) noexcept
        : data(pointer), rows(row_count), cols(col_count), stride(row_stride) {}

    /// A mutable view reads as a constant one.
    constexpr operator MatrixView<const T>() const noexcept requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }

    [[nodiscard]] constexpr T* row(Index index) const noexcept { return data + index * stride; }
    [[nodiscard]] constexpr T& operator()(Index r, Index c) const noexcept { return row(r)[c]; }
    [[nodiscard]] constexpr MatrixView columns(Index begin, Index count) const noexcept {
        return {data + begin, rows, count, stride};
    }
    [[nodiscard]] constexpr MatrixView row_range(Index begin, Index count) const noexcept {
        return {row(begin), count, cols, stride};
    }
};

/// Values a head and token, [tokens, heads, dim]: queries on the way in, outputs on the way out.
/// Elements of a head are adjacent; heads and tokens lie any distance apart.
template <class T>
struct HeadsView {
    T* data = nullptr;
    Index tokens = 0;
    Index heads = 0;
    Index dim = 0;
    Index token_stride = 0;
    Index head_stride = 0;

    constexpr HeadsView() = default;
    constexpr HeadsView(T* pointer, Index token_count, Index head_count, Index head_dim) noexcept
        : HeadsView(pointer, token_count, head_count, head_dim, head_count * head_dim, head_dim) {}
    constexpr HeadsView(T* pointer, Index token_count, Index head_count, Index head_dim, Index stride_of_token,
                        Index stride_of_head) noexcept
        : data(pointer),
          tokens(token_count),
          heads(head_count),
          dim(head_dim),
          token_stride(stride_of_token),
          head_stride(stride_of_head) {}

    constexpr operator HeadsView<const T>() const noexcept requires(!std::is_const_v<T>) {
        return {data, tokens, heads, dim, token_stride, head_stride};
    }

    [[nodiscard]] constexpr T* at(Index token, Index head) const noexcept {
        return data + token * token_stride + head * head_stride;
    }
    /// All tokens of one head as a matrix [tokens, dim].
    [[nodiscard]] constexpr MatrixView<T> head(Index index) const noexcept { return {at(0, index), tokens, dim, token_stride}; }
    [[nodiscard]] constexpr HeadsView token_range(Index begin, Index count) const noexcept {
        return {data + begin * token_stride, count, heads, dim, token_stride, head_stride};
    }
    /// The values [begin, begin + count) of every head.
    [[nodiscard]] constexpr HeadsView slice(Index begin, Index count) const noexcept {
        return {data + begin, tokens, heads, count, token_stride, head_stride};
    }
};

/// What the elements of an fp8 matrix are multiplied by: one float for each block of 128 × 128 (DeepSeek-V3, section 3.3;
/// `weight_scale_inv` of its checkpoints). Blocks at the right and lower edge may be cut off.
struct BlockScales {
    static constexpr Index block = 128;

    const float* data = nullptr;
    Index stride = 0;     ///< scales from one row of blocks to the next
    Index first_row = 0;  ///< row of the whole matrix that a view's row 0 is

    [[nodiscard]] constexpr float operator()(Index row, Index col) const noexcept {
        constexpr auto whole = static_cast<std::size_t>(block);  // of unsigned numbers, so that a division is a shift
        return data[static_cast<Index>(static_cast<std::size_t>(first_row + row) / whole) * stride +
                    static_cast<Index>(static_cast<std::size_t>(col) / whole)];
    }
};

namespace detail {

template <Storage S>
[[nodiscard]] constexpr auto elements(const void* data, Index stride) noexcept {
    return [source = static_cast<const S*>(data), stride](Index row, Index col) { return source[row * stride + col]; };
}

/// Every fp8, decoded: packing a layer looks up some ten million.
inline constexpr std::array<float, 256> fp8_values = [] {
    std::array<float, 256> values{};
    for (std::size_t bits = 0; bits < values.size(); ++bits) values[bits] = fp8_value(static_cast<std::uint8_t>(bits));
    return values;
}();

[[nodiscard]] constexpr auto scaled_elements(const void* data, Index stride, BlockScales scales) noexcept {
    return [source = static_cast<const fp8*>(data), stride, scales](Index row, Index col) {
        const float value = fp8_values[source[row * stride + col].bits];
        return scales.data == nullptr ? value : value * scales(row, col);
    };
}

}  // namespace detail

/// Constant row-major matrix [rows, cols] of any storage type or of fp8: a weight on its way into packed form, as it lies in a
/// checkpoint or in a host's memory. A vector is a matrix of one row.
struct TensorRef {
    const void* data = nullptr;
    DType dtype = DType::f32;
    Index rows = 0;
    Index cols = 0;
    Index stride = 0;    ///< elements from row to row
    BlockScales scales;  ///< of fp8 elements; without data they count as they are

    constexpr TensorRef() = default;
    template <Storage S>
    constexpr TensorRef(const S* pointer, Index row_count, Index col_count) noexcept
        : TensorRef(pointer, dtype_of<S>, row_count, col_count, col_count) {}
    constexpr TensorRef(const void* pointer, DType type, Index row_count, Index col_count, Index row_stride) noexcept
        : data(pointer), dtype(type), rows(row_count), cols(col_count), stride(row_stride) {}
    constexpr TensorRef(const fp8* pointer, Index row_count, Index col_count, BlockScales block_scales) noexcept
        : TensorRef(pointer, DType::f8_e4m3, row_count, col_count, col_count) {
        scales = block_scales;
    }

    [[nodiscard]] constexpr bool empty() const noexcept { return data == nullptr; }
    [[nodiscard]] TensorRef row_range(Index begin, Index count) const noexcept {
        TensorRef range(static_cast<const char*>(data) + begin * stride * size_of(dtype), dtype, count, cols, stride);
        range.scales = {scales.data, scales.stride, scales.first_row + begin};
        return range;
    }

    /// Calls `f` with a function of (row, column) that gives an element in its storage type, or in float for fp8.
    template <class F>
    constexpr decltype(auto) visit(F&& f) const {
        switch (dtype) {
            case DType::f64: return f(detail::elements<double>(data, stride));
            case DType::bf16: return f(detail::elements<bf16>(data, stride));
            case DType::f16: return f(detail::elements<fp16>(data, stride));
            case DType::f8_e4m3: return f(detail::scaled_elements(data, stride, scales));
            case DType::f32: break;
        }
        return f(detail::elements<float>(data, stride));
    }
};

}  // namespace mla::inline MLA_ISA
