// What products in tile registers are loaded from, of whichever values.
#pragma once

#include <algorithm>
#include <cstddef>

#include "mla/simd/tile_registers.hpp"
#include "mla/simd/transpose.hpp"

namespace mla::inline MLA_ISA::detail {

/// Lists `tokens` rows as M registers of them, if they fill registers whose rows are a stride apart. Registers of no token are
/// loaded from the first one's.
template <std::size_t M>
[[nodiscard]] bool list_registers(const void* const* rows, Index tokens, simd::TileRows (&registers)[M]) noexcept {
    if (tokens % simd::tile_rows != 0) return false;
    const auto address = [=](Index t) { return static_cast<const std::byte*>(rows[t]); };
    for (Index m = 0; m < static_cast<Index>(M); ++m) {
        const Index begin = m * simd::tile_rows < tokens ? m * simd::tile_rows : 0;
        const Index stride = address(begin + 1) - address(begin);
        for (Index t = begin + 2; t < begin + simd::tile_rows; ++t)
            if (address(t) - address(t - 1) != stride) return false;
        registers[m] = {address(begin), stride, simd::tile_row_bytes};
    }
    return true;
}

/// P [`count` units or floats of tokens, Width rows] to [rows, tokens], with zeros up to a multiple of `whole`.
template <class Target, Index Width, class Unit>
void turn(Index count, Index whole, Unit* p, Unit* by_rows, Index stride) noexcept {
    const Index filled = round_up(count, whole);
    std::fill(p + count * Width, p + filled * Width, Unit());
    for (Index i = 0; i < filled; i += simd::lanes<Target, float>)
        simd::transpose_squares<Target>(p + i * Width, Width, Width, by_rows + i, stride);
}

}  // namespace mla::inline MLA_ISA::detail
