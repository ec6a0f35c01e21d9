// What attention attends to, a block at a time.
#pragma once

#include <algorithm>
#include <concepts>

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
///
/// `rows(range)` lists the first block of a range; a listing has `size()`, its tokens, and `cover(other)`, which makes every
/// index of `other` valid in it. `attend(item, rows, begin, next)` lets an item attend to the tokens from key `begin` on, and
/// fetches `next`. `pack(call)` packs queries for `attend`. `staged_elements()`: what a worker needs for itself.
template <class S, class A>
concept BlockSource = requires(const S& source, const SplitItem<A>& item, const abi::PackQueries<A>& call,
                               const KeyRange& range) {
    source.rows(range).cover(source.rows(range));
    { source.rows(range).size() } -> std::same_as<Index>;
    source.attend(item, source.rows(range), range.begin, source.rows(range));
    source.pack(call);
    { source.staged_elements() } -> std::same_as<Index>;
};

}  // namespace mla::inline MLA_ISA::detail
