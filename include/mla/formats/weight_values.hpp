// Reading weights of any type as numbers.
#pragma once

#include <algorithm>

#include "mla/core/tensor_ref.hpp"
#include "mla/simd/rows.hpp"

namespace mla::inline MLA_ISA::detail {

/// values[i] = code (row, begin + i), without its scale.
template <Compute A>
void read_codes(const TensorRef& weight, Index row, Index begin, Index count, A* values) noexcept {
    const Index at = row * weight.stride + begin;
    if (weight.dtype == DType::f8_e4m3) {
        const auto* const codes = static_cast<const fp8*>(weight.data) + at;
        for (Index i = 0; i < count; ++i) values[i] = static_cast<A>(fp8_values[codes[i].bits]);
    } else if (weight.dtype == DType::i8) {
        const auto* const codes = static_cast<const int8*>(weight.data) + at;
        for (Index i = 0; i < count; ++i) values[i] = static_cast<A>(codes[i].bits);
    } else {
        const Index nibble = at + weight.first_nibble;
        Index i = 0;
        if (nibble % 2 != 0 && count > 0) values[i++] = static_cast<A>(weight.quantised(row, begin));
        const auto* both = static_cast<const std::uint8_t*>(weight.data) + (nibble + i) / 2;
        for (; i + 2 <= count; i += 2, ++both) {
            values[i] = static_cast<A>((*both & 15) - 8);
            values[i + 1] = static_cast<A>((*both >> 4) - 8);
        }
        if (i < count) values[i] = static_cast<A>(weight.quantised(row, begin + i));
    }
}

/// values[i] = element (row, begin + i) for i in [0, count).
template <Compute A>
void read_values(const TensorRef& weight, Index row, Index begin, Index count, A* values) noexcept {
    const auto convert = [&]<Storage From>(const From* from) {
        simd::convert_row<targets::native>(values, from + row * weight.stride + begin, count);
    };
    switch (weight.dtype) {
        case DType::f64: return convert(static_cast<const double*>(weight.data));
        case DType::bf16: return convert(static_cast<const bf16*>(weight.data));
        case DType::f16: return convert(static_cast<const fp16*>(weight.data));
        case DType::f8_e4m3:
        case DType::i8:
        case DType::i4: break;
        default: return convert(static_cast<const float*>(weight.data));
    }
    read_codes(weight, row, begin, count, values);
    for (Index i = 0; i < count;) {
        const Index end = std::min(count, weight.scales.block_end(begin + i) - begin);
        const A scale = weight.scales(row, begin + i);
        for (; i < end; ++i) values[i] *= scale;
    }
}

}  // namespace mla::inline MLA_ISA::detail
