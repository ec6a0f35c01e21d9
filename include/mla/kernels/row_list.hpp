// Which cached rows make a block: the one thing that pages change.
#pragma once

#include <algorithm>
#include <array>

#include "mla/core/types.hpp"
#include "mla/kernels/prefetch.hpp"

namespace mla::detail {

/// Tokens of a block, a multiple of every score tile. 96 rows of 576 floats (216 KiB) leave room in a 1 MiB L2 for the packed
/// queries and the outputs of 128 rows (288 and 256 KiB).
inline constexpr Index block_tokens = 96;

/// Rows that lie one after another.
template <class T>
struct RowRun {
    const T* data = nullptr;
    Index count = 0;
};

/// The rows of a block in the order of their tokens; `stride` elements from row to row of a run.
template <class T, Index Most>
struct RowRuns {
    std::array<RowRun<T>, static_cast<std::size_t>(Most)> runs;
    Index size = 0;
    Index stride = 0;

    void add(const T* data, Index count) noexcept { runs[static_cast<std::size_t>(size++)] = {data, count}; }
    [[nodiscard]] const RowRun<T>* begin() const noexcept { return runs.data(); }
    [[nodiscard]] const RowRun<T>* end() const noexcept { return runs.data() + size; }
};

/// Cached rows as a view lists them: with pages of one token as many runs as tokens.
template <class C>
using RowList = RowRuns<C, block_tokens>;

/// Rows [begin, begin + count) of a view, count at most block_tokens.
template <class View>
[[nodiscard]] auto list_rows(const View& view, Index begin, Index count) noexcept {
    RowList<typename View::Element> list;
    list.stride = view.stride;
    for (Index t = begin; t < begin + count;) {
        const Index run = view.run(t, begin + count - t);
        list.add(view.row(t), run);
        t += run;
    }
    return list;
}

/// The memory of listed rows, for fetching.
class RowRanges {
  public:
    RowRanges() = default;
    template <class C>
    explicit RowRanges(const RowList<C>& list) noexcept {
        for (const RowRun<C>& run : list)
            ranges_[static_cast<std::size_t>(size_++)] = {reinterpret_cast<const char*>(run.data),
                                                          reinterpret_cast<const char*>(run.data + run.count * list.stride)};
    }
    [[nodiscard]] Prefetch prefetch(Index steps) const noexcept {
        return Prefetch({ranges_.data(), static_cast<std::size_t>(size_)}, steps);
    }

  private:
    std::array<MemoryRange, static_cast<std::size_t>(block_tokens)> ranges_;
    Index size_ = 0;
};

}  // namespace mla::detail
