// How the work of a call is shared out: the same results for any number of workers, work for all of them, and little of it for
// the merging.
#include <gtest/gtest.h>

#include <algorithm>
#include <queue>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/testing/shape_problems.hpp"
#include "support/attention_result.hpp"
#include "support/executors.hpp"
#include "support/stored_rows.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::Generator;

// Results -----------------------------------------------------------------------------------------------------------

template <class C>
class AnyNumberOfWorkers : public ::testing::Test {};
using Formats = TestTypes<Without<double, CacheTypes>>;
TYPED_TEST_SUITE(AnyNumberOfWorkers, Formats, );

/// Few rows; a group that is cut evenly, with a rest, and with a rest that would become few; several groups, the last of them
/// few.
TYPED_TEST(AnyNumberOfWorkers, GivesTheSameBits) {
    Generator generator(5);
    for (const Index heads : {1, 3, 16, 63, 68, 128, 130})
        for (const Index queries : {1, 2})
            for (const Index length : {1, 63, 257, 1100}) {
                constexpr Index Dc = 48, Dr = 8;
                const auto q = testing::gaussian_values<float>(generator, queries * heads * (Dc + Dr));
                const StoredRows<TypeParam> rows(length, Dc, Dr, 6);
                const auto attend = [&](ExecutorRef executor) {
                    AttentionResult<float> result{queries, heads, Dc};
                    Workspace workspace;
                    decode_absorbed(HeadsView<const float>(q.data(), queries, heads, Dc + Dr), rows.view(), 0.3F,
                                    result.out_view(), result.lse_view(), workspace, executor);
                    return result;
                };
                const auto expected = attend(SerialExecutor{});
                for (const Index workers : {2, 5, 16, 64, 100})
                    EXPECT_TRUE(attend(BackwardExecutor(workers)).same(expected))
                        << heads << " heads, " << queries << " queries, " << length << " keys, " << workers << " workers";
            }
}

// Balance -----------------------------------------------------------------------------------------------------------

/// Seconds that pieces of a decoded token took on a Zen 3 core, DeepSeek's 512 + 64 values in bf16.
constexpr double row_key_seconds = 28e-9;
constexpr double merged_row_seconds = 0.1e-6;
constexpr double item_seconds = 1e-6;  ///< taking it, and starting on cold rows
/// How much longer a row takes that shares the reading of keys with fewer than 128: 1.03 times with 64, 1.11 with 16, 1.37
/// with 8.
[[nodiscard]] double of_fewer_rows(Index rows) {
    return rows < 16 ? 1.37 : 1.0 + 0.11 * static_cast<double>(128 - std::min<Index>(rows, 128)) / 112.0;
}

/// One request's work as `workers` workers get it.
struct Shares {
    detail::Segment segment;
    std::vector<detail::WorkItem> items;
};
[[nodiscard]] Shares share_out(Index heads, Index keys, Index workers) {
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

/// What a token takes, each worker taking the next item as it becomes free, and then the next row to be merged.
[[nodiscard]] double simulate(Index heads, Index keys, Index workers) {
    const Shares shares = share_out(heads, keys, workers);
    const detail::Segment& segment = shares.segment;
    std::priority_queue<double, std::vector<double>, std::greater<>> free(std::greater<>{},
                                                                          std::vector<double>(static_cast<std::size_t>(workers)));
    double end = 0.0;
    for (const detail::WorkItem& item : shares.items) {
        const Index rows = segment.plan.rows_of(item.group);
        const auto first = detail::first_split(segment, item);
        const auto merges = static_cast<double>(rows * (detail::last_split(segment, item) - first));
        const double seconds =
            item_seconds + row_key_seconds * of_fewer_rows(rows) * static_cast<double>(item.cost) + merged_row_seconds * merges;
        const double done = free.top() + seconds;
        free.pop();
        free.push(done);
        end = std::max(end, done);
    }
    const auto rounds = static_cast<double>(divide_up(heads, workers));
    return end + rounds * merged_row_seconds * static_cast<double>(segment.parts());
}

TEST(ShareOutTest, SixtyFourWorkersGetWorkFromOneRequest) {
    for (const Index heads : {16, 128})
        for (const Index keys : {4096, 16384, 65536})
            for (const Index workers : {2, 4, 8, 16, 32, 64})
                EXPECT_GE(static_cast<Index>(share_out(heads, keys, workers).items.size()), workers)
                    << heads << " heads, " << keys << " keys";
}

TEST(ShareOutTest, SixteenWorkersAreFourteenTimesAsFastAsOne) {
    for (const Index heads : {16, 128})
        for (const Index keys : {4096, 16384, 65536})
            EXPECT_GE(simulate(heads, keys, 1) / simulate(heads, keys, 16), 14.0) << heads << " heads, " << keys << " keys";
}

/// 64 equal items keep as many workers busy as divide 64; of 48 half wait for the second item of the others.
TEST(ShareOutTest, WorkersAreAsBusyAsSixtyFourItemsAllow) {
    for (const Index heads : {16, 128})
        for (const Index keys : {4096, 16384, 65536})
            for (Index workers = 1; workers <= 128; ++workers) {
                const double allowed = 64.0 / static_cast<double>(divide_up(64, workers));
                EXPECT_GE(simulate(heads, keys, 1) / simulate(heads, keys, workers), 0.72 * allowed)
                    << heads << " heads, " << keys << " keys, " << workers << " workers";
            }
}

/// A long request among short ones gets items by its length.
TEST(ShareOutTest, ALongRequestIsCutFurtherThanShortOnes) {
    detail::SegmentTotals<float> whole;
    whole.workers = 16;
    auto request = detail::request_segment(0, 0, 1, 16, 0, 65536, {});
    auto short_request = detail::request_segment(1, 1, 1, 16, 0, 512, {});
    for (int i = 0; i < 31; ++i) {
        auto placed = short_request;
        whole.place(placed);
    }
    auto placed = request;
    whole.place(placed);
    whole.share_out(request);
    whole.share_out(short_request);
    EXPECT_EQ(request.parts(), 64);
    EXPECT_EQ(short_request.parts(), 1);
}

TEST(ShareOutTest, OneWorkerMergesForAFewPercentOfItsTime) {
    for (const Index heads : {1, 16, 128})
        for (const Index keys : {64, 1024, 4096, 65536}) {
            const Shares shares = share_out(heads, keys, 1);
            EXPECT_EQ(shares.items.size(), 1U);
            const double merging = merged_row_seconds * static_cast<double>(heads * (shares.segment.plan.splits - 1));
            EXPECT_LE(merging, 0.06 * simulate(heads, keys, 1)) << heads << " heads, " << keys << " keys";
        }
}

}  // namespace
}  // namespace mla
