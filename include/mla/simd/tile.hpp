// The register tile that every product of the library is made of:  C[m, n] (+)= Σ_k A[m, k] · B[k, n].
//
// A is read an element at a time and broadcast, B a vector at a time, so that neither has to be transposed: a cached row,
// an activation or a column of probabilities is an A as it lies, packed weights, packed queries or cached values are a B.
#pragma once

#include "mla/simd/convert.hpp"

namespace mla::simd {

/// A with adjacent k: rows of activations, of cached keys.
template <class A>
struct RowOperand {
    const A* data;
    Index stride;  ///< from m to m + 1
    MLA_ALWAYS_INLINE A at(Index m, Index k) const { return data[m * stride + k]; }
    [[nodiscard]] RowOperand advance_m(Index m) const { return {data + m * stride, stride}; }
    [[nodiscard]] RowOperand advance_k(Index k) const { return {data + k, stride}; }
};

/// A with adjacent m: probabilities laid out [token][row].
template <class A>
struct ColumnOperand {
    const A* data;
    Index stride;  ///< from k to k + 1
    MLA_ALWAYS_INLINE A at(Index m, Index k) const { return data[k * stride + m]; }
    [[nodiscard]] ColumnOperand advance_m(Index m) const { return {data + m, stride}; }
    [[nodiscard]] ColumnOperand advance_k(Index k) const { return {data + k * stride, stride}; }
};

/// M rows by N vectors of accumulators, kept in registers.
template <class Arch, Compute A, int M, int N>
struct Tile {
    static constexpr Index width = lanes<Arch, A>;
    static constexpr Index columns = N * width;
    Batch<Arch, A> sum[static_cast<std::size_t>(M)][static_cast<std::size_t>(N)];

    MLA_ALWAYS_INLINE void clear() {
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
            unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { sum[m][n] = Batch<Arch, A>(A(0)); });
        });
    }

    MLA_ALWAYS_INLINE void store(A* c, Index stride) const {
        each([=](const Batch<Arch, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            value.store_unaligned(c + m * stride + n * width);
        });
    }

    /// C[m, n] += sum. Adding a finished sum to memory, rather than going on from it, keeps rounding errors to those of two
    /// short sums instead of one long one.
    MLA_ALWAYS_INLINE void add_to(A* c, Index stride) const {
        each([=](const Batch<Arch, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            A* cell = c + m * stride + n * width;
            (Batch<Arch, A>::load_unaligned(cell) + value).store_unaligned(cell);
        });
    }

    /// C[m, n] = C[m, n] · factor[m] + sum.
    MLA_ALWAYS_INLINE void add_to_scaled(A* c, Index stride, const A* factor) const {
        each([=](const Batch<Arch, A>& value, auto m, auto n) MLA_ALWAYS_INLINE_LAMBDA {
            A* cell = c + m * stride + n * width;
            xsimd::fma(Batch<Arch, A>::load_unaligned(cell), Batch<Arch, A>(factor[m]), value).store_unaligned(cell);
        });
    }

    /// Adds the products for k in [0, depth). Row k of B starts at b + k·b_stride and must be readable for `columns` elements.
    template <class Operand, Storage S>
    MLA_ALWAYS_INLINE void multiply(Index depth, Operand a, const S* b, Index b_stride) {
        for (Index k = 0; k < depth; ++k, b += b_stride) {
            Batch<Arch, A> right[static_cast<std::size_t>(N)];
            unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { right[n] = simd::load<Arch, A>(b + n * width); });
            unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
                const Batch<Arch, A> left(a.at(m, k));
                unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { sum[m][n] = xsimd::fma(left, right[n], sum[m][n]); });
            });
        }
    }

  private:
    template <class F>
    MLA_ALWAYS_INLINE void each(F&& f) const {
        unroll<M>([&](auto m) MLA_ALWAYS_INLINE_LAMBDA {
            unroll<N>([&](auto n) MLA_ALWAYS_INLINE_LAMBDA { f(sum[m][n], m, n); });
        });
    }
};

}  // namespace mla::simd
