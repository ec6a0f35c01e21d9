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
using ValueTiles = Loops<Shape::value_rows * Shape::value_vectors, Shape::value_rows * 2, Shape::value_rows>;

template <class U, int N, class Expected>
[[gnu::flatten]] void score(const detail::Block<U>& block, Index tokens, Index units, const U* panel, float* scores,
                            detail::Prefetch& next) {
    detail::score_panel<Arch, N>(block, tokens, units, panel, scores, next);
}

template <class U, class Expected>
[[gnu::flatten]] void accumulate(const detail::Block<U>& block, Index tokens, Index width, const U* p, const float* rescale,
                                 float* out, Index out_stride) {
    detail::accumulate_panel<Arch>(block, tokens, width, p, rescale, out, out_stride);
}

template <class S, int M, class Expected>
[[gnu::flatten]] void linear(Index depth, simd::RowOperand<float> x, const S* panel, MatrixView<float> y) {
    detail::multiply_panel<Arch, M>(depth, x, panel, y, true);
}

constexpr int pair = Shape::score_tokens_pair;
constexpr int single = Shape::score_tokens_single;
constexpr int rows = detail::linear_tile_rows<Arch>;

template void score<float, 2, RowTiles<pair, 2>>(const detail::Block<float>&, Index, Index, const float*, float*,
                                                 detail::Prefetch&);
template void score<float, 1, RowTiles<single, 1>>(const detail::Block<float>&, Index, Index, const float*, float*,
                                                   detail::Prefetch&);
template void accumulate<float, ValueTiles>(const detail::Block<float>&, Index, Index, const float*, const float*, float*, Index);
template void linear<float, rows, Loops<rows * 2>>(Index, simd::RowOperand<float>, const float*, MatrixView<float>);
template void linear<bf16, rows, Loops<rows * 2>>(Index, simd::RowOperand<float>, const bf16*, MatrixView<float>);
template void linear<fp16, rows, Loops<rows * 2>>(Index, simd::RowOperand<float>, const fp16*, MatrixView<float>);

#if defined(__AVX512BF16__)
using Pair = simd::Bf16Pair;
template void score<Pair, 2, RowTiles<pair, 2>>(const detail::Block<Pair>&, Index, Index, const Pair*, float*, detail::Prefetch&);
template void score<Pair, 1, RowTiles<single, 1>>(const detail::Block<Pair>&, Index, Index, const Pair*, float*,
                                                  detail::Prefetch&);
template void accumulate<Pair, ValueTiles>(const detail::Block<Pair>&, Index, Index, const Pair*, const float*, float*, Index);
#endif

}  // namespace mla::disassembly
