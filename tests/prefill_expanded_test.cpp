// Expanded attention against the fp64 oracle, and what it promises beyond the numbers.
#include "mla/kernels/prefill_expanded.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "mla/testing/shape_problems.hpp"
#include "support/attention_result.hpp"
#include "support/kernels.hpp"
#include "support/stored_rows.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::AttentionShape;
using testing::expanded_problem;
using testing::expanded_shapes;
using testing::judge;
using testing::ShapeProblem;
using testing::Verdict;

constexpr float infinity = std::numeric_limits<float>::infinity();

template <Storage C, Compute A>
AttentionResult<A> run(const ShapeProblem<C, A>& problem, Precision precision = Precision::operand) {
    AttentionResult<A> result{problem.shape.T, problem.shape.H, problem.out_dim};
    prefill<C>(problem.q(), problem.cache(), problem.expansion(), problem.scale, result.out_view(), result.lse_view(), precision);
    return result;
}

// Against the oracle ------------------------------------------------------------------------------------------------

template <class C>
class PrefillExpandedTest : public ::testing::Test {};
TYPED_TEST_SUITE(PrefillExpandedTest, TestTypes<StorageTypes>);

TYPED_TEST(PrefillExpandedTest, MatchesTheReferenceAtEveryPairOfSizes) {
    for (const AttentionShape& shape : expanded_shapes()) {
        const Verdict verdict =
            judge(expanded_problem<TypeParam>(shape), prefill<TypeParam>, expansion_allowance<TypeParam>(shape));
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

template <class C>
class PrefillFormatsTest : public ::testing::Test {};
TYPED_TEST_SUITE(PrefillFormatsTest, TestTypes<CacheTypes>);

/// Weights of type S over a cache of type C.
template <Storage S, CacheElement C>
void expect_reference(const Config& config, Index T, const StoredRows<C>& rows) {
    using A = compute_t<S>;
    testing::Generator generator(2);
    const Index H = config.num_attention_heads;
    const auto q = testing::gaussian_values<A>(generator, T * config.q_dim());
    const Index weights = H * (config.qk_nope_head_dim + config.v_head_dim);
    const double sigma = 1.0 / std::sqrt(static_cast<double>(config.kv_lora_rank));
    const auto kv_b = testing::gaussian_values<S>(generator, weights * config.kv_lora_rank, sigma);
    AttentionWeights tensors;
    tensors.kv_b_proj = {kv_b.data(), weights, config.kv_lora_rank};
    AttentionResult<A> result{T, H, config.v_head_dim};
    prefill<S>(HeadsView<const A>(q.data(), T, H, config.qk_head_dim()), rows.view(), tensors.kv_b_proj,
               static_cast<A>(config.softmax_scale()), result.out_view(), result.lse_view());
    const auto expected =
        reference::attend_expanded_form(config, tensors, testing::widened(q, T * H, config.qk_head_dim()), rows.matrix());
    const double tolerance = testing::sum_tolerance<A>(config.qk_head_dim() + 2 * config.kv_lora_rank + rows.length) +
                             activation_allowance<S> + decompressed_allowance<C, A>;
    const auto error = testing::compare(result.out, expected.output.values);
    EXPECT_TRUE(testing::within(error, tolerance)) << "weights of " << name(dtype_of<S>) << ": " << error;
}

TYPED_TEST(PrefillFormatsTest, MatchesTheReferenceOnTheRowsAsTheyReadBackWithWeightsOfEveryType) {
    Config config;
    config.num_attention_heads = 3;
    config.kv_lora_rank = 33;
    config.qk_nope_head_dim = 13;
    config.qk_rope_head_dim = 10;
    config.v_head_dim = 11;
    const StoredRows<TypeParam> rows(150, config.kv_lora_rank, config.qk_rope_head_dim, 1);
    for (const Index T : {2, 20}) for_each_type(StorageTypes{}, [&]<class S>() { expect_reference<S>(config, T, rows); });
}

// Layout ------------------------------------------------------------------------------------------------------------

TEST(PrefillExpandedTest, HeadsAndTokensMayLieAnyDistanceApart) {
    const auto problem = expanded_problem<float>({9, 5, 100, 24, 8, 12, 14});
    const auto expected = run(problem);
    constexpr Index T = 9, H = 5, D = 20, Dv = 14;
    // [H, T, dim] with two values between the tokens, which must survive.
    std::vector<float> q(static_cast<std::size_t>(H * T * (D + 2)), not_a_number<float>);
    std::vector<float> out(static_cast<std::size_t>(H * T * (Dv + 2)), 7.0F);
    std::vector<float> lse(static_cast<std::size_t>(T * (H + 1)), 7.0F);
    const HeadsView<float> q_view(q.data(), T, H, D, D + 2, T * (D + 2));
    const HeadsView<float> out_view(out.data(), T, H, Dv, Dv + 2, T * (Dv + 2));
    const MatrixView<float> lse_view(lse.data(), T, H, H + 1);
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) std::copy_n(problem.q().at(t, h), D, q_view.at(t, h));
    prefill<float>(HeadsView<const float>(q_view), problem.cache(), problem.expansion(), problem.scale, out_view, lse_view);
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) {
            EXPECT_EQ(std::memcmp(out_view.at(t, h), expected.out.data() + (t * H + h) * Dv, Dv * sizeof(float)), 0);
            EXPECT_EQ(lse_view(t, h), expected.lse[static_cast<std::size_t>(t * H + h)]);
            EXPECT_EQ(out_view.at(t, h)[Dv], 7.0F);
            EXPECT_EQ(out_view.at(t, h)[Dv + 1], 7.0F);
        }
    for (Index t = 0; t < T; ++t) EXPECT_EQ(lse_view.row(t)[H], 7.0F);
}

TEST(PrefillExpandedTest, RowsInPlaceStridedUnalignedOrConvertedGiveTheSameBits) {
    for (const Index T : {1, 30}) {
        const auto narrow = expanded_problem<bf16>({T, 2, 300, 64, 8, 12, 14});
        // Rounded operands would depend on the cache's format.
        const auto expected = run(narrow, Precision::full);
        constexpr Index L = 300, D = 72;
        for (const Index stride : {D, D + 1, D + 8})
            for (const Index offset : {0, 1}) {
                std::vector<float> rows(static_cast<std::size_t>(L * stride + offset), not_a_number<float>);
                for (Index s = 0; s < L; ++s)
                    for (Index i = 0; i < D; ++i)
                        rows[static_cast<std::size_t>(offset + s * stride + i)] = narrow.cache().row(s)[i];
                AttentionResult<float> result{T, 2, 14};
                prefill<bf16>(narrow.q(), LatentView<float>{rows.data() + offset, L, 64, 8, stride}, narrow.expansion(),
                              narrow.scale, result.out_view(), result.lse_view(), Precision::full);
                EXPECT_TRUE(result.same(expected)) << "T " << T << ", stride " << stride << ", offset " << offset;
            }
    }
}

TEST(PrefillExpandedTest, LseIsOptional) {
    const auto problem = expanded_problem<float>({20, 3, 50, 32, 8, 12, 14});
    AttentionResult<float> result{20, 3, 14};
    prefill<float>(problem.q(), problem.cache(), problem.expansion(), problem.scale, result.out_view(), MatrixView<float>());
    EXPECT_TRUE(same_bits(result.out, run(problem).out));
}

// What may not mix --------------------------------------------------------------------------------------------------

/// Few queries and many, several groups of queries, whole and ragged blocks.
const std::vector<AttentionShape> mixed_shapes = {{2, 1, 5, 32, 8, 12, 14},    {3, 2, 100, 33, 8, 12, 14},
                                                  {4, 1, 97, 64, 0, 12, 14},   {17, 3, 40, 48, 8, 12, 14},
                                                  {70, 3, 200, 32, 0, 12, 14}, {600, 1, 600, 32, 8, 12, 14}};

TEST(PrefillExpandedTest, NaNInAQueryStaysInItsRowAndIsNotLost) {
    for (const AttentionShape& shape : mixed_shapes) {
        auto problem = expanded_problem<float>(shape);
        const auto before = run(problem);
        const Index rows = shape.T * shape.H;
        for (const Index poisoned : {Index{0}, rows / 2, rows - 1}) {
            float& value = problem.queries.at(static_cast<std::size_t>(poisoned * problem.query_dim + 3));
            const float saved = value;
            value = not_a_number<float>;
            const auto after = run(problem);
            value = saved;
            EXPECT_TRUE(after.same_rows(before, 0, poisoned)) << shape << ", row " << poisoned;
            EXPECT_TRUE(after.same_rows(before, poisoned + 1, rows - poisoned - 1)) << shape << ", row " << poisoned;
            EXPECT_TRUE(after.is_nan(poisoned)) << shape << ", row " << poisoned;
        }
    }
}

TEST(PrefillExpandedTest, QueriesDoNotSeeLaterTokens) {
    for (const AttentionShape& shape : mixed_shapes)
        for (const float value : {-3.0F, 1e30F}) {
            auto problem = expanded_problem<float>(shape);
            const auto before = run(problem);
            const Index stride = problem.cache().stride;
            for (const Index column : {Index{0}, shape.Dc - 1, shape.Dc + shape.Dr - 1})
                problem.rows.at(static_cast<std::size_t>((shape.L - 1) * stride + column)) = value;
            const auto after = run(problem);
            const Index earlier = (shape.T - 1) * shape.H;
            EXPECT_TRUE(after.same_rows(before, 0, earlier)) << shape << ", value " << value;
            EXPECT_FALSE(after.same_rows(before, earlier, shape.H)) << shape << ", value " << value;
        }
}

TEST(PrefillExpandedTest, QueriesBeforeTheFirstTokenGetZeroAndMinusInfinity) {
    for (const Index T : {4, 7, 40}) {
        const Index H = 2, L = 3;
        const auto result = run(expanded_problem<float>({T, H, L, 32, 8, 12, 14}));
        for (Index row = 0; row < T * H; ++row) EXPECT_EQ(result.is_empty(row), row / H < T - L) << "T " << T << ", row " << row;
    }
}

// Arguments ---------------------------------------------------------------------------------------------------------

/// The arguments of a valid call, for a test to spoil.
struct Arguments {
    static constexpr Index T = 6, H = 3, L = 20, Dc = 32, Dr = 8, Dn = 12, Dv = 14;
    std::vector<float> q_values = std::vector<float>(T * H * (Dn + Dr), 1.0F);
    std::vector<float> rows = std::vector<float>(L * (Dc + Dr), 1.0F);
    std::vector<float> out_values = std::vector<float>(T * H * Dv, 7.0F);
    std::vector<float> lse_values = std::vector<float>(T * H, 7.0F);
    std::vector<float> kv_b = std::vector<float>(static_cast<std::size_t>(H * (Dn + Dv) * Dc), 1.0F);
    HeadsView<const float> q{q_values.data(), T, H, Dn + Dr};
    LatentView<float> cache{rows.data(), L, Dc, Dr, Dc + Dr};
    float scale = 1.0F;
    HeadsView<float> out{out_values.data(), T, H, Dv};
    MatrixView<float> lse{lse_values.data(), T, H};
    PackedMatrix<float> key{H, Dc, Dn};
    PackedMatrix<float> value{H, Dc, Dv};
    Workspace workspace;

    void call() { prefill_expanded(q, cache, ExpansionWeights<float>{key, value}, scale, out, lse, workspace, SerialExecutor{}); }
    [[nodiscard]] bool outputs_untouched() const {
        const auto untouched = [](const std::vector<float>& v) { return std::count(v.begin(), v.end(), 7.0F) == std::ssize(v); };
        return untouched(out_values) && untouched(lse_values);
    }
};

TEST(PrefillExpandedTest, NoQueriesIsNoWork) {
    Arguments arguments;
    arguments.q = {nullptr, 0, 3, 20};
    arguments.out = {nullptr, 0, 3, 14};
    arguments.lse = {};
    arguments.workspace = Workspace(std::span<std::byte>());
    EXPECT_NO_THROW(arguments.call());
}

TEST(PrefillExpandedTest, RunsInExactlyTheWorkspaceItAsksFor) {
    for (const AttentionShape& shape : mixed_shapes) {
        const auto problem = expanded_problem<float>(shape);
        const auto bytes =
            expanded_workspace_bytes<float>(plan_expanded(shape.T, shape.H), shape.Dc + shape.Dr, problem.query_dim, shape.Dv, 1);
        const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
        const PackedExpansion<float> packed(problem.expansion(), shape.H, shape.Dn, shape.Dv);
        Workspace exact{std::span(memory.get(), bytes)};
        const Verdict verdict = judge(problem, [&](auto q, auto cache, TensorRef, auto scale, auto out, auto lse) {
            prefill_expanded(q, cache, packed.weights(), scale, out, lse, exact, SerialExecutor{});
        });
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
    Arguments arguments;
    const auto bytes = expanded_workspace_bytes<float>(plan_expanded(6, 3), 40, 20, 14, 1);
    const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
    arguments.workspace = Workspace(std::span(memory.get(), bytes - 1));
    EXPECT_EQ(testing::thrown<std::length_error>([&] { arguments.call(); }),
              "mla: workspace bytes needed is " + std::to_string(bytes) + ", must be at most " + std::to_string(bytes - 1));
    EXPECT_TRUE(arguments.outputs_untouched());
}

TEST(PrefillExpandedTest, ACallersLimitBoundsTheScratchAndGivesTheSameResult) {
    const auto problem = expanded_problem<float>({300, 2, 700, 64, 8, 12, 14});
    const PackedExpansion<float> packed(problem.expansion(), 2, 12, 14);
    const std::size_t unlimited = expanded_workspace_bytes<float>(plan_expanded(300, 2), 72, 20, 14, 1);
    std::size_t least = unlimited;
    for (Index group = 300; group > 1; group = divide_up(group, Index{2}))
        least = std::min(least, expanded_workspace_bytes<float>({300, 2, divide_up(group, Index{2})}, 72, 20, 14, 1));
    for (const std::size_t limit : {least, (least + unlimited) / 2, unlimited, 2 * unlimited}) {
        const ExpandedPlan plan = plan_expanded_within<float>(limit, 300, 2, 72, 20, 14, 1);
        EXPECT_EQ(plan.group_queries == plan_expanded(300, 2).group_queries, limit >= unlimited);
        const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(limit));
        Workspace fixed{std::span(memory.get(), limit)};
        const Verdict verdict = judge(problem, [&](auto q, auto cache, TensorRef, auto scale, auto out, auto lse) {
            prefill_expanded(q, cache, packed.weights(), scale, out, lse, fixed, SerialExecutor{}, plan);
        });
        EXPECT_TRUE(verdict.passed()) << limit << ": " << verdict;
    }
    EXPECT_EQ(testing::thrown<std::length_error>(
                  [&] { static_cast<void>(plan_expanded_within<float>(least - 1, 300, 2, 72, 20, 14, 1)); }),
              "mla: bytes of a workspace for the fewest queries at a time is " + std::to_string(least) + ", must be at most " +
                  std::to_string(least - 1));
}

TEST(PrefillExpandedTest, RejectsAPlanOfAnotherProblem) {
    for (const auto& [plan, message] :
         std::vector<std::pair<ExpandedPlan, const char*>>{{{5, 3, 4}, "plan.queries is 5, must be q.tokens = 6"},
                                                           {{6, 2, 4}, "plan.heads is 2, must be q.heads = 3"},
                                                           {{6, 3, 0}, "plan.group_queries is 0, must be in [1, 6]"},
                                                           {{6, 3, 7}, "plan.group_queries is 7, must be in [1, 6]"}}) {
        Arguments a;
        EXPECT_EQ(testing::thrown<std::invalid_argument>([&, &used = plan] {
                      prefill_expanded(a.q, a.cache, ExpansionWeights<float>{a.key, a.value}, a.scale, a.out, a.lse, a.workspace,
                                       SerialExecutor{}, used);
                  }),
                  std::string("mla: ") + message);
        EXPECT_TRUE(a.outputs_untouched());
    }
}

TEST(PrefillExpandedTest, RejectsBadArgumentsAndLeavesTheOutputAlone) {
    struct Case {
        void (*spoil)(Arguments&);
        const char* message;
    };
    const std::vector<Case> cases = {
        {[](Arguments& a) { a.cache.length = -1; }, "cache.length is -1, must be at least 0"},
        {[](Arguments& a) { a.cache.latent_dim = 0; }, "cache.latent_dim is 0, must be at least 1"},
        {[](Arguments& a) { a.cache.rope_dim = -2; }, "cache.rope_dim is -2, must be at least 0"},
        {[](Arguments& a) { a.cache.stride = 39; }, "cache.stride is 39, must be at least 40"},
        {[](Arguments& a) { a.cache.data = nullptr; }, "cache.data is null, must be not null when cache.length > 0"},
        {[](Arguments& a) { a.q.dim = 19; }, "q.dim is 19, must be weights.key.out() + cache.rope_dim = 20"},
        {[](Arguments& a) { a.q.heads = 0; }, "q.heads is 0, must be at least 1"},
        {[](Arguments& a) { a.q.tokens = -1; }, "q.tokens is -1, must be at least 0"},
        {[](Arguments& a) { a.q.data = nullptr; }, "q.data is null, must be not null when q.tokens > 0"},
        {[](Arguments& a) { a.out.dim = 13; }, "out.dim is 13, must be weights.value.out() = 14"},
        {[](Arguments& a) { a.out.heads = 4; }, "out.heads is 4, must be q.heads = 3"},
        {[](Arguments& a) { a.out.tokens = 3; }, "out.tokens is 3, must be q.tokens = 6"},
        {[](Arguments& a) { a.out.data = nullptr; }, "out.data is null, must be not null when q.tokens > 0"},
        {[](Arguments& a) { a.scale = -infinity; }, "scale is -inf, must be finite"},
        {[](Arguments& a) { a.scale = not_a_number<float>; }, "scale is nan, must be finite"},
        {[](Arguments& a) { a.lse.rows = 1; }, "lse.rows is 1, must be q.tokens = 6"},
        {[](Arguments& a) { a.lse.cols = 2; }, "lse.cols is 2, must be q.heads = 3"},
        {[](Arguments& a) { a.lse.stride = 2; }, "lse.stride is 2, must be at least 3"},
        {[](Arguments& a) { a.key = PackedMatrix<float>(2, 32, 12); }, "weights.key.count() is 2, must be q.heads = 3"},
        {[](Arguments& a) { a.value = PackedMatrix<float>(4, 32, 14); }, "weights.value.count() is 4, must be q.heads = 3"},
        {[](Arguments& a) { a.key = PackedMatrix<float>(3, 31, 12); }, "weights.key.in() is 31, must be cache.latent_dim = 32"},
        {[](Arguments& a) { a.value = PackedMatrix<float>(3, 33, 14); },
         "weights.value.in() is 33, must be cache.latent_dim = 32"},
    };
    for (const Case& bad : cases) {
        Arguments arguments;
        bad.spoil(arguments);
        EXPECT_EQ(testing::thrown<std::invalid_argument>([&] { arguments.call(); }), std::string("mla: ") + bad.message);
        EXPECT_TRUE(arguments.outputs_untouched()) << bad.message;
    }
}

}  // namespace
}  // namespace mla
