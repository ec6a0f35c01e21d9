// Score and accumulate in tile registers where numbers are integers (operands::ByteTiles). A number of 16 bits is two bytes,
// 256 · upper + lower, in two registers that meet the same one of the other side:
//
//     S [token, row]  =  latents [token, depth] as they lie           · queries [four of depth][row][4], upper and lower
//                     +  rope keys [token, depth], upper and lower    · the same
//     O [row, value] +=  P [row, token], upper and lower              · values [four tokens][value][4]
//
// so that every product is a square of 2×2 registers. Sums leave them once, are put together as integers, which is exact, and
// multiplied by their steps.
#pragma once

#include <algorithm>
#include <cstddef>

#include "mla/kernels/engine/block.hpp"
#include "mla/kernels/engine/registers.hpp"
#include "mla/kernels/engine/tile_shape.hpp"
#include "mla/simd/prefetch.hpp"
#include "mla/simd/tile_registers.hpp"

namespace mla::inline MLA_ISA::detail {

/// sums [M registers of rows, N of columns] = left · right over `steps` registers of k.
template <class Target, int M, int N, class Values>
MLA_NEVER_INLINE void multiply_bytes_in_registers(simd::TileRegisters<Target>& registers, Index steps, const simd::TileRows* left,
                                                  const simd::TileRows* right, std::uint32_t* sums,
                                                  simd::Prefetch& next) noexcept {
    simd::TileRows rows[simd::extent<M>], columns[simd::extent<N>];
    std::copy_n(left, M, rows);
    std::copy_n(right, N, columns);
    simd::TileProduct<Target, M, N, Values> product(registers);
    product.clear();
    product.multiply(steps, rows, columns, next);
    product.store(sums, N * simd::tile_groups);
}

/// Score and accumulate of a group, in registers that are this thread's while it lives.
template <class Target>
class ByteProducts {
    using Panels = PanelBatch<Target, float>;
    using Floats = simd::Batch<Target, float>;
    using Words = simd::PackedBatch<Target>;
    static constexpr Index lanes = AttentionTile<Target, float>::lanes;
    static_assert(lanes == simd::tile_rows, "panels are one register of rows wide, or two");
    /// Values that fill a row of a register.
    static constexpr Index row_values = simd::tile_row_bytes;
    /// A query's units of as many values: upper bytes, then lower ones.
    static constexpr Index query_units = 2 * simd::tile_groups;
    static constexpr Index scored_tokens = 2 * simd::tile_rows;

  public:
    /// The scores of `score_panels`.
    template <class Source>
    void score(const RowGroup<float>& group, const Panels& panels, Source& block, float* scores, simd::Prefetch& next) noexcept {
        const Index latent = divide_up(block.value_dim, row_values);
        const Index all = latent + divide_up(group.depth - block.value_dim, row_values);
        for (Index first = 0; first < panels.tokens(); first += scored_tokens) {
            const Index tokens = std::min(scored_tokens, panels.tokens() - first);
            for (Index r = 0; r < latent; r += latent_registers) {
                const Index some = std::min(latent_registers, latent - r);
                simd::TileRows keys[2];
                list_latents(block, first, tokens, r * row_values, some, keys);
                each_vector(group, panels, all, first, scores, [&](const QueryRegisters& queries, float* cells, Index width) {
                    simd::TileRows columns[2] = {queries.at(r, 0), queries.at(r, 1)};
                    multiply<simd::BytesOf<false, true>>(some, keys, columns, next);
                    add_scores<false>(tokens, r == 0, block.steps.latent + first, cells, width);
                });
            }
            for (Index r = latent; r < all; ++r) {
                stage_rope_keys(block, first, tokens, (r - latent) * row_values);
                each_vector(group, panels, all, first, scores, [&](const QueryRegisters& queries, float* cells, Index width) {
                    simd::TileRows columns[2] = {queries.at(r, 0), queries.at(r, 1)};
                    for (Index t = 0; t < tokens; t += simd::tile_rows) {
                        const std::byte* const key = rope_keys_ + t * 2 * row_values;
                        simd::TileRows rows[2] = {{key, 2 * row_values, 0}, {key + row_values, 2 * row_values, 0}};
                        multiply<simd::BytesOf<true, true>>(1, rows, columns, next);
                        add_scores<true>(std::min(simd::tile_rows, tokens - t), r == 0, block.steps.rope + first + t,
                                         cells + t * width, width);
                    }
                });
            }
        }
    }

    /// The outputs of `accumulate_columns`, of all values. The upper halves of the panels' scores, and what follows the last
    /// panel's, hold P by rows.
    template <class Source>
    void accumulate(const RowGroup<float>& group, const Panels& panels, Source& block, float* p, const RowFactors<float>& factors,
                    simd::Prefetch& next) noexcept {
        auto* const bytes = reinterpret_cast<std::byte*>(p + panels.rows() * block_tokens);
        panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
            turn_probabilities<V * lanes>(panel.tokens, p + panel.offset * block_tokens, bytes + panel.offset * p_stride);
        });
        const Index fours = divide_up(block.count(), Index{4});
        std::fill(values_ + fours * value_stride, values_ + round_up(fours, simd::tile_rows) * value_stride, simd::ByteQuad());
        for (Index column = 0; column < block.value_dim; column += row_values) {
            block.template stage_values<row_values>(column, values_, value_stride);
            const Index vectors = divide_up(std::min(row_values, block.value_dim - column), lanes);
            for (Index vector = 0; vector < vectors; vector += 2)
                accumulate_strip(group, panels, bytes, vector, std::min(vectors - vector, Index{2}), column + vector * lanes,
                                 factors, next);
        }
    }

    /// Steps of prefetching while `rows` rows attend to one block.
    [[nodiscard]] static constexpr Index prefetch_steps(Index rows, Index tokens, Index units, Index value_dim) noexcept {
        const Index score = divide_up(tokens, scored_tokens) * (units / query_units);
        const Index values = divide_up(value_dim, 2 * lanes) * divide_up(tokens, row_values);
        return std::max<Index>(divide_up(rows, lanes) * (score + values), 1);
    }

  private:
    /// Registers of latents whose products are summed as integers: 512 bytes beside a query.
    static constexpr Index latent_registers = 8;
    /// Bytes from copy to copy of a latent, an odd number of cache lines.
    static constexpr Index copied_stride = (latent_registers + 1) * row_values;
    /// Tokens of a block, up to whole registers.
    static constexpr Index filled_tokens = round_up(block_tokens, row_values);
    /// Bytes of a row of P: upper ones, then lower ones.
    static constexpr Index p_stride = 2 * filled_tokens;
    static_assert(p_stride <= block_tokens * static_cast<Index>(sizeof(float)));
    /// Units from four tokens to the next of staged values, an odd number of cache lines.
    static constexpr Index value_stride = row_values + simd::tile_groups;

    /// Sixteen packed queries.
    struct QueryRegisters {
        const simd::ByteQuad* queries;
        Index width;  ///< of their panel

        /// Upper (0) or lower (1) bytes from register `r` on.
        [[nodiscard]] simd::TileRows at(Index r, Index part) const noexcept {
            constexpr auto unit = static_cast<Index>(sizeof(simd::ByteQuad));
            return {queries + (r * query_units + part * simd::tile_groups) * width, width * unit, query_units * width * unit};
        }
    };

    /// Calls f(queries, scores, width) for each sixteen rows that may see token `first`; the scores begin at that token's.
    template <class F>
    static void each_vector(const RowGroup<float>& group, const Panels& panels, Index registers, Index first, float* scores,
                            F&& f) noexcept {
        panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
            if (panel.tokens <= first) return;
            constexpr Index width = V * lanes;
            const auto* const queries =
                reinterpret_cast<const simd::ByteQuad*>(group.queries) + panel.row * registers * query_units;
            float* const cells = scores + panel.offset * block_tokens + first * width;
            for (Index column = 0; column < width; column += lanes)
                f(QueryRegisters{queries + column, width}, cells + column, width);
        });
    }

    template <class Values>
    void multiply(Index steps, const simd::TileRows* left, const simd::TileRows* right, simd::Prefetch& next) noexcept {
        multiply_bytes_in_registers<Target, 2, 2, Values>(registers_, steps, left, right, sums_, next);
    }

    /// Lists `registers` of latents from byte `begin` on where they lie, if they fill registers whose rows are a stride apart, or
    /// copies.
    template <class Source>
    void list_latents(const Source& block, Index first, Index tokens, Index begin, Index registers,
                      simd::TileRows (&keys)[2]) noexcept {
        const void* const* const rows = block.latents(first);
        if (block.value_dim % row_values == 0 && list_registers(rows, tokens, keys)) {
            for (simd::TileRows& key : keys) key.first = key.at(begin / row_values);
            return;
        }
        const Index bytes = std::min(registers * row_values, block.value_dim - begin);
        for (Index t = 0; t < tokens; ++t) {
            std::byte* const copy = latents_ + t * copied_stride;
            std::fill(std::copy_n(static_cast<const std::byte*>(rows[t]) + begin, bytes, copy), copy + registers * row_values,
                      std::byte());
        }
        std::fill(latents_ + tokens * copied_stride, latents_ + round_up(tokens, simd::tile_rows) * copied_stride, std::byte());
        for (Index m = 0; m < 2; ++m) {
            const Index begins = m * simd::tile_rows < tokens ? m * simd::tile_rows : 0;
            keys[m] = {latents_ + begins * copied_stride, copied_stride, simd::tile_row_bytes};
        }
    }

    template <class Source>
    void stage_rope_keys(Source& block, Index first, Index tokens, Index begin) noexcept {
        for (Index t = 0; t < tokens; ++t) {
            std::byte* const upper = rope_keys_ + t * 2 * row_values;
            block.stage_rope_key(first + t, begin, upper, upper + row_values);
        }
        std::fill(rope_keys_ + tokens * 2 * row_values, rope_keys_ + round_up(tokens, simd::tile_rows) * 2 * row_values,
                  std::byte());
    }

    /// scores [tokens, 16 of `width`] (+)= steps · sums, of queries' upper and lower bytes beside one another; of keys in two
    /// parts the sums of their lower bytes come after sixteen of upper ones. Rounded as sums in vectors are.
    template <bool KeysInParts>
    void add_scores(Index tokens, bool overwrite, const float* steps, float* scores, Index width) const noexcept {
        for (Index t = 0; t < tokens; ++t, scores += width) {
            const std::uint32_t* const upper = sums_ + t * 2 * lanes;
            const std::uint32_t* const lower = upper + simd::tile_rows * 2 * lanes;
            Words number = sum_of_parts(upper, upper + lanes);
            if constexpr (KeysInParts) number = (number << 8) + sum_of_parts(lower, lower + lanes);
            const Floats value = as_floats(number);
            const Floats step(steps[t]);
            const Floats score =
                overwrite ? value * step : simd::multiply_then_add<Target>(value, step, Floats::load_unaligned(scores));
            score.store_unaligned(scores);
        }
    }

    [[nodiscard]] static MLA_ALWAYS_INLINE Words sum_of_parts(const std::uint32_t* upper, const std::uint32_t* lower) noexcept {
        return (Words::load_unaligned(upper) << 8) + Words::load_unaligned(lower);
    }
    [[nodiscard]] static MLA_ALWAYS_INLINE Floats as_floats(const Words& number) noexcept {
        return to_float(std::bit_cast<simd::Batch<Target, std::int32_t>>(number));
    }

    /// Integers [pairs of tokens, rows][2] as bytes [rows, p_stride], with zeros after the last.
    template <Index Width>
    static void turn_probabilities(Index tokens, float* p, std::byte* bytes) noexcept {
        constexpr Index pairs_of_row = block_tokens / 2;
        auto* const pairs = reinterpret_cast<simd::Int16Pair*>(p);
        auto* const by_rows = pairs + Width * pairs_of_row;
        turn<Target, Width>(divide_up(tokens, Index{2}), simd::tile_groups, pairs, by_rows, pairs_of_row);
        const Index numbers = round_up(tokens, 2 * simd::tile_groups);
        for (Index row = 0; row < Width; ++row, bytes += p_stride) {
            simd::split<Target>(reinterpret_cast<const std::int16_t*>(by_rows + row * pairs_of_row), numbers, bytes,
                                bytes + filled_tokens);
            std::fill(bytes + numbers, bytes + filled_tokens, std::byte());
            std::fill(bytes + filled_tokens + numbers, bytes + p_stride, std::byte());
        }
    }

    /// Adds P · values to some columns of the outputs, one or two vectors of them, staged from `vector` on.
    void accumulate_strip(const RowGroup<float>& group, const Panels& panels, const std::byte* p, Index vector, Index vectors,
                          Index column, const RowFactors<float>& factors, simd::Prefetch& next) noexcept {
        constexpr auto unit = static_cast<Index>(sizeof(simd::ByteQuad));
        simd::TileRows columns[2];
        for (Index n = 0; n < 2; ++n)
            columns[n] = {values_ + (vector + std::min(n, vectors - 1)) * lanes, value_stride * unit,
                          simd::tile_rows * value_stride * unit};
        panels.each([&]<int V>(std::integral_constant<int, V>, const Panel& panel) {
            for (Index row = panel.offset; row < panel.offset + V * lanes; row += lanes) {
                float* const out = group.out + (panel.row + row - panel.offset) * group.out_stride + column;
                simd::fetch_tile<static_cast<int>(lanes)>(out, group.out_stride, 2 * lanes);
                const std::byte* const upper = p + row * p_stride;
                simd::TileRows rows[2] = {{upper, p_stride, row_values}, {upper + filled_tokens, p_stride, row_values}};
                multiply<simd::BytesOf<true, false>>(divide_up(panel.tokens, row_values), rows, columns, next);
                add_outputs(factors, row, vectors, out, group.out_stride);
            }
        });
    }

    /// out [16 rows, vectors] = rescale · out + step · sums
    void add_outputs(const RowFactors<float>& factors, Index row, Index vectors, float* out, Index out_stride) const noexcept {
        for (Index r = 0; r < lanes; ++r, out += out_stride)
            for (Index n = 0; n < vectors; ++n) {
                const std::uint32_t* const upper = sums_ + r * 2 * lanes + n * lanes;
                const Floats value = as_floats(sum_of_parts(upper, upper + lanes * 2 * lanes));
                const Floats before = Floats::load_unaligned(out + n * lanes) * Floats(factors.rescale[row + r]);
                simd::fma<Target, float>(value, Floats(factors.step[row + r]), before).store_unaligned(out + n * lanes);
            }
    }

    simd::TileRegisters<Target> registers_;
    alignas(64) std::byte latents_[simd::extent<scored_tokens * copied_stride>];
    alignas(64) std::byte rope_keys_[simd::extent<scored_tokens * 2 * row_values>];
    alignas(64) simd::ByteQuad values_[simd::extent<filled_tokens / 4 * value_stride>];
    alignas(64) std::uint32_t sums_[simd::extent<2 * simd::tile_rows * 2 * lanes>];
};

}  // namespace mla::inline MLA_ISA::detail
