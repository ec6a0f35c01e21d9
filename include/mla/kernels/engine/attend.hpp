// A group of rows attends to a block: of cached tokens, or of decompressed ones. What a target's table holds.
#pragma once

#include "mla/core/float_environment.hpp"
#include "mla/formats/formats.hpp"
#include "mla/kernels/engine/attend_block.hpp"
#include "mla/kernels/engine/pack_queries.hpp"
#include "mla/kernels/engine/run_item.hpp"
#include "mla/kernels/engine/staged_block.hpp"

namespace mla::inline MLA_ISA::detail {

/// Few rows: to the block's rows where they lie, or to copies.
template <class Target, class Operand, class C, Compute A>
void attend_few_rows(const abi::AttendBlock<A>& call) noexcept {
    const RowGroup<A>& group = *call.group;
    constexpr auto element = static_cast<Index>(sizeof(C));
    if constexpr (few_read<A, C>) {
        if (few_in_place<Target, A, C>(group.depth, call.latent_dim)) {
            const FewBlock<C> block{call.keys, call.values, call.tokens, call.latent_dim, call.begin};
            // Values of their own are wanted right after their keys, the next keys after those.
            const bool shared = call.values == call.keys;
            return attend_few<Target, Operand, element>(group, block, call.scores, shared ? call.next_keys : call.values,
                                                        call.next_keys);
        }
    }
    const auto attend = [&](const auto& block) {
        attend_few<Target, Operand, element>(group, block, call.scores, call.next_keys, call.next_values);
    };
    if constexpr (Operand::in_steps && !Operand::integers) {
        using Few = operands::Scaled<operands::Rounded>;
        ScaledBlock<Few, C> copies(copy_units<Target, Few, C>(call), call);
        const void* const* const rows = copies.key_rows.data();
        attend(FewSteps<ScaledBlock<Few, C>>{{rows, rows, call.tokens, call.latent_dim, call.begin}, copies});
    } else {
        const CopiedRows<Target, C, A> copies(call);
        attend(FewBlock<A>{copies.keys.data(), copies.values.data(), call.tokens, call.latent_dim, call.begin});
    }
}

/// Lets a group attend to a block of cached tokens of C.
template <class Target, class Operand, class C, Compute A>
void attend_cached(const abi::AttendBlock<A>* call) noexcept {
    const FloatEnvironment environment;
    const RowGroup<A>& group = *call->group;
    if (are_few<Target, Operand>(group.rows, call->latent_dim)) return attend_few_rows<Target, Operand, C>(*call);
    with_block<Target, Operand, C>(*call, [&](auto&& block) {
        using Source = std::remove_cvref_t<decltype(block)>;
        const Index steps = prefetch_steps<Target, A, Source>(group.rows, call->tokens, group.depth, call->latent_dim);
        attend_block<Target>(group, block, call->scores, fetch_next<C>(*call, steps));
    });
}

/// Rounds a decompressed block where it lies: keys to units, the values of two tokens that share a unit to the row of the first.
template <class Target, class Operand, Compute A>
void round_block(const abi::AttendExpanded<A>& call) noexcept {
    using Unit = typename Operand::Unit;
    using Batch = simd::Batch<Target, A>;
    constexpr Index each = Operand::values_per_unit;
    for (Index t = 0; call.keys != nullptr && t < call.tokens; ++t) {
        A* const key = call.keys + t * call.key_stride;
        Operand::template to_units<Target>(key, call.group->depth, A(1), reinterpret_cast<Unit*>(key));
    }
    for (Index t = 0; call.values != nullptr && t < call.tokens; t += each) {
        A* const row = call.values + t * call.value_stride;
        for (Index c = 0; c < call.value_stride; c += simd::lanes<Target, A>) {
            Batch first = Batch::load_unaligned(row + c);
            auto* const units = reinterpret_cast<Unit*>(row + c);
            if constexpr (each == 1) {
                Operand::template store_units<Target>(first, units);
            } else {
                Batch second = t + 1 < call.tokens ? Batch::load_unaligned(row + call.value_stride + c) : Batch(A(0));
                Operand::template store_units<Target>(first, second, units);
            }
        }
    }
}

/// Makes a decompressed block what groups of as many rows attend to.
template <class Target, class Operand, Compute A>
void round_expanded(const abi::AttendExpanded<A>* call) noexcept {
    const FloatEnvironment environment;
    using Few = operands::UnpairedOf<Operand, A>;
    if (are_few<Target, Operand>(call->group->rows, call->value_dim)) {
        if constexpr (!Few::scales_queries) round_block<Target, Few>(*call);
    } else {
        if constexpr (!Operand::scales_queries) round_block<Target, Operand>(*call);
    }
}

/// Lets a group attend to a decompressed block. Nothing is to be fetched: its rows lie in the caches.
template <class Target, class Operand, Compute A>
void attend_expanded(const abi::AttendExpanded<A>* call) noexcept {
    const FloatEnvironment environment;
    const RowGroup<A>& group = *call->group;
    if (are_few<Target, Operand>(group.rows, call->value_dim)) {
        RowList<A> keys, values;
        keys.add(call->keys, call->key_stride, call->tokens);
        values.add(call->values, call->value_stride, call->tokens);
        const FewBlock<A> block{keys.data(), values.data(), call->tokens, call->value_dim, call->begin};
        return attend_few<Target, Operand, static_cast<Index>(sizeof(A))>(group, block, call->scores, keys.data(), values.data());
    }
    using Unit = typename Operand::Unit;
    constexpr Index each = Operand::values_per_unit;
    Block<Operand> block{.key_rows = {}, .value_rows = {}, .value_dim = call->value_dim, .begin = call->begin};
    block.key_rows.add(reinterpret_cast<const Unit*>(call->keys), call->key_stride, call->tokens);
    block.value_rows.add(reinterpret_cast<const Unit*>(call->values), each * call->value_stride, divide_up(call->tokens, each));
    attend_block<Target>(group, block, call->scores, {});
}

template <class Target, class Operand, class C, Compute A>
void pack(const abi::PackQueries<A>* call) noexcept {
    const FloatEnvironment environment;
    pack_queries<Target, Operand, C>(*call);
}

/// A target's shapes and functions, as its table has them.
template <class Target, Compute A>
inline constexpr abi::TileShape shape_of{simd::lanes<Target, A>, PieceBuffers<Target, A>::elements};

template <class Target, class Operand, CacheElement C, Compute A>
inline constexpr abi::AttentionKernels<A> cached_kernels{run_item<Target, Operand>, pack<Target, Operand, C, A>,
                                                         attend_cached<Target, Operand, C, A>};
template <class Target, class Operand, Compute A>
inline constexpr abi::ExpandedKernels<A> decompressed_kernels{run_item<Target, Operand>, pack<Target, Operand, A, A>,
                                                              round_expanded<Target, Operand, A>,
                                                              attend_expanded<Target, Operand, A>};

template <class Target, Compute A, CacheElement C, Precision P>
inline constexpr abi::AttentionKernels<A> attention_of = cached_kernels<Target, operands::OperandOf<Target, A, C, P>, C, A>;

template <class Target, Compute A, CacheElement C, Precision P>
inline constexpr abi::ExpandedKernels<A> expanded_of =
    decompressed_kernels<Target, typename Format<C>::template Decompressed<Target, A, P>, A>;

}  // namespace mla::inline MLA_ISA::detail
