// Weights read by the definitions of their formats: one element at a time, in double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "mla/core/tensor_ref.hpp"
#include "mla/core/types.hpp"
#include "mla/reference/formats.hpp"
#include "mla/reference/matrix.hpp"

namespace mla::inline MLA_ISA::reference {
namespace detail {

/// Number `at` of an array of `type`.
[[nodiscard]] inline double stored_value(DType type, const void* data, Index at) {
    const std::byte* const from = static_cast<const std::byte*>(data) + at * bits_of(type) / 8;
    switch (type) {
        case DType::f64: return load<double>(from);
        case DType::f32: return static_cast<double>(load<float>(from));
        case DType::bf16: return value_of(bf16_layout, load<std::uint16_t>(from));
        case DType::f16: return value_of(fp16_layout, load<std::uint16_t>(from));
        case DType::f8_e4m3: return value_of(e4m3_layout, load<std::uint8_t>(from));
        case DType::f8_e8m0: return ue8m0_value(load<std::uint8_t>(from));
        case DType::i8: return static_cast<double>(load<std::int8_t>(from));
        case DType::i4: return (load<std::uint8_t>(from) >> at % 2 * 4 & 15) - 8.0;
    }
    return std::numeric_limits<double>::quiet_NaN();
}

/// The scale of an element: of the block that holds it in the whole matrix.
[[nodiscard]] inline double scale_of(const BlockScales& scales, Index row, Index col) {
    const Index down = (scales.first_row + row) / scales.block_rows;
    const Index across = (scales.first_col + col) / scales.block_cols;
    return stored_value(scales.dtype, scales.data, down * scales.stride + across);
}

}  // namespace detail

/// The tensor widened to double; a quantised element is its stored value times its scale. Exact for every type: 8 bits of a value
/// and 24 of a scale fit the 53 of a double.
[[nodiscard]] inline Matrix to_matrix(const TensorRef& tensor) {
    Matrix result(tensor.rows, tensor.cols);
    for (Index r = 0; r < tensor.rows; ++r)
        for (Index c = 0; c < tensor.cols; ++c) {
            const Index at = r * tensor.stride + c + tensor.first_nibble;
            const double value = detail::stored_value(tensor.dtype, tensor.data, at);
            result(r, c) = is_quantised(tensor.dtype) ? value * detail::scale_of(tensor.scales, r, c) : value;
        }
    return result;
}

}  // namespace mla::inline MLA_ISA::reference
