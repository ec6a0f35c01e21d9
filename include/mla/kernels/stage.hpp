// The first step of the kernel contract: lists a block's cached rows, reads them once, in order, and lays them out as the
// tiles want them. The only step that knows how a cache stores its tokens.
#pragma once

#include <algorithm>

#include "mla/cache/latent_view.hpp"
#include "mla/kernels/row_group.hpp"

namespace mla::detail {

/// Distance of staged rows of `dim` values: whole cache lines, and an odd number of them, so that the rows that a tile walks
/// side by side fall into different sets of L1.
template <Compute A>
[[nodiscard]] constexpr Index staged_stride(Index dim) noexcept {
    constexpr Index line = static_cast<Index>(scratch_alignment / sizeof(A));
    return (divide_up(dim, line) | 1) * line;
}

/// Elements of scratch for one staged block of rows of `dim` values.
template <Compute A>
[[nodiscard]] constexpr Index staged_elements(Index dim) noexcept {
    return block_tokens * staged_stride<A>(dim);
}

/// Rows of a block as the tiles read them.
template <Compute A>
struct StagedRows {
    const A* data;
    Index stride;
};

/// Copies `count` rows of `dim` values to `target`, converted, and sets rows up to a whole score tile, and every row's tail,
/// to zero.
template <class Arch, Compute A, Storage C>
StagedRows<A> stage_copy(const C* source, Index source_stride, Index count, Index dim, A* target) noexcept {
    const Index stride = staged_stride<A>(dim);
    for (Index t = 0; t < count; ++t) {
        A* row = target + t * stride;
        simd::convert_row<Arch>(row, source + t * source_stride, dim);
        std::fill(row + dim, row + stride, A(0));
    }
    std::fill_n(target + count * stride, (round_up(count, Index{12}) - count) * stride, A(0));
    return {target, stride};
}

/// Stages tokens [begin, begin + count) of a contiguous cache. A full block that is already of the type computed in, and whose
/// latents end on a whole vector, is used where it lies.
template <class Arch, Compute A, Storage C>
StagedRows<A> stage(const LatentView<C>& cache, Index begin, Index count, A* target) noexcept {
    if constexpr (std::is_same_v<A, C>) {
        if (count == block_tokens && cache.latent_dim % simd::lanes<Arch, A> == 0) return {cache.row(begin), cache.stride};
    }
    return stage_copy<Arch>(cache.row(begin), cache.stride, count, cache.row_dim(), target);
}

}  // namespace mla::detail
