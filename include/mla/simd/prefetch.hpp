// Fetching the next rows while these are computed: beyond L3 a kernel that does not waits for every line.
#pragma once

#include <algorithm>
#include <span>
#include <utility>

#include "mla/core/types.hpp"

namespace mla::simd {

/// Units of a tile's products between two steps of prefetching.
inline constexpr Index prefetch_depth = 24;

/// Brings the lines of some rows into L2 in order, a few at each step, so that the requests spread over the arithmetic that
/// hides them. Bursts would fill the miss buffers and stall the loads beside them.
class Prefetch {
  public:
    Prefetch() = default;  ///< nothing to fetch

    /// Rows of `row_bytes` bytes, then `more` of the same size. `steps`: about how often `step` will be called before they are
    /// needed. The lists must outlive this.
    Prefetch(std::span<const void* const> rows, std::span<const void* const> more, Index row_bytes, Index steps) noexcept
        : rows_(rows), more_(more), row_bytes_(row_bytes) {
        const auto count = static_cast<Index>(rows.size() + more.size());
        const Index row_lines = divide_up(row_bytes, line);
        // Whole steps make a row, so that a step need not look for its end; a line of the row after it does no harm.
        lines_ = divide_up(row_lines, std::clamp<Index>(steps / std::max<Index>(count, 1), 1, std::max<Index>(row_lines, 1)));
        parts_ = lines_ == 0 ? 0 : divide_up(count * divide_up(row_lines, lines_), steps);
    }

    void step() noexcept {
        for (Index part = 0; part < parts_; ++part) {
            if (next_ >= end_ && !next_row()) return;
            for (Index i = 0; i < lines_; ++i, next_ += line) __builtin_prefetch(next_, 0, 2);
        }
    }

  private:
    static constexpr Index line = 64;

    [[nodiscard]] bool next_row() noexcept {
        if (rows_.empty()) rows_ = std::exchange(more_, {});
        if (rows_.empty()) {
            parts_ = 0;
            return false;
        }
        next_ = static_cast<const char*>(rows_.front());
        end_ = next_ + row_bytes_;
        rows_ = rows_.subspan(1);
        return true;
    }

    const char* next_ = nullptr;
    const char* end_ = nullptr;
    std::span<const void* const> rows_;
    std::span<const void* const> more_;
    Index row_bytes_ = 0;
    Index lines_ = 0;  ///< of a row, fetched at a time
    Index parts_ = 0;  ///< fetched at a step
};

}  // namespace mla::simd
