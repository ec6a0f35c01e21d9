// How one cached token lies in memory, whatever cache it is in: [normalised latent | rotated rope key] of one type, or the
// latent in eight bits with scales and the rope key in bf16.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "mla/core/float8.hpp"
#include "mla/simd/convert.hpp"

namespace mla {

/// The elements of rows whose latent is stored in eight bits. Such a row starts on a multiple of `quantised_alignment` bytes and
/// is
///
///     latent   Dc bytes, filled up with zeros to a multiple of 4
///     scales   fp8: ⌈Dc / 128⌉ floats, int8: one; a latent value is its byte's value times its scale
///     rope key Dr bf16
///
/// Of fp8 with Dc 512 and Dr 64 that is FlashMLA's row of 656 bytes (its README, "FP8 KV cache"). int8 has one scale a token:
/// RMSNorm leaves the values of a latent alike, so that a scale for each 128 would lower the error by an
/// eighth only: from 0.74 % to 0.65 % of N(0, 1) values.
using QuantisedTypes = TypeList<int8, fp8>;

template <class C>
concept Quantised = is_listed<C, QuantisedTypes>;

/// The types that a cache can be made of.
using CacheTypes = Joined<StorageTypes, QuantisedTypes>;

template <class C>
concept CacheElement = Storage<C> || Quantised<C>;

inline constexpr Index quantised_alignment = 4;

/// The run-time name of a cache's type.
template <CacheElement C>
[[nodiscard]] constexpr const char* cache_type_name() noexcept {
    if constexpr (std::is_same_v<C, int8>) {
        return "int8";
    } else if constexpr (std::is_same_v<C, fp8>) {
        return "fp8";
    } else {
        return name(dtype_of<C>);
    }
}

/// Layout of a row of C; offsets and sizes in elements, which are bytes where C is quantised.
template <CacheElement C>
struct RowFormat {
    Index latent_dim = 0;  ///< Dc
    Index rope_dim = 0;    ///< Dr

    /// Latent values that share a scale.
    static constexpr Index values_per_scale = std::is_same_v<C, fp8> ? 128 : std::numeric_limits<Index>::max();
    /// The largest value that C holds.
    static constexpr float largest = std::is_same_v<C, fp8> ? 448.0F : 127.0F;

    [[nodiscard]] constexpr Index values() const noexcept { return latent_dim + rope_dim; }
    [[nodiscard]] constexpr Index scales() const noexcept {
        return values_per_scale > latent_dim ? 1 : divide_up(latent_dim, values_per_scale);
    }
    [[nodiscard]] constexpr Index scale_offset() const noexcept { return round_up(latent_dim, Index{4}); }
    [[nodiscard]] constexpr Index rope_offset() const noexcept {
        if constexpr (Quantised<C>) return scale_offset() + scales() * static_cast<Index>(sizeof(float));
        return latent_dim;
    }
    /// Elements of a row.
    [[nodiscard]] constexpr Index elements() const noexcept {
        if constexpr (Quantised<C>) return rope_offset() + rope_dim * static_cast<Index>(sizeof(bf16));
        return values();
    }

    /// Writes a token [Dc + Dr], rounded to nearest even.
    template <class Arch, Compute A>
    void write(const A* token, C* row) const noexcept {
        if constexpr (Quantised<C>) {
            for (Index i = latent_dim; i < scale_offset(); ++i) row[i] = C();
            for (Index s = 0; s < scales(); ++s) {
                const Index begin = s * values_per_scale;
                const float scale = quantise(token + begin, scale_width(s), row + begin);
                std::memcpy(static_cast<void*>(row + scale_offset() + s * static_cast<Index>(sizeof scale)), &scale,
                            sizeof scale);
            }
            simd::convert_row<Arch>(reinterpret_cast<bf16*>(row + rope_offset()), token + latent_dim, rope_dim);
        } else {
            simd::convert_row<Arch>(row, token, values());
        }
    }

    /// Reads a row back to [Dc + Dr].
    template <class Arch, Compute A>
    void read(const C* row, A* token) const noexcept {
        if constexpr (Quantised<C>) {
            for (Index s = 0; s < scales(); ++s) {
                const Index begin = s * values_per_scale;
                simd::scale_row<Arch>(token + begin, row + begin, scale_width(s), static_cast<A>(scale(row, s)));
            }
            simd::convert_row<Arch>(token + latent_dim, reinterpret_cast<const bf16*>(row + rope_offset()), rope_dim);
        } else {
            simd::convert_row<Arch>(token, row, values());
        }
    }

    /// What the values of group `index` are multiplied by.
    [[nodiscard]] float scale(const C* row, Index index) const noexcept requires Quantised<C> {
        float value = 0.0F;
        std::memcpy(&value, row + scale_offset() + index * static_cast<Index>(sizeof value), sizeof value);
        return value;
    }

  private:
    [[nodiscard]] constexpr Index scale_width(Index index) const noexcept {
        return std::min(values_per_scale, latent_dim - index * values_per_scale);
    }

    /// Stores `count` values and returns their scale, largest magnitude / largest. A NaN or an infinity makes the scale NaN, and
    /// with it the whole group.
    template <Compute A>
    static float quantise(const A* values, Index count, C* row) noexcept {
        A magnitude(0);
        bool finite = true;
        for (Index i = 0; i < count; ++i) {
            magnitude = std::max(magnitude, std::abs(values[i]));
            finite = finite && std::isfinite(values[i]);
        }
        const float scale = static_cast<float>(magnitude) / largest;
        const bool any = finite && scale > 0.0F;
        for (Index i = 0; i < count; ++i) {
            const float value = any ? std::clamp(static_cast<float>(values[i]) / scale, -largest, largest) : 0.0F;
            if constexpr (std::is_same_v<C, fp8>) {
                row[i] = fp8(value);
            } else {
                row[i] = int8(static_cast<std::int8_t>(std::nearbyint(value)));
            }
        }
        return finite ? scale : std::numeric_limits<float>::quiet_NaN();
    }
};

}  // namespace mla
