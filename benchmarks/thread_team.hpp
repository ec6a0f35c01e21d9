// The threads that benchmarks run on: as a host that decodes token after token keeps them, awake between two loops.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "mla/core/executor.hpp"

namespace mla::bench {

/// The calling thread and `threads` − 1 others. Iteration i of a loop runs on thread i modulo the team's size, so that a probe
/// reaches every thread. Between loops a thread spins for about a millisecond before it sleeps.
class ThreadTeam {
  public:
    explicit ThreadTeam(Index threads) : threads_(threads) {
        for (Index thread = 1; thread < threads_; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
    }
    ThreadTeam(const ThreadTeam&) = delete;
    ThreadTeam& operator=(const ThreadTeam&) = delete;
    ~ThreadTeam() {
        stopping_ = true;
        announce();
        for (std::thread& worker : workers_) worker.join();
    }

    [[nodiscard]] Index concurrency() const noexcept { return threads_; }

    void parallel_for(Index n, IndexFunctionRef body) {
        body_ = &body;
        count_ = n;
        busy_.store(threads_ - 1, std::memory_order_relaxed);
        announce();
        share(0);
        for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) pause_or_yield(spins);
    }

  private:
    void announce() {
        loop_.fetch_add(1, std::memory_order_release);
        loop_.notify_all();
    }

    void serve(Index thread) {
        for (std::uint32_t seen = 0;; ++seen) {
            for (int spins = 0; loop_.load(std::memory_order_acquire) == seen; ++spins)
                spins < most_spins ? pause_or_yield(spins) : loop_.wait(seen, std::memory_order_acquire);
            if (stopping_) return;
            share(thread);
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    void share(Index thread) const {
        for (Index i = thread; i < count_; i += threads_) (*body_)(i);
    }

    /// Now and then lets another thread have the core, in case there are fewer cores than threads.
    static void pause_or_yield(int spins) {
        if (spins % 256 == 255) std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    static constexpr int most_spins = 1 << 15;

    Index threads_;
    std::vector<std::thread> workers_;
    std::atomic<std::uint32_t> loop_{0};
    std::atomic<Index> busy_{0};
    const IndexFunctionRef* body_ = nullptr;
    Index count_ = 0;
    bool stopping_ = false;
};

}  // namespace mla::bench
