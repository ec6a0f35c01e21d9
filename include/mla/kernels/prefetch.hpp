// Fetching the next block while this one is computed: beyond L3 a kernel that does not waits for every line.
#pragma once

#include "mla/core/types.hpp"

namespace mla::detail {

/// Brings the lines of [begin, end) into L2 in order, a few at each step, so that the requests spread over the arithmetic that
/// hides them. Bursts would fill the miss buffers and stall the loads beside them.
class Prefetch {
  public:
    Prefetch() = default;  ///< nothing to fetch

    /// `steps`: about how often `step` will be called before the memory is needed.
    Prefetch(const void* begin, const void* end, Index steps) noexcept
        : next_(static_cast<const char*>(begin)), end_(static_cast<const char*>(end)) {
        lines_ = divide_up(divide_up(end_ - next_, line), steps);
    }

    void step() noexcept {
        for (Index i = 0; i < lines_ && next_ < end_; ++i, next_ += line) __builtin_prefetch(next_, 0, 2);
    }

  private:
    static constexpr Index line = 64;
    const char* next_ = nullptr;
    const char* end_ = nullptr;
    Index lines_ = 0;
};

}  // namespace mla::detail
