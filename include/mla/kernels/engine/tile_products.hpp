// Score and accumulate in tile registers (simd/tile_config.hpp), for operands whose products are made there.
//
//     S [token, row]  =  keys [token, depth] as they lie    · queries [pair of depth][row][2] as they are packed for vectors
//     O [row, value] +=  P [row, token], turned by softmax  · values [pair of tokens][value][2] as they are staged for vectors
//
// Sides that fill no register are filled with zeros: queries where they are packed, keys and values where they are copied.
#pragma once

#include <algorithm>
#include <cstddef>

#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/registers.hpp"
#include "mla/kernels/engine/tile_shape.hpp"
#include "mla/simd/tile.hpp"
#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// scores [M registers of tokens, N of rows] (+)= keys · queries over `units` of both, whole registers of them.
template <class Target, int M, int N, class Unit>
MLA_NEVER_INLINE void score_in_registers(simd::TileRegisters<Target>& registers, const simd::TileRows* keys, Index units,
                                         const Unit* queries, Index width, bool overwrite, float* scores,
                                         simd::Prefetch& next) noexcept {
    constexpr auto unit = static_cast<Index>(sizeof(Unit));
    simd::TileRows rows[simd::extent<M>], columns[simd::extent<N>];
    std::copy_n(keys, M, rows);
    for (Index n = 0; n < N; ++n) columns[n] = {queries + n * simd::tile_groups, width * unit, simd::tile_groups * width * unit};
    simd::TileProduct<Target, M, N> product(registers);
    overwrite ? product.clear() : product.load(scores, width);
    product.multiply(units / simd::tile_groups, rows, columns, next);
    product.store(scores, width);
}

/// Values of a block's tokens, two side by side, that the registers of a strip are loaded from: N registers of columns.
template <class Unit, int N>
class StripValues {
    static constexpr Index width = N * simd::tile_groups;

  public:
    /// `rows` lists `pairs` rows, a stride apart.
    StripValues(const ListedRows<Unit>& rows, Index pairs) noexcept : first_(rows.row(0)) {
        if (pairs > 1) stride_ = reinterpret_cast<const std::byte*>(rows.row(1)) - reinterpret_cast<const std::byte*>(first_);
    }

    /// From the first pair of tokens on.
    void list(simd::TileRows (&columns)[simd::extent<N>]) const noexcept {
        for (Index n = 0; n < N; ++n) columns[n] = {first_ + n * simd::tile_groups, stride_, simd::tile_rows * stride_};
    }

    /// The pairs of the last register before `pairs`, which they do not fill; zeros after them.
    void list_last(Index pairs, simd::TileRows (&columns)[simd::extent<N>]) noexcept {
        if (pairs != copied_) copy_last(pairs);
        for (Index n = 0; n < N; ++n) columns[n] = {last_ + n * simd::tile_groups, width * static_cast<Index>(sizeof(Unit)), 0};
    }

  private:
    void copy_last(Index pairs) noexcept {
        const Index begin = pairs / simd::tile_rows * simd::tile_rows;
        std::fill(std::begin(last_), std::end(last_), Unit());
        for (Index pair = begin; pair < pairs; ++pair) {
            const auto* const row = reinterpret_cast<const std::byte*>(first_) + pair * stride_;
            std::copy_n(reinterpret_cast<const Unit*>(row), width, last_ + (pair - begin) * width);
        }
        copied_ = pairs;
    }

    const Unit* first_;
    Index stride_ = 0;  ///< bytes
    Index copied_ = 0;
    alignas(64) Unit last_[simd::extent<simd::tile_rows * width>];
};

/// out [V registers of rows, N of values] += P · values, over `pairs` of tokens; P [rows, `stride` units] with zeros after them.
template <class Target, int V, int N, class Unit>
MLA_NEVER_INLINE void accumulate_in_registers(simd::TileRegisters<Target>& registers, const Unit* p, Index stride, Index pairs,
                                              StripValues<Unit, N>& values, float* out, Index out_stride,
                                              simd::Prefetch& next) noexcept {
    constexpr auto unit = static_cast<Index>(sizeof(Unit));
    const Index whole = pairs / simd::tile_groups;
    simd::TileRows rows[simd::extent<V>], columns[simd::extent<N>];
    for (Index v = 0; v < V; ++v) rows[v] = {p + v * simd::tile_rows * stride, stride * unit, simd::tile_row_bytes};
    simd::TileProduct<Target, V, N> product(registers);
    product.load(out, out_stride);
    values.list(columns);
    product.multiply(whole, rows, columns, next);
    if (pairs % simd::tile_groups != 0) {
        for (simd::TileRows& row : rows) row.first = row.at(whole);
        values.list_last(pairs, columns);
        product.multiply(1, rows, columns, next);
    }
    product.store(out, out_stride);
}

/// Score and accumulate of a group, in registers that are this thread's while it lives.
template <class Target>
class TileProducts {
    using Panels = PanelBatch<Target, float>;
    static constexpr Index lanes = AttentionTile<Target, float>::lanes;
    static_assert(lanes == simd::tile_rows, "panels are one register of rows wide, or two");

    // Shapes: with two registers of rows or more 2×2, the fewest loads for a product; with one of rows three of the other side,
    // so that sums hide one another's latency. Then 96 tokens are 2 · 3 registers, and 3 of values what a strip is staged in.
    static constexpr int line = 3;
    static constexpr int square = 2;

  public:
    /// The scores of `score_panels`.
    template <class Source>
    void score(const RowGroup<float>& group, const Panels& panels, Source& block, float* scores, simd::Prefetch& next) noexcept {
        panels.single() ? score_by<line>(group, panels, block, scores, next)
                        : score_by<square>(group, panels, block, scores, next);
    }

    /// The outputs of `accumulate_columns`, of all values. The upper halves of the panels' scores hold P by rows.
    template <class Source>
    void accumulate(const RowGroup<float>& group, const Panels& panels, Source& block, float* p, const RowFactors<float>& factors,
                    simd::Prefetch& next) noexcept {
        using Unit = typename Source::Unit;
        panels.each(
            [&]<int V>(std::integral_constant<int, V>, const Panel& panel) { rescale<V * lanes>(group, panel, factors); });
        if constexpr (Source::Operand::in_steps) {
            accumulate_in_steps(group, panels, block, p, next);
        } else {
            panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
                Unit* const units = reinterpret_cast<Unit*>(p + panel.offset * block_tokens);
                turn<Target, V * lanes>(divide_up(panel.tokens, Index{2}), simd::tile_groups, units, turned<V * lanes>(units),
                                        turned_stride);
            });
            accumulate_columns(group, panels, block, {0, block.value_dim}, p, next);
        }
    }

    /// Steps of prefetching while `rows` rows attend to one block.
    [[nodiscard]] static constexpr Index prefetch_steps(Index rows, Index tokens, Index units, Index value_dim) noexcept {
        const Index side = rows <= lanes ? line : square;
        const Index panels = divide_up(rows, 2 * lanes);
        const Index score = divide_up(tokens, side * simd::tile_rows) * (units / simd::tile_groups);
        const Index values = divide_up(divide_up(value_dim, lanes), side) * divide_up(tokens, 2 * simd::tile_groups);
        return std::max<Index>(panels * (score + values), 1);
    }

  private:
    /// Units of keys that are copied at a time, and their distance: an odd number of cache lines, as of staged rows.
    static constexpr Index copied_units = 128;
    static constexpr Index copied_stride = copied_units + simd::tile_groups;
    /// Units from row to row of P by rows, of all pairs of a block's tokens.
    static constexpr Index turned_stride = block_tokens / 2;

    /// Turns P as floats once, and weighs and rounds it for the values of each step.
    template <class Source>
    void accumulate_in_steps(const RowGroup<float>& group, const Panels& panels, Source& block, float* p,
                             simd::Prefetch& next) noexcept {
        using Unit = typename Source::Unit;
        float* const by_rows = p + panels.rows() * block_tokens;
        panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
            const Index at = panel.offset * block_tokens;
            turn<Target, V * lanes>(panel.tokens, 2 * simd::tile_groups, p + at, by_rows + at, block_tokens);
        });
        each_step(block, [&](const Columns& columns, const float* steps) {
            panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
                const Index at = panel.offset * block_tokens;
                weigh<V * lanes>(panel.tokens, by_rows + at, steps, turned<V * lanes>(reinterpret_cast<Unit*>(p + at)));
            });
            accumulate_columns(group, panels, block, columns, p, next);
        });
    }

    /// Adds to some columns of the outputs, with P by rows.
    template <class Source>
    void accumulate_columns(const RowGroup<float>& group, const Panels& panels, Source& block, const Columns& columns, float* p,
                            simd::Prefetch& next) noexcept {
        using Unit = typename Source::Unit;
        const Index vectors = divide_up(columns.end, lanes);
        Index vector = columns.begin / lanes;
        const auto strip = [&]<int N>(std::integral_constant<int, N>) {
            const Index column = vector * lanes;
            StripValues<Unit, N> values(block.template values<N>(column), divide_up(block.count(), Index{2}));
            panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
                if constexpr (N != line || V == 1)
                    accumulate_in_registers<Target, V, N>(
                        registers_, turned<V * lanes>(reinterpret_cast<Unit*>(p + panel.offset * block_tokens)), turned_stride,
                        divide_up(panel.tokens, Index{2}), values, group.out + panel.row * group.out_stride + column,
                        group.out_stride, next);
            });
            vector += N;
        };
        while (panels.single() && vectors - vector >= line) strip(std::integral_constant<int, line>{});
        while (vectors - vector >= square) strip(std::integral_constant<int, square>{});
        if (vector < vectors) strip(std::integral_constant<int, 1>{});
    }

    template <int M, class Source>
    void score_by(const RowGroup<float>& group, const Panels& panels, Source& block, float* scores,
                  simd::Prefetch& next) noexcept {
        using Unit = typename Source::Unit;
        const Index units = operands::units_of<typename Source::Operand>(group.depth, block.value_dim);
        for (Index first = 0; first < panels.tokens(); first += M * simd::tile_rows) {
            const Index tokens = std::min(M * simd::tile_rows, panels.tokens() - first);
            simd::TileRows keys[simd::extent<M>];
            const bool in_place = list_keys<M>(block, first, tokens, group.depth, keys);
            each_piece(block, units, in_place ? units : copied_units, first, tokens, [&](const Piece& piece, const float* steps) {
                simd::TileRows rows[simd::extent<M>];
                if (!in_place) copy_keys<M>(block, first, tokens, piece, group.depth, keys);
                for (Index m = 0; m < M; ++m)
                    rows[m] = {keys[m].at(in_place ? piece.begin / simd::tile_groups : 0), keys[m].stride, keys[m].step};
                panels.each([&]<int N>(std::integral_constant<int, N>, const Panel& panel) {
                    constexpr Index width = N * lanes;
                    if (panel.tokens <= first) return;
                    const auto* const queries = reinterpret_cast<const Unit*>(group.queries) + panel.row * units;
                    if constexpr (M == square || N == 1)
                        score_piece<typename Source::Operand, M, N>(rows, tokens, piece, queries + piece.begin * width, steps,
                                                                    scores + panel.offset * block_tokens + first * width, next);
                });
            });
        }
    }

    /// The scores of a piece; sums in steps are multiplied by those of their tokens before they join the scores.
    template <class Operand, int M, int N>
    void score_piece(const simd::TileRows* keys, Index tokens, const Piece& piece, const typename Operand::Unit* queries,
                     [[maybe_unused]] const float* steps, float* scores, simd::Prefetch& next) noexcept {
        constexpr Index width = N * lanes;
        const Index units = piece.end - piece.begin;
        const bool overwrite = piece.begin == 0;
        if constexpr (!Operand::in_steps) {
            score_in_registers<Target, M, N>(registers_, keys, units, queries, width, overwrite, scores, next);
        } else {
            score_in_registers<Target, M, N>(registers_, keys, units, queries, width, true, sums_, next);
            for (Index t = 0; t < tokens; ++t) {
                simd::Tile<Target, float, 1, N> sums;
                sums.load(sums_ + t * width, width);
                overwrite ? sums.store_steps(scores + t * width, width, steps + t)
                          : sums.add_steps_to(scores + t * width, width, steps + t);
            }
        }
    }

    /// Lists keys where they lie, if they fill registers whose rows are a stride apart.
    template <int M, class Source>
    [[nodiscard]] static bool list_keys(Source& block, Index first, Index tokens, Index depth,
                                        simd::TileRows (&keys)[simd::extent<M>]) noexcept {
        constexpr Index values = simd::tile_groups * Source::Operand::values_per_unit;
        const bool whole = Source::Operand::in_steps || depth % values == 0;
        if (!block.keys_in_place() || !whole) return false;
        return list_registers(block.keys(first, tokens, {0, depth / Source::Operand::values_per_unit}).rows, tokens, keys);
    }

    /// Lists copies of a piece of keys, with zeros after their values and after the last.
    template <int M, class Source>
    void copy_keys(Source& block, Index first, Index tokens, const Piece& piece, Index depth,
                   simd::TileRows (&keys)[simd::extent<M>]) noexcept {
        using Unit = typename Source::Unit;
        constexpr auto unit = static_cast<Index>(sizeof(Unit));
        auto* const copies = reinterpret_cast<Unit*>(copies_);
        Piece stored = piece;
        if constexpr (!Source::Operand::in_steps) stored.end = std::min(piece.end, divide_up(depth, Index{2}));
        for (Index t = 0; t < tokens; t += block.keys_at_once()) {
            const Index some = std::min(block.keys_at_once(), tokens - t);
            const auto rows = block.keys(first + t, some, stored);
            for (Index i = 0; i < some; ++i) {
                Unit* const copy = copies + (t + i) * copied_stride;
                Unit* const end = std::copy_n(rows.row(i), stored.end - stored.begin, copy);
                std::fill(end, copy + (piece.end - piece.begin), Unit());
            }
        }
        std::fill(copies + tokens * copied_stride, copies + M * simd::tile_rows * copied_stride, Unit());
        for (Index m = 0; m < M; ++m)
            keys[m] = {copies + m * simd::tile_rows * copied_stride, copied_stride * unit, simd::tile_row_bytes};
    }

    template <Index Width, class Unit>
    [[nodiscard]] static Unit* turned(Unit* p) noexcept {
        return p + Width * turned_stride;
    }

    /// Units [rows, pairs of tokens] of P [rows, tokens] · steps[token], up to whole registers.
    template <Index Width, class Unit>
    static void weigh(Index tokens, const float* p, const float* steps, Unit* units) noexcept {
        using Batch = simd::Batch<Target, float>;
        const Index filled = round_up(tokens, 2 * simd::tile_groups);
        for (Index row = 0; row < Width; ++row, p += block_tokens, units += turned_stride) {
            alignas(64) float weighed[simd::extent<block_tokens>];
            for (Index t = 0; t < filled; t += lanes)
                (Batch::load_unaligned(p + t) * Batch::load_unaligned(steps + t)).store_aligned(weighed + t);
            operands::Bf16Tiles::round<Target>(weighed, filled, units);
        }
    }

    /// Multiplies the outputs so far by what the new maxima make of them: nothing, in most blocks.
    template <Index Width>
    static void rescale(const RowGroup<float>& group, const Panel& panel, const RowFactors<float>& factors) noexcept {
        using Batch = simd::Batch<Target, float>;
        for (Index row = 0; row < Width; ++row) {
            const float factor = factors.rescale[panel.offset + row];
            if (factor == 1.0F) continue;
            float* const out = group.out + (panel.row + row) * group.out_stride;
            for (Index c = 0; c < group.out_stride; c += lanes)
                (Batch::load_unaligned(out + c) * Batch(factor)).store_unaligned(out + c);
        }
    }

    simd::TileRegisters<Target> registers_;
    alignas(64) float copies_[simd::extent<line * simd::tile_rows * copied_stride>];
    alignas(64) float sums_[simd::extent<square * simd::tile_rows * square * lanes>];  ///< of a piece's scores
};

}  // namespace mla::inline MLA_ISA::detail
