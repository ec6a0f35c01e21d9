// Reading weights of any type as numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "mla/core/tensor_ref.hpp"
#include "mla/formats/int4.hpp"
#include "mla/simd/rows.hpp"

namespace mla::inline MLA_ISA::detail {

/// codes[i] = code (row, begin + i) of int4, eight at a time where they begin with a byte.
inline void read_int4(const TensorRef& weight, Index row, Index begin, Index count, int8* codes) noexcept {
    const Index nibble = row * weight.stride + begin + weight.first_nibble;
    const auto* bytes = static_cast<const std::byte*>(weight.data) + nibble / 2;
    const Index whole = nibble % 2 == 0 ? count / 8 * 8 : 0;
    for (Index i = 0; i < whole; i += 8, bytes += 4) {
        int4x8 eight;
        std::memcpy(&eight, bytes, sizeof eight);
        const std::uint64_t spread = Format<int4x8>::from_stored(eight).as_bytes();
        std::memcpy(reinterpret_cast<std::byte*>(codes + i), &spread, sizeof spread);
    }
    for (Index i = whole; i < count; ++i) codes[i] = int8(static_cast<std::int8_t>(weight.quantised(row, begin + i)));
}

/// values[i] = element (row, begin + i) of a quantised weight, from codes[i].
template <Compute A, class Code>
void scale_codes(const TensorRef& weight, Index row, Index begin, Index count, const Code* codes, A* values) noexcept {
    weight.scales.for_each_block(row, begin, begin + count, [&](Index first, Index end, float scale) {
        simd::scale_row<targets::native>(values + first - begin, codes + first - begin, end - first, static_cast<A>(scale));
    });
}

/// values[i] = element (row, begin + i) for i in [0, count).
template <Compute A>
void read_values(const TensorRef& weight, Index row, Index begin, Index count, A* values) noexcept {
    const Index at = row * weight.stride + begin;
    const auto convert = [&]<Storage From>(const From* from) { simd::convert_row<targets::native>(values, from + at, count); };
    const auto scale = [&]<class Code>(const Code* codes) { scale_codes(weight, row, begin, count, codes + at, values); };
    switch (weight.dtype) {
        case DType::f64: return convert(static_cast<const double*>(weight.data));
        case DType::bf16: return convert(static_cast<const bf16*>(weight.data));
        case DType::f16: return convert(static_cast<const fp16*>(weight.data));
        case DType::f8_e4m3: return scale(static_cast<const fp8*>(weight.data));
        case DType::i8: return scale(static_cast<const int8*>(weight.data));
        case DType::i4: break;
        default: return convert(static_cast<const float*>(weight.data));
    }
    constexpr Index block = 128;
    int8 codes[simd::extent<block>];
    for (Index i = 0; i < count; i += block) {
        const Index some = std::min(block, count - i);
        read_int4(weight, row, begin + i, some, codes);
        scale_codes(weight, row, begin + i, some, codes, values + i);
    }
}

}  // namespace mla::inline MLA_ISA::detail
