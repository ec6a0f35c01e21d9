// One call for many requests of a layer: contiguous and paged, prefill, decode and drafts mixed.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "support/kernels.hpp"
#include "support/layer.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

using testing::RandomWeights;
using testing::small_config;
using testing::thrown;

using Layer = Attention<float>;
using Matrix = Layer::Matrix;

/// A layer, and requests that have some tokens cached already.
template <CacheElement C>
struct Served {
    Config config = small_config();
    Layer layer{config, RandomWeights<float>(config, 41).refs()};
    std::vector<Index> cached;
    std::vector<Index> counts;  ///< new tokens of each request
    PagedCache<C> pool;
    std::deque<PagedSequence<C>> sequences;
    std::deque<LatentCache<C>> caches;
    Matrix x;
    std::vector<std::int64_t> positions;

    Served(std::vector<Index> before, std::vector<Index> now, Index pages = 400, Index page_size = 16)
        : cached(std::move(before)), counts(std::move(now)), pool(config, pages, page_size) {
        Workspace workspace;
        Index total = 0;
        for (std::size_t r = 0; r < cached.size(); ++r) {
            const Prompt<float> prompt(config, cached[r], 42 + r);
            sequences.push_back(pool.sequence(4000));
            caches.emplace_back(config, 4000);
            Matrix y(cached[r], config.hidden_size);
            layer.forward(prompt.x, prompt.positions, sequences.back(), y, SerialExecutor{}, workspace);
            layer.forward(prompt.x, prompt.positions, caches.back(), y, SerialExecutor{}, workspace);
            total += counts[r];
            for (Index t = 0; t < counts[r]; ++t) positions.push_back(cached[r] + t);
        }
        x = Prompt<float>(config, total, 77).x;
    }

    [[nodiscard]] std::vector<Request<PagedSequence<C>>> paged() {
        std::vector<Request<PagedSequence<C>>> requests;
        for (std::size_t r = 0; r < counts.size(); ++r) requests.push_back({&sequences[r], counts[r]});
        return requests;
    }
    [[nodiscard]] std::vector<Request<LatentCache<C>>> contiguous() {
        std::vector<Request<LatentCache<C>>> requests;
        for (std::size_t r = 0; r < counts.size(); ++r) requests.push_back({&caches[r], counts[r]});
        return requests;
    }

    template <Requests List>
    [[nodiscard]] Matrix run(const List& requests, const ForwardOptions<float>& options = {},
                             ExecutorRef executor = SerialExecutor{}) const {
        Matrix y = Matrix::Constant(x.rows(), x.cols(), 12345);
        Workspace workspace;
        layer.forward(x, positions, requests, y, executor, workspace, options);
        return y;
    }

    /// Request r alone, on its contiguous cache.
    [[nodiscard]] Matrix alone(std::size_t r, Form form = Form::automatic) {
        Index first = 0;
        for (std::size_t i = 0; i < r; ++i) first += counts[i];
        Matrix y(counts[r], x.cols());
        Workspace workspace;
        layer.forward(x.middleRows(first, counts[r]),
                      std::span(positions).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(counts[r])),
                      caches[r], y, SerialExecutor{}, workspace, form);
        return y;
    }

    [[nodiscard]] Matrix part(const Matrix& y, std::size_t r) const {
        Index first = 0;
        for (std::size_t i = 0; i < r; ++i) first += counts[i];
        return y.middleRows(first, counts[r]);
    }
};

const std::vector<Index> cached_before = {0, 37, 5, 400, 16, 1, 90};
const std::vector<Index> new_tokens = {110, 1, 4, 1, 0, 2, 17};

template <class C>
class AttentionBatchTest : public ::testing::Test {};
using CacheTypes = ::testing::Types<float, bf16, int8, fp8>;
TYPED_TEST_SUITE(AttentionBatchTest, CacheTypes);

TYPED_TEST(AttentionBatchTest, ARequestGetsTheBitsItGetsAloneContiguousAndPaged) {
    for (const Form form : {Form::automatic, Form::absorbed, Form::expanded}) {
        Served<TypeParam> served(cached_before, new_tokens);
        const Matrix paged = served.run(served.paged(), {.form = form});
        for (std::size_t r = 0; r < new_tokens.size(); ++r) {
            if (new_tokens[r] == 0) continue;
            EXPECT_TRUE(same_bits(served.part(paged, r), served.alone(r, form))) << "request " << r;
        }
        Served<TypeParam> again(cached_before, new_tokens);
        EXPECT_TRUE(same_bits(again.run(again.contiguous(), {.form = form}), paged));
    }
}

TYPED_TEST(AttentionBatchTest, ThreadsChangeNoBit) {
    Served<TypeParam> serial(cached_before, new_tokens);
    Served<TypeParam> threaded(cached_before, new_tokens);
    const Matrix expected = serial.run(serial.paged());
    struct Backward {
        static Index concurrency() { return 3; }
        static void parallel_for(Index n, IndexFunctionRef f) {
            for (Index i = n; i-- > 0;) f(i);
        }
    };
    EXPECT_TRUE(same_bits(threaded.run(threaded.paged(), {}, Backward{}), expected));
}

TYPED_TEST(AttentionBatchTest, ForksThatShareTheirPrefixAgreeWithCopies) {
    const std::vector<Index> counts = {1, 3, 1};
    Served<TypeParam> served({500, 0, 0}, counts);
    for (std::size_t r = 1; r < 3; ++r) {
        served.sequences[r] = served.sequences[0].fork(500);
        served.caches[r] = served.caches[0].fork(500, 600);
    }
    served.positions = {500, 500, 501, 502, 500};
    const Matrix found = served.run(served.paged(), {.share_prefix = true});
    const Matrix expected = served.run(served.contiguous());
    const double rounding = 2.0 * decode_allowance<TypeParam>;
    EXPECT_TRUE(
        testing::within(compare(found, expected), 2.0 * testing::layer_tolerance<float>(served.config, 503) + 2.0 * rounding));
    EXPECT_FALSE(same_bits(found, expected));  // it was indeed computed in another order
}

TEST(AttentionRequestsTest, AChainAsATreeGivesTheBitsOfTheCausalRuleInOneChunkAndInSeveral) {
    Config config = small_config();
    config.num_attention_heads = 1030;  // one query a chunk
    config.qk_nope_head_dim = 2;
    config.v_head_dim = 2;
    const Layer layer(config, RandomWeights<float>(config, 43).refs());
    constexpr Index T = 5;
    std::array<bool, T * T> mask{};
    for (Index t = 0; t < T; ++t)
        for (Index s = 0; s <= t; ++s) mask[static_cast<std::size_t>(t * T + s)] = true;
    const std::array<MatrixView<const bool>, 1> trees{{{mask.data(), T, T}}};
    const Prompt<float> prompt(config, 20, 44);
    const auto run = [&](const ForwardOptions<float>& options) {
        LatentCache<float> cache(config, 20);
        Workspace workspace;
        Matrix y(T, config.hidden_size);
        Matrix before(15, config.hidden_size);
        layer.forward(prompt.x.topRows(15), std::span(prompt.positions).first(15), cache, before, SerialExecutor{}, workspace,
                      Form::absorbed);
        const std::array<Request<LatentCache<float>>, 1> request{{{&cache, T}}};
        layer.forward(prompt.x.bottomRows(T), std::span(prompt.positions).last(T), request, y, SerialExecutor{}, workspace,
                      options);
        return y;
    };
    EXPECT_TRUE(same_bits(run({.trees = trees}), run({.form = Form::absorbed})));
}

TEST(AttentionRequestsTest, SinksAndLseAreTheSameInEitherForm) {
    Served<float> absorbed(cached_before, new_tokens);
    Served<float> expanded(cached_before, new_tokens);
    const auto heads = static_cast<std::size_t>(absorbed.config.num_attention_heads);
    std::vector<float> sinks(heads, 0.3F);
    sinks[0] = -std::numeric_limits<float>::infinity();
    std::vector<float> lse(static_cast<std::size_t>(absorbed.x.rows()) * heads), other = lse, plain_lse = lse;
    const auto view = [&](std::vector<float>& values) {
        return MatrixView<float>(values.data(), absorbed.x.rows(), static_cast<Index>(heads));
    };
    const Matrix y = absorbed.run(absorbed.paged(), {.form = Form::absorbed, .sinks = sinks, .lse = view(lse)});
    const Matrix z = expanded.run(expanded.paged(), {.form = Form::expanded, .sinks = sinks, .lse = view(other)});
    const double bound = 2.0 * testing::layer_tolerance<float>(absorbed.config, 701);
    EXPECT_TRUE(testing::within(compare(y, z), bound));
    EXPECT_TRUE(testing::within(testing::compare(lse, {other.begin(), other.end()}), bound));
    Served<float> plain(cached_before, new_tokens);
    const Matrix without = plain.run(plain.paged(), {.form = Form::absorbed, .lse = view(plain_lse)});
    EXPECT_EQ(plain_lse, lse);
    EXPECT_FALSE(same_bits(without, y));
}

// What fails leaves everything as it was ----------------------------------------------------------------------------

TEST(AttentionRequestsTest, APoolThatHasRoomForEachRequestButNotForAllTakesNone) {
    Served<float> served({16, 16, 16}, {16, 16, 16}, 5);
    const auto before = served.sequences[0].held_pages().size();
    Workspace workspace;
    Matrix y = Matrix::Constant(48, served.config.hidden_size, 7);
    const std::string message = thrown<std::length_error>(
        [&] { served.layer.forward(served.x, served.positions, served.paged(), y, SerialExecutor{}, workspace); });
    EXPECT_EQ(message, "mla: pages needed is 1, must be at most free_pages() = 0");
    for (const auto& sequence : served.sequences) {
        EXPECT_EQ(sequence.size(), 16);
        EXPECT_EQ(sequence.held_pages().size(), before);
    }
    EXPECT_EQ(served.pool.free_pages(), 2);
    EXPECT_TRUE((y.array() == 7.0F).all());
    served.sequences[2].reset();
    served.counts = {16, 16, 0};
    served.x = served.x.topRows(32).eval();
    served.positions.resize(32);
    EXPECT_NO_THROW(static_cast<void>(served.run(served.paged())));
}

TEST(AttentionRequestsTest, RejectsBadRequestsAndLeavesCachesAndOutputsAlone) {
    struct Arguments {
        Served<float> served{{20, 30}, {2, 1}};
        std::vector<Request<LatentCache<float>>> requests = served.contiguous();
        std::vector<float> sinks = std::vector<float>(static_cast<std::size_t>(served.config.num_attention_heads));
        std::array<bool, 4> mask{};
        std::array<MatrixView<const bool>, 2> trees{{{mask.data(), 2, 2}, {}}};
        std::vector<float> lse = std::vector<float>(3 * sinks.size());
        ForwardOptions<float> options{.sinks = sinks, .trees = trees, .lse = {lse.data(), 3, static_cast<Index>(sinks.size())}};
    };
    struct Case {
        void (*spoil)(Arguments&);
        const char* message;
    };
    const std::vector<Case> cases = {
        {[](Arguments& a) { a.requests[1].cache = nullptr; }, "requests[r].cache is null, must be not null"},
        {[](Arguments& a) { a.requests[1].cache = a.requests[0].cache; },
         "requests[r].cache is that of another request too, must be a cache of its own"},
        {[](Arguments& a) { a.requests[1].tokens = -1; }, "requests[r].tokens is -1, must be in [0, 3]"},
        {[](Arguments& a) { a.requests[1].tokens = 2; }, "requests' tokens is 4, must be x.rows() = 3"},
        {[](Arguments& a) { a.options.sinks = a.options.sinks.first(1); },
         "options.sinks.size() is 1, must be num_attention_heads"},
        {[](Arguments& a) { a.options.trees = a.options.trees.first(1); },
         "options.trees.size() is 1, must be requests.size() = 2"},
        {[](Arguments& a) { a.trees[0].cols = 1; }, "options.trees[r].cols is 1, must be requests[r].tokens = 2"},
        {[](Arguments& a) { a.trees[0].rows = 3; }, "options.trees[r].rows is 3, must be requests[r].tokens = 2"},
        {[](Arguments& a) { a.trees[0].stride = 1; }, "options.trees[r].stride is 1, must be at least 2"},
        {[](Arguments& a) { a.options.lse.rows = 2; }, "options.lse.rows is 2, must be x.rows() = 3"},
        {[](Arguments& a) { a.options.lse.stride = 1; }, "options.lse.stride is 1, must be at least"},
    };
    for (const Case& each : cases) {
        Arguments arguments;
        each.spoil(arguments);
        Workspace workspace;
        Matrix y = Matrix::Constant(3, arguments.served.config.hidden_size, 7);
        const std::string message = thrown<std::invalid_argument>([&] {
            arguments.served.layer.forward(arguments.served.x, arguments.served.positions, arguments.requests, y,
                                           SerialExecutor{}, workspace, arguments.options);
        });
        EXPECT_EQ(message.find(std::string("mla: ") + each.message), 0U) << message;
        EXPECT_EQ(arguments.served.caches[0].size(), 20);
        EXPECT_EQ(arguments.served.caches[1].size(), 30);
        EXPECT_TRUE((y.array() == 7.0F).all());
    }
}

TEST(AttentionRequestsTest, RunsInTheWorkspaceForItsLimits) {
    Served<float> served(cached_before, new_tokens);
    Served<float> other(cached_before, new_tokens);
    const BatchLimits limits{static_cast<Index>(new_tokens.size()), served.x.rows(), true};
    const std::size_t bytes = served.layer.workspace_bytes(limits, 1);
    const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
    Workspace fixed{std::span(memory.get(), bytes)};
    Matrix y(served.x.rows(), served.x.cols());
    served.layer.forward(served.x, served.positions, served.paged(), y, SerialExecutor{}, fixed,
                         {.form = Form::absorbed, .share_prefix = true});
    EXPECT_TRUE(same_bits(y, other.run(other.paged(), {.form = Form::absorbed, .share_prefix = true})));
}

}  // namespace
}  // namespace mla
