// Fetching the next block while this one is computed: beyond L3 a kernel that does not waits for every line.
#pragma once

#include <span>

#include "mla/core/types.hpp"

namespace mla::detail {

/// Memory [begin, end).
struct MemoryRange {
    const char* begin = nullptr;
    const char* end = nullptr;
};

/// Brings the lines of some ranges into L2 in order, a few at each step, so that the requests spread over the arithmetic that
/// hides them. Bursts would fill the miss buffers and stall the loads beside them.
class Prefetch {
  public:
    Prefetch() = default;  ///< nothing to fetch

    /// `steps`: about how often `step` will be called before the memory is needed. The list of ranges must outlive this.
    Prefetch(std::span<const MemoryRange> ranges, Index steps) noexcept : more_(ranges) {
        Index lines = 0;
        for (const MemoryRange& range : ranges) lines += divide_up(range.end - range.begin, line);
        lines_ = divide_up(lines, steps);
    }

    void step() noexcept {
        for (Index i = 0; i < lines_; ++i, now_.begin += line) {
            while (now_.begin >= now_.end) {
                if (more_.empty()) return;
                now_ = more_.front();
                more_ = more_.subspan(1);
            }
            __builtin_prefetch(now_.begin, 0, 2);
        }
    }

  private:
    static constexpr Index line = 64;
    MemoryRange now_;
    std::span<const MemoryRange> more_;
    Index lines_ = 0;
};

}  // namespace mla::detail
