// The floating-point mode that products are computed in, whatever the calling thread has set.
#pragma once

#include "mla/core/compiler.hpp"

#if MLA_HAS_X86
#include <xmmintrin.h>
#endif

namespace mla::inline MLA_ISA {

/// While it lives, this thread rounds to nearest and takes subnormal floats and doubles for 0, as operands and as results: what
/// VDPBF16PS and AMX do in any mode. So all targets agree, in threads that flush and in those that do not.
class FloatEnvironment {
  public:
    FloatEnvironment() noexcept : before_(read()) {
        if (before_ != ours) write(ours);
    }
    FloatEnvironment(const FloatEnvironment&) = delete;
    FloatEnvironment& operator=(const FloatEnvironment&) = delete;
    ~FloatEnvironment() {
        if (before_ != ours) write(before_);
    }

  private:
#if MLA_HAS_X86
    /// All exceptions masked, DAZ, FTZ; the sticky flags of what happened (the lowest six bits) do not matter.
    static constexpr unsigned ours = 0x9fc0U;
    [[nodiscard]] MLA_ALWAYS_INLINE static unsigned read() noexcept { return _mm_getcsr() & ~0x3fU; }
    MLA_ALWAYS_INLINE static void write(unsigned mode) noexcept { _mm_setcsr(mode); }
    unsigned before_;
#elif MLA_HAS_NEON
    static constexpr unsigned long ours = 1UL << 24U;  ///< FZ; to nearest, no traps, halves and bf16 as ever
    [[nodiscard]] MLA_ALWAYS_INLINE static unsigned long read() noexcept {
        unsigned long mode = 0;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    MLA_ALWAYS_INLINE static void write(unsigned long mode) noexcept { asm volatile("msr fpcr, %0" : : "r"(mode)); }
    unsigned long before_;
#else
    static constexpr int ours = 0;
    [[nodiscard]] static int read() noexcept { return ours; }
    static void write(int) noexcept {}
    int before_;
#endif
};

}  // namespace mla::inline MLA_ISA
