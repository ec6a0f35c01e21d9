// Queries laid out for the score tile, once a call.
#pragma once

#include <algorithm>

#include "mla/kernels/engine/few_rows.hpp"
#include "mla/simd/transpose.hpp"

namespace mla::inline MLA_ISA::detail {

/// A row's query in the call, [depth].
template <Compute A>
[[nodiscard]] const A* query_of(const abi::PackQueries<A>& call, Index row) noexcept {
    const Index heads = call.group->heads;
    const Index in_segment = call.group->first_row + row;
    return call.queries + (call.first_query + in_segment / heads) * call.token_stride +
           (call.first_head + in_segment % heads) * call.head_stride;
}

/// Packs a share of the group's panels and sets their factors.
template <class Target, class Operand, Compute A>
void pack_panels(const abi::PackQueries<A>& call) noexcept {
    using Shape = AttentionTile<Target, A>;
    using Unit = typename Operand::Unit;
    constexpr Index block = 64;  // 16 rows of a block stay in L1 until they are columns
    const RowGroup<A>& group = *call.group;
    const Index units = operands::units_of<Operand>(group.depth, call.latent_dim);
    const Index padded = round_up(group.rows, Shape::lanes);
    const auto pack_vector = [&](Index first, Unit* columns, Index width) {
        operands::Query<Target, Operand, A> sources[simd::extent<Shape::lanes>];
        for (Index r = 0; r < Shape::lanes; ++r) {
            if (first + r < group.rows) sources[r] = {query_of(call, first + r), group.depth, call.latent_dim, call.scale};
            group.factors[first + r] = sources[r].factor();
        }
        for (Index begin = 0; begin < units; begin += block) {
            const Index end = std::min(begin + block, units);
            Unit rows[simd::extent<Shape::lanes * block>];
            for (Index r = 0; r < Shape::lanes; ++r) sources[r].read(begin, end, rows + r * block);
            simd::transpose<Target>(rows, block, end - begin, columns + begin * width, width);
        }
    };
    for (Index first = call.share * Shape::panel_rows; first < padded; first += call.share_count * Shape::panel_rows) {
        const Index width = std::min(Shape::panel_rows, padded - first);
        Unit* const panel = reinterpret_cast<Unit*>(group.queries) + first * units;
        for (Index column = 0; column < width; column += Shape::lanes) pack_vector(first + column, panel + column, width);
    }
}

/// The same of a group of few rows that meet keys of K.
template <class Target, class Operand, class K, Compute A>
void pack_few(const abi::PackQueries<A>& call) noexcept {
    using Few = operands::UnpairedOf<Operand, A>;
    const RowGroup<A>& group = *call.group;
    A* const target = reinterpret_cast<A*>(group.queries);
    const Index rows = few_padded(group.rows);
    std::fill_n(target, rows * round_up(group.depth, 2 * simd::lanes<Target, A>), A(0));
    for (Index r = 0; r < rows; ++r) {
        operands::Query<Target, Few, A> query;
        if (r < group.rows) query = {query_of(call, r), group.depth, call.latent_dim, call.scale};
        group.factors[r] = query.factor();
        constexpr Index piece = 64;
        for (Index begin = 0; begin < group.depth && r < group.rows; begin += piece) {
            A values[simd::extent<piece>];
            const Index end = std::min(begin + piece, group.depth);
            query.read(begin, end, values);
            for (Index k = begin; k < end; ++k) target[few_place<Target, A, K>(r, rows, k, group.depth)] = values[k - begin];
        }
    }
}

/// Packs a share of the queries of a group that meets keys of C, in the form that it is computed in.
template <class Target, class Operand, class C, Compute A>
void pack_queries(const abi::PackQueries<A>& call) noexcept {
    if (!are_few<Target, Operand>(call.group->rows, call.latent_dim)) return pack_panels<Target, Operand>(call);
    if (call.share > 0) return;
    if constexpr (few_read<A, C>) {
        if (few_in_place<Target, A, C>(call.group->depth, call.latent_dim)) return pack_few<Target, Operand, C>(call);
    }
    pack_few<Target, Operand, A>(call);
}

}  // namespace mla::inline MLA_ISA::detail
