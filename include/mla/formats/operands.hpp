// Operands: what rows and weights become when they are multiplied. A format names the operand that it takes on a target; scores,
// softmax and values know operands only.
//
//     operand       unit of a product      probabilities and queries      sums
//     Plain<A>      a value of A           as they are                    A
//     Rounded       a float                rounded to bf16                float
//     Bf16Pairs     two bf16               rounded to bf16                float
//     Bf16Tiles     two bf16               rounded to bf16                float
//     Int16Pairs    two int16              integers with a step           int32
//     ByteTiles     four bytes             integers with a step           int32
//     Scaled<O>     as of O                as O rounds p · step           float
//
// Keys and values of the last three are in steps: numbers that stand for multiples of a step of their token, which scores are
// multiplied by when a sum is done, and probabilities before they are rounded.
//
// Rounded, Bf16Pairs and Bf16Tiles multiply the same values: with floats, and with the machine's bf16 products in vectors and in
// tile registers; Int16Pairs and ByteTiles the same integers, as 16 bits in vectors and as two bytes in tile registers.
#pragma once

#include "mla/simd/rows.hpp"
#include "mla/simd/steps.hpp"
#include "mla/simd/tile_config.hpp"

namespace mla::inline MLA_ISA::operands {

template <Compute A>
struct Plain {
    using Unit = A;
    using Sum = A;
    static constexpr Index values_per_unit = 1;
    /// Units that a query has for each of a key: two where its integers are two bytes each.
    static constexpr Index query_units = 1;
    static constexpr bool integers = false;
    /// Whether keys and values are multiples of steps.
    static constexpr bool in_steps = false;
    /// Whether products are made in tile registers, of whole registers of units.
    static constexpr bool in_tiles = false;
    /// Queries take the scale of the scores, which then costs nothing. Where they are rounded they take its sign only, so that a
    /// query that came as bf16 stays what it was.
    static constexpr bool scales_queries = true;
    /// Whether products of two tokens' values are added as an instruction for pairs adds them: the second first.
    static constexpr bool second_first = false;

    /// `count` values times ±scale, in units; `units` has room for whole units and may be the values' own memory.
    template <class Target>
    static void to_units(const A* values, Index count, A scale, Unit* units) noexcept {
        for (Index i = 0; i < count; ++i) units[i] = values[i] * scale;
    }
    /// Probabilities or values as products take them; they become what they are rounded to.
    template <class Target>
    static MLA_ALWAYS_INLINE void store_units(simd::Batch<Target, A>& values, Unit* units) {
        values.store_unaligned(units);
    }
};

struct Rounded : Plain<float> {
    static constexpr bool scales_queries = false;
    static constexpr bool second_first = true;

    template <class Target>
    static void to_units(const float* values, Index count, float scale, float* units) noexcept {
        if (scale != 1.0F) {
            Plain<float>::to_units<Target>(values, count, scale, units);
            values = units;
        }
        simd::round_row<Target>(values, count, units);
    }
    template <class Target>
    static MLA_ALWAYS_INLINE void store_units(simd::Batch<Target, float>& values, float* units) {
        values = simd::Atoms<Target>::round_operand(values);
        values.store_unaligned(units);
    }
};

struct Bf16Pairs {
    using Unit = simd::Bf16Pair;
    using Sum = float;
    static constexpr Index values_per_unit = 2;
    static constexpr Index query_units = 1;
    static constexpr bool integers = false;
    static constexpr bool in_steps = false;
    static constexpr bool in_tiles = false;
    static constexpr bool scales_queries = false;
    static constexpr bool second_first = false;

    template <class Target>
    static void to_units(const float* values, Index count, float scale, Unit* units) noexcept {
        auto* const target = reinterpret_cast<bf16*>(units);
        scale == 1.0F ? simd::round_row<Target>(values, count, target) : round_scaled<Target>(values, count, scale, target);
        if (count % 2 != 0) target[count] = bf16();
    }
    /// Of values elsewhere, an even number.
    template <class Target>
    static void round(const float* values, Index count, Unit* units) noexcept {
        simd::round_row<Target>(values, count, reinterpret_cast<bf16*>(units));
    }
    /// Of two tokens, side by side.
    template <class Target>
    static MLA_ALWAYS_INLINE void store_units(simd::Batch<Target, float>& first, simd::Batch<Target, float>& second,
                                              Unit* units) {
        simd::Atoms<Target>::round_to_pairs(first, second).store_unaligned(simd::words(units));
    }
    /// Units of `count` values of two tokens side by side, of units of their keys; `second` is null after the last.
    template <class Target>
    static void interleave(const Unit* first, const Unit* second, Index count, Unit* units) noexcept {
        const auto* const values = reinterpret_cast<const bf16*>(first);
        simd::interleave<Target>(values, second == nullptr ? values : reinterpret_cast<const bf16*>(second), count, units);
        if (second == nullptr)
            for (Index i = 0; i < count; ++i) units[i].bits &= 0xffffU;
    }

  private:
    template <class Target>
    static void round_scaled(const float* values, Index count, float scale, bf16* target) noexcept {
        constexpr Index piece = 64;
        float scaled[simd::extent<piece>];
        for (Index begin = 0; begin < count; begin += piece) {
            const Index some = std::min(piece, count - begin);
            for (Index i = 0; i < some; ++i) scaled[i] = values[begin + i] * scale;
            simd::round_row<Target>(scaled, some, target + begin);
        }
    }
};

struct Bf16Tiles : Bf16Pairs {
    static constexpr bool in_tiles = true;
};

/// Numbers that O multiplies exactly, of which some neighbours in a token share a step, a float.
template <class O>
struct Scaled : O {
    static constexpr bool in_steps = true;
    static constexpr Index rope_units = std::numeric_limits<Index>::max();

    using O::store_units;
    /// Probabilities times steps where a unit is one: no product is subnormal, and a NaN may get lost, as the sum of its row's
    /// probabilities is another.
    template <class Target>
    static MLA_ALWAYS_INLINE void store_units(simd::Batch<Target, float>& values, float* units) {
        using Bits = simd::PackedBatch<Target>;
        const auto bits = std::bit_cast<Bits>(values);
        const Bits raised = bits + Bits(0x7fffU) + ((bits >> 16) & Bits(1U));
        std::bit_cast<simd::Batch<Target, float>>(raised & Bits(0xffff0000U)).store_unaligned(units);
    }
};

/// Probabilities that wait for their steps.
struct Unrounded : Plain<float> {
    static constexpr bool scales_queries = false;
};
struct Int16Pairs {
    using Unit = simd::Int16Pair;
    using Sum = std::int32_t;
    static constexpr Index values_per_unit = 2;
    static constexpr Index query_units = 1;
    static constexpr bool integers = true;
    static constexpr bool in_steps = true;
    static constexpr bool in_tiles = false;
    static constexpr bool scales_queries = false;
    static constexpr bool second_first = false;

    /// How large the integers may get: sums of their products must stay below 2^31.
    static constexpr float query_range = 8191.0F;  ///< beside 512 bytes, at most 128 each: below 2^29
    static constexpr float rope_key_range = 4095.0F;
    static constexpr Index rope_units = 32;               ///< 64 products of a query and a rope key: just below 2^31
    static constexpr float probability_range = 32767.0F;  ///< beside 96 bytes (block_tokens): 2^29

    /// Units of two tokens' p · weight, with weights of at most probability_range.
    template <class Target>
    static MLA_ALWAYS_INLINE void store_units(const simd::Batch<Target, float>& first, const simd::Batch<Target, float>& second,
                                              Unit* units) {
        simd::pair_lanes<Target>(first, second).store_unaligned(simd::words(units));
    }
};

/// The same integers in tile registers. Bytes of a latent are as they lie; queries, rope keys and probabilities are two bytes
/// each, 256 · upper, signed, + lower, which other registers hold. Of a query these alternate: a register's upper bytes, then the
/// lower ones.
struct ByteTiles : Int16Pairs {
    using Unit = simd::ByteQuad;
    static constexpr Index values_per_unit = 4;
    static constexpr Index query_units = 2;
    static constexpr bool in_tiles = true;
};

/// What softmax makes of scores.
template <class Operand>
using ProbabilitiesOf =
    std::conditional_t<Operand::integers, Int16Pairs, std::conditional_t<Operand::in_steps, Unrounded, Operand>>;

/// Units of neighbouring values; in tiles zeros fill the last register.
template <class Operand>
[[nodiscard]] constexpr Index units_of(Index values) noexcept {
    return round_up(divide_up(values, Operand::values_per_unit), Operand::in_tiles ? simd::tile_groups : 1);
}

/// Units of a query of `depth` values, and of a key. In steps the latent and the rope key have units of their own, as they have
/// steps.
template <class Operand>
[[nodiscard]] constexpr Index units_of(Index depth, Index latent_dim) noexcept {
    if constexpr (Operand::in_steps)
        return Operand::query_units * (units_of<Operand>(latent_dim) + units_of<Operand>(depth - latent_dim));
    return units_of<Operand>(depth);
}

/// Products that round their operands to bf16, in vectors: in pairs where the target has an instruction for them.
template <class Target>
using RoundedInVectors = std::conditional_t<Target::dots_bf16, Bf16Pairs, Rounded>;
/// The same in tile registers where the target has them.
template <class Target>
using RoundedOn = std::conditional_t<Target::tiles, Bf16Tiles, RoundedInVectors<Target>>;
/// Products of integers with steps.
template <class Target>
using IntegersOn = std::conditional_t<Target::tiles, ByteTiles, Int16Pairs>;
/// The products of an operand in vectors.
template <class Target, class Operand>
using InVectors = std::conditional_t<Operand::in_tiles, RoundedInVectors<Target>, Operand>;

/// The values that an operand which is no integer multiplies, one a unit: what few rows take on every target.
template <class Operand, Compute A>
using UnpairedOf = std::conditional_t<Operand::scales_queries, Plain<A>, Rounded>;

/// One query [depth] as units of an operand, times a scale; zeros of no query.
template <class Target, class Operand, Compute A>
class Query {
    using Unit = typename Operand::Unit;

  public:
    Query() = default;
    Query(const A* query, Index depth, Index latent_dim, A scale) noexcept
        : query_(query), depth_(depth), latent_dim_(latent_dim) {
        scale_ = Operand::scales_queries || scale == A(0) ? scale : std::copysign(A(1), scale);
        factor_ = Operand::scales_queries || scale == A(0) ? A(1) : std::abs(scale);
        if constexpr (Operand::integers) {
            steps_ = simd::Steps::of<Target>(query, depth, Operand::query_range);
            factor_ *= steps_.step;
            steps_.per_step *= scale_;
        }
    }

    /// What its scores must still be multiplied by, positive.
    [[nodiscard]] A factor() const noexcept { return factor_; }

    /// Writes its units [begin, end), of tiles whole registers.
    void read(Index begin, Index end, Unit* units) const noexcept {
        if (query_ == nullptr) {
            std::fill_n(units, end - begin, Unit());
        } else if constexpr (Operand::query_units == 2) {
            for (Index unit = begin; unit < end; unit += 2 * simd::tile_groups) read_register(unit, units + unit - begin);
        } else if constexpr (Operand::in_steps) {
            const Index rope = units_of<Operand>(latent_dim_);
            const Index middle = std::clamp(rope, begin, end);
            read_values(begin * each, latent_dim_, middle - begin, units);
            read_values(latent_dim_ + (middle - rope) * each, depth_, end - middle, units + middle - begin);
        } else {
            read_values(begin * each, depth_, end - begin, units);
        }
    }

  private:
    static constexpr Index each = Operand::values_per_unit;

    /// `count` units of values [first, …), 0 from `limit` on.
    void read_values(Index first, Index limit, Index count, Unit* units) const noexcept {
        first = std::min(first, limit);
        const Index values = std::min(count * each, limit - first);
        if constexpr (Operand::integers) {
            if (values % each != 0) units[values / each] = Unit();
            simd::quantise<Target>(query_ + first, values, steps_, reinterpret_cast<std::int16_t*>(units));
        } else {
            Operand::template to_units<Target>(query_ + first, values, scale_, units);
        }
        std::fill(units + divide_up(values, each), units + count, Unit());
    }

    /// Units [unit, unit + 32), the upper and the lower bytes of a register.
    void read_register(Index unit, Unit* units) const noexcept {
        constexpr Index values = simd::tile_row_bytes;
        const Index latent = round_up(latent_dim_, values);
        Index first = unit / 2 * each;
        Index limit = latent_dim_;
        if (first >= latent) {
            first += latent_dim_ - latent;
            limit = depth_;
        }
        std::int16_t numbers[simd::extent<values>] = {};
        simd::quantise<Target>(query_ + first, std::min(values, limit - first), steps_, numbers);
        auto* const bytes = reinterpret_cast<std::byte*>(units);
        simd::split<Target>(numbers, values, bytes, bytes + values);
    }

    const A* query_ = nullptr;
    Index depth_ = 0;
    Index latent_dim_ = 0;
    A scale_ = A(1);
    A factor_ = A(1);
    simd::Steps steps_;
};

}  // namespace mla::inline MLA_ISA::operands
