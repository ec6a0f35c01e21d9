// What the fuzz targets share. Any exception that a target does not name ends the program, and so do the sanitizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace mla::fuzz {

inline void require(bool holds) {
    if (!holds) std::abort();
}

/// Reads the value, so that a sanitizer sees it read.
template <class T>
void touch(const T& value) {
    volatile T seen = value;
    static_cast<void>(seen);
}

}  // namespace mla::fuzz
