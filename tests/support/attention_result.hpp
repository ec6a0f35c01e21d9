// Outputs of an attention kernel, and how two runs of it compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "mla/core/views.hpp"

namespace mla {

template <Compute A>
inline constexpr A not_a_number = std::numeric_limits<A>::quiet_NaN();

/// Equal in every bit.
template <class T>
[[nodiscard]] bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Outputs [T·H, dim] and LSE [T·H], rows t·H + h, NaN until written.
template <Compute A>
struct AttentionResult {
    Index tokens;
    Index heads;
    Index dim;
    std::vector<A> out = std::vector<A>(static_cast<std::size_t>(tokens * heads * dim), not_a_number<A>);
    std::vector<A> lse = std::vector<A>(static_cast<std::size_t>(tokens * heads), not_a_number<A>);

    [[nodiscard]] HeadsView<A> out_view() { return {out.data(), tokens, heads, dim}; }
    [[nodiscard]] MatrixView<A> lse_view() { return {lse.data(), tokens, heads}; }

    /// Whether rows [first, first + rows) have the bits of `other`.
    [[nodiscard]] bool same_rows(const AttentionResult& other, Index first, Index rows) const {
        const auto same = [rows](const A* a, const A* b, Index values) {
            return std::memcmp(a, b, static_cast<std::size_t>(rows * values) * sizeof(A)) == 0;
        };
        return same(out.data() + first * dim, other.out.data() + first * dim, dim) &&
               same(lse.data() + first, other.lse.data() + first, 1);
    }
    [[nodiscard]] bool same(const AttentionResult& other) const { return same_rows(other, 0, tokens * heads); }

    /// Whether output and LSE of one row are NaN throughout.
    [[nodiscard]] bool is_nan(Index row) const {
        const A* first = out.data() + row * dim;
        return std::isnan(lse[static_cast<std::size_t>(row)]) &&
               std::all_of(first, first + dim, [](A value) { return std::isnan(value); });
    }
    /// Whether output and LSE of one row are those of a query that sees no key.
    [[nodiscard]] bool is_empty(Index row) const {
        const A* first = out.data() + row * dim;
        return lse[static_cast<std::size_t>(row)] == -std::numeric_limits<A>::infinity() &&
               std::all_of(first, first + dim, [](A value) { return value == A(0); });
    }
};

}  // namespace mla
