// The tile registers of AMX.
//
// Written as assembly, because GCC's intrinsics want a register's number as a literal, and do not say which memory they read: GCC
// may move stores to it past them.
#pragma once

#include "mla/simd/tile_config.hpp"

#if MLA_HAS_AMX
namespace mla::inline MLA_ISA::simd {

/// The registers of this thread.
class AmxTileRegisters {
  public:
    [[nodiscard]] static TileConfig configuration() noexcept {
        TileConfig config;
        asm volatile("sttilecfg %0" : "=m"(config));
        return config;
    }
    static void configure(const TileConfig& config) noexcept { asm volatile("ldtilecfg %0" : : "m"(config)); }
    static void release() noexcept { asm volatile("tilerelease"); }

    /// Rows from `first` on, `stride` bytes apart.
    template <int T>
    MLA_ALWAYS_INLINE void load(const void* first, Index stride) noexcept {
        asm volatile("tileloadd {(%0,%1,1), %%tmm%c2|tmm%c2, [%0+%1*1]}" : : "r"(first), "r"(stride), "i"(T) : "memory");
    }
    template <int T>
    MLA_ALWAYS_INLINE void store(void* first, Index stride) const noexcept {
        asm volatile("tilestored {%%tmm%c2, (%0,%1,1)|[%0+%1*1], tmm%c2}" : : "r"(first), "r"(stride), "i"(T) : "memory");
    }
    template <int T>
    MLA_ALWAYS_INLINE void zero() noexcept {
        asm volatile("tilezero {%%tmm%c0|tmm%c0}" : : "i"(T));
    }
    /// C += A · B of pairs of bf16.
    template <int C, int A, int B>
    MLA_ALWAYS_INLINE void dot_bf16() noexcept {
        asm volatile("tdpbf16ps {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}" : : "i"(C), "i"(A), "i"(B));
    }
    /// C += A · B of groups of four bytes, of which either side is signed or not.
    template <int C, int A, int B, bool SignedA, bool SignedB>
    MLA_ALWAYS_INLINE void dot_bytes() noexcept {
        if constexpr (SignedA && SignedB)
            asm volatile("tdpbssd {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}" : : "i"(C), "i"(A), "i"(B));
        if constexpr (SignedA && !SignedB)
            asm volatile("tdpbsud {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}" : : "i"(C), "i"(A), "i"(B));
        if constexpr (!SignedA && SignedB)
            asm volatile("tdpbusd {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}" : : "i"(C), "i"(A), "i"(B));
        if constexpr (!SignedA && !SignedB)
            asm volatile("tdpbuud {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}" : : "i"(C), "i"(A), "i"(B));
    }
};

}  // namespace mla::inline MLA_ISA::simd
#endif
