// Memory for arrays of trivial elements: aligned, uninitialised, on large pages where it is large.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#include "mla/core/types.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mla::inline MLA_ISA {

/// Every array starts on a cache line, which is also the widest vector.
inline constexpr std::size_t scratch_alignment = 64;

namespace detail {

/// A large page of x86-64 and of AArch64 with pages of 4 KiB.
inline constexpr std::size_t large_page = std::size_t{1} << 21;

struct AlignedDelete {
    std::align_val_t alignment{scratch_alignment};
    void operator()(void* memory) const noexcept { ::operator delete(memory, alignment); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], AlignedDelete>;

/// Storage for `count` elements. Arrays of a large page and more ask Linux for such pages: they spare a stream of weights or keys
/// a wait every 4 KiB, and lie together in physical memory, so that what fits a cache by its size fits it.
template <class T>
[[nodiscard]] AlignedArray<T> allocate_aligned(Index count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    const std::align_val_t alignment{bytes < large_page ? scratch_alignment : large_page};
    void* const memory = ::operator new(bytes, alignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= large_page) static_cast<void>(::madvise(memory, bytes, MADV_HUGEPAGE));  // a wish: without it all works
#endif
    return AlignedArray<T>(static_cast<T*>(memory), AlignedDelete{alignment});
}

}  // namespace detail
}  // namespace mla::inline MLA_ISA
