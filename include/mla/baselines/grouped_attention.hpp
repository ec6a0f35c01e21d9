// Attention over a KV cache in which a key and a value serve a group of query heads.
#pragma once

#include "mla/baselines/kv_cache.hpp"
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/run_item.hpp"

namespace mla::inline MLA_ISA::baselines {
namespace detail {

using namespace mla::detail;

/// The rows of one key-value head.
[[nodiscard]] inline Segment stream_segment(const SplitPlan& plan, Index stream, Index heads, Index queries) noexcept {
    Segment segment;
    segment.plan = plan;
    segment.source = stream;
    segment.first_head = stream * heads;
    segment.heads = heads;
    segment.visible = plan.keys - queries + 1;
    return segment;
}

/// The keys and values of a head, the source of its segment.
template <Compute A, Storage C>
class KeyValueBlocks final : public BlockSource<A> {
  public:
    KeyValueBlocks(const KvView<C>& cache, const abi::AttentionKernels<A>& kernels) noexcept : cache_(cache), kernels_(kernels) {}

    void list(const KeyRange& range, BlockRows& rows) const noexcept override {
        const Index first = range.source * cache_.head_stride + range.begin * cache_.token_stride;
        const Index stride = cache_.token_stride * static_cast<Index>(sizeof(C));
        rows.keys.add(reinterpret_cast<const std::byte*>(cache_.keys + first), stride, range.block());
        rows.values.add(reinterpret_cast<const std::byte*>(cache_.values + first), stride, range.block());
    }
    void attend(const SplitItem<A>& item, const BlockRows& rows, Index begin, const BlockRows& next) const noexcept override {
        const abi::AttendBlock<A> call{.group = &item.rows,
                                       .keys = rows.keys.data(),
                                       .values = rows.values.data(),
                                       .tokens = rows.size(),
                                       .begin = begin,
                                       .latent_dim = cache_.head_dim,
                                       .rope_dim = 0,
                                       .fetched = rows.size(),
                                       .next_keys = next.keys.data(),
                                       .next_values = next.values.data(),
                                       .next_tokens = next.size(),
                                       .staged = item.staged,
                                       .scores = item.scores};
        kernels_.attend(&call);
    }
    void run_item(FunctionRef<void()> body) const noexcept override { detail::run_item(kernels_.run_item, body); }
    void pack(const abi::PackQueries<A>& call) const noexcept override { kernels_.pack(&call); }
    [[nodiscard]] Index staged_elements() const noexcept override { return staged_blocks<A>(cache_.head_dim, cache_.head_dim); }

  private:
    KvView<C> cache_;
    abi::AttentionKernels<A> kernels_;
};

template <Storage C>
void check_view(const KvView<C>& cache) {
    require_at_least("cache.length", cache.length, Index{0});
    require_at_least("cache.kv_heads", cache.kv_heads, Index{1});
    require_at_least("cache.head_dim", cache.head_dim, Index{1});
    require_at_least("cache.token_stride", cache.token_stride, cache.head_dim);
    require_at_least("cache.head_stride", cache.head_stride, Index{0});
    require((cache.keys != nullptr && cache.values != nullptr) || cache.length == 0, "cache.keys or cache.values", "null",
            "not null when cache.length > 0");
}

}  // namespace detail

/// The plan of grouped attention: every key-value head is a stream of its own.
[[nodiscard]] inline SplitPlan plan_grouped(Index queries, Index heads, Index kv_heads, Index keys) noexcept {
    return plan_splits(queries, heads / kv_heads, keys, kv_heads);
}

/// Bytes of workspace that `grouped_attention` needs for this plan; the same for any number of keys.
/// @throws std::invalid_argument when the plan is out of range
template <Compute A>
[[nodiscard]] std::size_t grouped_workspace_bytes(const SplitPlan& plan, Index head_dim, Index concurrency) {
    validate(plan);
    detail::SegmentTotals<A> totals;
    totals.lanes = detail::tile_shape<A>().lanes;
    totals.depth = head_dim;
    totals.workers = concurrency;
    for (Index stream = 0; stream < plan.streams; ++stream) {
        detail::Segment segment = detail::stream_segment(plan, stream, 1, 0);
        totals.place(segment);
    }
    Arena counter;
    static_cast<void>(
        detail::SplitScratch<A>::carve(counter, totals, head_dim, detail::staged_blocks<A>(head_dim, head_dim), concurrency));
    return counter.bytes();
}

/// out[t, h] = softmax(scale · q[t, h] · keys[h / (H/G)]) · values[h / (H/G)] under the bottom-right causal mask.
/// q, out [T, H, D]; cache: L tokens of G heads, the queries' own tokens last; lse [T, H] natural logarithm, or an empty view.
/// out and lse do not overlap the inputs. Allocates only when the workspace must grow.
/// @throws std::invalid_argument when sizes disagree, std::length_error when a caller's workspace is too small
template <Compute A, Storage C>
void grouped_attention(HeadsView<std::type_identity_t<const A>> q, KvView<C> cache, std::type_identity_t<A> scale,
                       HeadsView<A> out, std::type_identity_t<MatrixView<A>> lse, Workspace& workspace, ExecutorRef executor,
                       Precision precision = Precision::operand) {
    detail::check_view(cache);
    detail::check_attention<A>(q, scale, out, lse);
    require_equal("q.dim", q.dim, "cache.head_dim", cache.head_dim);
    require_equal("out.dim", out.dim, "cache.head_dim", cache.head_dim);
    require(q.heads % cache.kv_heads == 0, "q.heads", q.heads, "a multiple of cache.kv_heads");
    if (q.tokens == 0) return;
    const SplitPlan plan = plan_grouped(q.tokens, q.heads, cache.kv_heads, cache.length);
    detail::run_call<A>(cache.kv_heads, false, {q, scale, out, lse}, workspace, executor,
                        detail::KeyValueBlocks<A, C>(cache, detail::attention_kernels<A, C>(precision)),
                        [&](Index stream) { return detail::stream_segment(plan, stream, q.heads / cache.kv_heads, q.tokens); });
}

}  // namespace mla::inline MLA_ISA::baselines
