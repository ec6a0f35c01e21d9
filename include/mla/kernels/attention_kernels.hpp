// The attention kernels of the target that calls run on: linked ones, or those of `targets::native`, which are then called
// directly.
#pragma once

#include "mla/core/chosen_target.hpp"
#include "mla/formats/formats.hpp"
#include "mla/kernels/row_group.hpp"
#if !MLA_IS_COMPILED
#include "mla/kernels/engine/attend.hpp"
#include "mla/kernels/engine/index_score.hpp"
#endif

namespace mla::inline MLA_ISA::detail {

#if MLA_IS_COMPILED
template <Compute A>
[[nodiscard]] abi::TileShape tile_shape() {
    return chosen_kernels<A>().shape;
}

/// Over a cache of C.
template <Compute A, CacheElement C>
[[nodiscard]] abi::AttentionKernels<A> attention_kernels(Precision precision) {
    return chosen_kernels<A>().attention[index_of<C, CacheTypes>][static_cast<int>(precision)];
}

/// Over keys and values that are decompressed from a cache of C.
template <Compute A, CacheElement C>
[[nodiscard]] abi::ExpandedKernels<A> expanded_kernels(Precision precision) {
    return chosen_kernels<A>().expanded[index_of<C, CacheTypes>][static_cast<int>(precision)];
}

/// Over index keys of C.
template <Compute A, CacheElement C>
[[nodiscard]] abi::IndexKernels<A> index_kernels(Precision precision) {
    return chosen_kernels<A>().index[index_of<C, CacheTypes>][static_cast<int>(precision)];
}
#else
template <Compute A>
[[nodiscard]] constexpr abi::TileShape tile_shape() noexcept {
    return shape_of<targets::native, A>;
}

template <Compute A, CacheElement C>
[[nodiscard]] constexpr abi::AttentionKernels<A> attention_kernels(Precision precision) noexcept {
    return precision == Precision::operand ? attention_of<targets::native, A, C, Precision::operand>
                                           : attention_of<targets::native, A, C, Precision::full>;
}

template <Compute A, CacheElement C>
[[nodiscard]] constexpr abi::ExpandedKernels<A> expanded_kernels(Precision precision) noexcept {
    return precision == Precision::operand ? expanded_of<targets::native, A, C, Precision::operand>
                                           : expanded_of<targets::native, A, C, Precision::full>;
}

template <Compute A, CacheElement C>
[[nodiscard]] constexpr abi::IndexKernels<A> index_kernels(Precision precision) noexcept {
    return precision == Precision::operand ? index_scores_of<targets::native, A, C, Precision::operand>
                                           : index_scores_of<targets::native, A, C, Precision::full>;
}
#endif

}  // namespace mla::inline MLA_ISA::detail
