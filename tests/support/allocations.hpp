// Counts allocations. A test program that includes this compiles support/allocations.cpp in.
#pragma once

#include <cstdint>

#include "mla/core/compiler.hpp"

namespace mla::testing {

/// Calls of operator new, in any form and on any thread, since the program began.
[[nodiscard]] std::uint64_t allocations() noexcept;

}  // namespace mla::testing
