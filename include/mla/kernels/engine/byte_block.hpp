// A block of cached tokens whose latents are bytes, as products of bytes in tile registers want it.
#pragma once

#include <algorithm>

#include "mla/core/kernel_table.hpp"
#include "mla/formats/format.hpp"
#include "mla/kernels/engine/block.hpp"

namespace mla::inline MLA_ISA::detail {

/// Rows of C begin with the bytes of their latents; values are the first value_dim bytes of the same rows, or of others.
template <class Target, class Op, class C>
class ByteBlock {
  public:
    using Operand = Op;
    using Unit = typename Operand::Unit;
    static constexpr bool values_by_parity = false;
    Index value_dim;
    Index begin;  ///< position of the block's first token among the keys
    TokenSteps steps;

    template <Compute A>
    explicit ByteBlock(const abi::AttendBlock<A>& call) noexcept
        : value_dim(call.latent_dim),
          begin(call.begin),
          keys_(call.keys),
          values_(call.values),
          count_(call.tokens),
          format_{call.latent_dim, call.rope_dim} {
        for (Index t = 0; t < count_; ++t) steps.latent[t] = Format<C>::latent_step(format_, key(t));
    }

    [[nodiscard]] Index count() const noexcept { return count_; }

    /// The latents of tokens from `first` on, value_dim bytes each.
    [[nodiscard]] const void* const* latents(Index first) const noexcept { return keys_ + first; }

    /// A register's row of the rope key of token `t` from its value `first` on, with zeros after the last, as bytes of either
    /// kind; sets its step.
    void stage_rope_key(Index t, Index first, std::byte* upper, std::byte* lower) noexcept {
        constexpr Index values = simd::tile_row_bytes;
        using Staged = operands::Int16Pairs;
        std::int16_t numbers[simd::extent<values>] = {};
        Format<C>::template stage_key<Target, Staged>(format_, key(t), round_up(value_dim, Staged::values_per_unit) + first,
                                                      values, reinterpret_cast<typename Staged::Unit*>(numbers), &steps.rope[t]);
        simd::split<Target>(numbers, values, upper, lower);
    }

    /// Rows [fours of tokens], a stride of units apart, of Width values from `column` on of four tokens side by side. After the
    /// last token others follow, and after the last value zeros.
    template <Index Width>
    void stage_values(Index column, Unit* units, Index stride) const noexcept {
        const Index some = std::min(Width, value_dim - column);
        for (Index t = 0; t < count_; t += 4, units += stride) {
            const C* rows[4];
            for (Index i = 0; i < 4; ++i) rows[i] = static_cast<const C*>(values_[std::min(t + i, count_ - 1)]) + column;
            simd::interleave<Target>(rows, some, units);
            std::fill(units + some, units + Width, Unit());
        }
    }

  private:
    [[nodiscard]] const C* key(Index t) const noexcept { return static_cast<const C*>(keys_[t]); }

    const void* const* keys_;
    const void* const* values_;
    Index count_;
    RowFormat<C> format_;
};

}  // namespace mla::inline MLA_ISA::detail
