// The tiles that all time is spent in, as the kernels instantiate them. None is inlined, so that what stands here is what runs.
#include "mla/kernels/block_attention.hpp"
#include "mla/kernels/stage.hpp"
#include "mla/linear/linear.hpp"

namespace mla::detail {

using TestArch = simd::DefaultArch;

template <class U, class C>
using Cached = CachedBlock<TestArch, U, float, C>;

#define MLA_ATTENTION_TILES(U, C) \
    template void attend_block<TestArch>(const RowGroup<float>&, Cached<U, C>&&, float*, simd::Prefetch) noexcept
#define MLA_LINEAR_TILES(U, S)                                                                                              \
    template void multiply_piece<TestArch, U>(const MatrixView<const float>&, const WeightPiece<S>&, const WeightPiece<S>&, \
                                              const MatrixView<float>&)

MLA_ATTENTION_TILES(float, float);
MLA_ATTENTION_TILES(float, bf16);
MLA_ATTENTION_TILES(simd::Int16Pair, int8);
#if defined(__AVX512BF16__)
MLA_ATTENTION_TILES(simd::Bf16Pair, bf16);
MLA_LINEAR_TILES(simd::Bf16Pair, bf16);
#endif
MLA_LINEAR_TILES(float, float);
MLA_LINEAR_TILES(float, bf16);
MLA_LINEAR_TILES(float, fp16);

}  // namespace mla::detail
