// Operands: what rows and weights become when they are multiplied. A format names the operand that it takes on a target; scores,
// softmax and values know operands only.
//
//     operand       unit of a product      probabilities and queries      sums
//     Plain<A>      a value of A           as they are                    A
//     Rounded       a float                rounded to bf16                float
//     Bf16Pairs     two bf16               rounded to bf16                float
//     Bf16Tiles     two bf16               rounded to bf16                float
//     Int16Pairs    two int16              integers with a step           int32
//
// Rounded, Bf16Pairs and Bf16Tiles multiply the same values: with floats, and with the machine's bf16 products in vectors and in
// tile registers.
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
    static constexpr bool integers = false;
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
    static constexpr bool integers = false;
    static constexpr bool in_tiles = false;
    static constexpr bool scales_queries = false;
    static constexpr bool second_first = false;

    template <class Target>
    static void to_units(const float* values, Index count, float scale, Unit* units) noexcept {
        auto* const target = reinterpret_cast<bf16*>(units);
        scale == 1.0F ? simd::round_row<Target>(values, count, target) : round_scaled<Target>(values, count, scale, target);
        if (count % 2 != 0) target[count] = bf16();
    }
    /// Of two tokens, side by side.
    template <class Target>
    static MLA_ALWAYS_INLINE void store_units(simd::Batch<Target, float>& first, simd::Batch<Target, float>& second,
                                              Unit* units) {
        simd::Atoms<Target>::round_to_pairs(first, second).store_unaligned(simd::words(units));
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

struct Int16Pairs {
    using Unit = simd::Int16Pair;
    using Sum = std::int32_t;
    static constexpr Index values_per_unit = 2;
    static constexpr bool integers = true;
    static constexpr bool in_tiles = false;
    static constexpr bool scales_queries = false;
    static constexpr bool second_first = false;

    /// How large the integers may get: sums of their products must stay below 2^31.
    static constexpr float query_range = 8191.0F;  ///< beside 288 bytes (score_depth), at most 128 each: below 2^29
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

/// Units of a key or a query of `depth` values. Where they are integers the latent and the rope key have steps of their own, and
/// so units of their own; in tiles zeros fill the last register.
template <class Operand>
[[nodiscard]] constexpr Index units_of(Index depth, Index latent_dim) noexcept {
    constexpr Index each = Operand::values_per_unit;
    if constexpr (Operand::integers) return divide_up(latent_dim, each) + divide_up(depth - latent_dim, each);
    if constexpr (Operand::in_tiles) return round_up(divide_up(depth, each), simd::tile_groups);
    return divide_up(depth, each);
}

/// Products that round their operands to bf16, in vectors: in pairs where the target has an instruction for them.
template <class Target>
using RoundedInVectors = std::conditional_t<Target::dots_bf16, Bf16Pairs, Rounded>;
/// The same in tile registers where the target has them.
template <class Target>
using RoundedOn = std::conditional_t<Target::tiles_bf16, Bf16Tiles, RoundedInVectors<Target>>;
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

    /// Writes its units [begin, end).
    void read(Index begin, Index end, Unit* units) const noexcept {
        constexpr Index each = Operand::values_per_unit;
        if (query_ == nullptr) {
            std::fill_n(units, end - begin, Unit());
        } else if constexpr (Operand::integers) {
            const Index rope = divide_up(latent_dim_, each);
            const Index middle = std::clamp(rope, begin, end);
            read_integers(begin * each, latent_dim_, middle - begin, units);
            read_integers(latent_dim_ + (middle - rope) * each, depth_, end - middle, units + middle - begin);
        } else {
            const Index first = std::min(begin * each, depth_);
            const Index count = std::min(end * each, depth_) - first;
            Operand::template to_units<Target>(query_ + first, count, scale_, units);
            std::fill(units + divide_up(count, each), units + (end - begin), Unit());
        }
    }

  private:
    /// `count` units of values [first, …), 0 from `limit` on.
    void read_integers(Index first, Index limit, Index count, Unit* units) const noexcept {
        if (count == 0) return;
        units[count - 1] = Unit();
        const Index values = std::min(count * Operand::values_per_unit, limit - first);
        simd::quantise<Target>(query_ + first, values, steps_, reinterpret_cast<std::int16_t*>(units));
    }

    const A* query_ = nullptr;
    Index depth_ = 0;
    Index latent_dim_ = 0;
    A scale_ = A(1);
    A factor_ = A(1);
    simd::Steps steps_;
};

}  // namespace mla::inline MLA_ISA::operands
