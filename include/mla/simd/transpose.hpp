// Rows that become columns.
#pragma once

#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::simd {

/// columns[k·stride + r] = rows[r·row_stride + k] for as many rows r as a vector has lanes and k in [0, count), elements of four
/// bytes at any address: whole squares of them, in registers. Each of log2(lanes) rounds interleaves the first half of the
/// vectors with the second. Returns how many k that were.
template <class Target, class U>
Index transpose_squares(const U* rows, Index row_stride, Index count, U* columns, Index stride) noexcept {
    using Vector = Batch<Target, float>;
    static_assert(sizeof(U) == sizeof(float));
    constexpr Index width = lanes<Target, float>;
    Index k = 0;
    for (; k + width <= count; k += width) {
        Vector square[extent<width>];
        unroll<width>([&](auto r) MLA_ALWAYS_INLINE_LAMBDA {
            square[r] = Vector::load_unaligned(reinterpret_cast<const float*>(rows + r * row_stride + k));
        });
        for (Index round = 1; round < width; round *= 2) {
            Vector woven[extent<width>];
            unroll<width / 2>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
                woven[2 * i] = square[i];
                woven[2 * i + 1] = square[i + width / 2];
                interleave_lanes<Target>(woven[2 * i], woven[2 * i + 1]);
            });
            unroll<width>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { square[i] = woven[i]; });
        }
        unroll<width>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            square[i].store_unaligned(reinterpret_cast<float*>(columns + (k + i) * stride));
        });
    }
    return k;
}

/// The same of elements of any type, and of the k that fill no square.
template <class Target, class U>
void transpose(const U* rows, Index row_stride, Index count, U* columns, Index stride) noexcept {
    constexpr Index width = lanes<Target, float> * static_cast<Index>(sizeof(float)) / static_cast<Index>(sizeof(U));
    Index k = 0;
    if constexpr (sizeof(U) == sizeof(float)) k = transpose_squares<Target>(rows, row_stride, count, columns, stride);
    for (; k < count; ++k)
        for (Index r = 0; r < width; ++r) columns[k * stride + r] = rows[r * row_stride + k];
}

/// columns[k·stride + r] = rows[r·row_stride + k] of bytes, for eight rows r and k in [0, count), whole sixteens of them. Returns
/// how many k that were.
template <class Target>
Index transpose_bytes(const std::byte* rows, Index row_stride, Index count, std::byte* columns, Index stride) noexcept {
    Index k = 0;
    for (; k + 16 <= count; k += 16) Atoms<Target>::transpose_bytes(rows + k, row_stride, columns + k * stride, stride);
    return k;
}

}  // namespace mla::inline MLA_ISA::simd
