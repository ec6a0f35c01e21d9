// OpenMP as an executor. Include it only where the compiler runs with OpenMP enabled.
#pragma once

#ifndef _OPENMP
#error "mla/core/openmp_executor.hpp needs OpenMP: compile with -fopenmp or link OpenMP::OpenMP_CXX"
#endif

#include <omp.h>

#include "mla/core/errors.hpp"
#include "mla/core/executor.hpp"

namespace mla::inline MLA_ISA {

/// Runs on an OpenMP team of `threads` threads (default: what OpenMP would use).
class OpenMPExecutor {
  public:
    explicit OpenMPExecutor(int threads = omp_get_max_threads()) : threads_(threads) {
        require_at_least("OpenMPExecutor threads", threads, 1);
    }

    [[nodiscard]] Index concurrency() const noexcept { return threads_; }

    template <class F>
    void parallel_for(Index n, F&& f) const {
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1)
        for (Index i = 0; i < n; ++i) f(i);
    }

  private:
    int threads_;
};

}  // namespace mla::inline MLA_ISA
