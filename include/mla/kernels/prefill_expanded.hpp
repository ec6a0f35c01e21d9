// Expanded attention: keys and values are decompressed a head at a time, a block of tokens at a time, and attended to as in
// multi-head attention. Fewer multiply-adds than the absorbed form once many queries share a decompressed block.
#pragma once

#include "mla/formats/row_kernels.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/driver.hpp"
#include "mla/kernels/expand_together.hpp"

namespace mla::inline MLA_ISA {

/// The two halves of kv_b_proj, a matrix a head.
template <Storage S>
struct ExpansionWeights {
    const PackedMatrix<S>& key;    ///< W_UKᵀ: H matrices [Dc → Dn]
    const PackedMatrix<S>& value;  ///< W_UVᵀ: H matrices [Dc → Dv]
};

namespace detail {

/// What a worker stages of a block: latents [tokens, Dc+Dr], keys [tokens, Dn+Dr], values [tokens, Dv].
template <Compute A>
[[nodiscard]] constexpr Index expanded_elements(Index row_dim, Index key_dim, Index value_dim) noexcept {
    return staged_elements<A>(row_dim) + staged_elements<A>(key_dim) + staged_elements<A>(value_dim);
}

/// Blocks that each worker decompresses for itself, for the head that is the source of its segment.
template <Compute A>
class ExpandedBlocks final : public BlockSource<A> {
  public:
    explicit ExpandedBlocks(const LatentExpansion<A>& expansion) : expansion_(expansion) {}

    void list(const KeyRange& range, BlockRows& rows) const noexcept override {
        list_rows(expansion_.cache(), range.begin, range.block(), rows.keys);
    }
    void attend(const SplitItem<A>& item, const BlockRows& rows, Index begin, const BlockRows&) const noexcept override {
        const Index head = item.keys.source;
        const Index count = rows.size();
        const auto latents = staged_rows(item.staged, count, expansion_.row_dim());
        const auto keys = staged_rows(latents.data + detail::staged_elements<A>(latents.cols), count, expansion_.key_dim());
        const auto values = staged_rows(keys.data + detail::staged_elements<A>(keys.cols), count, expansion_.value_dim());
        expansion_.read(rows.keys, latents);
        expansion_.decompress_keys(latents, head, keys);
        expansion_.decompress_values(latents, head, values);
        const abi::AttendExpanded<A> block{.group = &item.rows,
                                           .keys = keys.data,
                                           .values = values.data,
                                           .key_stride = keys.stride,
                                           .value_stride = values.stride,
                                           .value_dim = values.cols,
                                           .tokens = count,
                                           .begin = begin,
                                           .scores = item.scores};
        expansion_.round(block);
        expansion_.attend(block);
    }
    void run_item(FunctionRef<void()> body) const noexcept override { expansion_.run_item(body); }
    void pack(const abi::PackQueries<A>& call) const noexcept override { expansion_.pack(call); }
    [[nodiscard]] Index staged_elements() const noexcept override {
        return expanded_elements<A>(expansion_.row_dim(), expansion_.key_dim(), expansion_.value_dim());
    }

  private:
    const LatentExpansion<A>& expansion_;
};

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

/// Each head, or group of its queries, by a worker.
template <Compute A>
void attend_heads(const LatentExpansion<A>& expansion, const CallView<A>& call, Workspace& workspace, ExecutorRef executor,
                  const ExpandedPlan& plan) {
    run_call(plan.heads, false, call, workspace, executor, ExpandedBlocks<A>(expansion),
             [&](Index head) { return head_segment(plan, head, expansion.cache().length); });
}

/// Every head by all workers.
template <Compute A>
void attend_together(const LatentExpansion<A>& expansion, const CallView<A>& call, Workspace& workspace, ExecutorRef executor,
                     const ExpandedPlan& plan) {
    const Index workers = executor.concurrency();
    const TogetherPlan shared(plan, workers);
    const auto scratch = workspace.carve([&](Arena& arena) {
        return TogetherScratch<A>::carve(arena, shared, expansion.row_dim(), call.q.dim, call.out.dim, workers);
    });
    ExpandTogether<A>(shared, scratch, expansion, call).run(executor);
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
    if (!TogetherPlan::pays(plan, executor.concurrency()))
        return attend_heads(LatentExpansion<A>(cache, latents, weights, kernels), call, workspace, executor, plan);
    for (Index begin = 0; begin < plan.queries; begin += plan.group_queries) {
        const Index count = std::min(plan.group_queries, plan.queries - begin);
        const TokenRows visible = cache.prefix(std::max<Index>(cache.length - plan.queries + begin + count, 0));
        const LatentExpansion<A> expansion(visible, latents, weights, kernels);
        const ExpandedPlan group{count, plan.heads, count};
        count > few_rows ? attend_together(expansion, call.token_range(begin, count), workspace, executor, group)
                         : attend_heads(expansion, call.token_range(begin, count), workspace, executor, group);
    }
}

}  // namespace detail

/// Bytes of workspace that `prefill_expanded` needs for this plan; the same for any number of keys.
/// @throws std::invalid_argument when the plan is out of range
template <Compute A>
[[nodiscard]] std::size_t expanded_workspace_bytes(const ExpandedPlan& plan, Index row_dim, Index key_dim, Index value_dim,
                                                   Index concurrency) {
    validate(plan);
    const auto by_heads = [&](const ExpandedPlan& some) {
        return detail::split_workspace_bytes(detail::expanded_totals<A>(some, key_dim, concurrency), value_dim,
                                             detail::expanded_elements<A>(row_dim, key_dim, value_dim), concurrency);
    };
    if (!detail::TogetherPlan::pays(plan, concurrency)) return by_heads(plan);
    const detail::TogetherPlan shared({plan.group_queries, plan.heads, plan.group_queries}, concurrency);
    Arena counter;
    static_cast<void>(detail::TogetherScratch<A>::carve(counter, shared, row_dim, key_dim, value_dim, concurrency));
    const Index few = std::min(plan.queries, detail::few_rows);
    return std::max(counter.bytes(), by_heads({few, plan.heads, std::max<Index>(few, 1)}));
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
