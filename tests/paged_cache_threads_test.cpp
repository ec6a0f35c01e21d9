// Threads that use different sequences of one paged cache at the same time do not disturb each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "mla/cache/paged_cache.hpp"
#include "mla/testing/configs.hpp"

namespace mla {
namespace {

using Cache = PagedCache<float, float>;
using Sequence = PagedSequence<float, float>;

constexpr Index page_size = 4;
constexpr Index dim = 43;        // Dc + Dr of small_config
constexpr Index index_dim = 12;  // Di

/// With index keys, which live and end with their tokens.
Config config() {
    Config small = testing::small_config();
    small.indexer = {.top_k = 9, .heads = 3, .head_dim = index_dim};
    return small;
}

/// Appends `count` tokens that all hold `value`.
void append(Sequence& sequence, Index count, float value) {
    const std::vector<float> rows(static_cast<std::size_t>(count * dim), value);
    sequence.append(MatrixView<const float>(rows.data(), count, dim), MatrixView<const float>(rows.data(), count, index_dim));
}

/// Tokens of [begin, end) that do not hold `value` throughout.
Index wrong_tokens(const Sequence& sequence, Index begin, Index end, float value) {
    const auto holds = [value](const float* row, Index values) {
        return std::all_of(row, row + values, [value](float each) { return each == value; });
    };
    Index wrong = 0;
    for (Index t = begin; t < end; ++t)
        if (!holds(sequence.view().row(t), dim) || !holds(sequence.index_view().row(t), index_dim)) ++wrong;
    return wrong;
}

/// Runs `body(thread)` on so many threads at once and waits for them.
void run_threads(int threads, const std::function<void(int)>& body) {
    std::atomic<int> waiting{threads};
    std::vector<std::thread> running;
    for (int i = 0; i < threads; ++i)
        running.emplace_back([&, i] {
            --waiting;
            while (waiting > 0) std::this_thread::yield();
            body(i);
        });
    for (std::thread& thread : running) thread.join();
}

constexpr int threads = 4;

TEST(PagedCacheThreadsTest, SequencesGrowShrinkAndEndAtTheSameTime) {
    Cache cache(config(), 200, page_size);
    std::atomic<Index> wrong{0};
    run_threads(threads, [&](int thread) {
        for (int round = 0; round < 60; ++round) {
            const auto value = static_cast<float>(100 * thread + round);
            Sequence sequence = cache.sequence(60);
            append(sequence, 1 + round % 9, value);
            sequence.truncate(1);
            sequence.reserve(20);
            append(sequence, 17, value);
            sequence.release_reserved();
            for (int token = 0; token < 12; ++token) append(sequence, 1, value);
            if (sequence.size() != 30) ++wrong;
            wrong += wrong_tokens(sequence, 0, 30, value);
            sequence.reset();
            append(sequence, 5, value);
            wrong += wrong_tokens(sequence, 0, 5, value);
        }
    });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(cache.free_pages(), 200);
}

TEST(PagedCacheThreadsTest, ForksOfOnePrefixCopyItsLastPageAtTheSameTime) {
    Cache cache(config(), 100, page_size);
    std::atomic<Index> wrong{0};
    for (int round = 0; round < 60; ++round) {
        Sequence prefix = cache.sequence(20);
        append(prefix, 6, -1.0F);
        std::vector<Sequence> forks;
        for (int i = 0; i < threads; ++i) forks.push_back(prefix.fork(6));
        // The page is theirs alone: whoever is last writes to the very page that the others copy.
        if (round % 2 == 0) prefix.reset();
        run_threads(threads, [&](int thread) {
            Sequence& fork = forks[static_cast<std::size_t>(thread)];
            fork.truncate(5 + thread % 2);
            append(fork, 2, static_cast<float>(thread));
            wrong += wrong_tokens(fork, 0, 5 + thread % 2, -1.0F);
            wrong += wrong_tokens(fork, 5 + thread % 2, fork.size(), static_cast<float>(thread));
        });
        for (int i = 0; i < threads; ++i) {
            const Sequence& fork = forks[static_cast<std::size_t>(i)];
            wrong += wrong_tokens(fork, 0, 5 + i % 2, -1.0F);
            wrong += wrong_tokens(fork, 5 + i % 2, fork.size(), static_cast<float>(i));
        }
        if (round % 2 == 1) wrong += wrong_tokens(prefix, 0, 6, -1.0F);
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(cache.free_pages(), 100);
}

TEST(PagedCacheThreadsTest, ThreadsMayForkAndReadOneSequence) {
    Cache cache(config(), 100, page_size);
    Sequence prefix = cache.sequence(20);
    append(prefix, 6, -1.0F);
    std::atomic<Index> wrong{0};
    run_threads(threads, [&](int thread) {
        for (int round = 0; round < 60; ++round) {
            Sequence fork = prefix.fork(6 - round % 3);
            append(fork, 3, static_cast<float>(thread));
            wrong += wrong_tokens(fork, 0, 6 - round % 3, -1.0F);
            wrong += wrong_tokens(fork, 6 - round % 3, fork.size(), static_cast<float>(thread));
            wrong += wrong_tokens(prefix, 0, 6, -1.0F);
        }
    });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(cache.free_pages(), 98);
}

TEST(PagedCacheThreadsTest, APoolThatRunsOutUnderSeveralThreadsLosesNoPage) {
    Cache cache(config(), 7, page_size);  // each of the threads wants up to five
    std::atomic<Index> wrong{0};
    run_threads(threads, [&](int thread) {
        Sequence sequence = cache.sequence(20);
        const auto value = static_cast<float>(thread);
        for (int round = 0; round < 300; ++round) {
            const Index before = sequence.size();
            try {
                append(sequence, 1 + round % 7, value);
            } catch (const std::length_error&) {
                if (sequence.size() != before) ++wrong;
                wrong += wrong_tokens(sequence, 0, before, value);
                sequence.reset();
            }
        }
    });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(cache.free_pages(), 7);
    Sequence all = cache.sequence(28);
    append(all, 28, 1.0F);
    EXPECT_EQ(wrong_tokens(all, 0, 28, 1.0F), 0);
}

}  // namespace
}  // namespace mla
