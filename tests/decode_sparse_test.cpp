// Absorbed attention over lists of keys: every format, pages, batches, and what lists may look like.
#include "mla/kernels/decode_sparse.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/attention_result.hpp"
#include "support/executors.hpp"
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

struct Shape {
    Index T, H, L, Dc, Dr;
    Index selected;
};

std::ostream& operator<<(std::ostream& stream, const Shape& s) {
    return stream << "T " << s.T << ", H " << s.H << ", L " << s.L << ", Dc " << s.Dc << ", Dr " << s.Dr << ", selected "
                  << s.selected;
}

// A list shorter than a tile, one of several blocks, one that is split into ranges, and the whole cache.
const std::vector<Shape> shapes = {{1, 1, 50, 32, 8, 3},     {1, 16, 1500, 512, 64, 700}, {2, 3, 300, 33, 7, 130},
                                   {3, 63, 200, 64, 0, 97},  {1, 128, 150, 130, 8, 150},  {9, 5, 400, 96, 32, 50},
                                   {1, 9, 2000, 40, 8, 1300}};

/// For each query `count` different tokens of `length`, in a random order.
struct Selection {
    Index queries;
    Index count;
    std::vector<std::int32_t> tokens;

    Selection(Index rows, Index selected, Index length, std::uint64_t seed)
        : queries(rows), count(selected), tokens(static_cast<std::size_t>(rows * selected)) {
        Generator generator(seed);
        std::vector<std::int32_t> all(static_cast<std::size_t>(length));
        std::iota(all.begin(), all.end(), 0);
        for (Index t = 0; t < rows; ++t) {
            testing::shuffle(generator, all);
            std::copy_n(all.begin(), count, tokens.begin() + t * count);
        }
    }

    [[nodiscard]] MatrixView<const std::int32_t> view() const { return {tokens.data(), queries, count}; }
    [[nodiscard]] std::span<std::int32_t> row(Index t) {
        return std::span(tokens).subspan(static_cast<std::size_t>(t * count), static_cast<std::size_t>(count));
    }
    [[nodiscard]] reference::Visible visible() const {
        return [this](Index t, Index s) {
            const auto first = tokens.begin() + t * count;
            return std::find(first, first + count, static_cast<std::int32_t>(s)) != first + count;
        };
    }
    /// The slots of a view in their place.
    template <LatentSource View>
    [[nodiscard]] Selection slots(const View& view) const {
        Selection result = *this;
        for (std::int32_t& token : result.tokens)
            if (token >= 0) token = static_cast<std::int32_t>(view.slot_of(token));
        return result;
    }
};

template <CacheElement C>
struct Problem {
    Shape shape;
    StoredRows<C> rows;
    Selection selection;
    std::vector<float> queries;
    float scale;

    explicit Problem(const Shape& s, std::uint64_t seed = 1)
        : shape(s),
          rows(s.L, s.Dc, s.Dr, seed),
          selection(s.T, s.selected, s.L, seed + 1),
          scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.Dc + s.Dr)))) {
        Generator generator(seed + 2);
        const auto rounded = testing::gaussian_values<bf16>(generator, s.T * s.H * (s.Dc + s.Dr));
        queries.assign(rounded.begin(), rounded.end());
    }

    [[nodiscard]] HeadsView<const float> q() const { return {queries.data(), shape.T, shape.H, shape.Dc + shape.Dr}; }
    [[nodiscard]] reference::Attended expected() const {
        return reference::attend_absorbed(testing::widened(queries, shape.T * shape.H, shape.Dc + shape.Dr), shape.T, shape.H,
                                          rows.matrix(), shape.Dc, static_cast<double>(scale), selection.visible());
    }
    template <LatentSource View>
    [[nodiscard]] AttentionResult<float> run(const View& view, const Selection& slots, ExecutorRef executor = SerialExecutor{},
                                             const SparseOptions<float>& options = {}) const {
        AttentionResult<float> result{shape.T, shape.H, shape.Dc};
        Workspace workspace;
        decode_sparse<float>(q(), view, slots.view(), scale, result.out_view(), result.lse_view(), workspace, executor, options);
        return result;
    }
    [[nodiscard]] AttentionResult<float> run() const { return run(rows.view(), selection); }

    [[nodiscard]] double tolerance() const {
        return sum_tolerance<float>(shape.Dc + shape.Dr + shape.selected) + decode_allowance<C>;
    }
};

template <class C>
class DecodeSparseTest : public ::testing::Test {};
TYPED_TEST_SUITE(DecodeSparseTest, TestTypes<CacheTypes>);

TYPED_TEST(DecodeSparseTest, MatchesTheReferenceOverTheSelectedRowsAlone) {
    for (const Shape& shape : shapes) {
        const Problem<TypeParam> problem(shape);
        const auto result = problem.run();
        const auto expected = problem.expected();
        const auto error = testing::compare(result.out, expected.output.values);
        EXPECT_TRUE(within(error, problem.tolerance())) << shape << ": " << error;
        EXPECT_TRUE(within(testing::compare(result.lse, expected.lse.values), problem.tolerance())) << shape;
    }
}

TYPED_TEST(DecodeSparseTest, SlotsOfScatteredPagesGiveTheBitsOfContiguousRows) {
    for (const Shape& shape : shapes) {
        const Problem<TypeParam> problem(shape);
        const auto expected = problem.run();
        for (const Index page_size : {1, 16, 64, 256}) {
            const ScatteredRows<TypeParam> pages(problem.rows, page_size, 5);
            PagedView<TypeParam> pool = pages.view();
            const Selection slots = problem.selection.slots(pool);
            EXPECT_TRUE(problem.run(pool, slots).same(expected)) << shape << ", pages of " << page_size;
            pool.length = 0;
            pool.block_table = nullptr;
            EXPECT_TRUE(problem.run(pool, slots).same(expected)) << "without a block table";
        }
    }
}

TYPED_TEST(DecodeSparseTest, InvalidSlotsAndSlotsNamedTwiceChangeNoBit) {
    const Problem<TypeParam> problem({2, 9, 300, 64, 16, 140});
    const auto expected = problem.run();
    Selection longer(2, 150, 300, 1);
    for (Index t = 0; t < 2; ++t) {
        const auto row = longer.row(t);
        const auto given = problem.selection.view();
        std::fill(row.begin(), row.end(), -1);
        std::copy_n(given.row(t), given.cols, row.begin() + 5);
        row[146] = row[40];
        row[148] = row[41];
    }
    EXPECT_TRUE(problem.run(problem.rows.view(), longer).same(expected));
}

TYPED_TEST(DecodeSparseTest, OrderChangesRoundingOnly) {
    const Problem<TypeParam> problem({2, 9, 300, 64, 16, 140});
    Problem<TypeParam> ascending = problem;
    for (Index t = 0; t < 2; ++t) std::sort(ascending.selection.row(t).begin(), ascending.selection.row(t).end());
    const auto expected = problem.expected();
    for (const auto& each : {problem, ascending})
        EXPECT_TRUE(within(testing::compare(each.run().out, expected.output.values), problem.tolerance()));
}

TYPED_TEST(DecodeSparseTest, AllRowsGiveWhatDenseAttentionGivesToTheBit) {
    const Shape shape{1, 16, 700, 64, 16, 700};
    Problem<TypeParam> problem(shape);
    std::sort(problem.selection.tokens.begin(), problem.selection.tokens.end());
    AttentionResult<float> dense{shape.T, shape.H, shape.Dc};
    Workspace workspace;
    decode_absorbed(problem.q(), problem.rows.view(), problem.scale, dense.out_view(), dense.lse_view(), workspace,
                    SerialExecutor{});
    EXPECT_TRUE(problem.run().same(dense));
}

TYPED_TEST(DecodeSparseTest, RowsThatNobodySelectedMayHoldAnything) {
    const Problem<TypeParam> problem({2, 5, 200, 32, 8, 20});
    const auto expected = problem.run();
    Problem<TypeParam> poisoned = problem;
    const auto visible = problem.selection.visible();
    for (Index s = 0; s < 200; ++s)
        if (!visible(0, s) && !visible(1, s))
            std::fill_n(poisoned.rows.elements.begin() + s * poisoned.rows.stride, poisoned.rows.stride, poison<TypeParam>());
    EXPECT_TRUE(poisoned.run().same(expected));
}

TEST(DecodeSparseListsTest, AQueryWithoutAValidSlotGetsNothing) {
    Problem<float> problem({3, 4, 100, 32, 8, 10});
    const auto row = problem.selection.row(1);
    std::fill(row.begin(), row.end(), -1);
    const auto result = problem.run();
    for (Index r = 0; r < 12; ++r) EXPECT_EQ(result.is_empty(r), r / 4 == 1) << r;
    Selection none(3, 0, 100, 1);
    const auto empty = problem.run(problem.rows.view(), none);
    for (Index r = 0; r < 12; ++r) EXPECT_TRUE(empty.is_empty(r)) << r;
}

TEST(DecodeSparseListsTest, SinksTakeTheirShare) {
    const Problem<float> problem({2, 3, 100, 32, 8, 40});
    const std::vector<float> sinks{0.5F, -std::numeric_limits<float>::infinity(), 3.0F};
    const auto result = problem.run(problem.rows.view(), problem.selection, SerialExecutor{}, {.sinks = sinks});
    const auto expected = reference::with_sinks(problem.expected(), {sinks.begin(), sinks.end()});
    EXPECT_TRUE(within(testing::compare(result.out, expected.output.values), problem.tolerance()));
    EXPECT_TRUE(within(testing::compare(result.lse, expected.lse.values), problem.tolerance()));
}

TEST(DecodeSparseListsTest, ThreadsChangeNoBit) {
    for (const Shape& shape : shapes) {
        const Problem<bf16> problem(shape);
        const auto expected = problem.run();
        for (const Index threads : {1, 2, 3}) {
            EXPECT_TRUE(problem.run(problem.rows.view(), problem.selection, ThreadExecutor(threads)).same(expected)) << shape;
            EXPECT_TRUE(problem.run(problem.rows.view(), problem.selection, BackwardExecutor(threads)).same(expected)) << shape;
        }
    }
}

TEST(DecodeSparseBatchTest, EveryRequestGetsWhatItGetsAlone) {
    const std::vector<Problem<fp8>> problems = {
        Problem<fp8>({1, 6, 300, 64, 16, 60}, 1), Problem<fp8>({0, 6, 10, 64, 16, 60 - 60}, 2),
        Problem<fp8>({9, 6, 700, 64, 16, 60}, 3), Problem<fp8>({2, 6, 61, 64, 16, 60}, 4)};
    std::vector<LatentView<fp8>> caches;
    std::vector<std::int32_t> query_begin{0}, slots;
    std::vector<float> queries;
    for (const auto& problem : problems) {
        caches.push_back(problem.rows.view());
        query_begin.push_back(query_begin.back() + static_cast<std::int32_t>(problem.shape.T));
        queries.insert(queries.end(), problem.queries.begin(), problem.queries.end());
        if (problem.shape.T > 0) slots.insert(slots.end(), problem.selection.tokens.begin(), problem.selection.tokens.end());
    }
    const Index T = query_begin.back();
    AttentionResult<float> result{T, 6, 64};
    Workspace workspace;
    decode_sparse<float>(HeadsView<const float>(queries.data(), T, 6, 80), caches, query_begin,
                         MatrixView<const std::int32_t>(slots.data(), T, 60), problems[0].scale, result.out_view(),
                         result.lse_view(), workspace, SerialExecutor{});
    for (std::size_t r = 0; r < problems.size(); ++r) {
        const auto alone = problems[r].run();
        for (Index t = 0; t < problems[r].shape.T; ++t)
            for (Index h = 0; h < 6; ++h) {
                const Index row = (query_begin[r] + t) * 6 + h;
                EXPECT_EQ(std::memcmp(result.out.data() + row * 64, alone.out.data() + (t * 6 + h) * 64, 64 * sizeof(float)), 0)
                    << "request " << r << ", query " << t;
            }
    }
}

TEST(DecodeSparseBatchTest, AWorkspaceOfTheStatedSizeSuffices) {
    for (const Shape& shape : shapes) {
        const Problem<bf16> problem(shape);
        const std::size_t bytes =
            sparse_workspace_bytes<float>(BatchLimits{1, shape.T}, shape.selected, shape.H, shape.Dc, shape.Dr, 2);
        auto memory = mla::detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
        Workspace workspace(std::span(memory.get(), bytes));
        AttentionResult<float> result{shape.T, shape.H, shape.Dc};
        decode_sparse<float>(problem.q(), problem.rows.view(), problem.selection.view(), problem.scale, result.out_view(),
                             result.lse_view(), workspace, ThreadExecutor(2));
        EXPECT_TRUE(result.same(problem.run())) << shape;
    }
}

TEST(DecodeSparseErrorsTest, NameTheSlotThatIsNone) {
    Problem<float> problem({2, 3, 50, 32, 8, 4});
    const auto message = [&](auto&& change) {
        Problem<float> wrong = problem;
        change(wrong);
        return thrown<std::invalid_argument>([&] { static_cast<void>(wrong.run()); });
    };
    EXPECT_EQ(message([](auto& p) { p.selection.row(1)[2] = 50; }), "mla: selection[1][2] is 50, must be in [-1, 49]");
    EXPECT_EQ(message([](auto& p) { p.selection.row(0)[3] = -2; }), "mla: selection[0][3] is -2, must be in [-1, 49]");
    EXPECT_EQ(message([](auto& p) { p.selection.queries = 1; }), "mla: selection.rows is 1, must be q.tokens = 2");
}

}  // namespace
}  // namespace mla
