// The selection of sparse attention: which keys score highest, exactly and on every executor.
#include "mla/kernels/select_keys.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "mla/reference/reference.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/executors.hpp"
#include "support/kernels.hpp"
#include "support/stored_rows.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::Generator;
using testing::thrown;

struct Shape {
    Index T, heads, dim, L, top_k;
};

std::ostream& operator<<(std::ostream& stream, const Shape& s) {
    return stream << "T " << s.T << ", heads " << s.heads << ", dim " << s.dim << ", L " << s.L << ", top_k " << s.top_k;
}

// One key, fewer keys than are wanted, one more, many; heads of less than a vector, of several panels, and of more than a batch.
const std::vector<Shape> shapes = {{1, 1, 8, 1, 1},      {3, 2, 16, 20, 40},    {1, 64, 128, 1000, 100},
                                   {2, 3, 32, 41, 40},   {17, 5, 24, 300, 13},  {1, 16, 128, 4000, 512},
                                   {4, 32, 64, 700, 96}, {2, 150, 16, 200, 50}, {1, 7, 128, 3000, 2900}};

template <CacheElement K, Compute A = float>
struct Problem {
    Shape shape;
    StoredRows<K> keys;
    std::vector<A> queries;
    std::vector<A> weights;

    explicit Problem(const Shape& s, std::uint64_t seed = 1) : shape(s), keys(s.L, s.dim, 0, seed) {
        Generator generator(seed + 1);
        const auto rounded = testing::gaussian_values<bf16>(generator, s.T * s.heads * s.dim);
        queries.assign(rounded.begin(), rounded.end());
        weights = testing::gaussian_values<A>(generator, s.T * s.heads);
    }

    template <LatentSource View>
    [[nodiscard]] std::vector<std::int32_t> run(const View& view, ExecutorRef executor = SerialExecutor{}) const {
        std::vector<std::int32_t> selection(static_cast<std::size_t>(shape.T * shape.top_k), 12345);
        Workspace workspace;
        const std::array<View, 1> caches{view};
        const std::array<std::int32_t, 2> query_begin{0, static_cast<std::int32_t>(shape.T)};
        select_keys<A>(HeadsView<const A>(queries.data(), shape.T, shape.heads, shape.dim),
                       MatrixView<const A>(weights.data(), shape.T, shape.heads), caches, query_begin,
                       MatrixView<std::int32_t>(selection.data(), shape.T, shape.top_k), workspace, executor);
        return selection;
    }
    [[nodiscard]] std::vector<std::int32_t> run() const { return run(keys.view()); }

    [[nodiscard]] reference::Matrix scores() const {
        return reference::index_scores(testing::widened(queries, shape.T * shape.heads, shape.dim), keys.matrix(),
                                       testing::widened(weights, shape.T, shape.heads));
    }
};

/// Selected, in ascending order, none twice, and then −1.
void expect_ascending(const std::int32_t* row, Index count, Index selected) {
    for (Index i = 1; i < selected; ++i) EXPECT_LT(row[i - 1], row[i]) << i;
    for (Index i = selected; i < count; ++i) EXPECT_EQ(row[i], -1) << i;
}

template <class K>
class SelectKeysTest : public ::testing::Test {};
TYPED_TEST_SUITE(SelectKeysTest, TestTypes<CacheTypes>);

// Scores err as sums do, in units of the largest partial sums; which of two keys closer than that comes first may differ.
TYPED_TEST(SelectKeysTest, ChoosesTheKeysOfLargestScore) {
    for (const Shape& shape : shapes) {
        const Problem<TypeParam> problem(shape);
        const auto selection = problem.run();
        const auto scores = problem.scores();
        for (Index t = 0; t < shape.T; ++t) {
            const Index visible = shape.L - shape.T + t + 1;
            const Index count = std::min(visible, shape.top_k);
            const std::int32_t* const row = selection.data() + t * shape.top_k;
            expect_ascending(row, shape.top_k, count);
            std::vector<double> sorted(scores.row(t), scores.row(t) + visible);
            std::sort(sorted.begin(), sorted.end(), std::greater<>());
            const double last = sorted[static_cast<std::size_t>(count - 1)];
            const double size = std::sqrt(static_cast<double>(shape.heads * shape.dim));
            const double bound = 8.0 * size *
                                 (testing::sum_tolerance<float>(shape.dim + shape.heads) +
                                  (std::is_same_v<TypeParam, int8> ? testing::rounded_to_int16 : 0.0));
            std::vector<bool> chosen(static_cast<std::size_t>(visible));
            for (Index i = 0; i < count; ++i) {
                ASSERT_LT(row[i], visible) << shape;
                chosen[static_cast<std::size_t>(row[i])] = true;
                EXPECT_GE(scores(t, row[i]), last - bound) << shape << ", query " << t << ", key " << row[i];
            }
            for (Index s = 0; s < visible; ++s) {
                if (chosen[static_cast<std::size_t>(s)]) continue;
                EXPECT_LE(scores(t, s), last + bound) << shape << ", query " << t << ", key " << s;
            }
        }
    }
}

TYPED_TEST(SelectKeysTest, PagesAndThreadsChooseTheSame) {
    for (const Shape& shape : shapes) {
        const Problem<TypeParam> problem(shape);
        const auto expected = problem.run();
        for (const Index page_size : {1, 17, 64}) {
            const ScatteredRows<TypeParam> pages(problem.keys, page_size, 3);
            EXPECT_EQ(problem.run(pages.view()), expected) << shape << ", pages of " << page_size;
        }
        for (const Index threads : {2, 3, 20}) {
            EXPECT_EQ(problem.run(problem.keys.view(), ThreadExecutor(threads)), expected) << shape;
            EXPECT_EQ(problem.run(problem.keys.view(), BackwardExecutor(threads)), expected) << shape;
        }
    }
}

TEST(SelectKeysInDoubleTest, ChoosesWhatTheReferenceChooses) {
    for (const Shape& shape : shapes) {
        const Problem<double, double> problem(shape);
        const auto selection = problem.run();
        EXPECT_EQ(problem.run(problem.keys.view(), BackwardExecutor(20)), selection) << shape;
        const auto expected = reference::select_keys(problem.scores(), shape.top_k);
        for (Index t = 0; t < shape.T; ++t) {
            const auto& keys = expected[static_cast<std::size_t>(t)];
            for (std::size_t i = 0; i < keys.size(); ++i)
                EXPECT_EQ(selection[static_cast<std::size_t>(t * shape.top_k) + i], keys[i]) << shape << ", query " << t;
        }
    }
}

TEST(SelectKeysTiesTest, OfEqualScoresTheEarlierKeyIsChosen) {
    Problem<float> problem({2, 3, 16, 5000, 300});
    const std::vector<float> row(problem.keys.elements.begin(), problem.keys.elements.begin() + 16);
    for (Index s = 0; s < 5000; ++s) std::copy(row.begin(), row.end(), problem.keys.elements.begin() + s * problem.keys.stride);
    const auto selection = problem.run();
    EXPECT_EQ(problem.run(problem.keys.view(), BackwardExecutor(20)), selection);
    for (Index t = 0; t < 2; ++t)
        for (Index i = 0; i < 300; ++i) EXPECT_EQ(selection[static_cast<std::size_t>(t * 300 + i)], i);
}

TEST(SelectKeysTiesTest, ManyScoresOfZeroAreEqualWhateverTheirSign) {
    // One head of negative weight: a key that it does not see scores −0, others less. The first 1000 keys see nothing.
    Problem<float> problem({1, 1, 8, 3000, 500});
    problem.weights = {-1.0F};
    std::fill(problem.queries.begin(), problem.queries.end(), 1.0F);
    for (Index s = 0; s < 3000; ++s)
        std::fill_n(problem.keys.elements.begin() + s * problem.keys.stride, 8, s % 3 == 1 ? -1.0F : s % 3 == 0 ? 0.0F : 2.0F);
    const auto selection = problem.run();
    EXPECT_EQ(problem.run(problem.keys.view(), BackwardExecutor(20)), selection);
    for (Index i = 0; i < 500; ++i) EXPECT_EQ(selection[static_cast<std::size_t>(i)], i / 2 * 3 + i % 2);
}

TEST(SelectKeysNaNTest, AKeyOfNaNIsChosenSoThatItIsNotLost) {
    Problem<float> problem({1, 4, 16, 2000, 100});
    problem.keys.elements[static_cast<std::size_t>(1234 * problem.keys.stride + 3)] = std::numeric_limits<float>::quiet_NaN();
    const auto selection = problem.run();
    EXPECT_TRUE(std::find(selection.begin(), selection.end(), 1234) != selection.end());
    expect_ascending(selection.data(), 100, 100);
}

TEST(SelectKeysBatchTest, EveryRequestGetsWhatItGetsAlone) {
    const std::vector<Problem<bf16>> problems = {Problem<bf16>({3, 6, 32, 500, 64}, 1), Problem<bf16>({0, 6, 32, 5, 64}, 2),
                                                 Problem<bf16>({20, 6, 32, 90, 64}, 3), Problem<bf16>({1, 6, 32, 1, 64}, 4)};
    std::vector<LatentView<bf16>> caches;
    std::vector<std::int32_t> query_begin{0}, expected;
    std::vector<float> queries, weights;
    for (const auto& problem : problems) {
        caches.push_back(problem.keys.view());
        query_begin.push_back(query_begin.back() + static_cast<std::int32_t>(problem.shape.T));
        queries.insert(queries.end(), problem.queries.begin(), problem.queries.end());
        weights.insert(weights.end(), problem.weights.begin(), problem.weights.end());
        const auto alone = problem.run();
        expected.insert(expected.end(), alone.begin(), alone.end());
    }
    const Index T = query_begin.back();
    std::vector<std::int32_t> selection(expected.size());
    const std::size_t bytes = selection_workspace_bytes<float>(T, 6, 32, 64, 3);
    auto memory = mla::detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
    Workspace workspace(std::span(memory.get(), bytes));
    select_keys<float>(HeadsView<const float>(queries.data(), T, 6, 32), MatrixView<const float>(weights.data(), T, 6), caches,
                       query_begin, MatrixView<std::int32_t>(selection.data(), T, 64), workspace, ThreadExecutor(3));
    EXPECT_EQ(selection, expected);
}

TEST(SelectKeysBatchTest, MoreQueriesThanKeysSeeNothingOrLess) {
    const Problem<float> problem({5, 2, 16, 3, 4});
    const auto selection = problem.run();
    for (Index t = 0; t < 5; ++t)
        for (Index i = 0; i < 4; ++i) EXPECT_EQ(selection[static_cast<std::size_t>(t * 4 + i)], i < t - 1 ? i : -1) << t;
}

TEST(SelectKeysErrorsTest, NameWhatDoesNotFit) {
    const Problem<float> problem({2, 3, 16, 50, 4});
    std::vector<std::int32_t> selection(8);
    const auto message = [&](Index weight_rows, Index rows, Index cols) {
        return thrown<std::invalid_argument>([&] {
            Workspace workspace;
            const std::array<LatentView<float>, 1> caches{problem.keys.view()};
            const std::array<std::int32_t, 2> query_begin{0, 2};
            select_keys<float>(HeadsView<const float>(problem.queries.data(), 2, 3, 16),
                               MatrixView<const float>(problem.weights.data(), weight_rows, 3), caches, query_begin,
                               MatrixView<std::int32_t>(selection.data(), rows, cols), workspace, SerialExecutor{});
        });
    };
    EXPECT_EQ(message(1, 2, 4), "mla: head_weights.rows is 1, must be q.tokens = 2");
    EXPECT_EQ(message(2, 3, 4), "mla: selection.rows is 3, must be q.tokens = 2");
    EXPECT_EQ(message(2, 2, 0), "mla: selection.cols is 0, must be at least 1");
}

}  // namespace
}  // namespace mla
