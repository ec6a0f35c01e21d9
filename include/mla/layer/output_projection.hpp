// From the heads' outputs back to tokens.
#pragma once

#include "mla/config.hpp"
#include "mla/core/workspace.hpp"
#include "mla/layer/projection.hpp"
#include "mla/math/gate.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::detail {

/// y = o_proj(concat_h o[h] · sigmoid(g[h])), without an output gate o_proj(concat_h o[h]).
template <Storage T>
class OutputProjection {
    using A = compute_t<T>;

  public:
    OutputProjection(const Config& config, const AttentionWeights& weights, Precision precision, const Packer& pack)
        : config_(config),
          precision_(precision),
          out_(weights.o_proj, pack.options.o_proj, pack.executor, config.attention_bias, weights.o_bias) {
        if (has_gate_projection()) gate_ = Projection<T>(weights.gate_proj, pack.options.gate_proj, pack.executor);
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return gate_.bytes() + out_.bytes(); }

    /// The gate's logits, where it is made of the tokens: [T, H] or [T, H·Dv].
    [[nodiscard]] MatrixView<A> carve(Arena& arena, Index tokens) const {
        const Index dim = has_gate_projection() ? config_.gate_dim() : 0;
        return {arena.take<A>(tokens * dim), tokens, dim};
    }

    /// o [T, H, Dv], which is gated in place; `query_gate` [T, H, Dv] comes with the queries. y may be x itself.
    void operator()(MatrixView<const A> x, HeadsView<A> o, HeadsView<const A> query_gate, MatrixView<A> logits, MatrixView<A> y,
                    ExecutorRef executor) const noexcept {
        if (has_gate_projection()) gate_(x, logits, executor, precision_);
        if (config_.output_gate != OutputGate::none)
            for_each_item(executor, o.tokens, [&](Index t, Index) { gate_token(o.token_range(t, 1), query_gate, logits, t); });
        out_(side_by_side(o), y, executor, precision_);
    }

  private:
    /// o [1, H, Dv]: of token t.
    void gate_token(HeadsView<A> o, HeadsView<const A> query_gate, MatrixView<A> logits, Index t) const noexcept {
        switch (config_.output_gate) {
            case OutputGate::none: break;
            case OutputGate::per_head: gate_heads<A>(o, logits.row_range(t, 1)); break;
            case OutputGate::per_value: gate_values<A>(o, {logits.row(t), 1, o.heads, o.dim}); break;
            case OutputGate::with_query: gate_values<A>(o, query_gate.token_range(t, 1)); break;
        }
    }
    [[nodiscard]] bool has_gate_projection() const noexcept {
        return config_.output_gate == OutputGate::per_head || config_.output_gate == OutputGate::per_value;
    }

    Config config_;
    Precision precision_;
    Projection<T> gate_;  ///< hidden → H or H·Dv
    Projection<T> out_;   ///< H·Dv → hidden
};

}  // namespace mla::inline MLA_ISA::detail
