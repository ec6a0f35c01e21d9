// The two halves of kv_b_proj, a small matrix a head.
#pragma once

#include <algorithm>

#include "mla/config.hpp"
#include "mla/core/errors.hpp"
#include "mla/core/memory.hpp"
#include "mla/core/views.hpp"
#include "mla/layer/projection.hpp"
#include "mla/linear/packed_matrix.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::detail {

/// W_UK and W_UV as both forms of attention want them, in a layer of T. They keep the codes of a quantised kv_b_proj whose scales
/// are for whole eights of rows and of columns, so that both forms multiply the same.
template <Storage T>
class HeadProjections {
    using A = compute_t<T>;

  public:
    /// @throws std::invalid_argument when `packing` asks for codes to be made
    HeadProjections(const Config& config, const TensorRef& kv_b, const Packer& pack) {
        const Packing packing = pack.options.kv_b_proj;
        require(packing == Packing::as_stored || packing == Packing::layer_type, "kv_b_proj packing", static_cast<int>(packing),
                "as_stored or layer_type");
        bool kept = false;
        for_each_type(QuantisedTypesOf<T>{}, [&]<class W>() {
            const Index row_step = kept_row_step(kv_b.scales, config.qk_nope_head_dim + config.v_head_dim);
            if (packing == Packing::layer_type || !keeps<W>(kv_b) || row_step % panel_row_step<W> != 0) return;
            fill<W>(config, kv_b, row_step, pack.executor);
            kept = true;
        });
        if (!kept) fill<T>(config, kv_b, most_scale_step, pack.executor);
    }

    [[nodiscard]] std::size_t bytes() const noexcept {
        const auto of = [](const auto& matrix) { return matrix.bytes(); };
        return std::visit(of, absorb_key_) + std::visit(of, expand_key_) + std::visit(of, value_);
    }

    /// A head: q_nope Dn → Dc.
    [[nodiscard]] PackedView<A> absorb_key(Precision precision) const noexcept { return view_of<A>(absorb_key_, precision); }
    /// A head: c Dc → Dn.
    [[nodiscard]] PackedView<A> expand_key(Precision precision) const noexcept { return view_of<A>(expand_key_, precision); }
    /// A head: c Dc → Dv.
    [[nodiscard]] PackedView<A> value(Precision precision) const noexcept { return view_of<A>(value_, precision); }

  private:
    /// A head's rows of kv_b: as they are stored where W keeps them, else converted once for all three of its matrices.
    template <Weight W>
    static TensorRef read_head(const TensorRef& kv_b, Index first, Index rows, [[maybe_unused]] W* memory) noexcept {
        if constexpr (QuantisedWeight<W>) return kv_b.row_range(first, rows);
        if constexpr (Storage<W>) return read_rows(kv_b, first, rows, memory);
    }

    template <Weight W>
    void fill(const Config& config, const TensorRef& kv_b, Index row_step, ExecutorRef executor) {
        const Index heads = config.num_attention_heads;
        const Index Dc = config.kv_lora_rank, Dn = config.qk_nope_head_dim, Dv = config.v_head_dim;
        const Index column_step = scale_step_for<W>(kv_b);
        PackedMatrix<W> absorb_key(heads, Dn, Dc, row_step);
        PackedMatrix<W> expand_key(heads, Dc, Dn, column_step);
        PackedMatrix<W> value(heads, Dc, Dv, column_step);
        const auto converted = allocate_aligned<W>(executor.concurrency() * (Dn + Dv) * Dc);
        fill_by_pages(executor, heads, static_cast<Index>(absorb_key.bytes()) / heads, [&](Index h, Index worker) {
            const TensorRef head = read_head(kv_b, h * (Dn + Dv), Dn + Dv, converted.get() + worker * (Dn + Dv) * Dc);
            absorb_key.pack_transposed(h, head.row_range(0, Dn));
            expand_key.pack(h, head.row_range(0, Dn));
            value.pack(h, head.row_range(Dn, Dv));
        });
        absorb_key_ = std::move(absorb_key);
        expand_key_ = std::move(expand_key);
        value_ = std::move(value);
    }

    PackedWeight<T> absorb_key_;
    PackedWeight<T> expand_key_;  ///< the transpose of absorb_key_, since a product reads its matrix in one order
    PackedWeight<T> value_;
};

/// Each head's values, of the same sizes.
template <Compute A>
void copy_heads(HeadsView<const A> from, HeadsView<A> to, ExecutorRef executor) {
    for_each_item(executor, from.tokens, [&](Index t, Index) {
        for (Index h = 0; h < from.heads; ++h) std::copy_n(from.at(t, h), from.dim, to.at(t, h));
    });
}

}  // namespace mla::inline MLA_ISA::detail
