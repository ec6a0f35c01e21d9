// Cached latents as keys and values of a head: a block of tokens read, decompressed, rounded and attended to.
#pragma once

#include <algorithm>

#include "mla/cache/token_rows.hpp"
#include "mla/core/function_ref.hpp"
#include "mla/kernels/row_group.hpp"
#include "mla/kernels/row_list.hpp"
#include "mla/kernels/run_item.hpp"
#include "mla/linear/linear.hpp"

namespace mla::inline MLA_ISA::detail {

/// The two halves of kv_b_proj of any type, as a call multiplies by them.
template <Compute A>
struct ExpansionViews {
    PackedView<A> key;
    PackedView<A> value;
};

/// Rows of `dim` values as workers stage them.
template <Compute A>
[[nodiscard]] MatrixView<A> staged_rows(A* memory, Index rows, Index dim) noexcept {
    return {memory, rows, dim, staged_stride<A>(dim)};
}

/// What turns latents of a cache into keys [W_UK c | k_pe] and values W_UV c, and attends to them.
template <Compute A>
class LatentExpansion {
  public:
    LatentExpansion(const TokenRows& cache, const abi::RowKernels<A>& latents, const ExpansionViews<A>& weights,
                    const abi::ExpandedKernels<A>& kernels)
        : cache_(cache), latents_(latents), weights_(weights), kernels_(kernels) {}

    [[nodiscard]] const TokenRows& cache() const noexcept { return cache_; }
    [[nodiscard]] Index row_dim() const noexcept { return cache_.row_dim(); }
    [[nodiscard]] Index key_dim() const noexcept { return weights_.key.out() + cache_.rope_dim; }
    [[nodiscard]] Index value_dim() const noexcept { return weights_.value.out(); }

    /// Listed rows as values: [tokens, Dc+Dr].
    void read(const RowList<std::byte>& rows, const MatrixView<A>& values) const noexcept {
        latents_.read(rows.data(), rows.size(), cache_.latent_dim, cache_.rope_dim, values.data, values.stride);
    }
    /// keys [tokens, Dn+Dr] of a head, from rows [tokens, Dc+Dr].
    void decompress_keys(const MatrixView<A>& rows, Index head, const MatrixView<A>& keys) const noexcept {
        const Index nope = weights_.key.out();
        weights_.key.multiply(latents_of(rows), head, 0, weights_.key.panels(), keys.columns(0, nope));
        for (Index t = 0; t < keys.rows; ++t) {
            A* const end = std::copy_n(rows.row(t) + cache_.latent_dim, cache_.rope_dim, keys.row(t) + nope);
            std::fill(end, keys.row(t) + keys.stride, A(0));
        }
    }
    /// values [tokens, Dv] of a head.
    void decompress_values(const MatrixView<A>& rows, Index head, const MatrixView<A>& values) const noexcept {
        weights_.value.multiply(latents_of(rows), head, 0, weights_.value.panels(), values);
        for (Index t = 0; t < values.rows; ++t) std::fill_n(values.row(t) + values.cols, values.stride - values.cols, A(0));
    }
    /// Calls body() as what attends wants to be called.
    void run_item(FunctionRef<void()> body) const noexcept { detail::run_item(kernels_.run_item, body); }
    void round(const abi::AttendExpanded<A>& block) const noexcept { kernels_.round(&block); }
    void attend(const abi::AttendExpanded<A>& block) const noexcept { kernels_.attend(&block); }
    void pack(const abi::PackQueries<A>& call) const noexcept { kernels_.pack(&call); }

  private:
    [[nodiscard]] MatrixView<const A> latents_of(const MatrixView<A>& rows) const noexcept {
        return rows.columns(0, cache_.latent_dim);
    }

    TokenRows cache_;
    abi::RowKernels<A> latents_;
    ExpansionViews<A> weights_;
    abi::ExpandedKernels<A> kernels_;
};

}  // namespace mla::inline MLA_ISA::detail
