// Rows that become columns.
#pragma once

#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::simd {

/// columns[k·stride + r] = rows[r·row_stride + k] for as many rows r as a vector has lanes and k in [0, count). Squares of
/// elements of four bytes are transposed in registers: each of log2(lanes) rounds interleaves the first half of the vectors with
/// the second.
template <class Target, class U>
void transpose(const U* rows, Index row_stride, Index count, U* columns, Index stride) noexcept {
    constexpr Index width = lanes<Target, float> * static_cast<Index>(sizeof(float)) / static_cast<Index>(sizeof(U));
    Index k = 0;
    if constexpr (sizeof(U) == sizeof(float)) {
        using Vector = Batch<Target, float>;
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
    }
    for (; k < count; ++k)
        for (Index r = 0; r < width; ++r) columns[k * stride + r] = rows[r * row_stride + k];
}

}  // namespace mla::inline MLA_ISA::simd
