// Non-owning views: a pointer, sizes and strides. They never allocate, never own, and are passed by value.
#pragma once

#include <type_traits>

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

}  // namespace mla::inline MLA_ISA
