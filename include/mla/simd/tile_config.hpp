// Tile registers: what AMX multiplies matrices in, and how they are configured.
//
// A tile register holds up to 16 rows of 64 bytes. A product takes three:
//
//     C [rows, columns] of 32 bits += A [rows, groups of 4 bytes] · B [groups, columns of 4 bytes]
//
// A group is two bf16 or four bytes, adjacent in a row of A and in a cell of B, so that B lies [pair of k][column][2].
#pragma once

#include <cstring>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::simd {

inline constexpr int tile_registers = 8;
inline constexpr Index tile_rows = 16;
inline constexpr Index tile_row_bytes = 64;
/// Groups of a row: columns of C and B, and k of A in groups.
inline constexpr Index tile_groups = tile_row_bytes / 4;

/// The 64 bytes that LDTILECFG reads: of each register its rows and their bytes, both 0 of one that is not used. Palette 0: none
/// is. No register may pass 16 rows of 64 bytes, and nothing else may be set.
struct TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;  ///< where an interrupted load goes on
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};

    /// All registers whole.
    [[nodiscard]] static constexpr TileConfig whole() noexcept {
        TileConfig config;
        for (int i = 0; i < tile_registers; ++i) {
            config.row_bytes[i] = static_cast<std::uint16_t>(tile_row_bytes);
            config.rows[i] = static_cast<std::uint8_t>(tile_rows);
        }
        return config;
    }

    /// No registers, as after TILERELEASE.
    [[nodiscard]] static constexpr TileConfig none() noexcept {
        TileConfig config;
        config.palette = 0;
        return config;
    }

    /// Whether LDTILECFG takes it; else it is a fault.
    [[nodiscard]] constexpr bool is_valid() const noexcept {
        if (palette == 0) return true;
        if (palette != 1 || start_row != 0) return false;
        for (const std::uint8_t byte : reserved)
            if (byte != 0) return false;
        for (int i = 0; i < 16; ++i) {
            const bool known = i < tile_registers && row_bytes[i] <= tile_row_bytes && rows[i] <= tile_rows;
            if (!known && (row_bytes[i] != 0 || rows[i] != 0)) return false;
            if ((row_bytes[i] == 0) != (rows[i] == 0)) return false;
        }
        return true;
    }

    [[nodiscard]] constexpr bool has(int tile) const noexcept { return palette == 1 && rows[tile] != 0; }

    /// Whether a product may take these registers; else it is a fault.
    [[nodiscard]] constexpr bool can_multiply(int c, int a, int b) const noexcept {
        return has(c) && has(a) && has(b) && c != a && c != b && a != b && row_bytes[a] % 4 == 0 && row_bytes[c] % 4 == 0 &&
               rows[c] == rows[a] && row_bytes[c] == row_bytes[b] && row_bytes[a] / 4 == rows[b];
    }
};
static_assert(sizeof(TileConfig) == 64);

/// The registers of this thread while this lives, all whole, and afterwards as they were configured before; Registers has the
/// instructions. What they held is lost, as in any call: the ABI lets functions change registers and configuration, and a host
/// that keeps tiles over a call saves them. Where they are whole already nothing is configured: an item of work has one of these,
/// and each kernel that it calls.
template <class Registers>
class WholeTiles : public Registers {
  public:
    WholeTiles() noexcept : before_(Registers::configuration()) {
        if (!was_whole()) Registers::configure(TileConfig::whole());
    }
    WholeTiles(const WholeTiles&) = delete;
    WholeTiles& operator=(const WholeTiles&) = delete;
    /// Released registers are not saved when the thread is switched.
    ~WholeTiles() {
        if (was_whole()) return;
        before_.palette == 0 ? Registers::release() : Registers::configure(before_);
    }

  private:
    [[nodiscard]] bool was_whole() const noexcept {
        constexpr TileConfig whole = TileConfig::whole();
        return std::memcmp(&before_, &whole, sizeof whole) == 0;
    }

    TileConfig before_;
};

}  // namespace mla::inline MLA_ISA::simd
