// A block of cached tokens as the tiles want it.
#pragma once

#include <algorithm>
#include <limits>

#include "mla/formats/operands.hpp"
#include "mla/kernels/row_list.hpp"

namespace mla::inline MLA_ISA::detail {

/// What the integers of a block's tokens stand for.
struct TokenSteps {
    float latent[static_cast<std::size_t>(block_tokens)];
    float rope[static_cast<std::size_t>(block_tokens)];
};
struct NoSteps {};
template <class Operand>
using StepsOf = std::conditional_t<Operand::integers, TokenSteps, NoSteps>;

/// The other of two tokens, where there is one.
[[nodiscard]] constexpr Index paired(Index token, Index tokens) noexcept { return (token ^ 1) < tokens ? token ^ 1 : token; }

/// Units [begin, end) of every key and query.
struct Piece {
    Index begin;
    Index end;
};

/// Calls f(piece, steps) for the pieces by which keys [first, first + count) of a block are scored, in order, each of at most
/// `most` of their `units`. What is in steps has one of each key in a piece, elsewhere they are null.
template <class Source, class F>
void each_piece(Source& block, Index units, Index most, Index first, Index count, F&& f) noexcept {
    using Operand = typename Source::Operand;
    const auto pieces = [&](Index begin, Index end, Index longest, const float* steps) {
        for (; begin < end; begin += longest) f(Piece{begin, std::min(begin + longest, end)}, steps);
    };
    if constexpr (Operand::in_steps) {
        const Index rope = operands::units_of<Operand>(block.value_dim);
        const Index shared = std::min(Source::values_per_step / Operand::values_per_unit, rope);
        for (Index begin = 0; begin < rope; begin += shared)
            pieces(begin, std::min(begin + shared, rope), most, block.latent_steps(begin / shared, first, count));
        pieces(rope, units, std::min(most, Operand::rope_units), block.rope_steps(first));
    } else {
        pieces(0, units, most, nullptr);
    }
}

/// Values [begin, end) of every token.
struct Columns {
    Index begin;
    Index end;
};

/// Calls f(columns, steps) for the values of a block that share a step of each token.
template <class Source, class F>
void each_step(Source& block, F&& f) noexcept {
    constexpr Index shared = Source::values_per_step;
    for (Index begin = 0; begin < block.value_dim; begin += shared)
        f(Columns{begin, std::min(begin + shared, block.value_dim)}, block.latent_steps(begin / shared, 0, block.count()));
}

/// Keys that are scored whole before the next ones: two of the widest score tiles, so that a panel's queries are read half as
/// often; where keys are converted, which happens a piece at a time before all rows of queries pass over it, one.
inline constexpr Index scored_tokens = 24;
inline constexpr Index staged_tokens = 12;

/// Rows of units, each some bytes into a listed row.
template <class U>
struct ListedRows {
    static constexpr int interleave = 1;
    const void* const* rows;
    Index first_byte;

    [[nodiscard]] MLA_ALWAYS_INLINE const U* row(Index k) const noexcept {
        return reinterpret_cast<const U*>(static_cast<const char*>(rows[k]) + first_byte);
    }
    static constexpr Index offset(Index column) { return column; }
    MLA_ALWAYS_INLINE void advance(Index k) { rows += k; }
};

/// The same of K that a tile converts as it loads them, two vectors at a time split by parity.
template <class K>
struct ParityRows : ListedRows<K> {
    static constexpr bool in_twos = true;
};

/// A block of tokens whose keys and values are units where they lie: rows of keys, and rows of one unit a value, where a unit of
/// two holds the same value of two neighbouring tokens. Values that share a unit with the last token's are finite, and value rows
/// are readable up to whole vectors.
template <class Op>
struct Block {
    using Operand = Op;
    using Unit = typename Operand::Unit;
    static constexpr bool values_by_parity = false;
    RowList<Unit> key_rows;    ///< [tokens] rows of units
    RowList<Unit> value_rows;  ///< [tokens / values_per_unit] rows [value_dim]
    Index value_dim = 0;
    Index begin = 0;  ///< position of the block's first token among the keys

    [[nodiscard]] Index count() const noexcept { return key_rows.size(); }  ///< tokens
    static constexpr bool keys_in_place() noexcept { return true; }
    [[nodiscard]] Index keys_at_once() const noexcept { return scored_tokens; }
    [[nodiscard]] ListedRows<Unit> keys(Index first, Index, const Piece& piece) const noexcept {
        return {key_rows.data() + first, piece.begin * static_cast<Index>(sizeof(Unit))};
    }
    template <int N>
    [[nodiscard]] ListedRows<Unit> values(Index column) const noexcept {
        return {value_rows.data(), column * static_cast<Index>(sizeof(Unit))};
    }
};

}  // namespace mla::inline MLA_ISA::detail
