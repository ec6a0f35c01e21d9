// A warmed-up step allocates nothing: neither through operator new nor through Eigen, which calls malloc itself.
namespace {

bool eigen_allocated = false;

void eigen_assertion_failed() { eigen_allocated = true; }

}  // namespace

#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) ((condition) ? void() : eigen_assertion_failed())

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <span>

#include "mla/attention.hpp"
#include "mla/core/eigen_executor.hpp"
#include "support/allocations.hpp"
#include "support/layer.hpp"
#include "support/openmp.hpp"

namespace mla {
namespace {

using testing::allocations;
using testing::RandomWeights;
using testing::small_config;

/// Allocations while `f` runs; one of Eigen's counts as many as there can be.
template <class F>
std::uint64_t allocations_in(F&& f) {
    eigen_allocated = false;
    Eigen::internal::set_is_malloc_allowed(false);
    const std::uint64_t before = allocations();
    f();
    const std::uint64_t after = allocations();
    Eigen::internal::set_is_malloc_allowed(true);
    return eigen_allocated ? ~std::uint64_t{0} : after - before;
}

class AttentionAllocationTest : public ::testing::Test {
  protected:
    static constexpr Index steps = 4000;

    AttentionAllocationTest() : layer(config, RandomWeights<float>(config, 41).refs()), cache(config, steps + 1) {
        y.resize(1, config.hidden_size);
    }

    void step(ExecutorRef executor, Workspace& workspace, Form form = Form::automatic) {
        const std::array<std::int64_t, 1> position{cache.size()};
        layer.forward(token.x, position, cache, y, executor, workspace, form);
    }

    /// Decodes to 4000 cached tokens, then `tokens` steps in either form.
    void expect_no_allocation(ExecutorRef executor, Workspace& workspace) {
        EXPECT_EQ(allocations_in([&] {
                      while (cache.size() < steps) step(executor, workspace);
                  }),
                  0U);
        for (const Form form : {Form::absorbed, Form::expanded}) {
            cache.truncate(steps);
            EXPECT_EQ(allocations_in([&] { step(executor, workspace, form); }), 0U);
        }
        EXPECT_TRUE(y.allFinite());
    }

    static Config make_config() {
        Config c = small_config();
        c.num_attention_heads = 6;
        c.kv_lora_rank = 16;
        c.qk_rope_head_dim = 4;
        return c;
    }

    Config config = make_config();
    Attention<float> layer;
    LatentCache<float> cache;
    Prompt<float> token{config, 1, 42};
    RowMatrix<float> y;
};

TEST_F(AttentionAllocationTest, TheCountersCount) {
    EXPECT_GT(allocations_in([] { Workspace().reserve(64); }), 0U);
    EXPECT_GT(allocations_in([] { RowMatrix<float>(3, 3).setZero(); }), 0U);
    EXPECT_GT(allocations_in([&] { layer.forward(token.x, std::array<std::int64_t, 1>{0}, cache, y); }), 0U);
}

TEST_F(AttentionAllocationTest, SerialDecodeAllocatesNothingAfterOneStep) {
    Workspace workspace;
    step(SerialExecutor{}, workspace);
    expect_no_allocation(SerialExecutor{}, workspace);
}

TEST_F(AttentionAllocationTest, ABatchInPagesAllocatesNothingInAWorkspaceForItsLimits) {
    PagedCache<float> pool(config, 200, 16);
    std::vector<PagedSequence<float>> sequences;
    std::vector<Request<PagedSequence<float>>> requests;
    for (int r = 0; r < 4; ++r) sequences.push_back(pool.sequence(700));
    for (auto& sequence : sequences) requests.push_back({&sequence, 0});
    const Prompt<float> prompt(config, 12, 43);
    RowMatrix<float> out(12, config.hidden_size);
    std::vector<std::int64_t> positions(12);
    Workspace workspace;
    workspace.reserve(layer.workspace_bytes(BatchLimits{4, 12, true}, 1));
    EXPECT_EQ(allocations_in([&] {
                  for (Index step = 0; step < 200; ++step) {  // prompts, drafts and single tokens in turns
                      Index total = 0;
                      for (Index r = 0; r < 4; ++r) {
                          Request<PagedSequence<float>>& request = requests[static_cast<std::size_t>(r)];
                          request.tokens = (step + r) % 5 == 0 ? 7 : r == step % 4 ? 0 : 1;
                          for (Index t = 0; t < request.tokens; ++t)
                              positions[static_cast<std::size_t>(total++)] = request.cache->size() + t;
                      }
                      layer.forward(prompt.x.topRows(total), std::span(positions).first(static_cast<std::size_t>(total)),
                                    requests, out.topRows(total), SerialExecutor{}, workspace, {.share_prefix = step % 2 == 0});
                  }
              }),
              0U);
    EXPECT_TRUE(out.allFinite());
}

TEST_F(AttentionAllocationTest, SelectingKeysAndAttendingToThemAllocatesNothing) {
    Config sparse = config;
    sparse.indexer = {.top_k = 40, .heads = 3, .head_dim = 10};
    sparse.output_gate = OutputGate::with_query;
    const Attention<float> selecting(sparse, RandomWeights<float>(sparse, 44).refs());
    const Prompt<float> prompt(sparse, 130, 45);
    RowMatrix<float> out(130, sparse.hidden_size);
    LatentCache<float, float> keys(sparse, 700);
    const std::size_t bytes = selecting.workspace_bytes(130, 1);
    const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
    Workspace workspace{std::span(memory.get(), bytes)};
    EXPECT_EQ(allocations_in([&] {
                  for (const Index tokens : {130, 1, 1, 64, 65, 7, 130})
                      selecting.forward(prompt.x.topRows(tokens),
                                        std::span(prompt.positions).first(static_cast<std::size_t>(tokens)), keys,
                                        out.topRows(tokens), SerialExecutor{}, workspace);
              }),
              0U);
    EXPECT_TRUE(out.allFinite());
}

TEST_F(AttentionAllocationTest, EigenPoolDecodeAllocatesNothingAfterOneStep) {
    Eigen::ThreadPool pool(2);
    const EigenExecutor executor(pool);
    Workspace workspace;
    step(executor, workspace);
    expect_no_allocation(executor, workspace);
}

#ifdef MLA_TEST_OPENMP
TEST_F(AttentionAllocationTest, OpenMPDecodeAllocatesNothingAfterOneStep) {
    const OpenMPExecutor executor(3);
    Workspace workspace;
    step(executor, workspace);
    expect_no_allocation(executor, workspace);
}
#endif

TEST_F(AttentionAllocationTest, AWorkspaceOfExactlyWhatTheLayerAsksForIsEnoughFromTheFirstStep) {
    const Index concurrency = 1;
    const std::size_t bytes = layer.workspace_bytes(1, concurrency);
    const auto memory = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
    Workspace workspace{std::span(memory.get(), bytes)};
    expect_no_allocation(SerialExecutor{}, workspace);
}

TEST_F(AttentionAllocationTest, APromptAllocatesNothingInAWorkspaceThatHasSeenOneAsLong) {
    const Prompt<float> prompt(config, 300, 43);
    RowMatrix<float> out(300, config.hidden_size);
    Workspace workspace;
    layer.forward(prompt.x, prompt.positions, cache, out, SerialExecutor{}, workspace);
    for (const Form form : {Form::automatic, Form::absorbed, Form::expanded})
        for (const Index tokens : {300, 299, 17, 2}) {
            const std::span positions = std::span(prompt.positions).first(static_cast<std::size_t>(tokens));
            EXPECT_EQ(allocations_in([&] {
                          layer.forward(prompt.x.topRows(tokens), positions, cache, out.topRows(tokens), SerialExecutor{},
                                        workspace, form);
                      }),
                      0U)
                << tokens << " tokens, form " << int(form);
        }
}

}  // namespace
}  // namespace mla
