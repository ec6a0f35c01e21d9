// A target's tile registers, and the product that is made of them.
#pragma once

#include "mla/simd/batch.hpp"
#include "mla/simd/tile_model.hpp"
#include "mla/simd/x86/amx.hpp"

namespace mla::inline MLA_ISA::simd {

template <class Target>
struct TileRegistersOf;
/// The tile registers of a target that has them, configured whole while an object lives.
template <class Target>
using TileRegisters = typename TileRegistersOf<Target>::type;

template <class Model>
struct TileRegistersOf<targets::emulated<Model>> {
    using type = WholeTiles<ModelTileRegisters>;
};
#if MLA_HAS_AMX
template <>
struct TileRegistersOf<targets::amx> {
    using type = WholeTiles<AmxTileRegisters>;
};
#endif

/// Rows some bytes apart that a register is loaded from, and how far on those of the next step of k lie.
struct TileRows {
    const void* first = nullptr;
    Index stride = 0;
    Index step = 0;

    [[nodiscard]] MLA_ALWAYS_INLINE const void* at(Index k) const noexcept {
        return static_cast<const std::byte*>(first) + k * step;
    }
};

/// What the registers of a product hold: pairs of bf16, added to floats.
struct PairsOfBf16 {
    /// Register C += register A, the Row-th of rows, · register B, the Column-th of columns.
    template <int C, int A, int B, int Row, int Column, class Registers>
    static MLA_ALWAYS_INLINE void multiply(Registers& registers) noexcept {
        registers.template dot_bf16<C, A, B>();
    }
};

/// Bytes, added to int32. A number of 16 bits is two of them, the upper signed and the lower not: where Rows, or Columns, are
/// such numbers, the first register of that side holds their upper bytes and the second their lower ones; else all bytes are
/// signed.
template <bool Rows, bool Columns>
struct BytesOf {
    template <int C, int A, int B, int Row, int Column, class Registers>
    static MLA_ALWAYS_INLINE void multiply(Registers& registers) noexcept {
        registers.template dot_bytes<C, A, B, !(Rows && Row == 1), !(Columns && Column == 1)>();
    }
};

/// C [M registers of rows, N registers of columns], kept in registers, of products of Values. Shapes are 2×2 and lines of up to
/// three.
///
/// 2×2 loads a register for each product, the fewest that eight registers allow; a line four for three. A load takes half the
/// time of a product but answers after three, so each comes before the product that precedes its own: products hide loads, and
/// three sums or four the latency of one.
template <class Target, int M, int N, class Values = PairsOfBf16>
class TileProduct {
    static_assert((M == 2 && N == 2) || (M * N <= 3 && (M == 1 || N == 1)));
    static constexpr bool square = M == 2 && N == 2;
    static constexpr int sums = M * N;

  public:
    /// Whole registers configured by the caller.
    explicit MLA_ALWAYS_INLINE TileProduct(TileRegisters<Target>& registers) noexcept : registers_(registers) {}

    MLA_ALWAYS_INLINE void clear() noexcept {
        unroll<sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { registers_.template zero<i>(); });
    }
    /// C as it lies, `stride` floats from row to row.
    MLA_ALWAYS_INLINE void load(const float* c, Index stride) noexcept {
        unroll<sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            registers_.template load<i>(c + place(i, stride), stride * static_cast<Index>(sizeof(float)));
        });
    }
    /// Sum: float, or of bytes std::uint32_t, whose sums wrap around.
    template <class Sum>
    MLA_ALWAYS_INLINE void store(Sum* c, Index stride) const noexcept {
        static_assert(sizeof(Sum) == 4);
        unroll<sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            registers_.template store<i>(c + place(i, stride), stride * static_cast<Index>(sizeof(Sum)));
        });
    }

    /// C += A · B over `steps` registers of k: a [M] and b [N] are where the rows of the first lie. `next.step()`,
    /// once a step: what products hide, fetching mostly.
    template <class Next>
    MLA_ALWAYS_INLINE void multiply(Index steps, const TileRows* a, const TileRows* b, Next& next) noexcept {
        if (steps == 0) return;
        begin(a, b);
        Index k = 0;
#pragma GCC unroll 1
        for (; k + 2 < steps; k += 2) {
            step<0, true>(k, a, b, next);
            step<1, true>(k + 1, a, b, next);
        }
        if (k + 1 == steps) return step<0, false>(k, a, b, next);
        step<0, true>(k, a, b, next);
        step<1, false>(k + 1, a, b, next);
    }

  private:
    [[nodiscard]] static constexpr Index place(Index sum, Index stride) noexcept {
        return sum / N * tile_rows * stride + sum % N * tile_groups;
    }
    template <int T>
    MLA_ALWAYS_INLINE void load_rows(const TileRows& rows, Index k) noexcept {
        registers_.template load<T>(rows.at(k), rows.stride);
    }

    // Sums take registers from 0 on. Of a square, A takes 4 and 5, B 6 and 7. Of a line, the side of several registers takes
    // those from 3 on, and the other side 6 and 7 by turns.

    template <int I>
    MLA_ALWAYS_INLINE void load_line(const TileRows* a, const TileRows* b, Index k) noexcept {
        load_rows<3 + I>(N == 1 ? a[I] : b[I], k);
    }
    template <int Turn>
    MLA_ALWAYS_INLINE void load_single(const TileRows* a, const TileRows* b, Index k) noexcept {
        load_rows<6 + Turn>(N == 1 ? b[0] : a[0], k);
    }
    template <int I, int Turn>
    MLA_ALWAYS_INLINE void multiply_line() noexcept {
        constexpr int line = 3 + I;
        constexpr int single = 6 + Turn;
        multiply<I, N == 1 ? line : single, N == 1 ? single : line>();
    }

    /// Sum register C += A · B.
    template <int C, int A, int B>
    MLA_ALWAYS_INLINE void multiply() noexcept {
        Values::template multiply<C, A, B, C / N, C % N>(registers_);
    }

    /// Loads what the first products take.
    MLA_ALWAYS_INLINE void begin(const TileRows* a, const TileRows* b) noexcept {
        if constexpr (square) {
            load_rows<4>(a[0], 0);
            load_rows<6>(b[0], 0);
        } else {
            load_single<0>(a, b, 0);
            unroll<sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { load_line<i>(a, b, 0); });
        }
    }

    /// The products of one k, and loads for the next where there are More.
    template <int Turn, bool More, class Next>
    MLA_ALWAYS_INLINE void step(Index k, const TileRows* a, const TileRows* b, Next& next) noexcept {
        if constexpr (square) {
            load_rows<7>(b[1], k);
            multiply<0, 4, 6>();
            load_rows<5>(a[1], k);
            multiply<1, 4, 7>();
            if constexpr (More) load_rows<4>(a[0], k + 1);
            multiply<2, 5, 6>();
            if constexpr (More) load_rows<6>(b[0], k + 1);
            multiply<3, 5, 7>();
        } else {
            if constexpr (More) load_single<1 - Turn>(a, b, k + 1);
            unroll<sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
                multiply_line<i, Turn>();
                if constexpr (More) load_line<i>(a, b, k + 1);
            });
        }
        next.step();
    }

    TileRegisters<Target>& registers_;
};

}  // namespace mla::inline MLA_ISA::simd
