// What attention attends to, a block at a time.
#pragma once

#include <algorithm>

#include "mla/cache/token_rows.hpp"
#include "mla/core/function_ref.hpp"
#include "mla/kernels/row_group.hpp"
#include "mla/kernels/row_list.hpp"

namespace mla::inline MLA_ISA::detail {

/// Keys [begin, end) of a source.
struct KeyRange {
    Index source = 0;
    Index begin = 0;
    Index end = 0;

    /// Keys of its first block.
    [[nodiscard]] Index block() const noexcept { return std::clamp<Index>(end - begin, 0, block_tokens); }
};

/// The rows of a block: its keys, and its values where they are rows of their own.
struct BlockRows {
    RowList<std::byte> keys;
    RowList<std::byte> values;

    [[nodiscard]] Index size() const noexcept { return keys.size(); }
    void clear() noexcept {
        keys.clear();
        values.clear();
    }
    /// Makes every index of `other` valid here.
    void cover(const BlockRows& other) noexcept {
        keys.cover(other.keys);
        values.cover(other.values);
    }
};

/// Adds tokens [begin, begin + count) to a list, which has room for them.
inline void list_rows(const TokenRows& rows, Index begin, Index count, RowList<std::byte>& list) noexcept {
    for (Index t = begin; t < begin + count;) {
        const Index run = rows.run(t, begin + count - t);
        list.add(rows.row(t), rows.stride, run);
        t += run;
    }
}

/// A group of rows and what it attends to.
template <Compute A>
struct SplitItem {
    RowGroup<A> rows{};
    KeyRange keys;         ///< up to the last that any row may see
    KeyRange following;    ///< what the worker will most likely attend to next, to be fetched meanwhile; perhaps nothing
    bool fetched = false;  ///< whether an item before this one has fetched its first block
    A* staged = nullptr;   ///< elements that the source asked for
    A* scores = nullptr;
};

/// Where keys and values come from, a block at a time: a cache, in one piece or in pages; a head's keys and values; a cache that
/// is decompressed.
template <Compute A>
class BlockSource {
  public:
    /// Lists the first block of a range; `rows` is empty.
    virtual void list(const KeyRange& range, BlockRows& rows) const noexcept = 0;
    /// Lets an item attend to the listed tokens, which begin at key `begin`, and fetches `next`.
    virtual void attend(const SplitItem<A>& item, const BlockRows& rows, Index begin, const BlockRows& next) const noexcept = 0;
    /// Calls `body`, an item of a worker that packs and attends.
    virtual void run_item(FunctionRef<void()> body) const noexcept = 0;
    /// Packs queries for `attend`.
    virtual void pack(const abi::PackQueries<A>& call) const noexcept = 0;
    /// Elements that a worker needs for itself.
    [[nodiscard]] virtual Index staged_elements() const noexcept = 0;

  protected:
    BlockSource() = default;
    BlockSource(const BlockSource&) = default;
    BlockSource& operator=(const BlockSource&) = default;
    ~BlockSource() = default;
};

}  // namespace mla::inline MLA_ISA::detail
