// The register tile that every product of the library is made of:  C[m, n] (+)= Σ_k A[m, k] · B[k, n].
//
// A is read an element at a time and broadcast, B a vector at a time, so that neither has to be transposed: a cached row,
// an activation or a column of probabilities is an A as it lies, packed weights, packed queries or cached values are a B.
#pragma once

#include "mla/simd/atoms.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::inline MLA_ISA::simd {

/// `lanes` units of B at any address: of pairs, or of a type that is converted to A.
template <class Target, class A, class S>
MLA_ALWAYS_INLINE auto load_units(const S* b) {
    if constexpr (Loadable<S>) {
        return load<Target, A>(b);
    } else {
        return PackedBatch<Target>::load_unaligned(words(b));
    }
}
/// A unit of A in all lanes.
template <class Target, class U>
MLA_ALWAYS_INLINE auto broadcast(U unit) {
    if constexpr (Loadable<U>) {
        return Batch<Target, U>(unit);
    } else {
        return PackedBatch<Target>(unit.bits);
    }
}
/// sum + a · b of units U.
template <class Target, class U, class Operand, class Sum>
MLA_ALWAYS_INLINE Sum multiply_add(const Operand& a, const Operand& b, const Sum& sum) {
    if constexpr (std::is_same_v<U, Bf16Pair>) {
        return Atoms<Target>::dot_bf16(sum, a, b);
    } else if constexpr (std::is_same_v<U, Int16Pair>) {
        return Atoms<Target>::dot_s16(sum, a, b);
    } else {
        return Atoms<Target>::template multiply_add<U>(a, b, sum);
    }
}
// `pass`: units that a loop multiplies between two jumps.

/// A with adjacent k and rows anywhere: cached keys, activations. A pass is long enough that moving on M pointers costs little.
/// An offset in a register would cost more: Intel's cores take an operand of a product that has one apart into two instructions.
template <class A, int M>
struct RowsOperand {
    static constexpr int pass = 8;
    const A* rows[extent<M>];

    RowsOperand() = default;
    /// Rows a stride apart.
    MLA_ALWAYS_INLINE RowsOperand(const A* first, Index stride) {
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA { rows[m] = first + m * stride; });
    }
    MLA_ALWAYS_INLINE const A* at(Index m, Index k) const { return rows[m] + k; }
    MLA_ALWAYS_INLINE void advance(Index k) {
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
            rows[m] += k;
            keep_in_register(rows[m]);
        });
    }
};

/// A with adjacent m: probabilities laid out [token][row].
template <class A>
struct ColumnOperand {
    static constexpr int pass = 1;
    const A* data;
    Index stride;  ///< from k to k + 1
    MLA_ALWAYS_INLINE const A* at(Index m, Index k) const { return data + k * stride + m; }
    MLA_ALWAYS_INLINE void advance(Index k) { data += k * stride; }
};

/// Rows k of B, a stride apart: packed queries.
template <class B>
struct StridedRows {
    static constexpr int interleave = 1;
    const B* data;
    Index stride;
    MLA_ALWAYS_INLINE const B* row(Index k) const { return data + k * stride; }
    static constexpr Index offset(Index column) { return column; }
    MLA_ALWAYS_INLINE void advance(Index k) { data += k * stride; }
};

/// M rows by N vectors of accumulators, kept in registers. A: their type, that computed in, or int32 for products of int16.
/// Functions that fill a tile of many rows are never inlined: GCC would allocate its registers anew in each place, and spill in
/// some.
template <class Target, class A, int M, int N>
struct Tile {
    static constexpr Index width = lanes<Target, A>;
    static constexpr Index columns = N * width;
    Batch<Target, A> sum[extent<M>][extent<N>];

    MLA_ALWAYS_INLINE void clear() {
        Batch<Target, A> zero(A(0));
        // Where GCC sees that a sum of __m256i starts from zeros, it carries it through the loop twice, once as integers of 32
        // bits.
        if constexpr (std::is_integral_v<A>) keep_in_register(zero);
        unroll<M>([&](auto m)
                      MLA_ALWAYS_INLINE_LAMBDA { unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { sum[m][n] = zero; }); });
    }

    MLA_ALWAYS_INLINE void load(const A* c, Index stride) {
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
            unroll<N>([&](auto n)
                          MLA_ALWAYS_INLINE_LAMBDA { sum[m][n] = Batch<Target, A>::load_unaligned(c + m * stride + n * width); });
        });
    }

    MLA_ALWAYS_INLINE void store(A* c, Index stride) const {
        each([=](const Batch<Target, A>& value, auto m, auto n)
                 MLA_ALWAYS_INLINE_LAMBDA { value.store_unaligned(c + m * stride + n * width); });
    }

    /// C[m, n] += sum. Adding a finished sum to memory, rather than going on from it, keeps rounding errors to those of two
    /// short sums instead of one long one.
    MLA_ALWAYS_INLINE void add_to(A* c, Index stride) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            A* cell = c + m * stride + n * width;
            (Batch<Target, A>::load_unaligned(cell) + value).store_unaligned(cell);
        });
    }

    /// C[m, n] = C[m, n] · factor[m] + sum.
    MLA_ALWAYS_INLINE void add_to_scaled(A* c, Index stride, const A* factor) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            A* cell = c + m * stride + n * width;
            simd::fma<Target, A>(Batch<Target, A>::load_unaligned(cell), Batch<Target, A>(factor[m]), value)
                .store_unaligned(cell);
        });
    }

    MLA_ALWAYS_INLINE void scale(A factor) {
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
            unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { sum[m][n] = sum[m][n] * Batch<Target, A>(factor); });
        });
    }

    /// C[m, n] = sum · factor[n], or that added to it. The factors of the column's vector lie at factors.at(column).
    template <class Factors>
    MLA_ALWAYS_INLINE void store_by_column(A* c, Index stride, const Factors& factors) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            (value * Batch<Target, A>::load_unaligned(factors.at(n * width))).store_unaligned(c + m * stride + n * width);
        });
    }
    template <class Factors>
    MLA_ALWAYS_INLINE void add_by_column_to(A* c, Index stride, const Factors& factors) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            A* cell = c + m * stride + n * width;
            const auto factor = Batch<Target, A>::load_unaligned(factors.at(n * width));
            simd::fma<Target, A>(value, factor, Batch<Target, A>::load_unaligned(cell)).store_unaligned(cell);
        });
    }

    // The same for sums that stand for multiples of step[m]. Of integers each is rounded twice, so that scores have the same bits
    // on every target.

    MLA_ALWAYS_INLINE void store_steps(float* c, Index stride, const float* step) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            (to_floats(value) * Batch<Target, float>(step[m])).store_unaligned(c + m * stride + n * width);
        });
    }

    MLA_ALWAYS_INLINE void add_steps_to(float* c, Index stride, const float* step) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            float* cell = c + m * stride + n * width;
            const auto before = Batch<Target, float>::load_unaligned(cell);
            const Batch<Target, float> steps(step[m]);
            if constexpr (std::is_integral_v<A>) {
                multiply_then_add<Target>(to_float(value), steps, before).store_unaligned(cell);
            } else {
                Atoms<Target>::template multiply_add<float>(value, steps, before).store_unaligned(cell);
            }
        });
    }

    MLA_ALWAYS_INLINE void add_steps_to_scaled(float* c, Index stride, const float* factor, const float* step) const {
        each([=](const Batch<Target, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            float* cell = c + m * stride + n * width;
            const auto before = Batch<Target, float>::load_unaligned(cell) * Batch<Target, float>(factor[m]);
            simd::fma<Target, float>(to_float(value), Batch<Target, float>(step[m]), before).store_unaligned(cell);
        });
    }

    /// Puts the columns in order of a product whose vectors of B were split by parity, two by two.
    MLA_ALWAYS_INLINE void interleave_columns() requires(N % 2 == 0) {
        unroll<M * N / 2>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
            constexpr int pairs = N / 2;
            interleave_lanes<Target>(sum[i / pairs][i % pairs * 2], sum[i / pairs][i % pairs * 2 + 1]);
        });
    }

    /// Adds the products for k in [0, depth), in units, and moves a and b on past them. The vector of B[k, n …] lies at b.row(k)
    /// + b.offset(n), or is interleaved there with the next k's; of Rows::in_twos it is loaded with its neighbour, and split with
    /// it by parity where that pays.
    ///
    /// Pairs are added in order. In a pass of single values the second of every two comes first: so does VDPBF16PS add those of a
    /// pair, and as products of two bf16 are exact in float, a target without it makes the very sums of one that has it.
    template <class Operand, class Rows>
    MLA_ALWAYS_INLINE void multiply(Index depth, Operand& a, Rows& b) {
        constexpr int interleave = Rows::interleave;
        constexpr int swap = Operand::pass % 2 == 0 && Loadable<std::remove_cvref_t<decltype(*a.at(0, 0))>> ? 1 : 0;
        constexpr int rest = std::max(interleave, swap + 1);
#pragma GCC unroll 1
        for (; depth >= Operand::pass; depth -= Operand::pass) {
            unroll<Operand::pass>([&](auto k)
                                      MLA_ALWAYS_INLINE_LAMBDA { multiply_row<(k ^ swap) % interleave>(k ^ swap, a, b); });
            a.advance(Operand::pass);
            b.advance(Operand::pass);
        }
#pragma GCC unroll 1
        for (; depth > 0; depth -= rest) {
            unroll<rest>([&](auto k) MLA_ALWAYS_INLINE_LAMBDA {
                if ((k ^ swap) < depth) multiply_row<(k ^ swap) % interleave>(k ^ swap, a, b);
            });
            a.advance(rest);
            b.advance(rest);
        }
    }

    /// The same, with a step of prefetching every `Every` units.
    template <Index Every, class Operand, class Rows>
    MLA_ALWAYS_INLINE void multiply(Index depth, Operand a, Rows b, Prefetch& next) {
        multiply_past<Every>(depth, a, b, next);
    }
    /// The same, moving a and b on.
    template <Index Every, class Operand, class Rows>
    MLA_ALWAYS_INLINE void multiply_past(Index depth, Operand& a, Rows& b, Prefetch& next) {
        for (; depth > 0; depth -= Every) {
            multiply(std::min(depth, Every), a, b);
            next.step();
        }
    }

  private:
    static MLA_ALWAYS_INLINE Batch<Target, float> to_floats(const Batch<Target, A>& value) {
        if constexpr (std::is_same_v<A, float>) {
            return value;
        } else {
            return to_float(value);
        }
    }

    template <int Part, class Operand, class Rows>
    MLA_ALWAYS_INLINE void multiply_row(Index k, const Operand& a, const Rows& b) {
        const auto* row = b.row(k - Part);
        // With few registers each k loads its own half of a vector of pairs, which GCC would load once and then run out of them.
        if constexpr (Target::registers == 16 && (M > 2 || Rows::interleave > 1)) keep_in_register(row);
        const auto vector = [&](auto n) MLA_ALWAYS_INLINE_LAMBDA {
            if constexpr (Rows::interleave > 1) {
                return load_interleaved<Target, Part>(row + b.offset(n * width));
            } else {
                return load_units<Target, A>(row + b.offset(n * width));
            }
        };
        decltype(vector(Index{0})) right[extent<N>];
        if constexpr (requires { Rows::in_twos; }) {
            unroll<N / 2>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA {
                load_two<Target, A>(row + b.offset(2 * n * width), right[2 * n], right[2 * n + 1]);
            });
        } else {
            unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA {
                right[n] = vector(n);
                if constexpr (M > 2) keep_in_register(right[n]);
            });
        }
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
            using U = std::remove_cvref_t<decltype(*a.at(m, k))>;
            if constexpr (N == 1 && Target::broadcasts_operand) {
                sum[m][0] = Atoms<Target>::multiply_add_at(a.at(m, k), right[0], sum[m][0]);
            } else {
                const auto left = broadcast<Target>(*a.at(m, k));
                unroll<N>([&](auto n)
                              MLA_ALWAYS_INLINE_LAMBDA { sum[m][n] = multiply_add<Target, U>(left, right[n], sum[m][n]); });
            }
        });
    }

    template <class F>
    MLA_ALWAYS_INLINE void each(F&& f) const {
        unroll<M>([&](auto m)
                      MLA_ALWAYS_INLINE_LAMBDA { unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { f(sum[m][n], m, n); }); });
    }
};

}  // namespace mla::inline MLA_ISA::simd
