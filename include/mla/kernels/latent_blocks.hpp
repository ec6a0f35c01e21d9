// Cached latents as a block source, and the segments of absorbed attention: a request's queries over its keys, one query over
// keys of its own, all queries over keys that all share.
#pragma once

#include <algorithm>

#include "mla/core/function_ref.hpp"
#include "mla/kernels/attention_kernels.hpp"
#include "mla/kernels/batch.hpp"
#include "mla/kernels/block_source.hpp"
#include "mla/kernels/row_list.hpp"
#include "mla/kernels/run_item.hpp"
#include "mla/kernels/segment.hpp"

namespace mla::inline MLA_ISA::detail {

/// Elements that a worker stages rows of `dims` values each in: pieces of a block, or all of it, with room between its rows.
template <Compute A, class... Dims>
[[nodiscard]] Index staged_blocks(Dims... dims) {
    return tile_shape<A>().piece_values + (staged_elements<A>(dims) + ...);
}

/// Cached latents: a token's latent is the first part of its key and its value. `lister`: lists a block's rows.
template <Compute A>
class LatentBlocks final : public BlockSource<A> {
  public:
    using Lister = FunctionRef<void(const KeyRange&, RowList<std::byte>&)>;

    LatentBlocks(const abi::AttentionKernels<A>& kernels, Index latent_dim, Index rope_dim, Lister lister) noexcept
        : kernels_(kernels), latent_dim_(latent_dim), rope_dim_(rope_dim), lister_(lister) {}

    void list(const KeyRange& range, BlockRows& rows) const noexcept override { lister_(range, rows.keys); }
    void attend(const SplitItem<A>& item, const BlockRows& rows, Index begin, const BlockRows& next) const noexcept override {
        // Of a block that no item has fetched the rest is fetched while the first keys are scored.
        constexpr Index scored_meanwhile = 24;
        const bool fetched = item.fetched || begin > item.keys.begin;
        const abi::AttendBlock<A> call{.group = &item.rows,
                                       .keys = rows.keys.data(),
                                       .values = rows.keys.data(),
                                       .tokens = rows.size(),
                                       .begin = begin,
                                       .latent_dim = latent_dim_,
                                       .rope_dim = rope_dim_,
                                       .fetched = fetched ? rows.size() : std::min(rows.size(), scored_meanwhile),
                                       .next_keys = next.keys.data(),
                                       .next_values = next.keys.data(),
                                       .next_tokens = next.size(),
                                       .staged = item.staged,
                                       .scores = item.scores};
        kernels_.attend(&call);
    }
    void run_item(FunctionRef<void()> body) const noexcept override { detail::run_item(kernels_.run_item, body); }
    void pack(const abi::PackQueries<A>& call) const noexcept override { kernels_.pack(&call); }
    [[nodiscard]] Index staged_elements() const noexcept override { return staged_blocks<A>(latent_dim_ + rope_dim_); }

  private:
    abi::AttentionKernels<A> kernels_;
    Index latent_dim_;
    Index rope_dim_;
    Lister lister_;
};

/// Request `index` of a batch, or the whole of it: the rows of its queries over its keys from `begin` on.
[[nodiscard]] inline Segment request_segment(Index index, Index first_query, Index queries, Index heads, Index begin,
                                             Index length, const KeyTree& tree) noexcept {
    Segment segment;
    segment.plan = plan_absorbed(queries, heads, length - begin);
    segment.source = index;
    segment.first_query = first_query;
    segment.heads = heads;
    segment.begin = begin;
    segment.visible = tree.empty() ? length - queries + 1 : length;
    segment.visible_step = tree.empty() ? 1 : 0;
    segment.tree = tree;
    return segment;
}

/// One query of a request of `queries`, over keys [begin, end) of a source, all of which it sees. Of many queries each is one
/// item.
[[nodiscard]] inline Segment query_segment(Index source, Index query, Index queries, Index heads, Index begin,
                                           Index end) noexcept {
    Segment segment = request_segment(source, query, 1, heads, begin, end, {});
    segment.plan.splits = std::min(segment.plan.splits, divide_up(SplitPlan::wanted_items, queries));
    segment.one_range = segment.plan.splits == 1;
    return segment;
}

/// Query `query` of a batch over the last keys that it may see, at most `window`.
[[nodiscard]] inline Segment window_segment(const BatchRows& caches, std::span<const std::int32_t> query_begin, Index query,
                                            Index heads, Index window) noexcept {
    const std::size_t request = request_of(query_begin, query);
    const Index queries = query_begin[request + 1] - query_begin[request];
    const Index end = std::max<Index>(caches[request].length - (query_begin[request + 1] - query) + 1, 0);
    return query_segment(static_cast<Index>(request), query, queries, heads, std::max<Index>(end - window, 0), end);
}

/// All rows over the keys that all requests share, each of which every row sees.
[[nodiscard]] inline Segment prefix_segment(Index queries, Index heads, Index length) noexcept {
    Segment segment = request_segment(0, 0, queries, heads, 0, length, {});
    segment.visible = length;
    segment.visible_step = 0;
    return segment;
}

}  // namespace mla::inline MLA_ISA::detail
