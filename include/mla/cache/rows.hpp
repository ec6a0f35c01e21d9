// How the caches of ours lay out and write their rows, a row a token: contiguous and paged alike.
#pragma once

#include "mla/config.hpp"
#include "mla/core/errors.hpp"
#include "mla/core/views.hpp"
#include "mla/core/workspace.hpp"
#include "mla/formats/row_kernels.hpp"

namespace mla::inline MLA_ISA {

/// Writes tokens [T, Dc + Dr] of the type computed in to cache rows [T, format.elements()], rounded to the nearest even of C.
template <Compute A, CacheElement C>
void append(MatrixView<const A> tokens, const RowFormat<C>& format, MatrixView<C> rows) {
    require_equal("rows.rows", rows.rows, "tokens.rows", tokens.rows);
    require_equal("rows.cols", rows.cols, "elements of a row", format.elements());
    require_equal("tokens.cols", tokens.cols, "latent_dim + rope_dim", format.values());
    detail::row_kernels<A, C>().write(tokens.data, tokens.stride, tokens.rows, format.latent_dim, format.rope_dim, rows.data,
                                      rows.stride);
}

/// As above, where a row is Dc + Dr elements of one type.
template <Compute A, Storage C>
void append(MatrixView<const A> tokens, MatrixView<C> rows) {
    require_equal("rows.cols", rows.cols, "tokens.cols", tokens.cols);
    append(tokens, RowFormat<C>{tokens.cols, 0}, rows);
}

namespace detail {

/// Tokens a cache may hold. Far above every use, and low enough that the bytes of so many of the widest rows (2^25 doubles)
/// stay below 2^63.
inline constexpr Index max_cached_tokens = Index{1} << 34;

/// A row of a cache that owns its memory. Rows of one type start on cache lines; quantised ones lie as close as 8 bytes allow.
template <class C>
struct RowLayout {
    Index latent_dim;
    Index rope_dim;
    RopePairing pairing;

    RowLayout(Index latent, Index rope, RopePairing convention) : latent_dim(latent), rope_dim(rope), pairing(convention) {}
    /// @throws std::invalid_argument for an invalid config
    explicit RowLayout(const Config& config)
        : latent_dim(config.kv_lora_rank), rope_dim(config.qk_rope_head_dim), pairing(config.rope.pairing) {
        validate(config);
    }

    [[nodiscard]] RowFormat<C> format() const noexcept { return {latent_dim, rope_dim}; }
    /// Elements from row to row.
    [[nodiscard]] Index stride() const noexcept {
        constexpr std::size_t alignment = Quantised<C> ? 8 : scratch_alignment;
        return round_up(format().elements(), static_cast<Index>(alignment / sizeof(C)));
    }
    [[nodiscard]] Index bytes() const noexcept { return stride() * static_cast<Index>(sizeof(C)); }

    /// @throws std::invalid_argument unless `tokens` have the width of a row
    template <Compute A>
    void require_tokens(const MatrixView<const A>& tokens) const {
        require_equal("tokens.cols", tokens.cols, rope_dim > 0 ? "kv_lora_rank + qk_rope_head_dim" : "values of a row",
                      latent_dim + rope_dim);
        require_at_least("tokens.stride", tokens.stride, tokens.cols);
    }

    /// Writes tokens to rows from `first` on.
    template <Compute A>
    void write(MatrixView<const A> tokens, C* first) const {
        append(tokens, format(), MatrixView<C>(first, tokens.rows, format().elements(), stride()));
    }
};

/// @throws std::length_error unless `count` tokens fit `room`, std::invalid_argument when `count` is negative
inline void require_token_room(Index count, Index room) {
    require_at_least("tokens to append", count, Index{0});
    require_capacity("tokens to append", count, room);
}

}  // namespace detail
}  // namespace mla::inline MLA_ISA
