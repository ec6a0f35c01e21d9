// Panels of quantised weights: codes that are kept as they were stored, or made of wider values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>

#include "mla/core/tensor_ref.hpp"
#include "mla/linear/pack_panel.hpp"
#include "mla/linear/panels.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows k of a panel that one scale is for, where codes are made.
template <class W>
inline constexpr Index default_scale_step = most_scale_step;
template <QuantisedWeight W>
inline constexpr Index default_scale_step<W> = Format<W>::made_scale_step;

/// The same where a weight's own scales are kept.
[[nodiscard]] inline Index kept_scale_step(const BlockScales& scales) noexcept {
    if (scales.block_cols == BlockScales::all) return most_scale_step;
    return std::gcd(std::gcd(scales.block_cols, scales.first_col % scales.block_cols), most_scale_step);
}

/// Whether panels of W hold a weight as it is stored: of its type, with scales for whole groups of eight.
template <QuantisedWeight W>
[[nodiscard]] bool keeps(const TensorRef& weight) noexcept {
    return weight.dtype == Format<W>::stored_dtype && kept_scale_step(weight.scales) % panel_row_step<W> == 0;
}

/// Rows k that one scale of a panel of W is for.
template <Weight W>
[[nodiscard]] Index scale_step_for([[maybe_unused]] const TensorRef& weight) noexcept {
    if constexpr (QuantisedWeight<W>)
        if (keeps<W>(weight)) return kept_scale_step(weight.scales);
    return default_scale_step<W>;
}

/// The same where the k of panels are rows of a weight, `stride` of them from matrix to matrix.
[[nodiscard]] inline Index kept_row_step(const BlockScales& scales, Index stride) noexcept {
    if (scales.block_rows == BlockScales::all) return most_scale_step;
    const Index offsets = std::gcd(scales.first_row % scales.block_rows, stride % scales.block_rows);
    return std::gcd(std::gcd(scales.block_rows, offsets), most_scale_step);
}

/// Words of a row that move as they are: where rows begin with bytes.
template <QuantisedWeight W>
[[nodiscard]] Index whole_words(const TensorRef& weight) noexcept {
    const bool bytes = weight.first_nibble == 0 && weight.stride * bits_of(weight.dtype) % 8 == 0;
    return bytes ? weight.cols / Format<W>::panel_values : 0;
}

/// Codes of rows [first, first + columns) as they are stored. Those that fill words move as words, where rows begin with bytes.
template <QuantisedWeight W>
void keep_codes(const TensorRef& weight, Index first, Index columns, W* panel) noexcept {
    constexpr Index each = Format<W>::panel_values;
    const Index words = whole_words<W>(weight);
    gather_rows<W>(weight, first, columns, words, panel);
    if constexpr (each > 1)
        for (Index i = 0; i < words; ++i)
            for (Index n = 0; n < columns; ++n) {
                W& codes = panel[i * panel_columns<W> + n];
                codes = Format<W>::from_stored(codes);
            }
    for (Index k = words * each; k < weight.cols; ++k)
        for (Index n = 0; n < columns; ++n) Format<W>::set_code(panel + n, panel_columns<W>, k, weight.quantised(first + n, k));
}

/// Makes NaN of the scales of columns that hold one in rows [begin, end), so that every sum of theirs is NaN, and 0 of it.
template <QuantisedWeight W>
void move_nan(Index begin, Index end, W* panel, float* scales) noexcept {
    if constexpr (Format<W>::has_nan) {
        constexpr Index width = panel_columns<W>;
        if (!Format<W>::any_nan(panel + begin * width, (end - begin) * width)) return;
        for (Index i = begin * width; i < end * width; ++i) {
            if (!Format<W>::is_nan(panel[i])) continue;
            panel[i] = W();
            scales[i % width] = std::numeric_limits<float>::quiet_NaN();
        }
    }
}

/// Codes of values [begin, end) of a row, as multiples of the least scale that holds them, which is returned.
template <QuantisedWeight W>
[[nodiscard]] float make_codes(const TensorRef& weight, Index row, Index begin, Index end, W* column) noexcept {
    float values[simd::extent<most_scale_step>];
    read_values(weight, row, begin, end - begin, values);
    constexpr float largest = Format<W>::largest_code;
    const float scale = largest_magnitude(values, end - begin) / largest;
    if (!(scale > 0.0F)) return scale;
    for (Index k = begin; k < end; ++k)
        Format<W>::set_code(column, panel_columns<W>, k, std::clamp(values[k - begin] / scale, -largest, largest));
    return scale;
}

/// A weight's own scales of rows [first, first + columns), for steps of k: [step][column].
template <QuantisedWeight W>
void keep_scales(const TensorRef& weight, Index first, Index columns, Index step, float* scales) noexcept {
    weight.scales.visit([&]<class Scale>(const Scale* stored) {
        const Scale* rows[simd::extent<panel_columns<W>>];
        for (Index n = 0; n < columns; ++n) rows[n] = stored + weight.scales.row_start(first + n);
        for (Index k = 0; k < weight.cols; k += step, scales += panel_columns<W>) {
            const Index block = weight.scales.block_of(k);
            for (Index n = 0; n < columns; ++n) scales[n] = static_cast<float>(rows[n][block]);
        }
    });
}

/// One panel, of the weight's rows [first, first + columns), and its scales [steps of k, panel_columns]; zeros beside them.
template <QuantisedWeight W>
void fill_panel(const TensorRef& weight, Index first, Index columns, Index step, W* panel, float* scales) noexcept {
    const bool kept = keeps<W>(weight);
    if (!kept || columns < panel_columns<W> ||
        whole_words<W>(weight) * Format<W>::panel_values != round_up(weight.cols, panel_row_step<W>))
        std::fill_n(panel, panel_elements<W>(weight.cols), W());
    if (columns < panel_columns<W>) std::fill_n(scales, divide_up(weight.cols, step) * panel_columns<W>, 0.0F);
    if (kept) {
        keep_codes(weight, first, columns, panel);
        keep_scales<W>(weight, first, columns, step, scales);
    }
    for (Index begin = 0; begin < weight.cols; begin += step, scales += panel_columns<W>) {
        const Index end = std::min(begin + step, weight.cols);
        if (kept) {
            move_nan(begin, end, panel, scales);
        } else {
            for (Index n = 0; n < columns; ++n) scales[n] = make_codes(weight, first + n, begin, end, panel + n);
        }
    }
}

/// The same of columns [first, first + columns) of a weight that W keeps, whose rows are the k.
template <QuantisedWeight W>
void fill_transposed_panel(const TensorRef& weight, Index first, Index columns, Index step, W* panel, float* scales) noexcept {
    std::fill_n(panel, panel_elements<W>(weight.rows), W());
    std::fill_n(scales, divide_up(weight.rows, step) * panel_columns<W>, 0.0F);
    for (Index k = 0; k < weight.rows; ++k) {
        if constexpr (Format<W>::panel_values == 1) {
            std::memcpy(panel + k * panel_columns<W>, row_bytes(weight, k) + first, static_cast<std::size_t>(columns));
        } else {
            for (Index n = 0; n < columns; ++n)
                Format<W>::set_code(panel + n, panel_columns<W>, k, weight.quantised(k, first + n));
        }
    }
    for (Index begin = 0; begin < weight.rows; begin += step, scales += panel_columns<W>) {
        for (Index n = 0; n < columns; ++n) scales[n] = weight.scales(begin, first + n);
        move_nan(begin, std::min(begin + step, weight.rows), panel, scales);
    }
}

}  // namespace mla::inline MLA_ISA::detail
