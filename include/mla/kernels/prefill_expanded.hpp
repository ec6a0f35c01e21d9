// Expanded attention: keys and values are decompressed a head at a time, a block of tokens at a time, and attended to as in
// multi-head attention. Fewer multiply-adds than the absorbed form once many queries share a decompressed block.
#pragma once

#include "mla/formats/row_kernels.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/driver.hpp"
#include "mla/linear/linear.hpp"

namespace mla::inline MLA_ISA {

/// The two halves of kv_b_proj, a matrix a head.
template <Storage S>
struct ExpansionWeights {
    const PackedMatrix<S>& key;    ///< W_UKᵀ: H matrices [Dc → Dn]
    const PackedMatrix<S>& value;  ///< W_UVᵀ: H matrices [Dc → Dv]
};

namespace detail {

/// The same of any type, as a call multiplies by them.
template <Compute A>
struct ExpansionViews {
    PackedView<A> key;
    PackedView<A> value;
};

/// What a worker stages of a block: latents [tokens, Dc+Dr], keys [tokens, Dn+Dr], values [tokens, Dv].
template <Compute A>
[[nodiscard]] constexpr Index expanded_elements(Index row_dim, Index key_dim, Index value_dim) noexcept {
    return staged_elements<A>(row_dim) + staged_elements<A>(key_dim) + staged_elements<A>(value_dim);
}

/// Cached latents that are decompressed: keys [W_UK c | k_pe] and values W_UV c of one head, the source of its segment.
template <Compute A>
class ExpandedBlocks final : public BlockSource<A> {
  public:
    ExpandedBlocks(const TokenRows& cache, const abi::RowKernels<A>& latents, const ExpansionViews<A>& weights,
                   const abi::ExpandedKernels<A>& kernels)
        : cache_(cache), latents_(latents), weights_(weights), kernels_(kernels) {}

    void list(const KeyRange& range, BlockRows& rows) const noexcept override {
        list_rows(cache_, range.begin, range.block(), rows.keys);
    }
    void attend(const SplitItem<A>& item, const BlockRows& rows, Index begin, const BlockRows&) const noexcept override {
        const Index head = item.keys.source;
        const Index count = rows.size();
        const Index nope = weights_.key.out();
        const Index value_dim = weights_.value.out();
        const auto staged = [](A* memory, Index tokens, Index dim) {
            return MatrixView<A>(memory, tokens, dim, staged_stride<A>(dim));
        };
        const auto rows_read = staged(item.staged, count, cache_.row_dim());
        const auto keys = staged(rows_read.data + detail::staged_elements<A>(cache_.row_dim()), count, key_dim());
        const auto values = staged(keys.data + detail::staged_elements<A>(key_dim()), count, value_dim);

        latents_.read(rows.keys.data(), count, cache_.latent_dim, cache_.rope_dim, rows_read.data, rows_read.stride);
        const MatrixView<const A> c = rows_read.columns(0, cache_.latent_dim);
        weights_.key.multiply(c, head, 0, weights_.key.panels(), keys.columns(0, nope));
        weights_.value.multiply(c, head, 0, weights_.value.panels(), values);
        for (Index t = 0; t < count; ++t) {
            A* const end = std::copy_n(rows_read.row(t) + cache_.latent_dim, cache_.rope_dim, keys.row(t) + nope);
            std::fill(end, keys.row(t) + keys.stride, A(0));
            std::fill(values.row(t) + value_dim, values.row(t) + values.stride, A(0));
        }
        const abi::AttendExpanded<A> call{.group = &item.rows,
                                          .keys = keys.data,
                                          .values = values.data,
                                          .key_stride = keys.stride,
                                          .value_stride = values.stride,
                                          .value_dim = value_dim,
                                          .tokens = count,
                                          .begin = begin,
                                          .scores = item.scores};
        kernels_.attend(&call);
    }
    void run_item(FunctionRef<void()> body) const noexcept override { detail::run_item(kernels_.run_item, body); }
    void pack(const abi::PackQueries<A>& call) const noexcept override { kernels_.pack(&call); }
    [[nodiscard]] Index staged_elements() const noexcept override {
        return expanded_elements<A>(cache_.row_dim(), key_dim(), weights_.value.out());
    }

  private:
    [[nodiscard]] Index key_dim() const noexcept { return weights_.key.out() + cache_.rope_dim; }

    TokenRows cache_;
    abi::RowKernels<A> latents_;
    ExpansionViews<A> weights_;
    abi::ExpandedKernels<A> kernels_;
};

/// The rows of one head over all keys.
[[nodiscard]] inline Segment head_segment(const ExpandedPlan& plan, Index head, Index keys) noexcept {
    Segment segment;
    segment.plan.rows = plan.queries;
    segment.plan.group_rows = plan.group_queries;
    segment.plan.keys = keys;
    segment.source = head;
    segment.first_head = head;
    segment.visible = keys - plan.queries + 1;
    segment.one_range = true;
    return segment;
}

template <Compute A>
[[nodiscard]] SegmentTotals<A> expanded_totals(const ExpandedPlan& plan, Index key_dim, Index workers) {
    SegmentTotals<A> totals;
    totals.lanes = tile_shape<A>().lanes;
    totals.depth = key_dim;
    totals.workers = workers;
    for (Index head = 0; head < plan.heads; ++head) {
        Segment segment = head_segment(plan, head, 0);
        totals.place(segment);
    }
    return totals;
}

template <Compute A>
void check_expanded(const CallView<A>& call, const TokenRows& cache, const ExpansionViews<A>& weights, const ExpandedPlan& plan) {
    const HeadsView<const A>& q = call.q;
    check_attention(q, call.scale, call.out, call.lse);
    require_equal("weights.key.count()", weights.key.count(), "q.heads", q.heads);
    require_equal("weights.value.count()", weights.value.count(), "q.heads", q.heads);
    require_equal("weights.key.in()", weights.key.in(), "cache.latent_dim", cache.latent_dim);
    require_equal("weights.value.in()", weights.value.in(), "cache.latent_dim", cache.latent_dim);
    require_equal("q.dim", q.dim, "weights.key.out() + cache.rope_dim", weights.key.out() + cache.rope_dim);
    require_equal("out.dim", call.out.dim, "weights.value.out()", weights.value.out());
    validate(plan);
    require_equal("plan.queries", plan.queries, "q.tokens", q.tokens);
    require_equal("plan.heads", plan.heads, "q.heads", q.heads);
}

/// A request whose cache is valid by itself, read by `latents`.
template <Compute A>
void attend_decompressed(const TokenRows& cache, const abi::RowKernels<A>& latents, const ExpansionViews<A>& weights,
                         const abi::ExpandedKernels<A>& kernels, CallView<A> call, Workspace& workspace, ExecutorRef executor,
                         const ExpandedPlan& plan, std::span<const A> sinks) {
    check_expanded(call, cache, weights, plan);
    if (!sinks.empty()) {
        require_equal("sinks.size()", static_cast<Index>(sinks.size()), "q.heads", call.q.heads);
        call.sinks = sinks.data();
    }
    if (call.q.tokens == 0) return;
    run_call(call.q.heads, false, call, workspace, executor, ExpandedBlocks<A>(cache, latents, weights, kernels),
             [&](Index head) { return head_segment(plan, head, cache.length); });
}

}  // namespace detail

/// Bytes of workspace that `prefill_expanded` needs for this plan; the same for any number of keys.
/// @throws std::invalid_argument when the plan is out of range
template <Compute A>
[[nodiscard]] std::size_t expanded_workspace_bytes(const ExpandedPlan& plan, Index row_dim, Index key_dim, Index value_dim,
                                                   Index concurrency) {
    validate(plan);
    return detail::split_workspace_bytes(detail::expanded_totals<A>(plan, key_dim, concurrency), value_dim,
                                         detail::expanded_elements<A>(row_dim, key_dim, value_dim), concurrency);
}

/// The plan of `plan_expanded`, with as many queries at a time as a workspace of `bytes` takes.
/// @throws std::length_error when it does not take one, naming the bytes that one needs
template <Compute A>
[[nodiscard]] ExpandedPlan plan_expanded_within(std::size_t bytes, Index queries, Index heads, Index row_dim, Index key_dim,
                                                Index value_dim, Index concurrency) {
    ExpandedPlan plan = plan_expanded(queries, heads);
    // Smaller groups need less for their rows and more for the list of them.
    std::size_t least = expanded_workspace_bytes<A>(plan, row_dim, key_dim, value_dim, concurrency);
    for (std::size_t needed = least; needed > bytes && plan.group_queries > 1; least = std::min(least, needed)) {
        plan.group_queries = divide_up(plan.group_queries, Index{2});
        needed = expanded_workspace_bytes<A>(plan, row_dim, key_dim, value_dim, concurrency);
    }
    require_capacity("bytes of a workspace for the fewest queries at a time", least, bytes);
    return plan;
}

/// out[t, h] = softmax(scale · (q_nope·W_UK c + q_pe·k_pe)) · W_UV c under the bottom-right causal mask: of L cached tokens,
/// query t of T sees 0 … L−T+t. A query that sees none gets output 0 and LSE −inf.
///
/// q [T, H, Dn+Dr]: nope, then rotated rope. cache: L rows [latent | rope key]; the queries' own tokens are its last.
/// out [T, H, Dv]. lse [T, H] natural logarithm, or an empty view. out and lse do not overlap the inputs. sinks [H]: a logit a
/// head that takes its share of the softmax and has no value, or empty; the LSE leaves it out. Under Precision::operand latents
/// are rounded to bf16 where the weights are bf16, and queries, keys, probabilities and values where the cache is bf16 or
/// narrower.
///
/// A block of the cache is decompressed, attended to and forgotten before the next, so that scratch does not grow with L but with
/// the plan's `group_queries`, the caller's to set: every group decompresses the cache anew. Allocates only when the workspace
/// must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <Compute A, LatentSource View, Storage S>
void prefill_expanded(HeadsView<std::type_identity_t<const A>> q, View cache, ExpansionWeights<S> weights,
                      std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse,
                      Workspace& workspace, ExecutorRef executor, const ExpandedPlan& plan,
                      std::span<const std::type_identity_t<A>> sinks = {}, Precision precision = Precision::operand) {
    using C = typename View::Element;
    validate(cache);
    const detail::ExpansionViews<A> views{{weights.key, precision}, {weights.value, precision}};
    detail::attend_decompressed<A>(detail::token_rows(cache), detail::row_kernels<A, C>(), views,
                                   detail::expanded_kernels<A, C>(precision), {q, scale, out, lse}, workspace, executor, plan,
                                   sinks);
}

/// As above, with the plan of `plan_expanded`.
template <Compute A, LatentSource View, Storage S>
void prefill_expanded(HeadsView<std::type_identity_t<const A>> q, View cache, ExpansionWeights<S> weights,
                      std::type_identity_t<A> scale, HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse,
                      Workspace& workspace, ExecutorRef executor, std::span<const std::type_identity_t<A>> sinks = {},
                      Precision precision = Precision::operand) {
    require_at_least("q.heads", q.heads, Index{1});
    require_at_least("q.tokens", q.tokens, Index{0});
    prefill_expanded(q, cache, weights, scale, out, lse, workspace, executor, plan_expanded(q.tokens, q.heads), sinks, precision);
}

}  // namespace mla::inline MLA_ISA
