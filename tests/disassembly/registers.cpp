// The products that are made in tile registers, as the kernels instantiate them. None is inlined, so that what stands here is
// what runs.
#include "mla/kernels/engine/attend.hpp"
#include "mla/linear/multiply.hpp"

namespace mla::inline MLA_ISA::detail {

/// Read by nobody, and so kept whole.
extern const abi::AttentionKernels<float> attention_registers[];
const abi::AttentionKernels<float> attention_registers[] = {attention_of<targets::amx, float, bf16, Precision::operand>,
                                                            attention_of<targets::amx, float, int8, Precision::operand>};
extern const abi::LinearKernels<float> linear_registers[];
const abi::LinearKernels<float> linear_registers[] = {
    linear_of<targets::amx, bf16, Precision::operand>, linear_of<targets::amx, fp8, Precision::operand>,
    linear_of<targets::amx, int8, Precision::operand>, linear_of<targets::amx, int4x8, Precision::operand>};

}  // namespace mla::inline MLA_ISA::detail
