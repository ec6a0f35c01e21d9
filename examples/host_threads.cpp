// The library starts no threads. It borrows the host's through an Executor, two functions over whatever pool there is,
// and gives the same result to the bit whichever it gets.
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <latch>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

#include "mla/core/eigen_executor.hpp"
#include "mla/mla.hpp"
#include "mla/testing/random.hpp"
#ifdef _OPENMP
#include "mla/core/openmp_executor.hpp"
#endif

/// A pool as a host may have one: threads that take tasks off a queue.
struct HostPool {
    explicit HostPool(int count) {
        const auto work = [this](const std::stop_token& stop) {
            for (std::unique_lock lock(mutex); ready.wait(lock, stop, [this] { return !tasks.empty(); }); lock.lock()) {
                const std::function<void()> task = std::move(tasks.front());
                tasks.pop();
                lock.unlock();
                task();
            }
        };
        for (int i = 0; i < count; ++i) threads.emplace_back(work);
    }
    void submit(std::function<void()> task) {
        const std::scoped_lock lock(mutex);
        tasks.push(std::move(task));
        ready.notify_one();
    }

    std::mutex mutex;
    std::condition_variable_any ready;
    std::queue<std::function<void()>> tasks;
    std::vector<std::jthread> threads;
};

struct HostExecutor {  // all that the library asks for
    HostPool& pool;
    [[nodiscard]] mla::Index concurrency() const { return static_cast<mla::Index>(pool.threads.size()); }
    void parallel_for(mla::Index n, mla::IndexFunctionRef f) const {
        std::latch done(n);
        for (mla::Index i = 0; i < n; ++i) pool.submit([&done, f, i] { f(i), done.count_down(); });
        done.wait();
    }
};

int main() {
    const mla::Config config = mla::presets::moonlight_16b();
    const mla::testing::RandomWeights<mla::bf16> checkpoint(config, 1);
    const mla::Attention<mla::bf16, 512> attention(config, checkpoint.refs());
    const mla::RowMatrix<float> x = mla::RowMatrix<float>::Random(20, config.hidden_size);
    const auto outputs = [&](mla::ExecutorRef executor) {
        mla::LatentCache<mla::bf16> cache(config, x.rows());
        mla::RowMatrix<float> y(x.rows(), x.cols());
        attention.forward(x, mla::testing::consecutive(0, x.rows()), cache, y, executor);
        return y;
    };
    const mla::RowMatrix<float> serial = outputs(mla::SerialExecutor{});
    const auto same_bits = [&](const char* name, mla::ExecutorRef executor) {
        const bool same = outputs(executor) == serial;
        std::printf("%s, %td threads: %s\n", name, executor.concurrency(), same ? "same bits" : "other bits");
        return same;
    };
    HostPool host_pool(3);
    Eigen::ThreadPool eigen_pool(2);
    bool same = same_bits("the host's own pool", HostExecutor{host_pool});
    same = same_bits("Eigen::ThreadPool", mla::EigenExecutor{eigen_pool}) && same;
#ifdef _OPENMP
    same = same_bits("OpenMP", mla::OpenMPExecutor{3}) && same;
#endif
    return same ? 0 : 1;
}
