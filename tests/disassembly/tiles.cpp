// The tiles that all time is spent in, as the kernels instantiate them. None is inlined, so that what stands here is what runs.
#include "mla/kernels/block_attention.hpp"
#include "mla/linear/linear.hpp"

namespace mla::detail {

using TestArch = simd::DefaultArch;

#define MLA_ATTENTION_TILES(U)                                                                                              \
    template void score_panel<TestArch, 2>(const Block<U>&, Index, Index, const U*, float*, simd::Prefetch&) noexcept;      \
    template void score_panel<TestArch, 1>(const Block<U>&, Index, Index, const U*, float*, simd::Prefetch&) noexcept;      \
    template void accumulate_panel<TestArch>(const Block<U>&, Index, Index, const U*, const PanelFactors<TestArch, float>&, \
                                             float*, Index, simd::Prefetch&) noexcept
#define MLA_LINEAR_TILES(U, S)                                                                                              \
    template void multiply_piece<TestArch, U>(const MatrixView<const float>&, const WeightPiece<S>&, const WeightPiece<S>&, \
                                              const MatrixView<float>&)

MLA_ATTENTION_TILES(float);
MLA_ATTENTION_TILES(simd::Int16Pair);
#if defined(__AVX512BF16__)
MLA_ATTENTION_TILES(simd::Bf16Pair);
MLA_LINEAR_TILES(simd::Bf16Pair, bf16);
#endif
MLA_LINEAR_TILES(float, float);
MLA_LINEAR_TILES(float, bf16);
MLA_LINEAR_TILES(float, fp16);

}  // namespace mla::detail
