// Configurations of three tile registers for products of any shape, and products of bytes on any target.
#pragma once

#include <vector>

#include "mla/simd/prefetch.hpp"
#include "mla/simd/tile_registers.hpp"

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

/// [32, 32] sums of the products of two whole registers of either side, a row of 64 bytes each.
template <class Target, bool Rows, bool Columns>
[[nodiscard]] std::vector<std::uint32_t> product_of_bytes(const void* left, const void* right) {
    const auto rows = [](const void* first) { return simd::TileRows{first, 64, 0}; };
    const auto second = [](const void* first) { return static_cast<const std::byte*>(first) + 1024; };
    const simd::TileRows a[2] = {rows(left), rows(second(left))};
    const simd::TileRows b[2] = {rows(right), rows(second(right))};
    std::vector<std::uint32_t> sums(1024);
    simd::TileRegisters<Target> registers;
    simd::TileProduct<Target, 2, 2, simd::BytesOf<Rows, Columns>> product(registers);
    simd::Prefetch nothing;
    product.clear();
    product.multiply(1, a, b, nothing);
    product.store(sums.data(), 32);
    return sums;
}

}  // namespace mla::testing
