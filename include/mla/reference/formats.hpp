// Stored numbers and cache rows read, and written, by their definitions: one value at a time, in double.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::reference {

/// What a cache row may be made of.
enum class RowKind : std::uint8_t { fp64, fp32, bf16, fp16, int8, fp8, fp8_v4 };

inline constexpr std::array row_kinds{RowKind::fp64, RowKind::fp32, RowKind::bf16,  RowKind::fp16,
                                      RowKind::int8, RowKind::fp8,  RowKind::fp8_v4};

[[nodiscard]] constexpr std::string_view name(RowKind kind) noexcept {
    switch (kind) {
        case RowKind::fp64: return "fp64";
        case RowKind::fp32: return "fp32";
        case RowKind::bf16: return "bf16";
        case RowKind::fp16: return "fp16";
        case RowKind::int8: return "int8";
        case RowKind::fp8: return "fp8";
        case RowKind::fp8_v4: return "fp8_v4";
    }
    return "unknown";
}

/// A binary floating-point number of `exponent` and `mantissa` bits, as IEEE 754 has them. `finite_only`: no infinities, and all
/// ones for NaN (e4m3 of the OCP).
struct FloatLayout {
    int exponent;
    int mantissa;
    bool finite_only = false;

    [[nodiscard]] constexpr int bits() const noexcept { return 1 + exponent + mantissa; }
    [[nodiscard]] constexpr int bias() const noexcept { return (1 << (exponent - 1)) - 1; }
};
inline constexpr FloatLayout bf16_layout{8, 7};
inline constexpr FloatLayout fp16_layout{5, 10};
inline constexpr FloatLayout e4m3_layout{4, 3, true};

[[nodiscard]] inline double value_of(FloatLayout layout, std::uint32_t bits) {
    const std::uint32_t mantissa = bits & ((1U << layout.mantissa) - 1U);
    const int exponent = static_cast<int>(bits >> layout.mantissa & ((1U << layout.exponent) - 1U));
    const bool all_ones = exponent == (1 << layout.exponent) - 1;
    double magnitude = 0.0;
    if (all_ones && (!layout.finite_only || mantissa == (1U << layout.mantissa) - 1U)) {
        const bool infinite = mantissa == 0 && !layout.finite_only;
        magnitude = infinite ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    } else if (exponent == 0) {
        magnitude = std::ldexp(mantissa, 1 - layout.bias() - layout.mantissa);
    } else {
        magnitude = std::ldexp((1U << layout.mantissa) + mantissa, exponent - layout.bias() - layout.mantissa);
    }
    return (bits >> (layout.bits() - 1) & 1U) != 0 ? -magnitude : magnitude;
}

/// The number nearest to `value`, of two the one with an even last bit. What lies too far beyond the largest becomes an infinity,
/// or, where there is none, the largest.
[[nodiscard]] inline std::uint32_t nearest(FloatLayout layout, double value) {
    const std::uint32_t sign = std::signbit(value) ? 1U << (layout.bits() - 1) : 0U;
    const std::uint32_t infinity = ((1U << layout.exponent) - 1U) << layout.mantissa;
    const std::uint32_t largest = layout.finite_only ? infinity + (1U << layout.mantissa) - 2U : infinity - 1U;
    if (std::isnan(value)) return sign | (infinity + (1U << layout.mantissa) - 1U);
    const double magnitude = std::abs(value);
    if (magnitude == 0.0) return sign;
    int exponent = 0;
    static_cast<void>(std::frexp(magnitude, &exponent));
    const int last = std::max(exponent - 1, 1 - layout.bias()) - layout.mantissa;  // what the last bit counts
    const double steps = std::nearbyint(std::ldexp(magnitude, -last));
    if (!(std::ldexp(steps, last) <= value_of(layout, largest))) return sign | (layout.finite_only ? largest : infinity);
    // Carries run into the exponent by themselves.
    const auto whole = static_cast<std::uint32_t>(steps);
    if (last + layout.mantissa == 1 - layout.bias()) return sign | whole;
    return sign | ((static_cast<std::uint32_t>(last + layout.mantissa + layout.bias() - 1) << layout.mantissa) + whole);
}

/// 2^(bits − 127), or NaN (UE8M0 of the OCP Microscaling Formats).
[[nodiscard]] inline double ue8m0_value(std::uint8_t bits) {
    return bits == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, bits - 127);
}

/// The geometry of a row [latent | rope key]: where its parts lie, in bytes. Rows of one type are Dc + Dr values of it.
///
///     int8    Dc bytes, filled up to 4; one fp32 scale; Dr bf16
///     fp8     Dc e4m3, filled up to 4; an fp32 scale for each 128; Dr bf16 (FlashMLA's 656 bytes)
///     fp8_v4  Dc − 64 e4m3, filled up to 2; 64 + Dr bf16; a UE8M0 scale for each 64 e4m3; zeros up to 8 (FlashMLA's 584 bytes)
struct RowGeometry {
    RowKind kind;
    Index latent_dim;
    Index rope_dim;

    [[nodiscard]] Index values() const noexcept { return latent_dim + rope_dim; }
    /// Values in eight bits, the first of the latent.
    [[nodiscard]] Index narrow() const noexcept {
        if (kind == RowKind::fp8_v4) return std::max<Index>(latent_dim - 64, 0);
        return kind == RowKind::int8 || kind == RowKind::fp8 ? latent_dim : 0;
    }
    /// Narrow values that share a scale.
    [[nodiscard]] Index group() const noexcept {
        return kind == RowKind::fp8 ? 128 : kind == RowKind::fp8_v4 ? 64 : std::max<Index>(latent_dim, 1);
    }
    [[nodiscard]] Index scales() const noexcept { return divide_up(narrow(), group()); }
    [[nodiscard]] Index scale_bytes() const noexcept { return kind == RowKind::fp8_v4 ? 1 : 4; }
    /// Bytes of a value that is not narrow.
    [[nodiscard]] Index wide_bytes() const noexcept { return kind == RowKind::fp64 ? 8 : kind == RowKind::fp32 ? 4 : 2; }
    [[nodiscard]] Index scale_offset() const noexcept {
        return kind == RowKind::fp8_v4 ? wide_offset() + (values() - narrow()) * 2 : round_up(narrow(), Index{4});
    }
    [[nodiscard]] Index wide_offset() const noexcept {
        if (narrow() == 0) return 0;
        return kind == RowKind::fp8_v4 ? round_up(narrow(), Index{2}) : scale_offset() + scales() * 4;
    }
    [[nodiscard]] Index bytes() const noexcept {
        if (kind == RowKind::fp8_v4) return round_up(scale_offset() + scales(), Index{8});
        return wide_offset() + (values() - narrow()) * wide_bytes();
    }
};

namespace detail {

template <class T>
[[nodiscard]] T load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class T>
void store(std::byte* to, T value) {
    std::memcpy(to, &value, sizeof value);
}

[[nodiscard]] inline double wide_value(RowKind kind, const std::byte* from) {
    if (kind == RowKind::fp64) return load<double>(from);
    if (kind == RowKind::fp32) return static_cast<double>(load<float>(from));
    return value_of(kind == RowKind::fp16 ? fp16_layout : bf16_layout, load<std::uint16_t>(from));
}
inline void store_wide(RowKind kind, double value, std::byte* to) {
    if (kind == RowKind::fp64) return store(to, value);
    if (kind == RowKind::fp32) return store(to, static_cast<float>(value));
    store(to, static_cast<std::uint16_t>(nearest(kind == RowKind::fp16 ? fp16_layout : bf16_layout, value)));
}

[[nodiscard]] inline double narrow_value(RowKind kind, std::byte byte) {
    if (kind == RowKind::int8) return static_cast<double>(static_cast<std::int8_t>(byte));
    return value_of(e4m3_layout, static_cast<std::uint8_t>(byte));
}

[[nodiscard]] inline double scale_of(const RowGeometry& row, const std::byte* bytes, Index group) {
    const std::byte* const from = bytes + row.scale_offset() + group * row.scale_bytes();
    return row.kind == RowKind::fp8_v4 ? ue8m0_value(load<std::uint8_t>(from)) : static_cast<double>(load<float>(from));
}

}  // namespace detail

/// The values [Dc + Dr] of a row, each exact: stored value times scale.
[[nodiscard]] inline std::vector<double> read_row(const RowGeometry& row, const std::byte* bytes) {
    std::vector<double> values;
    for (Index i = 0; i < row.narrow(); ++i)
        values.push_back(detail::narrow_value(row.kind, bytes[i]) * detail::scale_of(row, bytes, i / row.group()));
    for (Index i = row.narrow(); i < row.values(); ++i)
        values.push_back(detail::wide_value(row.kind, bytes + row.wide_offset() + (i - row.narrow()) * row.wide_bytes()));
    return values;
}

/// A row [row.bytes()] of values [Dc + Dr], each rounded to the nearest, scales from the largest magnitude of their group: over
/// 127 (int8), over 448 (fp8), over 448 and up to a power of two (fp8_v4).
inline void write_row(const RowGeometry& row, std::span<const double> values, std::byte* bytes) {
    require_equal("values.size()", static_cast<Index>(values.size()), "values of a row", row.values());
    std::fill_n(bytes, row.bytes(), std::byte{});
    const double largest = row.kind == RowKind::int8 ? 127.0 : 448.0;
    for (Index begin = 0; begin < row.narrow(); begin += row.group()) {
        const auto group = values.subspan(static_cast<std::size_t>(begin),
                                          static_cast<std::size_t>(std::min(row.group(), row.narrow() - begin)));
        double magnitude = 0.0;
        for (const double value : group) magnitude = std::max(magnitude, std::abs(value));
        float scale = static_cast<float>(magnitude) / static_cast<float>(largest);
        std::byte* const to = bytes + row.scale_offset() + begin / row.group() * row.scale_bytes();
        if (row.kind == RowKind::fp8_v4) {
            const int exponent = scale > 0.0F ? static_cast<int>(std::ceil(std::log2(static_cast<double>(scale)))) : 0;
            scale = std::ldexp(1.0F, exponent);
            detail::store(to, static_cast<std::uint8_t>(exponent + 127));
        } else {
            detail::store(to, scale);
        }
        for (std::size_t i = 0; i < group.size(); ++i) {
            const double steps = scale > 0.0F ? static_cast<double>(static_cast<float>(group[i]) / scale) : 0.0;
            bytes[begin + static_cast<Index>(i)] = row.kind == RowKind::int8
                                                       ? static_cast<std::byte>(static_cast<std::int8_t>(std::nearbyint(steps)))
                                                       : static_cast<std::byte>(nearest(e4m3_layout, steps));
        }
    }
    for (Index i = row.narrow(); i < row.values(); ++i)
        detail::store_wide(row.kind, values[static_cast<std::size_t>(i)],
                           bytes + row.wide_offset() + (i - row.narrow()) * row.wide_bytes());
}

}  // namespace mla::inline MLA_ISA::reference
