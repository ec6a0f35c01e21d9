// Fetching the next rows while these are computed: beyond L3 a kernel that does not waits for every line.
#pragma once

#include <algorithm>
#include <span>
#include <utility>

#include "mla/simd/batch.hpp"

namespace mla::inline MLA_ISA::simd {

/// Brings `Bytes` bytes into L2.
template <Index Bytes>
MLA_ALWAYS_INLINE void prefetch_bytes(const char* bytes) noexcept {
    constexpr Index line = 64;
    unroll<static_cast<int>(divide_up(Bytes, line))>(
        [=](auto i) MLA_ALWAYS_INLINE_LAMBDA { __builtin_prefetch(bytes + i * line, 0, 2); });
}

/// Brings the lines of some rows into L2 in order, at each step those that are due, so that the requests spread evenly over the
/// arithmetic that hides them. Bursts would fill the miss buffers and stall the loads beside them: with 16 heads over floats in
/// DRAM, 18 lines at a time took 28 cycles each, 3 or 4 at a time 21 (Emerald Rapids).
class Prefetch {
  public:
    Prefetch() = default;  ///< nothing to fetch

    /// Rows of `row_bytes` bytes, then `more` of the same size. `steps`: about how often `step` will be called before they are
    /// needed. The lists must outlive this.
    Prefetch(std::span<const void* const> rows, std::span<const void* const> more, Index row_bytes, Index steps) noexcept
        : rows_(rows), more_(more), row_bytes_(row_bytes) {
        const auto count = static_cast<Index>(rows.size() + more.size());
        rate_ = divide_up(count * divide_up(row_bytes, line) * one, steps);
        open_pages(rows, row_bytes);
        open_pages(more, row_bytes);
    }

    void step() noexcept {
        for (due_ += rate_; due_ >= one;) {
            if (next_ >= end_ && !next_run()) return;
            do {
                __builtin_prefetch(next_, 0, 2);
                next_ += line;
                due_ -= one;
            } while (due_ >= one && next_ < end_);
        }
    }

  private:
    /// Asks for the ends of rows that lie scattered, at once: each is likely in a page of memory of its own, whose address is
    /// then found beside those of the others (64 heads over floats in DRAM, pages of 4 KiB: 81 % of the speed of rows side by
    /// side without, 90 % with). Panels of weights, 8 KiB long, do as well without: 0.99 to 1.03 times as long (Zen 3).
    static void open_pages(std::span<const void* const> rows, Index row_bytes) noexcept {
        const char* end = nullptr;
        for (const void* const row : rows) {
            const auto* const begin = static_cast<const char*>(row);
            if (end == nullptr || begin < end || begin - end >= line) {
                __builtin_prefetch(begin, 0, 2);
                __builtin_prefetch(begin + row_bytes - 1, 0, 2);
            }
            end = begin + row_bytes;
        }
    }

    static constexpr Index line = 64;
    static constexpr Index one = 1 << 16;  ///< line, as rates count them

    /// Goes on with the next rows that follow one another in memory.
    [[nodiscard]] bool next_run() noexcept {
        if (rows_.empty()) rows_ = std::exchange(more_, {});
        if (rows_.empty()) {
            rate_ = due_ = 0;
            return false;
        }
        next_ = end_ = static_cast<const char*>(rows_.front());
        do {
            end_ += row_bytes_;
            rows_ = rows_.subspan(1);
        } while (!rows_.empty() && rows_.front() == end_);
        return true;
    }

    const char* next_ = nullptr;
    const char* end_ = nullptr;
    std::span<const void* const> rows_;
    std::span<const void* const> more_;
    Index row_bytes_ = 0;
    Index rate_ = 0;  ///< lines a step
    Index due_ = 0;   ///< lines that the steps so far have not fetched
};

/// Brings a tile [Rows, columns] that products will be added to into L1, while they are summed.
template <int Rows, Compute A>
MLA_ALWAYS_INLINE void fetch_tile(const A* c, Index stride, Index columns) noexcept {
    constexpr Index line = 64 / static_cast<Index>(sizeof(A));
    unroll<Rows>([=](auto row) MLA_ALWAYS_INLINE_LAMBDA {
        for (Index column = 0; column < columns; column += line) __builtin_prefetch(c + row * stride + column, 1, 3);
    });
}

}  // namespace mla::inline MLA_ISA::simd
