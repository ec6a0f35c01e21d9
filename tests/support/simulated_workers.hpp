// Calls as some workers would take them, simulated with what their pieces took on one core.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <queue>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/prefill_expanded.hpp"

namespace mla {

/// Seconds that pieces of a decoded token took on a Zen 3 core, DeepSeek's 512 + 64 values in bf16.
constexpr double row_key_seconds = 28e-9;
constexpr double merged_row_seconds = 0.1e-6;
constexpr double item_seconds = 1e-6;  ///< taking it, and starting on cold rows
/// How much longer a row takes that shares the reading of keys with fewer than 128: 1.03 times with 64, 1.11 with 16, 1.37
/// with 8.
[[nodiscard]] inline double of_fewer_rows(Index rows) {
    return rows < 16 ? 1.37 : 1.0 + 0.11 * static_cast<double>(128 - std::min<Index>(rows, 128)) / 112.0;
}

/// Seconds of a multiply-add of expanded attention, decompression and products alike, and of a loop's beginning and end.
constexpr double multiply_add_seconds = 30e-12;
constexpr double loop_seconds = 5e-6;

/// The time of the last of some workers, each taking the next item as it becomes free.
template <class Cost>
[[nodiscard]] double last_worker_seconds(Index items, Index workers, Cost cost) {
    std::priority_queue<double, std::vector<double>, std::greater<>> free(std::greater<>{},
                                                                          std::vector<double>(static_cast<std::size_t>(workers)));
    double end = 0.0;
    for (Index item = 0; item < items; ++item) {
        const double done = free.top() + item_seconds + cost(item);
        free.pop();
        free.push(done);
        end = std::max(end, done);
    }
    return end;
}

/// The same with a loop's beginning and end, where it is one.
template <class Cost>
[[nodiscard]] double loop_time(Index items, Index workers, Cost cost) {
    return last_worker_seconds(items, workers, cost) + (std::min(items, workers) > 1 ? loop_seconds : 0.0);
}

/// One request's work as `workers` workers get it.
struct Shares {
    detail::Segment segment;
    std::vector<detail::WorkItem> items;
};
[[nodiscard]] inline Shares share_out(Index heads, Index keys, Index workers) {
    detail::SegmentTotals<float> whole;
    whole.lanes = 8;
    whole.depth = 576;
    whole.workers = workers;
    auto shared = whole;
    Shares shares{detail::request_segment(0, 0, 1, heads, 0, keys, {}), {}};
    auto placed = shares.segment;
    whole.place(placed);
    whole.share_out(shares.segment);
    shared.place(shares.segment);
    EXPECT_LE(shared.items, whole.most_items());
    shares.items.resize(static_cast<std::size_t>(shared.items));
    detail::list_items(&shares.segment, 1, shares.items.data());
    return shares;
}

/// What the attention of a token takes.
[[nodiscard]] inline double decode_seconds(Index heads, Index keys, Index workers) {
    const Shares shares = share_out(heads, keys, workers);
    const detail::Segment& segment = shares.segment;
    const double attending = last_worker_seconds(static_cast<Index>(shares.items.size()), workers, [&](Index index) {
        const detail::WorkItem& item = shares.items[static_cast<std::size_t>(index)];
        const Index rows = segment.plan.rows_of(item.group);
        const Index merges = rows * (detail::last_split(segment, item) - detail::first_split(segment, item));
        return row_key_seconds * of_fewer_rows(rows) * static_cast<double>(item.cost) +
               merged_row_seconds * static_cast<double>(merges);
    });
    const auto rounds = static_cast<double>(divide_up(heads, workers));
    return attending + rounds * merged_row_seconds * static_cast<double>(segment.parts());
}

/// DeepSeek's heads: keys of 512 values that become 128 + 128, scores of 192 and values of 128.
[[nodiscard]] inline double decompression(Index keys) { return multiply_add_seconds * 512.0 * 256.0 * static_cast<double>(keys); }

/// Queries [begin, end) of T, of which the last sees all L keys, over keys [first, last).
[[nodiscard]] inline double attention(Index begin, Index end, Index T, Index L, Index first, Index last) {
    Index pairs = 0;
    for (Index t = begin; t < end; ++t) pairs += std::clamp(L - T + t + 1, first, last) - first;
    return multiply_add_seconds * 320.0 * of_fewer_rows(end - begin) * static_cast<double>(pairs);
}

[[nodiscard]] inline double prefill_seconds(Index heads, Index T, Index L, Index workers) {
    const ExpandedPlan plan = plan_expanded(T, heads);
    if (!detail::TogetherPlan::pays(plan, workers))
        return loop_time(heads, workers, [&](Index) { return decompression(L) + attention(0, T, T, L, 0, L); });
    const detail::TogetherPlan shared(plan, workers);
    double seconds = 0.0;
    for (Index portion = 0; portion < shared.portions(L); ++portion) {
        const Index first = shared.portion_begin(portion, L);
        const Index last = shared.portion_begin(portion + 1, L);
        const Index items = shared.decompressing(last - first);
        seconds += loop_time(items, workers, [&](Index) {
            return decompression(last - first) * static_cast<double>(heads) / static_cast<double>(items);
        });
        seconds += loop_time(shared.attending(), workers, [&](Index item) {
            const Index begin = shared.group(item) * shared.plan.group_queries;
            return attention(begin, std::min(begin + shared.plan.group_queries, T), T, L, first, last);
        });
    }
    return seconds;
}

}  // namespace mla
