// The replaceable operators new and delete, with a counter. The forms for arrays and the ones that do not throw call these.
// The thread sanitizer brings operators that cannot be replaced; there its hook on every allocation counts.
#include "support/allocations.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_THREAD__)
#define MLA_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MLA_THREAD_SANITIZER
#endif
#endif

namespace {

std::atomic<std::uint64_t> count{0};

}  // namespace

namespace mla::testing {

std::uint64_t allocations() noexcept { return count.load(std::memory_order_relaxed); }

}  // namespace mla::testing

#if defined(MLA_THREAD_SANITIZER)

extern "C" void __sanitizer_malloc_hook(const volatile void*, std::size_t) { count.fetch_add(1, std::memory_order_relaxed); }

#else

namespace {

void* counted(void* memory) {
    count.fetch_add(1, std::memory_order_relaxed);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(std::malloc(bytes == 0 ? 1 : bytes)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    const auto step = static_cast<std::size_t>(alignment);
    const std::size_t steps = bytes == 0 ? 1 : (bytes + step - 1) / step;
    return counted(std::aligned_alloc(step, steps * step));  // it takes whole multiples only
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

#endif
