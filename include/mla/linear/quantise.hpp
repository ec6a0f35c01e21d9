// Panels of quantised weights: codes that are kept as they were stored, or made of wider values.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "mla/core/tensor_ref.hpp"
#include "mla/linear/panels.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows k of a panel that one scale is for, where a weight's own scales are kept.
[[nodiscard]] inline Index kept_scale_step(const BlockScales& scales) noexcept {
    if (scales.block_cols == BlockScales::all) return most_scale_step;
    return std::gcd(std::gcd(scales.block_cols, scales.first_col % scales.block_cols), most_scale_step);
}

/// Whether panels of W hold a weight as it is stored: of its type, with scales for whole groups of eight.
template <QuantisedWeight W>
[[nodiscard]] bool keeps(const TensorRef& weight) noexcept {
    return weight.dtype == Format<W>::stored_dtype && kept_scale_step(weight.scales) % 8 == 0;
}

/// Rows [k_begin, k_end) of column n as they are stored; returns their scale, which is NaN where one of them is: so is then every
/// sum of the column.
template <QuantisedWeight W>
[[nodiscard]] float keep_codes(const TensorRef& weight, Index row, Index k_begin, Index k_end, W* column) noexcept {
    bool is_nan = false;
    for (Index k = k_begin; k < k_end; ++k) {
        const float code = weight.quantised(row, k);
        is_nan = is_nan || std::isnan(code);
        Format<W>::set_code(column, panel_columns<W>, k, std::isnan(code) ? 0.0F : code);
    }
    return is_nan ? std::numeric_limits<float>::quiet_NaN() : weight.scales(row, k_begin);
}

/// The same of element(row, k), as multiples of the least scale that holds them.
template <QuantisedWeight W, class Element>
[[nodiscard]] float make_codes(const Element& element, Index row, Index k_begin, Index k_end, W* column) noexcept {
    double largest = 0.0;
    bool finite = true;
    for (Index k = k_begin; k < k_end; ++k) {
        const auto value = static_cast<double>(element(row, k));
        finite = finite && std::isfinite(value);
        largest = std::max(largest, std::abs(value));
    }
    const auto scale = static_cast<float>(largest / static_cast<double>(Format<W>::largest_code));
    if (!finite || !(scale > 0.0F)) return finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
    for (Index k = k_begin; k < k_end; ++k) {
        const double multiple = static_cast<double>(element(row, k)) / static_cast<double>(scale);
        const float code = std::clamp(static_cast<float>(multiple), -Format<W>::largest_code, Format<W>::largest_code);
        Format<W>::set_code(column, panel_columns<W>, k, code);
    }
    return scale;
}

/// One panel, of the weight's rows [first, first + columns), and its scales [steps of k, panel_columns]; zeros beside them.
template <QuantisedWeight W>
void fill_panel(const TensorRef& weight, Index first, Index columns, Index step, W* panel, float* scales) noexcept {
    std::fill_n(panel, panel_elements<W>(weight.cols), W());
    std::fill_n(scales, divide_up(weight.cols, step) * panel_columns<W>, 0.0F);
    const bool kept = keeps<W>(weight);
    weight.visit([&](const auto& element) {
        for (Index begin = 0; begin < weight.cols; begin += step) {
            const Index end = std::min(begin + step, weight.cols);
            for (Index n = 0; n < columns; ++n)
                scales[begin / step * panel_columns<W> + n] = kept ? keep_codes(weight, first + n, begin, end, panel + n)
                                                                   : make_codes(element, first + n, begin, end, panel + n);
        }
    });
}

}  // namespace mla::inline MLA_ISA::detail
