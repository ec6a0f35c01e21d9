// Plans: that they cut all of the work and cut it once, by sizes alone, and choose the cheaper form.
#include "mla/kernels/plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/presets.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

constexpr Index rows_in_l2 = 128;
constexpr Index key_counts[] = {0, 1, 95, 96, 97, 384, 385, 700, 3072, 3073, 4099, 65536, 1000003};

TEST(PlanCostTest, SelectingKeysPaysOnceThereAreMoreThanAreSelected) {
    const Config config = presets::deepseek_v3_2();
    EXPECT_GT(sparse_cost(config, 1, 2048), absorbed_cost(config, 1, 2048));
    EXPECT_LT(sparse_cost(config, 1, 2300), absorbed_cost(config, 1, 2300));
    // 128 heads · (2·512 + 64) against 64 · (128 + 1)
    const double scored = sparse_cost(config, 1, 1'000'001) - sparse_cost(config, 1, 1'000'000);
    EXPECT_DOUBLE_EQ(scored, 64.0 * 129.0);
    EXPECT_NEAR(absorbed_cost(config, 1, 100'000'000) / sparse_cost(config, 1, 100'000'000), 16.9, 0.05);
    EXPECT_EQ(sparse_cost(presets::deepseek_v3(), 3, 500), absorbed_cost(presets::deepseek_v3(), 3, 500));
}

TEST(PlanTest, ItemsCoverEveryRowAndKeyOnce) {
    for (const Index queries : {1, 2, 5, 17, 300})
        for (const Index heads : {1, 3, 16, 22, 63, 128, 129, 1000})
            for (const Index keys : key_counts) {
                const SplitPlan plan = plan_absorbed(queries, heads, keys);
                EXPECT_EQ(plan.streams, 1);
                EXPECT_EQ(plan.rows, queries * heads);
                EXPECT_EQ(plan.keys, keys);
                Index rows = 0;
                for (Index group = 0; group < plan.groups(); ++group) {
                    EXPECT_GE(plan.rows_of(group), 1);
                    EXPECT_LE(plan.rows_of(group), plan.group_rows);
                    rows += plan.rows_of(group);
                }
                EXPECT_EQ(rows, plan.rows);
                EXPECT_EQ(plan.split_begin(0), 0);
                EXPECT_EQ(plan.split_begin(plan.splits), keys);
                for (Index split = 0; split < plan.splits; ++split)
                    EXPECT_LE(plan.split_begin(split), plan.split_begin(split + 1));
            }
}

TEST(PlanTest, PlansBeyondTheirProblemAreRefused) {
    constexpr Index huge = Index{1} << 62;
    const auto spoilt = [](Index SplitPlan::*member, Index value) {
        SplitPlan plan{1, 6, 4, 10, 2};
        plan.*member = value;
        return plan;
    };
    const std::pair<SplitPlan, const char*> cases[] = {
        {spoilt(&SplitPlan::streams, 0), "plan.streams is 0, must be at least 1"},
        {spoilt(&SplitPlan::streams, huge), "plan.streams * plan.rows * plan.splits is 5.53402e+19, must be in [0, 1.09951e+12]"},
        {spoilt(&SplitPlan::rows, -1), "plan.rows is -1, must be at least 0"},
        {spoilt(&SplitPlan::rows, huge), "plan.streams * plan.rows * plan.splits is 9.22337e+18, must be in [0, 1.09951e+12]"},
        {spoilt(&SplitPlan::keys, -1), "plan.keys is -1, must be at least 0"},
        {spoilt(&SplitPlan::group_rows, 0), "plan.group_rows is 0, must be in [1, 6]"},
        {spoilt(&SplitPlan::group_rows, 7), "plan.group_rows is 7, must be in [1, 6]"},
        {spoilt(&SplitPlan::group_rows, huge), "plan.group_rows is 4611686018427387904, must be in [1, 6]"},
        {spoilt(&SplitPlan::splits, 0), "plan.splits is 0, must be in [1, 10]"},
        {spoilt(&SplitPlan::splits, huge), "plan.splits is 4611686018427387904, must be in [1, 10]"},
    };
    validate(spoilt(&SplitPlan::splits, 10));
    for (const auto& [plan, message] : cases)
        EXPECT_EQ(testing::thrown<std::invalid_argument>(
                      [&, &used = plan] { static_cast<void>(absorbed_workspace_bytes<float>(used, 512, 64, 1)); }),
                  std::string("mla: ") + message);
}

TEST(PlanTest, AGroupHoldsWholeQueriesAndFitsItsCache) {
    for (const Index queries : {1, 2, 5, 17, 300})
        for (const Index heads : {1, 3, 16, 22, 63, 128}) {
            const SplitPlan plan = plan_absorbed(queries, heads, 1000);
            EXPECT_LE(plan.group_rows, rows_in_l2);
            EXPECT_EQ(plan.group_rows % heads, 0) << queries << " queries of " << heads << " heads";
        }
    EXPECT_EQ(plan_absorbed(1, 1000, 1000).group_rows, rows_in_l2);
}

TEST(PlanTest, RangesOfKeysAreEvenAndWorthMerging) {
    constexpr Index unit = SplitPlan::range_tokens;
    for (const Index keys : key_counts)
        for (const Index heads : {1, 128, 1000}) {
            const SplitPlan plan = plan_absorbed(1, heads, keys);
            EXPECT_LE(plan.splits, plan.wanted_splits());
            const Index units = divide_up(keys, unit);
            for (Index split = 0; split < plan.splits; ++split) {
                EXPECT_EQ(plan.split_begin(split) % unit, 0);
                const Index range = divide_up(plan.split_begin(split + 1) - plan.split_begin(split), unit);
                EXPECT_GE(range, units / plan.splits);
                EXPECT_LE(range, divide_up(units, plan.splits));
            }
        }
}

TEST(PlanTest, SixteenRowsOfEachRangeMakeSixtyFourItemsOfALongContext) {
    for (const Index heads : {1, 16, 48, 128, 384, 1000}) {
        const SplitPlan plan = plan_absorbed(1, heads, 65536);
        const Index items = divide_up(plan.rows, SplitPlan::item_rows) * plan.splits;
        EXPECT_GE(items, SplitPlan::wanted_items);
        EXPECT_LT(items, 2 * SplitPlan::wanted_items);
    }
}

TEST(PlanTest, StreamsShareTheRanges) {
    const SplitPlan plan = plan_splits(3, 4, 5000, 8);
    EXPECT_EQ(plan.rows, 12);
    EXPECT_EQ(8 * plan.groups() * plan.splits, SplitPlan::wanted_items);
}

TEST(PlanTest, WorkspaceDoesNotGrowWithTheKeys) {
    for (const Index queries : {1, 17})
        for (const Index heads : {1, 16, 128}) {
            const auto bytes = [&](Index keys) {
                return absorbed_workspace_bytes<float>(plan_absorbed(queries, heads, keys), 512, 64, 2);
            };
            for (const Index keys : key_counts) EXPECT_EQ(bytes(keys), bytes(0)) << keys << " keys";
        }
}

TEST(PlanTest, WorkspaceGrowsWithTheThreads) {
    const SplitPlan plan = plan_absorbed(1, 16, 1000);
    const auto bytes = [&](Index threads) { return absorbed_workspace_bytes<float>(plan, 512, 64, threads); };
    EXPECT_GT(bytes(2), bytes(1));
    EXPECT_GT(bytes(64), bytes(2));
}

TEST(PlanTest, ExpandedItemsCoverEveryQueryOnce) {
    for (const Index queries : {1, 5, 511, 512, 513, 2048, 4097, 100000})
        for (const Index heads : {1, 3, 8, 128}) {
            const ExpandedPlan plan = plan_expanded(queries, heads);
            EXPECT_EQ(plan.items(), heads * plan.groups());
            EXPECT_GE(plan.groups() * plan.group_queries, queries);
            EXPECT_LT((plan.groups() - 1) * plan.group_queries, queries);
            EXPECT_LE(plan.group_queries, 4096);
            EXPECT_GE(plan.group_queries, std::min<Index>(queries, 4096));
        }
}

TEST(PlanTest, QueriesOfAHeadShareOneDecompression) {
    for (const Index heads : {1, 16}) {
        EXPECT_EQ(plan_expanded(4096, heads).groups(), 1);
        EXPECT_EQ(plan_expanded(4097, heads).groups(), 2);
    }
}

// The form ----------------------------------------------------------------------------------------------------------

TEST(PlanTest, CostsCountMultiplyAdds) {
    Config config;
    config.num_attention_heads = 3;
    config.kv_lora_rank = 10;
    config.qk_nope_head_dim = 5;
    config.qk_rope_head_dim = 2;
    config.v_head_dim = 7;
    // 4 queries on 6 keys see 3 + 4 + 5 + 6 = 18 keys. Absorbed 2·10+2 each, and 10·(5+7) a query; expanded 5+2+7 each, and
    // 10·(5+7) a key.
    EXPECT_EQ(absorbed_cost(config, 4, 6), 3.0 * (18 * 22 + 4 * 120));
    EXPECT_EQ(expanded_cost(config, 4, 6), 3.0 * (18 * 14 + 6 * 120));
}

TEST(PlanTest, FormsMeetNear171QueriesForDeepSeekV3) {
    // Dc(Dn+Dv) / ((2Dc+Dr) − (Dn+Dr+Dv)) = 512·256 / (1088 − 320) = 170.7, were absorbing free and all keys visible.
    const Config config = presets::deepseek_v3();
    constexpr Index keys = 1000000;
    Index queries = 1;
    while (choose_form(config, queries, keys) == Form::absorbed) ++queries;
    EXPECT_EQ(queries, 171);
}

TEST(PlanTest, DecodeIsAbsorbedAndAWholePromptExpanded) {
    for (const Config& config : {presets::deepseek_v3(), presets::deepseek_v2_lite(), presets::minicpm3_4b()}) {
        for (const Index keys : {2, 100, 100000}) EXPECT_EQ(choose_form(config, 1, keys), Form::absorbed);
        for (const Index queries : {2, 10, 1000}) EXPECT_EQ(choose_form(config, queries, queries), Form::expanded);
    }
}

}  // namespace
}  // namespace mla
