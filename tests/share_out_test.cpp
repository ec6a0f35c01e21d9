// How the work of a call is shared out: the same results for any number of workers, work for all of them, and little of it for
// the merging.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/prefill_expanded.hpp"
#include "mla/testing/shape_problems.hpp"
#include "support/attention_result.hpp"
#include "support/executors.hpp"
#include "support/kernels.hpp"
#include "support/simulated_workers.hpp"
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

/// Heads that are fewer than the workers, which then decompress keys together; queries that are few, one group and several, with
/// a rest that would be few; one portion of keys and more.
TYPED_TEST(AnyNumberOfWorkers, GivesTheSameBitsOfTheExpandedForm) {
    Generator generator(5);
    for (const Index heads : {1, 3})
        for (const auto& shape :
             std::vector<std::pair<Index, Index>>{{2, 300}, {5, 3}, {70, 1250}, {130, 200}, {323, 323}, {4099, 5}}) {
            const Index queries = shape.first;
            const Index length = shape.second;
            constexpr Index Dc = 48, Dr = 8, Dn = 24, Dv = 20;
            const auto q = testing::gaussian_values<float>(generator, queries * heads * (Dn + Dr));
            const auto kv_b = testing::gaussian_values<bf16>(generator, heads * (Dn + Dv) * Dc, 0.15);
            const PackedExpansion<bf16> packed(TensorRef(kv_b.data(), heads * (Dn + Dv), Dc), heads, Dn, Dv);
            const StoredRows<TypeParam> rows(length, Dc, Dr, 6);
            const ExpandedPlan plan = plan_expanded(queries, heads);
            const auto attend = [&](ExecutorRef executor) {
                AttentionResult<float> result{queries, heads, Dv};
                const std::size_t bytes = expanded_workspace_bytes<float>(plan, Dc + Dr, Dn + Dr, Dv, executor.concurrency());
                const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
                Workspace exact{std::span(memory.get(), bytes)};
                prefill_expanded(HeadsView<const float>(q.data(), queries, heads, Dn + Dr), rows.view(), packed.weights(), 0.3F,
                                 result.out_view(), result.lse_view(), exact, executor);
                return result;
            };
            const auto expected = attend(SerialExecutor{});
            for (const Index workers : {2, 5, 64})
                EXPECT_TRUE(attend(BackwardExecutor(workers)).same(expected))
                    << heads << " heads, " << queries << " queries, " << length << " keys, " << workers << " workers";
            EXPECT_TRUE(attend(ThreadExecutor(4)).same(expected)) << heads << " heads, " << queries << " queries";
        }
}

// Balance -----------------------------------------------------------------------------------------------------------

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
            EXPECT_GE(decode_seconds(heads, keys, 1) / decode_seconds(heads, keys, 16), 14.0)
                << heads << " heads, " << keys << " keys";
}

/// 64 equal items keep as many workers busy as divide 64; of 48 half wait for the second item of the others.
TEST(ShareOutTest, WorkersAreAsBusyAsSixtyFourItemsAllow) {
    for (const Index heads : {16, 128})
        for (const Index keys : {4096, 16384, 65536})
            for (Index workers = 1; workers <= 128; ++workers) {
                const double allowed = 64.0 / static_cast<double>(divide_up(64, workers));
                EXPECT_GE(decode_seconds(heads, keys, 1) / decode_seconds(heads, keys, workers), 0.72 * allowed)
                    << heads << " heads, " << keys << " keys, " << workers << " workers";
            }
}

// Prefill -----------------------------------------------------------------------------------------------------------

TEST(ShareOutTest, APromptOfFewHeadsKeepsSixtyFourWorkersBusy) {
    for (const Index heads : {8, 16, 64, 128})
        for (const auto& [T, L] : std::vector<std::pair<Index, Index>>{{512, 512}, {512, 4096}, {2048, 2048}, {4096, 4096}})
            for (const Index workers : {4, 8, 16, 24, 32, 48, 64}) {
                const double gain = prefill_seconds(heads, T, L, 1) / prefill_seconds(heads, T, L, workers);
                EXPECT_GE(gain, (heads < 16 ? 0.6 : 0.84) * static_cast<double>(workers))
                    << heads << " heads, " << T << " queries, " << L << " keys, " << workers << " workers";
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
            EXPECT_LE(merging, 0.06 * decode_seconds(heads, keys, 1)) << heads << " heads, " << keys << " keys";
        }
}

}  // namespace
}  // namespace mla
