// Executors: how a host's threads run our loops. We start no threads of our own.
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <memory>
#include <type_traits>

#include "mla/core/float_environment.hpp"
#include "mla/core/function_ref.hpp"

namespace mla::inline MLA_ISA {

/// The iteration of a loop.
using IndexFunctionRef = FunctionRef<void(Index)>;

/// What runs the iterations of a loop.
/// `concurrency()`: how many iterations may run at the same time, at least 1.
/// `parallel_for(n, f)`: calls f(i) once for each i in [0, n), in any order, on any threads, and returns when all are done.
/// f does not throw.
template <class E>
concept Executor = requires(E& executor, Index n, IndexFunctionRef f) {
    { executor.concurrency() } -> std::convertible_to<Index>;
    executor.parallel_for(n, f);
};

/// Runs everything on the calling thread.
struct SerialExecutor {
    [[nodiscard]] static constexpr Index concurrency() noexcept { return 1; }
    template <class F>
    static void parallel_for(Index n, F&& f) {
        for (Index i = 0; i < n; ++i) f(i);
    }
};

/// Any executor behind one type, so that kernels are compiled once. Does not own; passed by value.
class ExecutorRef {
  public:
    template <class E>
        requires(!std::is_same_v<std::remove_cvref_t<E>, ExecutorRef> && Executor<std::remove_reference_t<E>>)
    ExecutorRef(E&& executor)
    noexcept  // NOLINT(bugprone-forwarding-reference-overload): excluded by the constraint
        : object_(const_cast<void*>(static_cast<const void*>(std::addressof(executor)))),
          concurrency_(executor.concurrency()),
          run_([](void* object, Index n, IndexFunctionRef f) {
              static_cast<std::remove_reference_t<E>*>(object)->parallel_for(n, f);
          }) {}

    [[nodiscard]] Index concurrency() const noexcept { return concurrency_; }
    void parallel_for(Index n, IndexFunctionRef f) const { run_(object_, n, f); }

  private:
    void* object_;
    Index concurrency_;
    void (*run_)(void*, Index, IndexFunctionRef);
};

/// Calls `f(item, worker)` once for each item; workers take items as they become free. `worker` is below
/// `min(items, concurrency)` and names scratch that nobody else uses meanwhile. f runs in our FloatEnvironment.
inline void for_each_item(ExecutorRef executor, Index items, FunctionRef<void(Index, Index)> f) {
    const Index workers = items < executor.concurrency() ? items : executor.concurrency();
    if (workers <= 1) {
        const FloatEnvironment environment;
        for (Index item = 0; item < items; ++item) f(item, Index{0});
        return;
    }
    std::atomic<Index> next{0};
    executor.parallel_for(workers, [&](Index worker) {
        const FloatEnvironment environment;
        for (Index item = next.fetch_add(1, std::memory_order_relaxed); item < items;
             item = next.fetch_add(1, std::memory_order_relaxed))
            f(item, worker);
    });
}

/// Calls f(begin, count) for neighbouring pieces of `total` things, of `most` each but for the last.
inline void for_each_piece(ExecutorRef executor, Index total, Index most, FunctionRef<void(Index, Index)> f) {
    for_each_item(executor, divide_up(total, most),
                  [&](Index piece, Index) { f(piece * most, std::min(most, total - piece * most)); });
}

/// Tokens that a loop of little work for each takes at a time: fewer are done before another thread has begun.
inline constexpr Index tokens_a_piece = 8;

}  // namespace mla::inline MLA_ISA
