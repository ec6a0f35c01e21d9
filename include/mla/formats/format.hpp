// What a stored number format is. Cache rows and packed weights are made of one; only its own header knows more of it than this.
#pragma once

#include <concepts>

#include "mla/formats/operands.hpp"

namespace mla::inline MLA_ISA {

template <class C>
struct RowFormat;

/// Format<C>, of elements C, has
///
///     name                              as benchmarks and errors call it
///     row_alignment                     bytes that rows start on a multiple of
///     elements(latent_dim, rope_dim)    C in a cache row [latent | rope key], its scales included
///     read<Target>(format, row, token)  a row's values in the type computed in, exact value times scale
///     write<Target>(format, token, row) rounded to nearest even
///     Operand<Target, A, precision>     what its values become when they are multiplied
///     Decompressed<Target, A, precision>   what keys and values become that are decompressed from it
///     in_place<Operand>                 whether a row's values are units of the operand as they lie
///     whole_blocks<Target, Operand>     whether a block is converted once, and not by pieces that stay in L1
///     stage_row<Target, Operand>        a key's units, where whole blocks are of pairs, or in steps: then `scale` is a step, of
///                                       values_per_scale neighbours
///     stage_key<Target, Operand>, stage_values<Target, Operand>   those pieces, where neither holds
///     latent_step(format, row)          what the integers of a row's latent stand for, the bytes that it begins with
///
/// The concept asks for the first ones; a block asks for what it uses of the others.
template <class C>
struct Format;

template <class C>
concept CacheElement = requires {
    { Format<C>::name } -> std::convertible_to<const char*>;
    { Format<C>::elements(Index{1}, Index{1}) } -> std::convertible_to<Index>;
};

/// The geometry of a row of C; offsets and sizes in elements.
template <class C>
struct RowFormat {
    Index latent_dim = 0;  ///< Dc
    Index rope_dim = 0;    ///< Dr

    [[nodiscard]] constexpr Index values() const noexcept { return latent_dim + rope_dim; }
    /// Elements of a row.
    [[nodiscard]] constexpr Index elements() const noexcept { return Format<C>::elements(latent_dim, rope_dim); }
};

/// The run-time name of a cache's type.
template <CacheElement C>
[[nodiscard]] constexpr const char* cache_type_name() noexcept {
    return Format<C>::name;
}

namespace operands {

/// bf16 and what is narrower: products with them are rounded to bf16 under Precision::operand.
template <class Target, Compute A, Precision P>
using RoundedWhereNarrow = std::conditional_t<std::is_same_v<A, float> && P == Precision::operand, RoundedOn<Target>, Plain<A>>;

/// What a format takes on a target, computed in A.
template <class Target, Compute A, class C, Precision P>
using OperandOf = typename Format<C>::template Operand<Target, A, P>;

}  // namespace operands

namespace detail {

/// Rows whose elements are all of one type that vectors load: what the formats of a single type have in common.
template <Storage C>
struct StorageFormat {
    static constexpr const char* name = mla::name(dtype_of<C>);
    static constexpr Index row_alignment = sizeof(C);
    /// Values of k that lie side by side in a panel of packed weights.
    static constexpr int panel_interleave = 1;
    using PanelElement = C;
    static constexpr Index panel_values = 1;

    [[nodiscard]] static constexpr Index elements(Index latent_dim, Index rope_dim) noexcept { return latent_dim + rope_dim; }

    template <class Target, Compute A>
    static void read(const RowFormat<C>& format, const C* row, A* token) noexcept {
        simd::convert_row<Target>(token, row, format.values());
    }
    template <class Target, Compute A>
    static void write(const RowFormat<C>& format, const A* token, C* row) noexcept {
        simd::convert_row<Target>(row, token, format.values());
    }

    template <class Target, Compute A, Precision>
    using Operand = operands::Plain<A>;
    template <class Target, Compute A, Precision>
    using Decompressed = operands::Plain<A>;
    template <class Operand>
    static constexpr bool in_place = std::is_same_v<C, typename Operand::Unit>;
    /// With few registers pieces have twice as many vectors (bf16, 16 heads: 5 % dearer by pieces with AVX2, 9 % cheaper with
    /// AVX-512).
    template <class Target, class Operand>
    static constexpr bool whole_blocks =
        !in_place<Operand> && (Target::registers == 16 || std::is_same_v<typename Operand::Sum, double>);

    /// Values [first, first + count) of a key.
    template <class Target, class Operand, class Unit>
    static void stage_key(const RowFormat<C>&, const C* row, Index first, Index count, Unit* units, float*) noexcept {
        simd::convert_row<Target>(units, row + first, count);
    }
    /// `count` values from `column` on of a token, or of two side by side: `second` is null after the last.
    template <class Target, class Operand, class Unit>
    static void stage_values(const C* first, const C*, Index column, Index count, Unit* units) noexcept {
        simd::convert_row<Target>(units, first + column, count);
    }
};

}  // namespace detail
}  // namespace mla::inline MLA_ISA
