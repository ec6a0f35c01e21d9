// The block of cached tokens that a call names, as its operand wants it.
#pragma once

#include "mla/formats/formats.hpp"
#include "mla/kernels/engine/byte_block.hpp"
#include "mla/kernels/engine/stage.hpp"
#include "mla/simd/prefetch.hpp"

namespace mla::inline MLA_ISA::detail {

/// What is fetched while a block is computed: the rest of its own rows, where nobody has fetched it, and the next block's.
template <class C, Compute A>
[[nodiscard]] simd::Prefetch fetch_next(const abi::AttendBlock<A>& call, Index steps) noexcept {
    const auto list = [](const void* const* rows, Index first, Index end) {
        return std::span(rows + first, static_cast<std::size_t>(std::max<Index>(end - first, 0)));
    };
    const Index bytes = RowFormat<C>{call.latent_dim, call.rope_dim}.elements() * static_cast<Index>(sizeof(C));
    const auto next = list(call.next_keys, 0, call.next_tokens);
    if (call.next_values != call.next_keys) return {next, list(call.next_values, 0, call.next_tokens), bytes, steps};
    return {list(call.keys, call.fetched, call.tokens), next, bytes, steps};
}

/// The block's rows copied to rows of A: keys first, then values where they are other rows.
template <class Target, class C, Compute A>
struct CopiedRows {
    RowList<A> keys;
    RowList<A> values;

    explicit CopiedRows(const abi::AttendBlock<A>& call) noexcept {
        const RowFormat<C> format{call.latent_dim, call.rope_dim};
        keys = copy_rows<Target>(call.keys, call.tokens, format, call.staged);
        values = call.values == call.keys
                     ? keys
                     : copy_rows<Target>(call.values, call.tokens, format, call.staged + staged_elements<A>(format.values()));
    }
};

/// A block's rows copied to a worker's buffer as units: keys, and of pairs the values of two tokens side by side besides. For a
/// token these take no more than its values and 78 elements, of which the room for pieces has more.
template <class Target, class Operand, class C, Compute A>
[[nodiscard]] Block<Operand> copy_units(const abi::AttendBlock<A>& call) noexcept {
    using Unit = typename Operand::Unit;
    constexpr Index each = Operand::values_per_unit;
    const RowFormat<C> format{call.latent_dim, call.rope_dim};
    const Index units = operands::units_of<Operand>(format.values(), call.latent_dim);
    const Index stride = staged_stride<A>(units);
    auto* const keys = reinterpret_cast<Unit*>(call.staged);
    Block<Operand> block{.key_rows = {}, .value_rows = {}, .value_dim = call.latent_dim, .begin = call.begin};
    block.key_rows.add(keys, stride, call.tokens);
    const Index value_stride = each == 1 ? stride : staged_stride<A>(call.latent_dim);
    Unit* const values = each == 1 ? keys : keys + call.tokens * stride;
    block.value_rows.add(values, value_stride, divide_up(call.tokens, each));
    for (Index t = 0; t < call.tokens; ++t) {
        Unit* const key = keys + t * stride;
        Format<C>::template stage_row<Target, Operand>(format, static_cast<const C*>(call.keys[t]), key);
        std::fill(key + units, key + stride, Unit());
        if constexpr (each == 2) {
            const bool second = t % 2 == 1;
            if (!second && t + 1 < call.tokens) continue;
            Operand::template interleave<Target>(second ? key - stride : key, second ? key : nullptr, call.latent_dim,
                                                 values + t / 2 * value_stride);
        }
    }
    return block;
}

/// The same of numbers that some neighbours in a token share a step of.
template <class Operand, class C>
class ScaledBlock : public Block<Operand> {
  public:
    static constexpr Index values_per_step = Format<C>::values_per_scale;

    template <Compute A>
    ScaledBlock(const Block<Operand>& copies, const abi::AttendBlock<A>& call) noexcept
        : Block<Operand>(copies), rows_(call.keys), format_{call.latent_dim, call.rope_dim} {
        std::fill(std::begin(ones_), std::end(ones_), 1.0F);
    }

    /// The steps of neighbours `index` in tokens [first, first + count): this block's until the next ones are asked for. After
    /// those of all its tokens zeros follow.
    [[nodiscard]] const float* latent_steps(Index index, Index first, Index count) noexcept {
        for (Index t = 0; t < count; ++t) steps_[t] = Format<C>::scale(format_, static_cast<const C*>(rows_[first + t]), index);
        return steps_;
    }
    /// Rope keys are values as they are.
    [[nodiscard]] const float* rope_steps(Index) const noexcept { return ones_; }

  private:
    const void* const* rows_;
    RowFormat<C> format_;
    alignas(64) float steps_[simd::extent<block_tokens>] = {};
    alignas(64) float ones_[simd::extent<block_tokens>];
};

/// Calls f(block) with a block of cached tokens of C as units of the operand.
template <class Target, class Operand, class C, Compute A, class F>
void with_block(const abi::AttendBlock<A>& call, F&& f) noexcept {
    if constexpr (Operand::in_tiles && Operand::integers) {
        f(ByteBlock<Target, Operand, C>(call));
    } else if constexpr (Format<C>::template whole_blocks<Target, Operand> && Operand::in_steps) {
        f(ScaledBlock<Operand, C>(copy_units<Target, Operand, C>(call), call));
    } else if constexpr (Format<C>::template whole_blocks<Target, Operand> && Operand::values_per_unit == 2) {
        f(copy_units<Target, Operand, C>(call));
    } else if constexpr (Format<C>::template whole_blocks<Target, Operand>) {
        const CopiedRows<Target, C, A> copies(call);
        f(Block<Operand>{copies.keys, copies.values, call.latent_dim, call.begin});
    } else {
        const PieceBuffers<Target, A> buffers(call.staged);
        f(CachedBlock<Target, Operand, A, C>(call, buffers));
    }
}

}  // namespace mla::inline MLA_ISA::detail
