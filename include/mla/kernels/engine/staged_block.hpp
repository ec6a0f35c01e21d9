// The block of cached tokens that a call names, as its operand wants it.
#pragma once

#include "mla/formats/formats.hpp"
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

/// Calls f(block) with a block of cached tokens of C as units of the operand.
template <class Target, class Operand, class C, Compute A, class F>
void with_block(const abi::AttendBlock<A>& call, F&& f) noexcept {
    if constexpr (Format<C>::template whole_blocks<Target, Operand>) {
        const CopiedRows<Target, C, A> copies(call);
        f(Block<Operand>{copies.keys, copies.values, call.latent_dim, call.begin});
    } else {
        const PieceBuffers<Target, A> buffers(call.staged);
        f(CachedBlock<Target, Operand, A, C>(call, buffers));
    }
}

}  // namespace mla::inline MLA_ISA::detail
