// Cache rows read and written on the target that calls run on.
#pragma once

#include "mla/core/chosen_target.hpp"
#include "mla/core/float_environment.hpp"
#include "mla/formats/formats.hpp"

namespace mla::inline MLA_ISA::detail {

template <class Target, Compute A, CacheElement C>
void read_cache_rows(const void* const* from, Index rows, Index latent_dim, Index rope_dim, A* to, Index stride) noexcept {
    const FloatEnvironment environment;
    for (Index r = 0; r < rows; ++r)
        Format<C>::template read<Target>(RowFormat<C>{latent_dim, rope_dim}, static_cast<const C*>(from[r]), to + r * stride);
}

template <class Target, Compute A, CacheElement C>
void write_cache_rows(const A* from, Index from_stride, Index rows, Index latent_dim, Index rope_dim, void* to,
                      Index to_stride) noexcept {
    const FloatEnvironment environment;
    for (Index r = 0; r < rows; ++r)
        Format<C>::template write<Target>(RowFormat<C>{latent_dim, rope_dim}, from + r * from_stride,
                                          static_cast<C*>(to) + r * to_stride);
}

template <class Target, Compute A, CacheElement C>
inline constexpr abi::RowKernels<A> rows_of{read_cache_rows<Target, A, C>, write_cache_rows<Target, A, C>};

template <Compute A, CacheElement C>
[[nodiscard]] abi::RowKernels<A> row_kernels() {
#if MLA_IS_COMPILED
    return chosen_kernels<A>().rows[index_of<C, CacheTypes>];
#else
    return rows_of<targets::native, A, C>;
#endif
}

}  // namespace mla::inline MLA_ISA::detail

namespace mla::inline MLA_ISA {

/// Writes a token [Dc + Dr] as a row of C, rounded to nearest even.
template <Compute A, CacheElement C>
void write_row(const RowFormat<C>& format, const A* token, C* row) {
    detail::row_kernels<A, C>().write(token, 0, 1, format.latent_dim, format.rope_dim, row, 0);
}

/// Reads a row back to [Dc + Dr].
template <Compute A, CacheElement C>
void read_row(const RowFormat<C>& format, const C* row, A* token) {
    const void* const rows[] = {row};
    detail::row_kernels<A, C>().read(rows, 1, format.latent_dim, format.rope_dim, token, 0);
}

}  // namespace mla::inline MLA_ISA
