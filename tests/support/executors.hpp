// Executors that a host might bring: real threads, and an order of iterations that nobody expects.
#pragma once

#include <thread>
#include <vector>

#include "mla/core/executor.hpp"

namespace mla {

/// A thread for each iteration but the first, which stays on the calling thread.
class ThreadExecutor {
  public:
    explicit ThreadExecutor(Index threads) : threads_(threads) {}

    [[nodiscard]] Index concurrency() const noexcept { return threads_; }

    template <class F>
    void parallel_for(Index n, F&& f) const {
        std::vector<std::thread> threads;
        for (Index i = 1; i < n; ++i) threads.emplace_back([&f, i] { f(i); });
        if (n > 0) f(Index{0});
        for (std::thread& thread : threads) thread.join();
    }

  private:
    Index threads_;
};

/// One thread that claims to be several and starts with the last iteration: the last worker does all the work.
class BackwardExecutor {
  public:
    explicit BackwardExecutor(Index threads) : threads_(threads) {}

    [[nodiscard]] Index concurrency() const noexcept { return threads_; }

    template <class F>
    void parallel_for(Index n, F&& f) const {
        for (Index i = n; i > 0; --i) f(i - 1);
    }

  private:
    Index threads_;
};

}  // namespace mla
