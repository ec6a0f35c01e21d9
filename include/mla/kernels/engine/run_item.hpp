// What a target sets up once for all kernels that an item of work calls.
#pragma once

#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// Products in tile registers find them configured.
template <class Target, class Operand>
void run_item(void (*body)(void*) noexcept, void* context) noexcept {
    if constexpr (Operand::in_tiles) {
        const simd::TileRegisters<Target> registers;
        body(context);
    } else {
        body(context);
    }
}

}  // namespace mla::inline MLA_ISA::detail
