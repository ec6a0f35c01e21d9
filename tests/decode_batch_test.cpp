// Absorbed attention of many requests: pages, formats, mixed batches, trees, sinks, and a prefix that all share.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/prefill_expanded.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/attention_result.hpp"
#include "support/kernels.hpp"
#include "support/stored_rows.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::Generator;
using testing::sum_tolerance;
using testing::thrown;
using testing::within;

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Shape {
    Index T, H, L, Dc, Dr;
};

std::ostream& operator<<(std::ostream& stream, const Shape& s) {
    return stream << "T " << s.T << ", H " << s.H << ", L " << s.L << ", Dc " << s.Dc << ", Dr " << s.Dr;
}

[[nodiscard]] float scale_of(Index dim) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim))); }

[[nodiscard]] std::vector<float> random_queries(Index count, std::uint64_t seed) {
    Generator generator(seed);
    // Values of bf16, which kernels that round queries leave as they are.
    const auto rounded = testing::gaussian_values<bf16>(generator, count);
    return {rounded.begin(), rounded.end()};
}

template <LatentSource View>
[[nodiscard]] AttentionResult<float> attend_alone(const std::vector<float>& queries, Index T, Index H, const View& cache,
                                                  float scale) {
    AttentionResult<float> result{T, H, cache.latent_dim};
    Workspace workspace;
    decode_absorbed(HeadsView<const float>(queries.data(), T, H, cache.row_dim()), cache, scale, result.out_view(),
                    result.lse_view(), workspace, SerialExecutor{});
    return result;
}

template <LatentSource View>
[[nodiscard]] AttentionResult<float> attend_alone(const std::vector<float>& queries, Index T, Index H, const View& cache) {
    return attend_alone(queries, T, H, cache, scale_of(cache.row_dim()));
}

template <CacheElement C>
[[nodiscard]] reference::Attended attend_reference(const std::vector<float>& queries, Index T, Index H, const StoredRows<C>& rows,
                                                   float scale) {
    const Index dim = rows.format.values();
    return reference::attend_absorbed(testing::widened(queries, T * H, dim), T, H, rows.matrix(), rows.format.latent_dim,
                                      static_cast<double>(scale));
}

template <CacheElement C>
[[nodiscard]] double tolerance(const Shape& s) {
    return sum_tolerance<float>(s.Dc + s.Dr + s.L) + decode_allowance<C>;
}

// Formats and pages -------------------------------------------------------------------------------------------------

template <class C>
class DecodeFormatsTest : public ::testing::Test {};
TYPED_TEST_SUITE(DecodeFormatsTest, TestTypes<CacheTypes>);

const std::vector<Shape> shapes = {{1, 1, 20, 32, 8},   {2, 3, 140, 33, 8},   {1, 16, 700, 512, 64}, {4, 9, 140, 96, 64},
                                   {1, 63, 300, 64, 0}, {2, 128, 97, 130, 8}, {13, 5, 385, 256, 32}, {1, 9, 130, 33, 7}};

TYPED_TEST(DecodeFormatsTest, MatchesTheReferenceOnTheRowsAsTheyReadBack) {
    for (const Shape& s : shapes) {
        const StoredRows<TypeParam> rows(s.L, s.Dc, s.Dr, 1);
        const auto queries = random_queries(s.T * s.H * (s.Dc + s.Dr), 2);
        const auto result = attend_alone(queries, s.T, s.H, rows.view());
        const auto expected = attend_reference(queries, s.T, s.H, rows, scale_of(s.Dc + s.Dr));
        const auto error = testing::compare(result.out, expected.output.values);
        EXPECT_TRUE(within(error, tolerance<TypeParam>(s))) << s << ": " << error;
        EXPECT_TRUE(within(testing::compare(result.lse, expected.lse.values), tolerance<TypeParam>(s))) << s;
    }
}

TYPED_TEST(DecodeFormatsTest, AScaleMayBeNegativeAndLarge) {
    const StoredRows<TypeParam> rows(140, 96, 16, 1);
    auto queries = random_queries(2 * 9 * 112, 2);
    for (float& value : queries) value = -value;
    const auto expected = attend_alone(queries, 2, 9, rows.view(), 0.125F);
    for (float& value : queries) value /= -128.0F;
    EXPECT_TRUE(attend_alone(queries, 2, 9, rows.view(), -16.0F).same(expected));  // powers of two change no bits
}

TYPED_TEST(DecodeFormatsTest, NaNInATokenReachesAllThatSeeItAndLeavesTheOthersRightOrNaN) {
    constexpr Index T = 3, H = 5, L = 140, Dc = 32, dim = 40;
    StoredRows<TypeParam> rows(L, Dc, dim - Dc, 1);
    const auto queries = random_queries(T * H * dim, 2);
    const auto expected = attend_reference(queries, T, H, rows, scale_of(dim));
    const std::vector<float> poisoned(static_cast<std::size_t>(dim), not_a_number<float>);
    // Not the last one, whose NaN the maximum would keep.
    write_row(rows.format, poisoned.data(), rows.elements.data() + (L - 2) * rows.stride);
    const auto result = attend_alone(queries, T, H, rows.view());
    for (Index row = 0; row < T * H; ++row) {
        const float* const out = result.out.data() + row * Dc;
        if (row >= (T - 2) * H) {
            EXPECT_TRUE(result.is_nan(row)) << row << " sees the token";
            continue;
        }
        if (std::all_of(out, out + Dc, [](float value) { return std::isnan(value); })) continue;
        const double* const right = expected.output.row(row);
        const auto error = testing::compare(std::vector<float>(out, out + Dc), std::vector<double>(right, right + Dc));
        EXPECT_TRUE(within(error, tolerance<TypeParam>({T, H, L, Dc, dim - Dc}))) << row << ": " << error;
    }
}

TYPED_TEST(DecodeFormatsTest, PagesGiveTheBitsOfContiguousRows) {
    for (const Shape& s : shapes) {
        const StoredRows<TypeParam> rows(s.L, s.Dc, s.Dr, 3, Quantised<TypeParam> ? 8 : 3);
        const auto queries = random_queries(s.T * s.H * (s.Dc + s.Dr), 4);
        const auto expected = attend_alone(queries, s.T, s.H, rows.view());
        for (const Index page_size : {1, 3, 16, 17, 32, 64, 128, 256}) {
            const ScatteredRows<TypeParam> pages(rows, page_size, 5);
            EXPECT_TRUE(attend_alone(queries, s.T, s.H, pages.view()).same(expected)) << s << ", pages of " << page_size;
        }
    }
}

TYPED_TEST(DecodeFormatsTest, ExpandedAttentionReadsPagesAndFormatsToo) {
    constexpr Index T = 5, H = 3, L = 210, Dc = 64, Dr = 8, Dn = 12, Dv = 10;
    const StoredRows<TypeParam> rows(L, Dc, Dr, 6);
    const auto queries = random_queries(T * H * (Dn + Dr), 7);
    const auto kv_b = random_queries(H * (Dn + Dv) * Dc, 8);
    const PackedExpansion<float> packed(TensorRef(kv_b.data(), H * (Dn + Dv), Dc), H, Dn, Dv);
    const auto run = [&](const auto& view) {
        AttentionResult<float> result{T, H, Dv};
        Workspace workspace;
        prefill_expanded(HeadsView<const float>(queries.data(), T, H, Dn + Dr), view, packed.weights(), 0.05F, result.out_view(),
                         result.lse_view(), workspace, SerialExecutor{}, {}, Precision::full);
        return result;
    };
    // What is read back to float, stored as float, is the same input; rounded to meet a narrow cache it would be another.
    const auto values = rows.matrix().values;
    const std::vector<float> plain(values.begin(), values.end());
    const auto expected = run(LatentView<float>{plain.data(), L, Dc, Dr, Dc + Dr});
    EXPECT_TRUE(run(rows.view()).same(expected));
    EXPECT_TRUE(run(ScatteredRows<TypeParam>(rows, 16, 9).view()).same(expected));
}

TEST(DecodeInt8Test, AHostsScalesMayBeNegative) {
    StoredRows<int8> rows(200, 64, 16, 1);
    for (Index t = 0; t < rows.length; t += 3) {
        int8* const row = rows.elements.data() + t * rows.stride;
        const float scale = -Format<int8>::scale(rows.format, row, 0);
        std::memcpy(static_cast<void*>(row + Format<int8>::scale_offset(rows.format.latent_dim)), &scale, sizeof scale);
    }
    const auto queries = random_queries(9 * 80, 2);
    const auto error = testing::compare(attend_alone(queries, 1, 9, rows.view()).out,
                                        attend_reference(queries, 1, 9, rows, scale_of(80)).output.values);
    EXPECT_TRUE(within(error, tolerance<int8>({1, 9, 200, 64, 16}))) << error;
}

/// Whole numbers, so that scores are exact up to the scale, and so large that the largest and the maximum, which are rounded
/// apart, may differ by much of 1.
TEST(DecodeInt8Test, TheLargestOfScoresFarFromZeroKeepsItsWeight) {
    constexpr Index H = 64, L = 192, Dc = 64;
    std::vector<float> tokens;
    std::vector<float> queries;
    Generator generator(3);
    for (Index i = 0; i < L * Dc; ++i) tokens.push_back(i % Dc == 0 ? 127.0F : static_cast<float>(generator() % 3));
    for (Index i = 0; i < H * Dc; ++i) queries.push_back(i % Dc == 0 ? 8191.0F : static_cast<float>(generator() % 3));
    StoredRows<int8> rows(L, Dc, 0, 1);
    append(MatrixView<const float>(tokens.data(), L, Dc), rows.format,
           MatrixView<int8>(rows.elements.data(), L, rows.format.elements(), rows.stride));
    constexpr float scale = 0.37F;
    const auto error = testing::compare(attend_alone(queries, 1, H, rows.view(), scale).out,
                                        attend_reference(queries, 1, H, rows, scale).output.values);
    EXPECT_TRUE(within(error, 0.05)) << error;  // scores near 4e5 are rounded to 1/32: half of that is an error of 1.6 % each
}

// Batches -----------------------------------------------------------------------------------------------------------

/// Requests of given query counts and lengths, each on pages of its own.
template <CacheElement C>
struct BatchProblem {
    Index H, Dc, Dr;
    std::vector<std::int32_t> query_begin{0};
    std::vector<std::unique_ptr<ScatteredRows<C>>> rows;
    std::vector<PagedView<C>> views;
    std::vector<float> queries;

    BatchProblem(const std::vector<std::pair<Index, Index>>& requests, Index heads, Index latent_dim, Index rope_dim,
                 Index page_size)
        : H(heads), Dc(latent_dim), Dr(rope_dim) {
        for (const auto& [count, length] : requests) {
            query_begin.push_back(query_begin.back() + static_cast<std::int32_t>(count));
            const auto seed = static_cast<std::uint64_t>(query_begin.size());
            rows.push_back(std::make_unique<ScatteredRows<C>>(StoredRows<C>(length, Dc, Dr, 10 + seed), page_size, 50 + seed));
            views.push_back(rows.back()->view());
        }
        queries = random_queries(query_begin.back() * H * (Dc + Dr), 11);
    }

    [[nodiscard]] Index tokens() const { return query_begin.back(); }
    [[nodiscard]] HeadsView<const float> q() const { return {queries.data(), tokens(), H, Dc + Dr}; }
    [[nodiscard]] std::vector<float> queries_of(std::size_t r) const {
        const auto row = static_cast<std::ptrdiff_t>(H * (Dc + Dr));
        return {queries.begin() + query_begin[r] * row, queries.begin() + query_begin[r + 1] * row};
    }
    [[nodiscard]] Index count(std::size_t r) const { return query_begin[r + 1] - query_begin[r]; }

    template <LatentBatch Views>
    [[nodiscard]] AttentionResult<float> run(const Views& caches, const BatchOptions<float>& options = {},
                                             ExecutorRef executor = SerialExecutor{}) const {
        AttentionResult<float> result{tokens(), H, Dc};
        Workspace workspace;
        decode_absorbed(q(), caches, query_begin, scale_of(Dc + Dr), result.out_view(), result.lse_view(), workspace, executor,
                        options);
        return result;
    }
    [[nodiscard]] AttentionResult<float> run(const BatchOptions<float>& options = {}) const { return run(views, options); }
};

/// Prefill, decode and speculative requests, one without queries, one without tokens, one with more queries than tokens, one
/// long.
const std::vector<std::pair<Index, Index>> mixed_requests = {{1, 888}, {0, 40}, {5, 60},   {1, 1},  {2, 0},
                                                             {17, 17}, {3, 2},  {1, 4100}, {4, 140}};

TYPED_TEST(DecodeFormatsTest, ARequestInABatchGetsTheBitsItGetsAlone) {
    for (const Index heads : {1, 3, 22, 64}) {
        const BatchProblem<TypeParam> batch(mixed_requests, heads, 64, 8, 16);
        const auto together = batch.run();
        for (std::size_t r = 0; r < batch.views.size(); ++r) {
            if (batch.count(r) == 0) continue;
            const auto alone = attend_alone(batch.queries_of(r), batch.count(r), heads, batch.views[r]);
            AttentionResult<float> part{batch.count(r), heads, 64};
            const auto row = batch.query_begin[r] * heads;
            std::copy_n(together.out.begin() + row * 64, part.out.size(), part.out.begin());
            std::copy_n(together.lse.begin() + row, part.lse.size(), part.lse.begin());
            EXPECT_TRUE(part.same(alone)) << "heads " << heads << ", request " << r;
        }
    }
}

TEST(DecodeBatchTest, AHostsOwnBlockTablesAreABatch) {
    constexpr Index H = 4, Dc = 32, Dr = 8, page_size = 16, pages = 12;
    const StoredRows<float> pool(pages * page_size, Dc, Dr, 12);
    const std::vector<std::int32_t> tables = {7, 2, 2147480000, 0, 11, 5, -1, 2147480000, 2147480000};  // [3, 3]
    const std::vector<std::int32_t> lengths = {20, 48, 0};
    const PagedBatch<float> batch{
        pool.elements.data(), pages, page_size, page_size * pool.stride, {tables.data(), 3, 3}, lengths, Dc, Dr, pool.stride};
    const std::vector<std::int32_t> query_begin = {0, 1, 2, 3};
    const auto queries = random_queries(3 * H * (Dc + Dr), 13);
    AttentionResult<float> result{3, H, Dc};
    Workspace workspace;
    const auto call = [&](const PagedBatch<float>& caches) {
        decode_absorbed(HeadsView<const float>(queries.data(), 3, H, Dc + Dr), caches, query_begin, scale_of(Dc + Dr),
                        result.out_view(), result.lse_view(), workspace, SerialExecutor{});
    };
    // The middle table has an entry that names no page.
    auto bad = tables;
    bad[5] = 12;
    PagedBatch<float> broken = batch;
    broken.block_tables.data = bad.data();
    EXPECT_NE(thrown<std::invalid_argument>([&] { call(broken); }).find("cache.block_tables[1][2]"), std::string::npos);
    call(batch);
    for (std::size_t r = 0; r < 2; ++r) {
        const auto row = static_cast<std::ptrdiff_t>(r) * H * (Dc + Dr);
        const auto alone = attend_alone({queries.begin() + row, queries.begin() + row + H * (Dc + Dr)}, 1, H, batch[r]);
        EXPECT_EQ(std::memcmp(alone.out.data(), result.out_view().at(static_cast<Index>(r), 0), alone.out.size() * sizeof(float)),
                  0);
    }
    for (Index h = 0; h < H; ++h) EXPECT_TRUE(result.is_empty(2 * H + h));
}

TEST(DecodeBatchTest, NaNInOneRequestsQueryStaysThere) {
    BatchProblem<float> batch(mixed_requests, 3, 32, 8, 16);
    const auto before = batch.run();
    const Index poisoned = 2 * 3 + 1;  // a row of the third request
    batch.queries[static_cast<std::size_t>(poisoned * 40 + 7)] = not_a_number<float>;
    const auto after = batch.run();
    EXPECT_TRUE(after.same_rows(before, 0, poisoned));
    EXPECT_TRUE(after.same_rows(before, poisoned + 1, batch.tokens() * 3 - poisoned - 1));
    EXPECT_TRUE(after.is_nan(poisoned));
}

TEST(DecodeBatchTest, TheWorkspaceForLimitsSufficesForEveryBatchWithinThem) {
    Generator generator(14);
    for (int trial = 0; trial < 400; ++trial) {
        const auto pick = [&](Index most) { return static_cast<Index>(generator() % static_cast<std::uint64_t>(most + 1)); };
        const Index heads = 1 + pick(trial % 3 == 0 ? 199 : 20);
        const Index requests = 1 + pick(12);
        detail::SegmentTotals<float> none;
        none.lanes = detail::tile_shape<float>().lanes;
        none.prefix = trial % 5 == 0;
        none.depth = 40;
        none.workers = 1 + pick(trial % 2 == 0 ? 3 : 99);
        std::vector<detail::Segment> segments;
        Index queries = 0;
        for (Index r = 0; r < requests; ++r) {
            const Index count = pick(trial % 2 == 0 ? 3 : 40);
            segments.push_back(detail::request_segment(r, queries, count, heads, 0, pick(70000), {}));
            queries += count;
        }
        if (none.prefix) segments.push_back(detail::prefix_segment(queries, heads, 50000));
        auto whole = none;
        for (detail::Segment segment : segments) whole.place(segment);
        auto shared = none;
        for (detail::Segment& segment : segments) {
            whole.share_out(segment);
            shared.place(segment);
        }
        const auto bound = detail::SegmentTotals<float>::bound(none, requests, queries, heads);
        const auto named = [&] {
            return ::testing::Message() << heads << " heads, " << requests << " requests, " << queries << " queries, "
                                        << none.workers << " workers";
        };
        EXPECT_LE(shared.items, whole.most_items()) << named();
        EXPECT_LE(shared.states(), whole.most_states()) << named();
        EXPECT_LE(shared.query_bytes(), whole.most_query_bytes()) << named();
        EXPECT_LE(whole.segments, bound.segments);
        EXPECT_LE(whole.most_items(), bound.most_items()) << named();
        EXPECT_LE(whole.most_states(), bound.most_states()) << named();
        EXPECT_LE(whole.most_query_bytes(), bound.most_query_bytes()) << named();
        EXPECT_LE(whole.level_rows(), bound.level_rows()) << named();
        EXPECT_LE(whole.slot_rows, bound.slot_rows);
    }
}

TEST(DecodeBatchTest, RunsInTheWorkspaceForItsLimits) {
    const BatchProblem<float> batch(mixed_requests, 5, 32, 8, 16);
    const auto expected = batch.run();
    const BatchLimits limits{static_cast<Index>(mixed_requests.size()), batch.tokens()};
    const std::size_t bytes = absorbed_workspace_bytes<float>(limits, 5, 32, 8, 1);
    const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
    Workspace fixed{std::span(memory.get(), bytes)};
    AttentionResult<float> result{batch.tokens(), 5, 32};
    decode_absorbed(batch.q(), batch.views, batch.query_begin, scale_of(40), result.out_view(), result.lse_view(), fixed,
                    SerialExecutor{});
    EXPECT_TRUE(result.same(expected));
}

// Trees -------------------------------------------------------------------------------------------------------------

TYPED_TEST(DecodeFormatsTest, ATreeOfDraftedTokensSeesItsAncestors) {
    for (const Index heads : {1, 2, 16}) {
        constexpr Index T = 9, L = 205, Dc = 64, Dr = 8;
        // A binary tree: the parent of token t is (t − 1) / 2.
        std::array<bool, T * T> mask{};
        for (Index t = 0; t < T; ++t)
            for (Index s = t;; s = (s - 1) / 2) {
                mask[static_cast<std::size_t>(t * T + s)] = true;
                if (s == 0) break;
            }
        const BatchProblem<TypeParam> batch({{1, 30}, {T, L}, {2, 50}}, heads, Dc, Dr, 16);
        const std::array<MatrixView<const bool>, 3> trees{{{}, {mask.data(), T, T}, {}}};
        const auto result = batch.run({.trees = trees});
        const auto causal = batch.run();
        EXPECT_TRUE(result.same_rows(causal, 0, heads));
        EXPECT_TRUE(result.same_rows(causal, (1 + T) * heads, 2 * heads));

        const StoredRows<TypeParam> rows(L, Dc, Dr, 10 + 3);
        const auto matrix = rows.matrix();
        const auto expected = reference::attend_masked(
            testing::widened(batch.queries_of(1), T * heads, Dc + Dr), matrix, reference::columns(matrix, 0, Dc), T, heads, 1,
            static_cast<double>(scale_of(Dc + Dr)),
            [&](Index t, Index s) { return s < L - T || mask[static_cast<std::size_t>(t * T + s - (L - T))]; });
        const std::vector<float> found(result.out.begin() + heads * Dc, result.out.begin() + (1 + T) * heads * Dc);
        const auto error = testing::compare(found, expected.output.values);
        EXPECT_TRUE(within(error, tolerance<TypeParam>({T, heads, L, Dc, Dr}))) << error;
    }
}

TEST(DecodeBatchTest, TheCausalRuleAsATreeGivesTheSameBits) {
    constexpr Index T = 6;
    std::array<bool, T * T> mask{};
    for (Index t = 0; t < T; ++t)
        for (Index s = 0; s <= t; ++s) mask[static_cast<std::size_t>(t * T + s)] = true;
    for (const Index heads : {1, 8, 40}) {
        const BatchProblem<float> batch({{T, 300}}, heads, 32, 8, 16);
        const std::array<MatrixView<const bool>, 1> trees{{{mask.data(), T, T}}};
        EXPECT_TRUE(batch.run({.trees = trees}).same(batch.run())) << heads;
    }
}

TEST(DecodeBatchTest, ATokenThatSeesNothingGetsZeroAndMinusInfinity) {
    const std::array<bool, 4> mask{false, false, true, true};
    const BatchProblem<float> batch({{2, 2}}, 3, 32, 8, 16);
    const std::array<MatrixView<const bool>, 1> trees{{{mask.data(), 2, 2}}};
    const auto result = batch.run({.trees = trees});
    for (Index row = 0; row < 6; ++row) EXPECT_EQ(result.is_empty(row), row < 3);
}

// Sinks -------------------------------------------------------------------------------------------------------------

TEST(DecodeBatchTest, ASinkTakesItsShareAndLeavesTheLse) {
    constexpr Index H = 5, Dc = 32;
    const std::vector<float> sinks = {0.5F, -infinity, infinity, 40.0F, -3.0F};
    const BatchProblem<float> batch({{3, 200}, {2, 0}}, H, Dc, 8, 16);
    const auto plain = batch.run();
    const auto result = batch.run({.sinks = sinks});
    EXPECT_TRUE(same_bits(result.lse, plain.lse));
    for (Index row = 0; row < 3 * H; ++row) {
        const double lse = static_cast<double>(plain.lse[static_cast<std::size_t>(row)]);
        const double share = 1.0 / (1.0 + std::exp(static_cast<double>(sinks[static_cast<std::size_t>(row % H)]) - lse));
        for (Index c = 0; c < Dc; ++c) {
            const auto i = static_cast<std::size_t>(row * Dc + c);
            EXPECT_NEAR(result.out[i], share * static_cast<double>(plain.out[i]),
                        1e-6 * std::abs(static_cast<double>(plain.out[i])) + 1e-38);
        }
    }
    for (Index row = 3 * H; row < 5 * H; ++row) EXPECT_TRUE(result.is_empty(row));
}

TEST(DecodeBatchTest, ExpandedAttentionTakesSinksTheSameWay) {
    constexpr Index T = 3, H = 4, L = 120, Dc = 32, Dr = 8, Dn = 6, Dv = 10;
    const std::vector<float> sinks = {1.0F, infinity, -infinity, -2.0F};
    const StoredRows<float> rows(L, Dc, Dr, 15);
    const auto queries = random_queries(T * H * (Dn + Dr), 16);
    const auto kv_b = random_queries(H * (Dn + Dv) * Dc, 17);
    const PackedExpansion<float> packed(TensorRef(kv_b.data(), H * (Dn + Dv), Dc), H, Dn, Dv);
    const auto run = [&](std::span<const float> logits) {
        AttentionResult<float> result{T, H, Dv};
        Workspace workspace;
        prefill_expanded(HeadsView<const float>(queries.data(), T, H, Dn + Dr), rows.view(), packed.weights(), 0.05F,
                         result.out_view(), result.lse_view(), workspace, SerialExecutor{}, logits);
        return result;
    };
    const auto plain = run({});
    const auto result = run(sinks);
    EXPECT_TRUE(same_bits(result.lse, plain.lse));
    const auto expected = reference::with_sinks({testing::widened(plain.out, T * H, Dv), testing::widened(plain.lse, T, H)},
                                                {sinks.begin(), sinks.end()});
    EXPECT_TRUE(within(testing::compare(result.out, expected.output.values), 8 * testing::unit_roundoff<float>));
}

// A shared prefix ---------------------------------------------------------------------------------------------------

/// Requests that share their first pages.
template <CacheElement C>
struct SharedProblem {
    static constexpr Index Dc = 64, Dr = 8, page_size = 16, shared_pages = 40, own_pages = 6;
    std::vector<Index> counts;
    Index H;
    StoredRows<C> pool;
    std::vector<std::vector<std::int32_t>> tables;
    std::vector<PagedView<C>> views;
    std::vector<std::int32_t> query_begin{0};
    std::vector<float> queries;

    SharedProblem(std::vector<Index> query_counts, Index heads)
        : counts(std::move(query_counts)),
          H(heads),
          pool((shared_pages + own_pages * static_cast<Index>(counts.size())) * page_size, Dc, Dr, 18) {
        for (std::size_t r = 0; r < counts.size(); ++r) {
            std::vector<std::int32_t> table;
            for (Index p = 0; p < shared_pages; ++p) table.push_back(static_cast<std::int32_t>((p * 7) % shared_pages));
            for (Index p = 0; p < own_pages; ++p)
                table.push_back(static_cast<std::int32_t>(shared_pages + static_cast<Index>(r) * own_pages + p));
            tables.push_back(std::move(table));
            query_begin.push_back(query_begin.back() + static_cast<std::int32_t>(counts[r]));
        }
        for (std::size_t r = 0; r < counts.size(); ++r)
            views.push_back(
                {pool.elements.data(), shared_pages + own_pages * static_cast<Index>(counts.size()), page_size,
                 page_size * pool.stride, tables[r].data(),
                 shared_pages * page_size + 1 + static_cast<Index>(r) * 11 % (own_pages * page_size - counts[r]) + counts[r], Dc,
                 Dr, pool.stride});
        queries = random_queries(query_begin.back() * H * (Dc + Dr), 19);
    }

    [[nodiscard]] AttentionResult<float> run(Index prefix) const {
        AttentionResult<float> result{query_begin.back(), H, Dc};
        Workspace workspace;
        decode_absorbed(HeadsView<const float>(queries.data(), query_begin.back(), H, Dc + Dr), views, query_begin,
                        scale_of(Dc + Dr), result.out_view(), result.lse_view(), workspace, SerialExecutor{},
                        {.shared_prefix = prefix});
        return result;
    }
};

TYPED_TEST(DecodeFormatsTest, ASharedPrefixReadOnceGivesTheSameResult) {
    for (const Index heads : {1, 3, 16}) {
        const SharedProblem<TypeParam> batch({1, 4, 1, 0, 9}, heads);
        const Index most = shared_prefix(batch.views, batch.query_begin);
        EXPECT_EQ(most, 40 * 16);
        const auto apart = batch.run(0);
        for (const Index prefix : {Index{1}, Index{100}, most}) {
            const auto together = batch.run(prefix);
            const double bound = 2.0 * tolerance<TypeParam>({9, heads, 740, 64, 8});
            const std::vector<double> out(apart.out.begin(), apart.out.end());
            const std::vector<double> lse(apart.lse.begin(), apart.lse.end());
            EXPECT_TRUE(within(testing::compare(together.out, out), bound)) << heads << " heads, prefix " << prefix;
            EXPECT_TRUE(within(testing::compare(together.lse, lse), bound)) << heads << " heads, prefix " << prefix;
        }
    }
}

TEST(DecodeBatchTest, RequestsSharePagesOnlyUpToTheFirstDifferentOneAndBeforeTheirQueries) {
    SharedProblem<float> batch({1, 2}, 2);
    batch.tables[1][25] = 45;
    EXPECT_EQ(shared_prefix(batch.views, batch.query_begin), 25 * 16);
    batch.views[0].length = 33;
    EXPECT_EQ(shared_prefix(batch.views, batch.query_begin), 32);
    const std::vector<std::int32_t> only_second{0, 0, 2};
    EXPECT_EQ(shared_prefix(batch.views, only_second), batch.views[1].length - 2);
}

// Arguments ---------------------------------------------------------------------------------------------------------

TEST(DecodeBatchTest, RejectsBadBatchesAndLeavesTheOutputAlone) {
    struct Arguments {
        BatchProblem<float> batch{{{2, 40}, {1, 20}}, 3, 32, 8, 16};
        std::vector<float> sinks = std::vector<float>(3);
        std::array<bool, 4> mask{};
        std::array<MatrixView<const bool>, 2> trees{{{mask.data(), 2, 2}, {}}};
        BatchOptions<float> options{.sinks = sinks, .trees = trees};
    };
    struct Case {
        void (*spoil)(Arguments&);
        const char* message;
    };
    const std::vector<Case> cases = {
        {[](Arguments& a) { a.batch.query_begin.pop_back(); }, "query_begin.size() is 2, must be requests + 1 = 3"},
        {[](Arguments& a) { a.batch.query_begin[0] = 1; }, "query_begin[0] is 1, must be the first query = 0"},
        {[](Arguments& a) { a.batch.query_begin[1] = 4; }, "query_begin[2] is 3, must be at least 4"},
        {[](Arguments& a) { a.batch.query_begin[1] = -1; }, "query_begin[1] is -1, must be at least 0"},
        {[](Arguments& a) { a.batch.views[1].latent_dim = 33; }, "cache.stride is 40, must be at least 41"},
        {[](Arguments& a) { a.batch.views[1].length = -1; }, "cache.length is -1, must be at least 0"},
        {[](Arguments& a) { a.batch.rows[0]->table[1] = 99; }, "cache.block_table[1] is 99, must be in [0, 5]"},
        {[](Arguments& a) { a.batch.rows[0]->table[1] = -1; }, "cache.block_table[1] is -1, must be in [0, 5]"},
        {[](Arguments& a) { a.options.sinks = a.options.sinks.first(2); }, "options.sinks.size() is 2, must be q.heads = 3"},
        {[](Arguments& a) { a.options.trees = a.options.trees.first(1); }, "options.trees.size() is 1, must be requests = 2"},
        {[](Arguments& a) { a.trees[0].rows = 1; }, "options.trees[r].rows is 1, must be queries of the request = 2"},
        {[](Arguments& a) { a.trees[0].cols = 41; }, "options.trees[r].cols is 41, must be in [0, 40]"},
        {[](Arguments& a) { a.trees[0].stride = 1; }, "options.trees[r].stride is 1, must be at least 2"},
        {[](Arguments& a) { a.options.shared_prefix = 1; }, "options.shared_prefix is 1, must be in [0, 0]"},
        {[](Arguments& a) { a.options.shared_prefix = -1; }, "options.shared_prefix is -1, must be in [0, 38]"},
    };
    for (const Case& each : cases) {
        Arguments arguments;
        each.spoil(arguments);
        AttentionResult<float> result{3, 3, 32};
        Workspace workspace;
        const std::string message = thrown<std::invalid_argument>([&] {
            decode_absorbed(HeadsView<const float>(arguments.batch.queries.data(), 3, 3, 40), arguments.batch.views,
                            arguments.batch.query_begin, 1.0F, result.out_view(), result.lse_view(), workspace, SerialExecutor{},
                            arguments.options);
        });
        EXPECT_EQ(message, std::string("mla: ") + each.message);
        for (const float value : result.out) EXPECT_TRUE(std::isnan(value));
    }
}

}  // namespace
}  // namespace mla
