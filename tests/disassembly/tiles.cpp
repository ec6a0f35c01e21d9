// The loops that all time is spent in, each function of them named after the products that its innermost loops should have.
// Flattened, what a function calls is a part of it.
#include <type_traits>

#include "mla/kernels/block_attention.hpp"
#include "mla/linear/linear.hpp"

namespace mla::disassembly {

using Arch = simd::DefaultArch;
using Shape = detail::AttentionTile<Arch, float>;

/// The products of every innermost loop of a function.
template <int... Products>
struct Loops {};

/// Tiles of `Widest` rows, 8 where that is less, 4, 2 and 1, by N vectors.
template <int Widest, int N>
using RowTiles = std::conditional_t<(Widest > 8), Loops<Widest * N, 8 * N, 4 * N, 2 * N, N>, Loops<Widest * N, 4 * N, 2 * N, N>>;
template <class U>
using ValueTiles = Loops<Shape::value_rows * Shape::value_vectors<U>, Shape::value_rows * 2, Shape::value_rows>;
/// Tiles of `Rows` rows by two vectors, and by one for the last panel where a tile takes two.
template <int Rows>
using LinearTiles =
    std::conditional_t<(2 * simd::lanes<Arch, float> > panel_columns<float>), Loops<Rows * 2, Rows>, Loops<Rows * 2>>;

template <class U, int N, class Expected>
[[gnu::flatten]] void score(const detail::Block<U>& block, Index tokens, Index units, const U* panel, float* scores,
                            simd::Prefetch& next) {
    detail::score_panel<Arch, N>(block, tokens, units, panel, scores, next);
}

template <class U, class Expected>
[[gnu::flatten]] void accumulate(const detail::Block<U>& block, Index tokens, Index width, const U* p,
                                 const detail::PanelFactors<Arch, float>& factors, float* out, Index out_stride,
                                 simd::Prefetch& next) {
    detail::accumulate_panel<Arch>(block, tokens, width, p, factors, out, out_stride, next);
}

template <class S, int M, class Expected>
[[gnu::flatten]] void linear(const simd::RowOperand<float>& x, const detail::WeightPiece<S>& piece, const MatrixView<float>& y,
                             simd::Prefetch& next) {
    detail::multiply_tiles<Arch, M>(x, piece, y, next);
}

constexpr int pair = Shape::score_tokens_pair;
constexpr int single = Shape::score_tokens_single;
constexpr int rows = detail::linear_tile_rows<Arch>;

#define MLA_ATTENTION_TILES(U)                                                                                                \
    template void score<U, 2, RowTiles<pair, 2>>(const detail::Block<U>&, Index, Index, const U*, float*, simd::Prefetch&);   \
    template void score<U, 1, RowTiles<single, 1>>(const detail::Block<U>&, Index, Index, const U*, float*, simd::Prefetch&); \
    template void accumulate<U, ValueTiles<U>>(const detail::Block<U>&, Index, Index, const U*,                               \
                                               const detail::PanelFactors<Arch, float>&, float*, Index, simd::Prefetch&)
#define MLA_LINEAR_TILES(S)                                                                                         \
    template void linear<S, rows, LinearTiles<rows>>(const simd::RowOperand<float>&, const detail::WeightPiece<S>&, \
                                                     const MatrixView<float>&, simd::Prefetch&)

MLA_ATTENTION_TILES(float);
MLA_ATTENTION_TILES(simd::Int16Pair);
#if defined(__AVX512BF16__)
MLA_ATTENTION_TILES(simd::Bf16Pair);
#endif
MLA_LINEAR_TILES(float);
MLA_LINEAR_TILES(bf16);
MLA_LINEAR_TILES(fp16);

}  // namespace mla::disassembly
