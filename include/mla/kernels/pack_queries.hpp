// Queries laid out for the score tile, once a call.
#pragma once

#include <algorithm>
#include <cmath>

#include "mla/kernels/few_rows.hpp"
#include "mla/kernels/row_group.hpp"
#include "mla/simd/transpose.hpp"

namespace mla::detail {

/// The scale of scores, in the two places that it can go.
template <Compute A>
struct Scale {
    A of_queries;
    A of_scores;  ///< positive
};

/// Queries of the type computed in take the scale, which then costs nothing; those that are rounded take its sign only, so that a
/// query that came as bf16 stays what it was.
template <class U, Compute A>
[[nodiscard]] Scale<A> place_scale(A scale) noexcept {
    if (std::is_same_v<U, A> || scale == A(0)) return {scale, A(1)};
    return {std::copysign(A(1), scale), std::abs(scale)};
}

/// One query [depth] in units, times a scale; zeros of no query.
template <class Arch, class U, Compute A>
class QueryUnits {
  public:
    QueryUnits() = default;
    QueryUnits(const A* query, Index depth, Index latent_dim, const Scale<A>& scale) noexcept
        : query_(query), depth_(depth), latent_dim_(latent_dim), scale_(scale) {
        if constexpr (is_quantised<U>) {
            steps_ = simd::Steps::of<Arch>(query, depth, Int16Range::query);
            steps_.per_step *= static_cast<float>(scale.of_queries);
        }
    }

    /// What its scores must still be multiplied by.
    [[nodiscard]] A factor() const noexcept { return scale_.of_scores * static_cast<A>(steps_.step); }

    /// Writes its units [begin, end).
    void read(Index begin, Index end, U* units) const noexcept {
        if (query_ == nullptr) {
            std::fill_n(units, end - begin, U());
        } else if constexpr (std::is_same_v<U, A>) {
            for (Index i = 0; i < end - begin; ++i) units[i] = query_[begin + i] * scale_.of_queries;
        } else if constexpr (is_quantised<U>) {
            const Index rope = divide_up(latent_dim_, values_per_unit<U>);
            const Index middle = std::clamp(rope, begin, end);
            read_whole_numbers(begin * values_per_unit<U>, latent_dim_, middle - begin, units);
            read_whole_numbers(latent_dim_ + (middle - rope) * values_per_unit<U>, depth_, end - middle, units + middle - begin);
        } else {
            const auto value = [&](Index k) { return bf16(k < depth_ ? query_[k] * scale_.of_queries : A(0)).bits; };
            for (Index unit = begin; unit < end; ++unit)
                units[unit - begin] = {value(2 * unit) | std::uint32_t{value(2 * unit + 1)} << 16U};
        }
    }

  private:
    /// `count` units of values [first, …), 0 from `limit` on.
    void read_whole_numbers(Index first, Index limit, Index count, U* units) const noexcept {
        if (count == 0) return;
        units[count - 1] = U();
        const Index values = std::min(count * values_per_unit<U>, limit - first);
        simd::quantise<Arch>(query_ + first, values, steps_, reinterpret_cast<std::int16_t*>(units));
    }

    const A* query_ = nullptr;
    Index depth_ = 0;
    Index latent_dim_ = 0;
    Scale<A> scale_{A(1), A(1)};
    simd::Steps steps_;
};

/// Which part of the work on a group: every `count`-th panel, from panel `index` on.
struct Share {
    Index index = 0;
    Index count = 1;
};

/// Packs `query(row)` -> pointer to [depth], times `scale`, of a share of the group's panels, and sets their factors.
template <class Arch, class U, Compute A, class Query>
void pack_panels(const RowGroup<A>& group, Index latent_dim, A scale, const Share& share, Query query) noexcept {
    using Shape = AttentionTile<Arch, A>;
    constexpr Index block = 64;  // 16 rows of a block stay in L1 until they are columns
    const Index units = units_of<U>(group.depth, latent_dim);
    const Index padded = round_up(group.rows, Shape::lanes);
    const auto scales = place_scale<U>(scale);
    const auto pack_vector = [&](Index first, U* columns, Index width) {
        QueryUnits<Arch, U, A> sources[simd::extent<Shape::lanes>];
        for (Index r = 0; r < Shape::lanes; ++r) {
            if (first + r < group.rows) sources[r] = {query(first + r), group.depth, latent_dim, scales};
            group.factors[first + r] = sources[r].factor();
        }
        for (Index begin = 0; begin < units; begin += block) {
            const Index end = std::min(begin + block, units);
            U rows[simd::extent<Shape::lanes * block>];
            for (Index r = 0; r < Shape::lanes; ++r) sources[r].read(begin, end, rows + r * block);
            simd::transpose<Arch>(rows, block, end - begin, columns + begin * width, width);
        }
    };
    for (Index first = share.index * Shape::panel_rows; first < padded; first += share.count * Shape::panel_rows) {
        const Index width = std::min(Shape::panel_rows, padded - first);
        U* const panel = reinterpret_cast<U*>(group.queries) + first * units;
        for (Index column = 0; column < width; column += Shape::lanes) pack_vector(first + column, panel + column, width);
    }
}

/// The same of a group of few rows that meet keys of K.
template <class Arch, class K, Compute A, class Query>
void pack_few(const RowGroup<A>& group, A scale, Query query) noexcept {
    A* target = reinterpret_cast<A*>(group.queries);
    const Index rows = few_padded(group.rows);
    std::fill_n(target, rows * round_up(group.depth, 2 * simd::lanes<Arch, A>), A(0));
    for (Index r = 0; r < group.rows; ++r) {
        const A* const values = query(r);
        for (Index k = 0; k < group.depth; ++k) target[few_place<Arch, A, K>(r, rows, k, group.depth)] = values[k] * scale;
    }
}

/// Packs a share of the queries of a group in the form that it is computed in. U: the unit that rows of more than a few are
/// multiplied in, C: the type of the keys.
template <class Arch, class U, class C, Compute A, class Query>
void pack_queries(const RowGroup<A>& group, Index latent_dim, A scale, const Share& share, Query query) noexcept {
    if (!group.few()) return pack_panels<Arch, U>(group, latent_dim, scale, share, query);
    if (share.index > 0) return;
    few_in_place<Arch, A, C>(group.depth, latent_dim) ? pack_few<Arch, C>(group, scale, query)
                                                      : pack_few<Arch, A>(group, scale, query);
}

}  // namespace mla::detail
