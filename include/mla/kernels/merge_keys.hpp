// The best keys of a query whose keys several workers have looked through, each a range of them: found digit by digit of their
// ranks, in loops over ranges, so that no worker needs to see them all.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "mla/core/workspace.hpp"
#include "mla/kernels/top_keys.hpp"

namespace mla::inline MLA_ISA::detail {

/// What ranges of keys offer to some queries, `ranges` a query, each the best `top_k` of its own in ascending order; together no
/// fewer than top_k. Item = query · ranges + range.
///
/// After `offer` of every item come `narrow` of every query and `count` of every item, in turns for each digit from the first on,
/// which `offer` has counted; then `write` of every item.
template <Compute A>
class OfferedKeys {
    using Key = RankedKey<A>;
    using Rank = typename Key::Bits;

  public:
    static constexpr int digits = sizeof(Rank);

    static OfferedKeys carve(Arena& arena, Index queries, Index items, Index top_k) {
        OfferedKeys o;
        o.top_k_ = top_k;
        o.cuts_ = arena.take<Cut>(queries);
        o.parts_ = arena.take<Part>(items);
        o.counts_ = arena.take<std::int32_t>(items * values);
        o.keys_ = arena.take<Key>(items * top_k);
        return o;
    }

    void offer(Index item, std::span<const Key> best) const noexcept {
        std::copy(best.begin(), best.end(), keys_ + item * top_k_);
        parts_[item] = {.size = static_cast<Index>(best.size())};
        count_below(item, Rank{0}, 0);
    }
    /// Counts the values of a digit among the keys that agree with the query's cut in all digits before it.
    void count(Index item, Index query, int digit) const noexcept { count_below(item, before(cuts_[query].rank, digit), digit); }
    /// Sets a digit of a query's cut, the rank of the worst key that it selects; the last one settles what each range gives.
    void narrow(Index query, Index ranges, int digit) const noexcept {
        const Index first = query * ranges;
        std::int32_t sums[static_cast<std::size_t>(values)] = {};
        for (Index item = first; item < first + ranges; ++item)
            for (Index v = 0; v < values; ++v) sums[v] += counts_[item * values + v];
        Cut& cut = cuts_[query];
        if (digit == 0) cut = {.rank = 0, .wanted = top_k_};
        Index value = values - 1;
        for (; sums[value] < cut.wanted; --value) cut.wanted -= sums[value];
        cut.rank |= static_cast<Rank>(value) << shift(digit);
        for (Index item = first; item < first + ranges; ++item) {
            const std::int32_t* const counts = counts_ + item * values;
            for (Index v = value + 1; v < values; ++v) parts_[item].better += counts[v];
            parts_[item].equal = counts[value];
        }
        if (digit == digits - 1) share_out(cut.wanted, parts_ + first, ranges);
    }
    /// Writes what a range gives to the tokens [top_k] that its query selects.
    void write(Index item, Index query, std::int32_t* tokens) const noexcept {
        const Rank cut = cuts_[query].rank;
        Index equal = parts_[item].equal;
        std::int32_t* to = tokens + parts_[item].begin;
        for (const Key& key : keys(item))
            if (key.rank > cut || (key.rank == cut && equal-- > 0)) *to++ = key.token;
    }

  private:
    static constexpr int bits = 8;
    static constexpr Index values = Index{1} << bits;

    struct Cut {
        Rank rank;
        Index wanted;  ///< keys that agree with it so far and are selected
    };
    struct Part {
        Index size = 0;
        Index better = 0;  ///< keys before the cut
        Index equal = 0;   ///< of the cut's rank
        Index begin = 0;   ///< where they go among the selected
    };

    [[nodiscard]] static constexpr int shift(int digit) noexcept { return bits * (digits - 1 - digit); }
    [[nodiscard]] static constexpr Index value_of(Rank rank, int digit) noexcept {
        return static_cast<Index>(rank >> shift(digit)) & (values - 1);
    }
    /// The digits before one.
    [[nodiscard]] static constexpr Rank before(Rank rank, int digit) noexcept {
        return digit == 0 ? Rank{0} : static_cast<Rank>(rank >> shift(digit - 1));
    }
    void count_below(Index item, Rank cut, int digit) const noexcept {
        std::int32_t* const counts = counts_ + item * values;
        std::fill_n(counts, values, 0);
        for (const Key& key : keys(item))
            if (before(key.rank, digit) == cut) ++counts[value_of(key.rank, digit)];
    }
    [[nodiscard]] std::span<const Key> keys(Index item) const noexcept {
        return {keys_ + item * top_k_, static_cast<std::size_t>(parts_[item].size)};
    }
    /// Of keys of the cut's rank `wanted` are selected, the earliest.
    static void share_out(Index wanted, Part* parts, Index ranges) noexcept {
        Index begin = 0;
        for (Part* part = parts; part < parts + ranges; ++part) {
            part->equal = std::min(part->equal, wanted);
            wanted -= part->equal;
            part->begin = begin;
            begin += part->better + part->equal;
        }
    }

    Index top_k_ = 0;
    Cut* cuts_ = nullptr;             ///< [T]
    Part* parts_ = nullptr;           ///< [T, ranges]
    std::int32_t* counts_ = nullptr;  ///< [T, ranges, values]
    Key* keys_ = nullptr;             ///< [T, ranges, top_k]
};

}  // namespace mla::inline MLA_ISA::detail
