// Eigen::ThreadPool as an executor. The pool belongs to the host.
#pragma once

#include <unsupported/Eigen/CXX11/ThreadPool>

#include "mla/core/executor.hpp"

namespace mla::inline MLA_ISA {

/// Runs on a pool and on the calling thread: `concurrency()` is the pool's size plus one.
/// The pool must outlive this; a call made from one of its own threads would wait for itself.
class EigenExecutor {
  public:
    explicit EigenExecutor(Eigen::ThreadPoolInterface& pool) noexcept : pool_(&pool) {}

    [[nodiscard]] Index concurrency() const noexcept { return pool_->NumThreads() + 1; }

    template <class F>
    void parallel_for(Index n, F&& f) const {
        if (n <= 0) return;
        struct Loop {
            std::remove_reference_t<F>& body;
            Eigen::Barrier pending;
        } loop{f, Eigen::Barrier(static_cast<unsigned>(n - 1))};
        for (Index i = 1; i < n; ++i)
            pool_->Schedule([&loop, i] {  // two words: std::function holds them without allocating
                loop.body(i);
                loop.pending.Notify();
            });
        f(Index{0});
        if (n > 1) loop.pending.Wait();
    }

  private:
    Eigen::ThreadPoolInterface* pool_;
};

}  // namespace mla::inline MLA_ISA
