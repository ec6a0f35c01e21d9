// bfloat16: multiplied in pairs where a target can, else widened to float; what it meets is rounded to bf16 alike.
#pragma once

#include "mla/formats/format.hpp"

namespace mla::inline MLA_ISA {

template <>
struct Format<bf16> : detail::StorageFormat<bf16> {
    /// Two are what one instruction multiplies and adds where there is one, and elsewhere widen to float by a shift or a mask,
    /// where those of one k would take a shuffle besides.
    static constexpr int panel_interleave = 2;

    template <class Target, Compute A, Precision P>
    using Operand = operands::RoundedWhereNarrow<Target, A, P>;
    template <class Target, Compute A, Precision P>
    using Decompressed = operands::RoundedWhereNarrow<Target, A, P>;

    /// Neighbours make a pair.
    template <class Operand>
    static constexpr bool in_place = std::is_same_v<typename Operand::Unit, simd::Bf16Pair>;
    template <class Target, class Operand>
    static constexpr bool whole_blocks = !in_place<Operand> && detail::StorageFormat<bf16>::whole_blocks<Target, Operand>;

    template <class Target, class Operand, class Unit>
    static void stage_key(const RowFormat<bf16>& format, const bf16* row, Index first, Index count, Unit* units,
                          float* step) noexcept {
        if constexpr (std::is_same_v<Unit, simd::Bf16Pair>) {
            auto* const values = reinterpret_cast<bf16*>(units);
            std::copy_n(row + first, count, values);
            if (count % 2 != 0) values[count] = bf16();
        } else {
            StorageFormat::stage_key<Target, Operand>(format, row, first, count, units, step);
        }
    }
    template <class Target, class Operand, class Unit>
    static void stage_values(const bf16* first, const bf16* second, Index column, Index count, Unit* units) noexcept {
        if constexpr (std::is_same_v<Unit, simd::Bf16Pair>) {
            const auto pairs = [=](const bf16* row) {
                return row == nullptr ? nullptr : reinterpret_cast<const Unit*>(row + column);
            };
            Operand::template interleave<Target>(pairs(first), pairs(second), count, units);
        } else {
            StorageFormat::stage_values<Target, Operand>(first, second, column, count, units);
        }
    }
};

}  // namespace mla::inline MLA_ISA
