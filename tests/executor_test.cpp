// Executors: ours, and one that a host would write.
#include "mla/core/executor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "mla/core/eigen_executor.hpp"
#ifdef _OPENMP
#include "mla/core/openmp_executor.hpp"
#endif
#include "support/allocations.hpp"
#include "support/executors.hpp"
#include "support/thrown.hpp"

namespace {

using mla::ExecutorRef;
using mla::Index;
using mla::IndexFunctionRef;
using mla::ThreadExecutor;
using mla::testing::allocations;

static_assert(mla::Executor<mla::SerialExecutor> && mla::Executor<const mla::SerialExecutor>);
static_assert(mla::Executor<mla::EigenExecutor> && mla::Executor<ThreadExecutor> && mla::Executor<ExecutorRef>);
static_assert(!mla::Executor<int> && !mla::Executor<std::thread>);

struct Serial {
    mla::SerialExecutor executor;
    static constexpr Index concurrency = 1;
};
struct Threads {
    ThreadExecutor executor{3};
    static constexpr Index concurrency = 3;
};
struct Backward {
    mla::BackwardExecutor executor{3};
    static constexpr Index concurrency = 3;
};
struct EigenPool {
    Eigen::ThreadPool pool{2};
    mla::EigenExecutor executor{pool};
    static constexpr Index concurrency = 3;  // two of the pool and the caller
};
#ifdef _OPENMP
struct OpenMP {
    mla::OpenMPExecutor executor{3};
    static constexpr Index concurrency = 3;
};
using Hosts = ::testing::Types<Serial, Threads, Backward, EigenPool, OpenMP>;
#else
using Hosts = ::testing::Types<Serial, Threads, Backward, EigenPool>;
#endif

template <class Host>
class ExecutorTest : public ::testing::Test {
  protected:
    Host host;
};
TYPED_TEST_SUITE(ExecutorTest, Hosts, );

constexpr Index sizes[] = {0, 1, 2, 7, 100};

/// Runs a loop of n and checks that each index came once, and that all had come when it returned.
template <class Executor>
void expect_each_index_once(const Executor& executor, Index n) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(n));
    std::vector<Index> written(calls.size(), -1);  // not atomic: to be seen after the loop without further ado
    executor.parallel_for(n, [&](Index i) {
        const auto slot = static_cast<std::size_t>(i);
        ++calls.at(slot);
        written.at(slot) = i;
    });
    for (Index i = 0; i < n; ++i) {
        EXPECT_EQ(calls[static_cast<std::size_t>(i)], 1) << i << " of " << n;
        EXPECT_EQ(written[static_cast<std::size_t>(i)], i) << i << " of " << n;
    }
}

TYPED_TEST(ExecutorTest, CallsEachIndexExactlyOnce) {
    for (const Index n : sizes) {
        expect_each_index_once(this->host.executor, n);
        expect_each_index_once(ExecutorRef(this->host.executor), n);
    }
}

TYPED_TEST(ExecutorTest, StatesItsConcurrency) {
    EXPECT_EQ(this->host.executor.concurrency(), TypeParam::concurrency);
    EXPECT_EQ(ExecutorRef(this->host.executor).concurrency(), TypeParam::concurrency);
}

TYPED_TEST(ExecutorTest, ForEachItemGivesEachItemOnceToAWorkerThatHasNoOther) {
    for (const Index items : sizes) {
        const Index workers = std::min(items, TypeParam::concurrency);
        std::vector<std::atomic<int>> calls(static_cast<std::size_t>(items));
        std::vector<std::atomic<bool>> busy(static_cast<std::size_t>(workers));
        std::atomic<bool> shared{false};
        mla::for_each_item(this->host.executor, items, [&](Index item, Index worker) {
            std::atomic<bool>& mine = busy.at(static_cast<std::size_t>(worker));
            if (mine.exchange(true)) shared = true;
            ++calls.at(static_cast<std::size_t>(item));
            mine = false;
        });
        EXPECT_FALSE(shared) << items;
        for (const std::atomic<int>& count : calls) EXPECT_EQ(count, 1) << items;
    }
}

TEST(ForEachItemTest, WorkersThatRunAtTheSameTimeHaveDifferentIds) {
    constexpr Index workers = 3;
    std::latch all_started(workers);  // the first items wait for each other, so that each is with another worker
    std::mutex mutex;
    std::multiset<Index> ids;
    ThreadExecutor executor{workers};
    mla::for_each_item(executor, 10, [&](Index item, Index worker) {
        if (item >= workers) return;
        all_started.arrive_and_wait();
        const std::scoped_lock lock(mutex);
        ids.insert(worker);
    });
    EXPECT_EQ(ids, (std::multiset<Index>{0, 1, 2}));
}

TEST(ForEachItemTest, ASingleItemStaysOnTheCallingThread) {
    ThreadExecutor executor{3};
    std::thread::id id;
    mla::for_each_item(executor, 1, [&](Index, Index) { id = std::this_thread::get_id(); });
    EXPECT_EQ(id, std::this_thread::get_id());
}

TEST(ExecutorRefTest, CallsTheExecutorItself) {
    struct Counting {
        Index calls = 0;
        static Index concurrency() { return 4; }
        void parallel_for(Index n, IndexFunctionRef f) {
            calls += n;
            mla::SerialExecutor::parallel_for(n, f);
        }
    } executor;
    const ExecutorRef ref(executor);
    const ExecutorRef copy = ref;
    Index sum = 0;
    copy.parallel_for(5, [&](Index i) { sum += i; });
    EXPECT_EQ(executor.calls, 5);
    EXPECT_EQ(sum, 10);
    EXPECT_EQ(copy.concurrency(), 4);
}

TEST(IndexFunctionRefTest, CallsTheCallableItselfAndNotACopy) {
    struct Summing {
        Index sum = 0;
        void operator()(Index i) { sum += i; }
    } callable;
    const IndexFunctionRef ref(callable);
    const IndexFunctionRef copy = ref;
    ref(3);
    copy(4);
    EXPECT_EQ(callable.sum, 7);

    const auto constant = [](Index) {};
    IndexFunctionRef{constant}(0);  // a constant callable will do
}

TEST(EigenExecutorTest, AStepAllocatesNothing) {
    Eigen::ThreadPool pool(2);
    const mla::EigenExecutor executor(pool);
    std::atomic<Index> sum{0};
    const auto step = [&] { mla::for_each_item(executor, 100, [&](Index item, Index) { sum += item; }); };
    step();
    const std::uint64_t before = allocations();
    for (int repeat = 0; repeat < 10; ++repeat) step();
    executor.parallel_for(100, [&](Index i) { sum += i; });
    EXPECT_EQ(allocations(), before);
    EXPECT_EQ(sum, 12 * 4950);
}

TEST(EigenExecutorTest, MoreIterationsThanItsQueuesHoldRunOnceToo) {
    Eigen::ThreadPool pool(2);  // with a queue of 1024 a thread
    expect_each_index_once(mla::EigenExecutor(pool), 5000);
}

#ifdef _OPENMP
TEST(OpenMPExecutorTest, RejectsFewerThanOneThread) {
    for (const int threads : {0, -3})
        EXPECT_EQ(mla::testing::thrown<std::invalid_argument>([&] { mla::OpenMPExecutor executor(threads); }),
                  "mla: OpenMPExecutor threads is " + std::to_string(threads) + ", must be at least 1");
}

TEST(OpenMPExecutorTest, TakesWhatOpenMPWouldUseByDefault) {
    EXPECT_EQ(mla::OpenMPExecutor().concurrency(), omp_get_max_threads());
}
#endif

}  // namespace
