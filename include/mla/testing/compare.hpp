// How far a result lies from its reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <span>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::testing {

struct Error {
    double relative_norm = 0.0;  ///< ‖out − ref‖ / ‖ref‖
    double max_abs = 0.0;        ///< max |out − ref|
    double max_element = 0.0;    ///< max |out − ref| / rms(ref)
};

inline std::ostream& operator<<(std::ostream& stream, const Error& error) {
    return stream << "{relative_norm " << error.relative_norm << ", max_abs " << error.max_abs << ", max_element "
                  << error.max_element << "}";
}

/// Compares arrays of the same size, at least 1. Where ref is NaN out must be NaN, where it is infinite out must be the
/// same infinity; a NaN or infinity in out that ref does not have gives infinite errors. The norms run over what is finite.
/// @throws std::invalid_argument when the sizes differ or are 0
template <class T>
[[nodiscard]] Error compare(std::span<const T> out, const std::vector<double>& ref) {
    require_equal("testing::compare out.size()", out.size(), "ref.size()", ref.size());
    require_at_least("testing::compare ref.size()", ref.size(), std::size_t{1});

    constexpr double infinity = std::numeric_limits<double>::infinity();
    double error_square = 0.0;
    double ref_square = 0.0;
    double max_abs = 0.0;
    for (std::size_t i = 0; i < ref.size(); ++i) {
        const auto value = static_cast<double>(out[i]);
        if (value == ref[i] || (std::isnan(value) && std::isnan(ref[i]))) {
            if (std::isfinite(ref[i])) ref_square += ref[i] * ref[i];
            continue;
        }
        if (!std::isfinite(value) || !std::isfinite(ref[i])) return {infinity, infinity, infinity};
        error_square += (value - ref[i]) * (value - ref[i]);
        ref_square += ref[i] * ref[i];
        max_abs = std::max(max_abs, std::abs(value - ref[i]));
    }
    if (max_abs == 0.0) return {};
    const double rms = std::sqrt(ref_square / static_cast<double>(ref.size()));
    return {std::sqrt(error_square / ref_square), max_abs, max_abs / rms};  // infinite against a reference of zeros
}

template <class T>
[[nodiscard]] Error compare(const std::vector<T>& out, const std::vector<double>& ref) {
    return compare(std::span<const T>(out), ref);
}

/// How much more than the relative norm one element may err, in units of rms(ref). Errors are about Gaussian, so the
/// largest of a million lies near 5 σ; and the first rows of a prompt, which average over few values, are up to 6 times
/// larger than the rms of all and err in proportion (row t has variance near e/t: for 700 rows 1/sqrt(e·ln 700/700) = 6).
inline constexpr double element_factor = 32.0;

/// relative_norm ≤ tolerance and max_element ≤ element_factor·tolerance; false for NaN.
[[nodiscard]] inline bool within(const Error& error, double tolerance) {
    return error.relative_norm <= tolerance && error.max_element <= element_factor * tolerance;
}

}  // namespace mla::inline MLA_ISA::testing
