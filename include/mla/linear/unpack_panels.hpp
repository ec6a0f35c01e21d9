// Panels of weights that have scales, unpacked to pairs of bf16, which hold every code.
#pragma once

#include "mla/linear/panels.hpp"
#include "mla/simd/atoms.hpp"

namespace mla::inline MLA_ISA::detail {

/// A vector of row K of eight rows of a panel, its codes as numbers that are loaded_unit too small.
template <class Target, Weight S, int K>
[[nodiscard]] MLA_ALWAYS_INLINE simd::Batch<Target, float> load_codes(const S* rows, Index column) {
    if constexpr (Format<S>::panel_values > 1) {
        return simd::load_interleaved<Target, K>(rows + column);
    } else {
        using Element = typename Format<S>::PanelElement;
        return simd::load<Target, float>(reinterpret_cast<const Element*>(rows + K * panel_columns<S> + column));
    }
}

/// Rows K and K + 1 as pairs of what is loaded, or of what it stands for.
template <class Target, Weight S, int K, bool Scaled>
MLA_ALWAYS_INLINE void unpack_rows(const S* rows, simd::Bf16Pair* pairs) {
    using Batch = simd::Batch<Target, float>;
    constexpr float unit = Scaled ? loaded_unit<typename Format<S>::PanelElement> : 1.0F;
    for (Index n = 0; n < panel_columns<S>; n += simd::lanes<Target, float>) {
        Batch first = load_codes<Target, S, K>(rows, n);
        Batch second = load_codes<Target, S, K + 1>(rows, n);
        if constexpr (unit != 1.0F) {
            first = first * Batch(unit);
            second = second * Batch(unit);
        }
        simd::pair_lanes_exactly<Target>(first, second).store_unaligned(simd::words(pairs + n));
    }
}

/// The rows that a panel is a multiple of, to pairs [k / 2][columns].
template <class Target, bool Scaled, Weight S>
MLA_ALWAYS_INLINE void unpack_row_step(const S* rows, simd::Bf16Pair* pairs) {
    using Element = typename Format<S>::PanelElement;
    constexpr Index columns = panel_columns<S>;
    if constexpr (!Scaled && simd::loads_rows_in_pairs<Target, Element> && simd::lanes<Target, float> == columns) {
        simd::unroll<panel_row_step<S> / 4>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            simd::PackedBatch<Target> first, second;
            simd::Atoms<Target>::load_rows_in_pairs(reinterpret_cast<const Element*>(rows + 4 * i * columns), first, second);
            first.store_unaligned(simd::words(pairs + 2 * i * columns));
            second.store_unaligned(simd::words(pairs + (2 * i + 1) * columns));
        });
    } else {
        simd::unroll<panel_row_step<S> / 2>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            constexpr int first = 2 * decltype(i)::value;
            unpack_rows<Target, S, first, Scaled>(rows, pairs + i * columns);
        });
    }
}

}  // namespace mla::inline MLA_ISA::detail
