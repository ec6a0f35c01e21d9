// Absorbed attention against the fp64 oracle, and what it promises beyond the numbers.
#include "mla/kernels/decode_absorbed.hpp"

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
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::absorbed_problem;
using testing::absorbed_shapes;
using testing::AttentionShape;
using testing::Generator;
using testing::judge;
using testing::Scores;
using testing::ShapeProblem;
using testing::Verdict;

constexpr float infinity = std::numeric_limits<float>::infinity();

template <Storage C, Compute A>
AttentionResult<A> run(const ShapeProblem<C, A>& problem) {
    AttentionResult<A> result{problem.shape.T, problem.shape.H, problem.out_dim};
    decode(problem.q(), problem.cache(), problem.scale, result.out_view(), result.lse_view());
    return result;
}

// Against the oracle ------------------------------------------------------------------------------------------------

template <class C>
class DecodeAbsorbedTest : public ::testing::Test {};
TYPED_TEST_SUITE(DecodeAbsorbedTest, TestTypes<StorageTypes>);

TYPED_TEST(DecodeAbsorbedTest, MatchesTheReferenceAtEveryPairOfSizes) {
    for (const AttentionShape& shape : absorbed_shapes()) {
        const Verdict verdict = judge(absorbed_problem<TypeParam>(shape), decode, decode_allowance<TypeParam>);
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

TEST(DecodeAbsorbedTest, ComputesInDoubleOverANarrowCache) {
    for (const AttentionShape& shape : {AttentionShape{3, 2, 200, 40, 8}, AttentionShape{1, 3, 200, 64, 8}}) {
        const Verdict verdict = judge(absorbed_problem<bf16, double>(shape), decode);
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

TEST(DecodeAbsorbedTest, EqualKeysGiveTheirLatentAndTheLogarithmOfTheirNumber) {
    constexpr Index L = 250, Dc = 20, Dr = 4;
    const std::vector<float> q(Dc + Dr, 0.5F);
    const std::vector<float> rows(static_cast<std::size_t>(L * (Dc + Dr)), 0.25F);
    AttentionResult<float> result{1, 1, Dc};
    decode(HeadsView<const float>(q.data(), 1, 1, Dc + Dr), LatentView<float>{rows.data(), L, Dc, Dr, Dc + Dr}, 2.0F,
           result.out_view(), result.lse_view());
    // Probabilities of 1/250 have one rounding, and their sum of 250 equal terms at most 250 more.
    for (const float value : result.out) EXPECT_NEAR(value, 0.25F, 0.25F * 251 * 0x1p-24F);
    EXPECT_NEAR(result.lse[0], 2.0F * 24 * 0.5F * 0.25F + std::log(250.0F), 4 * 8 * 0x1p-24F);  // four roundings below 16
}

TEST(DecodeAbsorbedTest, EveryPlanGivesTheSameResult) {
    const auto problem = absorbed_problem<float>({5, 6, 1300, 48, 8});
    for (const Index splits : {1, 2, 3, 7, 14, 20})  // of 14 blocks
        for (const Index group_rows : {1, 3, 4, 5, 16, 29, 30}) {
            SplitPlan plan = plan_absorbed(5, 6, 1300);
            plan.splits = splits;
            plan.group_rows = group_rows;
            const Verdict verdict = judge(problem, [&](auto q, auto cache, auto scale, auto out, auto lse) {
                Workspace workspace;
                decode_absorbed(q, cache, scale, out, lse, workspace, SerialExecutor{}, plan);
            });
            EXPECT_TRUE(verdict.passed()) << "splits " << splits << ", group_rows " << group_rows << ": " << verdict;
        }
}

// Layout ------------------------------------------------------------------------------------------------------------

TEST(DecodeAbsorbedTest, HeadsAndTokensMayLieAnyDistanceApart) {
    const auto problem = absorbed_problem<float>({3, 5, 100, 24, 8});
    const auto expected = run(problem);
    constexpr Index T = 3, H = 5, D = 32, Dc = 24;
    // [H, T, dim] with two values between the tokens, which must survive.
    std::vector<float> q(static_cast<std::size_t>(H * T * (D + 2)), not_a_number<float>);
    std::vector<float> out(static_cast<std::size_t>(H * T * (Dc + 2)), 7.0F);
    std::vector<float> lse(static_cast<std::size_t>(T * (H + 1)), 7.0F);
    const HeadsView<float> q_view(q.data(), T, H, D, D + 2, T * (D + 2));
    const HeadsView<float> out_view(out.data(), T, H, Dc, Dc + 2, T * (Dc + 2));
    const MatrixView<float> lse_view(lse.data(), T, H, H + 1);
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) std::copy_n(problem.q().at(t, h), D, q_view.at(t, h));
    decode(HeadsView<const float>(q_view), problem.cache(), problem.scale, out_view, lse_view);
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) {
            EXPECT_EQ(std::memcmp(out_view.at(t, h), expected.out.data() + (t * H + h) * Dc, Dc * sizeof(float)), 0);
            EXPECT_EQ(lse_view(t, h), expected.lse[static_cast<std::size_t>(t * H + h)]);
            EXPECT_EQ(out_view.at(t, h)[Dc], 7.0F);
            EXPECT_EQ(out_view.at(t, h)[Dc + 1], 7.0F);
        }
    for (Index t = 0; t < T; ++t) EXPECT_EQ(lse_view.row(t)[H], 7.0F);
}

/// The values of the problem's cache as S, rows `stride` apart from `offset` on, give the bits of `expected`.
template <Storage S, Storage C, Compute A>
void expect_same_from(const ShapeProblem<C, A>& problem, Index stride, Index offset, const AttentionResult<A>& expected) {
    const auto& shape = problem.shape;
    std::vector<S> rows(static_cast<std::size_t>(shape.L * stride + offset), testing::round_to<S>(not_a_number<double>));
    for (Index s = 0; s < shape.L; ++s)
        for (Index i = 0; i < shape.Dc + shape.Dr; ++i)
            rows[static_cast<std::size_t>(offset + s * stride + i)] = static_cast<S>(problem.cache().row(s)[i]);
    AttentionResult<A> result{shape.T, shape.H, shape.Dc};
    decode(problem.q(), LatentView<S>{rows.data() + offset, shape.L, shape.Dc, shape.Dr, stride}, problem.scale,
           result.out_view(), result.lse_view());
    EXPECT_TRUE(result.same(expected)) << shape << " as " << name(dtype_of<S>) << ", stride " << stride << ", offset " << offset;
}

TYPED_TEST(DecodeAbsorbedTest, RowsInPlaceStridedAndUnalignedGiveTheSameBits) {
    for (const Index H : {1, 2, 16}) {
        const auto problem = absorbed_problem<TypeParam>({2, H, 300, 64, 8});
        const auto expected = run(problem);
        for (const Index stride : {72, 73, 80})
            for (const Index offset : {0, 1}) expect_same_from<TypeParam>(problem, stride, offset, expected);
    }
}

TEST(DecodeAbsorbedTest, ConvertedRowsGiveTheBitsOfRowsReadInPlace) {
    for (const Index H : {1, 2, 16}) {
        const auto problem = absorbed_problem<fp16>({2, H, 300, 64, 8});
        expect_same_from<float>(problem, 72, 0, run(problem));
    }
}

TEST(DecodeAbsorbedTest, LseIsOptional) {
    const auto problem = absorbed_problem<float>({2, 3, 50, 32, 8});
    std::vector<float> out(2 * 3 * 32);
    decode(problem.q(), problem.cache(), problem.scale, HeadsView<float>(out.data(), 2, 3, 32), MatrixView<float>());
    EXPECT_TRUE(same_bits(out, run(problem).out));
}

// What may not mix --------------------------------------------------------------------------------------------------

/// Few rows and many, one panel of rows and several groups, in place and staged.
const std::vector<AttentionShape> mixed_shapes = {{2, 1, 5, 32, 8},    {3, 1, 100, 33, 8},  {4, 1, 97, 64, 0},
                                                  {3, 16, 40, 48, 8},  {7, 3, 200, 32, 0},  {2, 63, 99, 33, 8},
                                                  {9, 22, 110, 32, 8}, {2, 128, 97, 32, 8}, {40, 1, 90, 32, 8}};

TEST(DecodeAbsorbedTest, NaNInAQueryStaysInItsRowAndIsNotLost) {
    for (const AttentionShape& shape : mixed_shapes) {
        auto problem = absorbed_problem<float>(shape);
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

/// Replaces the value in place of the last cached token and expects the rows of all queries but the last to keep their bits.
void expect_last_token_hidden(const AttentionShape& shape, float value) {
    auto problem = absorbed_problem<float>(shape);
    const auto before = run(problem);
    const Index stride = problem.cache().stride;
    for (const Index column : {Index{0}, shape.Dc - 1, shape.Dc + shape.Dr - 1})
        problem.rows.at(static_cast<std::size_t>((shape.L - 1) * stride + column)) = value;
    const auto after = run(problem);
    const Index earlier = (shape.T - 1) * shape.H;
    EXPECT_TRUE(after.same_rows(before, 0, earlier)) << shape << ", value " << value;
    EXPECT_FALSE(after.same_rows(before, earlier, shape.H)) << shape << ", value " << value;
}

TEST(DecodeAbsorbedTest, QueriesDoNotSeeLaterTokens) {
    for (const AttentionShape& shape : mixed_shapes)
        for (const float value : {-3.0F, 1e30F}) expect_last_token_hidden(shape, value);
}

TEST(DecodeAbsorbedTest, QueriesBeforeTheFirstTokenGetZeroAndMinusInfinity) {
    for (const Index H : {1, 3, 40}) {
        const Index T = 7, L = 3, Dc = 32;
        const auto result = run(absorbed_problem<float>({T, H, L, Dc, 8}));
        for (Index row = 0; row < T * H; ++row) EXPECT_EQ(result.is_empty(row), row / H < T - L) << "H " << H << ", row " << row;
    }
}

TEST(DecodeAbsorbedTest, NoQueriesIsNoWork) {
    const auto problem = absorbed_problem<float>({2, 3, 20, 32, 8});
    Workspace workspace{std::span<std::byte>()};
    EXPECT_NO_THROW(decode_absorbed(HeadsView<const float>(nullptr, 0, 3, 40), problem.cache(), 1.0F,
                                    HeadsView<float>(nullptr, 0, 3, 32), {}, workspace, SerialExecutor{}));
}

// Arguments ---------------------------------------------------------------------------------------------------------

TEST(DecodeAbsorbedTest, RunsInExactlyTheWorkspaceItAsksFor) {
    for (const AttentionShape& shape : mixed_shapes) {
        const auto problem = absorbed_problem<float>(shape);
        const SplitPlan plan = plan_absorbed(shape.T, shape.H, shape.L);
        const std::size_t bytes = absorbed_workspace_bytes<float>(plan, shape.Dc, shape.Dr, 1);
        const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
        Workspace exact{std::span(memory.get(), bytes)};
        const Verdict verdict = judge(problem, [&](auto q, auto cache, auto scale, auto out, auto lse) {
            decode_absorbed(q, cache, scale, out, lse, exact, SerialExecutor{}, plan);
        });
        EXPECT_TRUE(verdict.passed()) << verdict;

        Workspace short_of_one{std::span(memory.get(), bytes - 1)};
        std::vector<float> out(static_cast<std::size_t>(shape.T * shape.H * shape.Dc));
        EXPECT_EQ(testing::thrown<std::length_error>([&] {
                      decode_absorbed(problem.q(), problem.cache(), problem.scale,
                                      HeadsView<float>(out.data(), shape.T, shape.H, shape.Dc), {}, short_of_one,
                                      SerialExecutor{});
                  }),
                  "mla: workspace bytes needed is " + std::to_string(bytes) + ", must be at most " + std::to_string(bytes - 1));
    }
}

/// The arguments of a valid call, for a test to spoil.
struct Arguments {
    static constexpr Index T = 2, H = 3, L = 20, Dc = 32, Dr = 8;
    std::vector<float> q_values = std::vector<float>(T * H * (Dc + Dr), 1.0F);
    std::vector<float> rows = std::vector<float>(L * (Dc + Dr), 1.0F);
    std::vector<float> out_values = std::vector<float>(T * H * Dc, 7.0F);
    std::vector<float> lse_values = std::vector<float>(T * H, 7.0F);
    HeadsView<const float> q{q_values.data(), T, H, Dc + Dr};
    LatentView<float> cache{rows.data(), L, Dc, Dr, Dc + Dr};
    float scale = 1.0F;
    HeadsView<float> out{out_values.data(), T, H, Dc};
    MatrixView<float> lse{lse_values.data(), T, H};
    SplitPlan plan = plan_absorbed(T, H, L);

    void call() {
        Workspace workspace;
        decode_absorbed(q, cache, scale, out, lse, workspace, SerialExecutor{}, plan);
    }
};

TEST(DecodeAbsorbedTest, RejectsBadArgumentsAndLeavesTheOutputAlone) {
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
        {[](Arguments& a) { a.q.dim = 39; }, "q.dim is 39, must be cache.latent_dim + cache.rope_dim = 40"},
        {[](Arguments& a) { a.q.heads = 0; }, "q.heads is 0, must be at least 1"},
        {[](Arguments& a) { a.q.tokens = -1; }, "q.tokens is -1, must be at least 0"},
        {[](Arguments& a) { a.q.data = nullptr; }, "q.data is null, must be not null when q.tokens > 0"},
        {[](Arguments& a) { a.out.dim = 31; }, "out.dim is 31, must be cache.latent_dim = 32"},
        {[](Arguments& a) { a.out.heads = 4; }, "out.heads is 4, must be q.heads = 3"},
        {[](Arguments& a) { a.out.tokens = 3; }, "out.tokens is 3, must be q.tokens = 2"},
        {[](Arguments& a) { a.out.data = nullptr; }, "out.data is null, must be not null when q.tokens > 0"},
        {[](Arguments& a) { a.scale = infinity; }, "scale is inf, must be finite"},
        {[](Arguments& a) { a.scale = not_a_number<float>; }, "scale is nan, must be finite"},
        {[](Arguments& a) { a.lse.rows = 1; }, "lse.rows is 1, must be q.tokens = 2"},
        {[](Arguments& a) { a.lse.cols = 2; }, "lse.cols is 2, must be q.heads = 3"},
        {[](Arguments& a) { a.lse.stride = 2; }, "lse.stride is 2, must be at least 3"},
        {[](Arguments& a) { a.plan.streams = 3; }, "plan.streams is 3, must be key-value heads = 1"},
        {[](Arguments& a) { a.plan.rows = 7; }, "plan.rows is 7, must be q.tokens * heads of a stream = 6"},
        {[](Arguments& a) { a.plan.keys = 19; }, "plan.keys is 19, must be cache.length = 20"},
        {[](Arguments& a) { a.plan.group_rows = 0; }, "plan.group_rows is 0, must be in [1, 6]"},
        {[](Arguments& a) { a.plan.splits = 0; }, "plan.splits is 0, must be in [1, 20]"},
    };
    for (const Case& bad : cases) {
        Arguments arguments;
        bad.spoil(arguments);
        EXPECT_EQ(testing::thrown<std::invalid_argument>([&] { arguments.call(); }), std::string("mla: ") + bad.message);
        const auto untouched = [](const std::vector<float>& v) { return std::count(v.begin(), v.end(), 7.0F) == std::ssize(v); };
        EXPECT_TRUE(untouched(arguments.out_values) && untouched(arguments.lse_values)) << bad.message;
    }
    EXPECT_NO_THROW(Arguments().call());
}

}  // namespace
}  // namespace mla
