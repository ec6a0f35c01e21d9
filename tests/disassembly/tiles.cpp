// The tiles that all time is spent in, as the kernels instantiate them. None is inlined, so that what stands here is what runs.
#include "mla/kernels/engine/attend.hpp"
#include "mla/linear/multiply.hpp"

namespace mla::inline MLA_ISA::detail {

#if MLA_HAS_AVX512_BF16
using Target = targets::avx512_bf16;
#else
using Target = targets::native;
#endif

template <class C, Precision P>
inline constexpr auto attention = attention_of<Target, float, C, P>;

/// Read by nobody, and so kept whole.
extern const abi::AttentionKernels<float> attention_tiles[];
const abi::AttentionKernels<float> attention_tiles[] = {attention<float, Precision::full>, attention<bf16, Precision::full>,
                                                        attention<bf16, Precision::operand>, attention<fp8, Precision::operand>,
                                                        attention<int8, Precision::operand>};
extern const abi::LinearKernels<float> linear_tiles[];
const abi::LinearKernels<float> linear_tiles[] = {
    linear_of<Target, float, Precision::full>,    linear_of<Target, bf16, Precision::full>,
    linear_of<Target, bf16, Precision::operand>,  linear_of<Target, fp16, Precision::full>,
    linear_of<Target, fp8, Precision::operand>,   linear_of<Target, int8, Precision::full>,
    linear_of<Target, int4x8, Precision::operand>};

}  // namespace mla::inline MLA_ISA::detail
