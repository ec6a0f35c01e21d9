// Configurations of three tile registers for products of any shape.
#pragma once

#include "mla/simd/tile_config.hpp"

namespace mla::testing {

struct TileShape {
    Index rows;     ///< of C and A
    Index columns;  ///< of C and B
    Index groups;   ///< of a row of A: rows of B
};

/// Whole registers, one element, and every side cut.
inline constexpr TileShape tile_shapes[] = {{16, 16, 16}, {1, 1, 1},   {16, 16, 1}, {5, 16, 16},
                                            {16, 7, 16},  {16, 16, 9}, {3, 2, 5},   {13, 11, 15}};

/// Registers 0, 1 and 2 as C, A and B.
[[nodiscard]] inline simd::TileConfig config_of(const TileShape& s) {
    simd::TileConfig config;
    const auto set = [&](int tile, Index rows, Index groups) {
        config.rows[tile] = static_cast<std::uint8_t>(rows);
        config.row_bytes[tile] = static_cast<std::uint16_t>(4 * groups);
    };
    set(0, s.rows, s.columns);
    set(1, s.rows, s.groups);
    set(2, s.groups, s.columns);
    return config;
}

}  // namespace mla::testing
