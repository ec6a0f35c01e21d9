// Rows of a cache as a port wrote them, as numbers, and what those must be.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "mla/reference/formats.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// What rows say: their values [T, Dc + Dr], then their scales [T, S].
[[nodiscard]] inline std::vector<double> row_numbers(const reference::RowGeometry& row, std::span<const std::byte> rows) {
    const Index tokens = static_cast<Index>(rows.size()) / row.bytes();
    std::vector<double> numbers;
    for (Index t = 0; t < tokens; ++t)
        for (const double value : reference::read_row(row, rows.data() + t * row.bytes())) numbers.push_back(value);
    for (Index t = 0; t < tokens; ++t)
        for (Index group = 0; group < row.scales(); ++group)
            numbers.push_back(reference::detail::scale_of(row, rows.data() + t * row.bytes(), group));
    return numbers;
}

namespace detail {

/// The nearest a row has to a value; or, cut off, the nearest towards 0. Unscaled, of `layout`.
[[nodiscard]] inline double in_layout(reference::FloatLayout layout, double value, bool cut) {
    const std::uint32_t bits = reference::nearest(layout, value);
    const double nearest = reference::value_of(layout, bits);
    return cut && std::abs(nearest) > std::abs(value) ? reference::value_of(layout, bits - 1) : nearest;
}

/// A row's values that are not narrow.
[[nodiscard]] inline double wide_as_stored(reference::RowKind kind, double value, bool cut) {
    if (kind == reference::RowKind::fp64) return value;
    if (kind == reference::RowKind::fp32) return static_cast<double>(static_cast<float>(value));
    return in_layout(kind == reference::RowKind::fp16 ? reference::fp16_layout : reference::bf16_layout, value, cut);
}

/// A narrow value at the scale of its group; divided by it in float, as writers do.
[[nodiscard]] inline double narrow_as_stored(reference::RowKind kind, double value, double scale, bool cut) {
    if (!(scale > 0.0)) return 0.0;
    const auto steps = static_cast<double>(static_cast<float>(value) / static_cast<float>(scale));
    if (kind != reference::RowKind::int8) return in_layout(reference::e4m3_layout, steps, cut) * scale;
    return std::clamp(cut ? std::trunc(steps) : std::nearbyint(steps), -127.0, 127.0) * scale;
}

/// Largest value in eight bits.
[[nodiscard]] inline double largest_narrow(reference::RowKind kind) { return kind == reference::RowKind::int8 ? 127.0 : 448.0; }

/// Of what numbers should be: [T, Dc + Dr] and [T, S] of `row_numbers`, and their bounds.
struct RowExpectation {
    std::vector<double> numbers;
    std::vector<double> bounds;
};

/// What a port's scales should have been: `found`, where it is at least a group's largest magnitude over the largest value, and
/// not more than the next power of two; of a group of zeros any. Scales are made of that magnitude by two roundings at most.
inline void expect_scales(const reference::RowGeometry& row, const reference::Matrix& values, const reference::Matrix& errors,
                          std::span<const double> found, RowExpectation& expected) {
    auto scale = found.begin();
    for (Index t = 0; t < values.rows; ++t)
        for (Index begin = 0; begin < row.narrow(); begin += row.group(), ++scale) {
            const Index end = std::min(begin + row.group(), row.narrow());
            double least = 0.0, error = 0.0;
            for (Index i = begin; i < end; ++i) {
                least = std::max(least, std::abs(values(t, i)) / largest_narrow(row.kind));
                error = std::max(error, errors(t, i) / largest_narrow(row.kind));
            }
            const double most = least > 0.0 ? 2.0 * least : std::numeric_limits<double>::max();
            expected.numbers.push_back(std::isfinite(*scale) ? std::clamp(*scale, least, most) : least);
            expected.bounds.push_back(8.0 * float_roundoff * least + 2.0 * error + smallest_normal);
        }
}

/// What rows must say that hold values [T, Dc + Dr], each known up to its error: of each value the nearest that the row has, in
/// eight bits at the scale that it has itself; where the value is so near to the middle of two that its error decides, either.
[[nodiscard]] inline RowExpectation expect_rows(const reference::RowGeometry& row, const reference::Matrix& values,
                                                const reference::Matrix& errors, std::span<const double> found,
                                                bool cut = false) {
    const std::span<const double> scales = found.subspan(values.values.size());
    RowExpectation expected;
    for (Index t = 0; t < values.rows; ++t)
        for (Index i = 0; i < values.cols; ++i) {
            const bool narrow = i < row.narrow();
            const auto as_stored = [&](double value) {
                if (!narrow) return wide_as_stored(row.kind, value, cut);
                return narrow_as_stored(row.kind, value, scales[static_cast<std::size_t>(t * row.scales() + i / row.group())],
                                        cut);
            };
            const double value = values(t, i);
            // Steps of a scale are a quotient in float.
            const double error = errors(t, i) + (narrow ? 2.0 * float_roundoff * std::abs(value) : 0.0);
            const double nearest = as_stored(value);
            expected.numbers.push_back(nearest);
            expected.bounds.push_back(std::max(as_stored(value + error) - nearest, nearest - as_stored(value - error)) +
                                      smallest_normal);
        }
    expect_scales(row, values, errors, scales, expected);
    return expected;
}

}  // namespace detail

}  // namespace mla::inline MLA_ISA::testing
