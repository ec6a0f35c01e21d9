// Results do not depend on the number of threads nor on whose they are, bit for bit.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "mla/attention.hpp"
#include "mla/core/eigen_executor.hpp"
#include "mla/testing/shape_problems.hpp"
#include "support/attention_result.hpp"
#include "support/executors.hpp"
#include "support/kernels.hpp"
#include "support/layer.hpp"
#include "support/openmp.hpp"

namespace mla {
namespace {

using testing::AttentionShape;
using testing::RandomWeights;
using testing::small_config;

/// Calls `use(name, executor)` for every kind of executor with one to three threads, but for the serial one.
void for_each_executor(const std::function<void(const std::string&, ExecutorRef)>& use) {
    for (const int threads : {1, 2, 3}) {
        const auto count = std::to_string(threads);
        const ThreadExecutor own(threads);
        use("threads " + count, own);
        const BackwardExecutor backward(threads);
        use("backward " + count, backward);
        Eigen::ThreadPool pool(threads);  // and the calling thread
        const EigenExecutor eigen(pool);
        use("eigen " + count, eigen);
#ifdef MLA_TEST_OPENMP
        const OpenMPExecutor openmp(threads);
        use("openmp " + count, openmp);
#endif
    }
}

TEST(AttentionThreadsTest, AbsorbedKernelGivesTheSameBits) {
    // One range of keys and one group of rows, several of either, and of both.
    for (const AttentionShape& shape :
         {AttentionShape{1, 1, 50, 32, 8}, {1, 3, 3100, 64, 8}, {9, 22, 300, 32, 8}, {3, 63, 1700, 40, 8}}) {
        const auto problem = testing::absorbed_problem<float>(shape);
        const auto run = [&](ExecutorRef executor) {
            AttentionResult<float> result{shape.T, shape.H, shape.Dc};
            Workspace workspace;
            decode_absorbed(problem.q(), problem.cache(), problem.scale, result.out_view(), result.lse_view(), workspace,
                            executor);
            return result;
        };
        const auto expected = run(SerialExecutor{});
        for_each_executor([&](const std::string& name, ExecutorRef executor) {
            for (int repeat = 0; repeat < 3; ++repeat) EXPECT_TRUE(run(executor).same(expected)) << shape << " with " << name;
        });
    }
}

TEST(AttentionThreadsTest, ExpandedKernelGivesTheSameBits) {
    for (const AttentionShape& shape :
         {AttentionShape{1, 2, 50, 32, 8, 12, 14}, {40, 5, 200, 32, 8, 12, 14}, {1100, 1, 1100, 32, 8, 12, 14}}) {
        const auto problem = testing::expanded_problem<float>(shape);
        const PackedExpansion<float> packed(problem.expansion(), shape.H, shape.Dn, shape.Dv);
        const auto run = [&](ExecutorRef executor) {
            AttentionResult<float> result{shape.T, shape.H, shape.Dv};
            Workspace workspace;
            prefill_expanded(problem.q(), problem.cache(), packed.weights(), problem.scale, result.out_view(), result.lse_view(),
                             workspace, executor);
            return result;
        };
        const auto expected = run(SerialExecutor{});
        for_each_executor([&](const std::string& name, ExecutorRef executor) {
            for (int repeat = 0; repeat < 3; ++repeat) EXPECT_TRUE(run(executor).same(expected)) << shape << " with " << name;
        });
    }
}

TEST(AttentionThreadsTest, LayerGivesTheSameBitsAndCache) {
    Config config = small_config();
    config.hidden_size = 300;  // several items of every projection
    config.attention_bias = true;
    const Attention<float> layer(config, RandomWeights<float>(config, 31).refs());
    const Prompt<float> prompt(config, 450, 32);
    for (const Form form : {Form::absorbed, Form::expanded}) {
        LatentCache<float> expected_cache(config, 450);
        const auto expected = feed(layer, prompt, {440, 1, 9}, expected_cache, form);
        for_each_executor([&](const std::string& name, ExecutorRef executor) {
            LatentCache<float> cache(config, 450);
            EXPECT_TRUE(same_bits(feed(layer, prompt, {440, 1, 9}, cache, form, executor), expected)) << name;
            EXPECT_TRUE(same_tokens(cache, expected_cache)) << name;
        });
    }
}

TEST(AttentionThreadsTest, ALayerThatSelectsKeysGivesTheSameBits) {
    Config config = small_config();
    config.indexer = {.top_k = 50, .heads = 4, .head_dim = 12};
    const Attention<float> layer(config, RandomWeights<float>(config, 35).refs());
    const Prompt<float> prompt(config, 450, 36);
    LatentCache<float, float> expected_cache(config, 450);
    const auto expected = feed(layer, prompt, {440, 1, 9}, expected_cache);
    for_each_executor([&](const std::string& name, ExecutorRef executor) {
        LatentCache<float, float> cache(config, 450);
        EXPECT_TRUE(same_bits(feed(layer, prompt, {440, 1, 9}, cache, Form::automatic, executor), expected)) << name;
    });
}

TEST(AttentionThreadsTest, ThreadsMayShareALayer) {
    const Config config = small_config();
    const Attention<float> layer(config, RandomWeights<float>(config, 33).refs());
    std::vector<RowMatrix<float>> expected(3);
    std::vector<RowMatrix<float>> found(3);
    const auto request = [&](std::size_t index) {
        const Prompt<float> prompt(config, 40, 34 + index);
        LatentCache<float> cache(config, 40);
        return feed(layer, prompt, {30, 1, 9}, cache);
    };
    for (std::size_t i = 0; i < 3; ++i) expected[i] = request(i);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 3; ++i) threads.emplace_back([&, i] { found[i] = request(i); });
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(found[i], expected[i]));
}

}  // namespace
}  // namespace mla
