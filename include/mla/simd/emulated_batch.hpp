// A vector of any size on any machine: the operations of xsimd's batch that kernels use, written out lane by lane.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA::simd {

template <class A, std::size_t N>
struct EmulatedBatch {
    using value_type = A;
    static constexpr std::size_t size = N;
    static constexpr std::size_t alignment = sizeof(A) * N;

    /// What sums and products are computed in: of integers they wrap around.
    using Wrapping = typename std::conditional_t<std::is_integral_v<A>, std::make_unsigned<A>, std::type_identity<A>>::type;

    A lane[N];

    EmulatedBatch() = default;
    explicit EmulatedBatch(A value) noexcept { std::fill_n(lane, N, value); }
    /// lane[i] = f(i)
    template <class F>
        requires std::is_invocable_r_v<A, F, std::size_t>
    explicit EmulatedBatch(F f) noexcept {
        for (std::size_t i = 0; i < N; ++i) lane[i] = f(i);
    }

    [[nodiscard]] static EmulatedBatch load_unaligned(const A* source) noexcept {
        EmulatedBatch loaded;
        std::memcpy(loaded.lane, source, sizeof lane);
        return loaded;
    }
    [[nodiscard]] static EmulatedBatch load_aligned(const A* source) noexcept { return load_unaligned(source); }
    void store_unaligned(A* target) const noexcept { std::memcpy(target, lane, sizeof lane); }
    void store_aligned(A* target) const noexcept { store_unaligned(target); }

    EmulatedBatch& operator+=(const EmulatedBatch& other) noexcept { return *this = *this + other; }

    // clang-format off
    [[nodiscard]] friend EmulatedBatch operator+(const EmulatedBatch& a, const EmulatedBatch& b) noexcept { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(static_cast<Wrapping>(a.lane[i]) + static_cast<Wrapping>(b.lane[i])); }); }
    [[nodiscard]] friend EmulatedBatch operator-(const EmulatedBatch& a, const EmulatedBatch& b) noexcept { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(static_cast<Wrapping>(a.lane[i]) - static_cast<Wrapping>(b.lane[i])); }); }
    [[nodiscard]] friend EmulatedBatch operator*(const EmulatedBatch& a, const EmulatedBatch& b) noexcept { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(static_cast<Wrapping>(a.lane[i]) * static_cast<Wrapping>(b.lane[i])); }); }
    [[nodiscard]] friend EmulatedBatch operator/(const EmulatedBatch& a, const EmulatedBatch& b) noexcept { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(a.lane[i] / b.lane[i]); }); }
    [[nodiscard]] friend EmulatedBatch operator-(const EmulatedBatch& a) noexcept { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(-a.lane[i]); }); }
    [[nodiscard]] friend EmulatedBatch operator&(const EmulatedBatch& a, const EmulatedBatch& b) noexcept requires std::is_integral_v<A> { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(a.lane[i] & b.lane[i]); }); }
    [[nodiscard]] friend EmulatedBatch operator|(const EmulatedBatch& a, const EmulatedBatch& b) noexcept requires std::is_integral_v<A> { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(a.lane[i] | b.lane[i]); }); }
    [[nodiscard]] friend EmulatedBatch operator<<(const EmulatedBatch& a, int bits) noexcept requires std::is_integral_v<A> { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(static_cast<std::make_unsigned_t<A>>(a.lane[i]) << bits); }); }
    [[nodiscard]] friend EmulatedBatch operator>>(const EmulatedBatch& a, int bits) noexcept requires std::is_integral_v<A> { return EmulatedBatch([&](std::size_t i) { return static_cast<A>(a.lane[i] >> bits); }); }
    // clang-format on

    using Mask = EmulatedBatch<std::uint8_t, N>;
    [[nodiscard]] friend Mask operator<(const EmulatedBatch& a, const EmulatedBatch& b) noexcept {
        return Mask([&](std::size_t i) { return static_cast<std::uint8_t>(a.lane[i] < b.lane[i]); });
    }
    [[nodiscard]] friend Mask operator==(const EmulatedBatch& a, const EmulatedBatch& b) noexcept {
        return Mask([&](std::size_t i) { return static_cast<std::uint8_t>(a.lane[i] == b.lane[i]); });
    }
};

template <class A, std::size_t N>
[[nodiscard]] EmulatedBatch<A, N> select(const EmulatedBatch<std::uint8_t, N>& mask, const EmulatedBatch<A, N>& a,
                                         const EmulatedBatch<A, N>& b) noexcept {
    return EmulatedBatch<A, N>([&](std::size_t i) { return mask.lane[i] != 0 ? a.lane[i] : b.lane[i]; });
}
/// As MAXPS: of two of which one is NaN, the second.
template <class A, std::size_t N>
[[nodiscard]] EmulatedBatch<A, N> max(const EmulatedBatch<A, N>& a, const EmulatedBatch<A, N>& b) noexcept {
    return EmulatedBatch<A, N>([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
template <class A, std::size_t N>
[[nodiscard]] EmulatedBatch<A, N> min(const EmulatedBatch<A, N>& a, const EmulatedBatch<A, N>& b) noexcept {
    return EmulatedBatch<A, N>([&](std::size_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
template <class A, std::size_t N>
[[nodiscard]] EmulatedBatch<A, N> abs(const EmulatedBatch<A, N>& a) noexcept {
    return EmulatedBatch<A, N>([&](std::size_t i) { return std::abs(a.lane[i]); });
}
template <class A, std::size_t N>
[[nodiscard]] EmulatedBatch<A, N> nearbyint(const EmulatedBatch<A, N>& a) noexcept {
    return EmulatedBatch<A, N>([&](std::size_t i) { return std::nearbyint(a.lane[i]); });
}
/// To nearest even; what no int32 holds becomes the least of them, as CVTPS2DQ has it.
template <std::size_t N>
[[nodiscard]] EmulatedBatch<std::int32_t, N> nearbyint_as_int(const EmulatedBatch<float, N>& a) noexcept {
    return EmulatedBatch<std::int32_t, N>([&](std::size_t i) {
        const float whole = std::nearbyint(a.lane[i]);
        return whole >= -0x1p31F && whole < 0x1p31F ? static_cast<std::int32_t>(whole) : INT32_MIN;
    });
}
template <std::size_t N>
[[nodiscard]] EmulatedBatch<float, N> to_float(const EmulatedBatch<std::int32_t, N>& a) noexcept {
    return EmulatedBatch<float, N>([&](std::size_t i) { return static_cast<float>(a.lane[i]); });
}

}  // namespace mla::inline MLA_ISA::simd
