// The keys of largest score among many, in time linear in their number.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::detail {

/// A key and its score as an integer of the same order, so that all pairs of keys compare: NaN before +inf, lest it be lost; −0
/// with 0; of equal scores the earlier key.
template <Compute A>
struct RankedKey {
    using Bits = std::conditional_t<std::is_same_v<A, float>, std::uint32_t, std::uint64_t>;
    Bits rank;
    std::int32_t token;

    [[nodiscard]] static RankedKey of(A score, std::int32_t token) noexcept {
        constexpr Bits sign = Bits{1} << (8 * sizeof(Bits) - 1);
        if (score != score) return {~Bits{0}, token};
        const Bits bits = std::bit_cast<Bits>(score + A(0));
        return {(bits & sign) != 0 ? ~bits : bits | sign, token};
    }
    /// Whether it is chosen before another.
    [[nodiscard]] bool operator>(const RankedKey& other) const noexcept {
        return rank != other.rank ? rank > other.rank : token < other.token;
    }
    [[nodiscard]] bool operator>=(const RankedKey& other) const noexcept { return !(other > *this); }
};

/// The `top_k` best of the keys offered so far, in the order in which they were offered. When twice as many have gathered the
/// worse half goes, which costs a constant each, and from then on only what is better than the worst that stayed is looked at.
template <Compute A>
class TopKeys {
  public:
    using Key = RankedKey<A>;

    /// Elements of memory that it needs when it is offered up to `at_once` keys at a time.
    [[nodiscard]] static Index room(Index top_k, Index at_once) noexcept { return 2 * (2 * top_k + at_once); }

    TopKeys(Key* memory, Index top_k, Index at_once) noexcept
        : keys_(memory), sorted_(memory + 2 * top_k + at_once), top_k_(top_k) {}

    /// Keys first, first + 1, … with their scores, at most at_once.
    void offer(const A* scores, Index first, Index count) noexcept {
        for (Index i = 0; i < count; ++i) {
            const Key key = Key::of(scores[i], static_cast<std::int32_t>(first + i));
            if (!full_ || key > worst_) keys_[size_++] = key;
        }
        if (size_ >= 2 * top_k_) keep_best();
    }

    /// The best of all, at most top_k.
    [[nodiscard]] std::span<const Key> best() noexcept {
        if (size_ > top_k_) keep_best();
        return {keys_, static_cast<std::size_t>(size_)};
    }

  private:
    void keep_best() noexcept {
        std::copy_n(keys_, size_, sorted_);
        std::nth_element(sorted_, sorted_ + top_k_ - 1, sorted_ + size_, std::greater<>());
        worst_ = sorted_[top_k_ - 1];
        full_ = true;
        size_ = std::copy_if(keys_, keys_ + size_, keys_, [this](const Key& key) { return key >= worst_; }) - keys_;
    }

    Key* keys_;
    Key* sorted_;
    Index top_k_;
    Index size_ = 0;
    bool full_ = false;  ///< whether top_k keys no worse than `worst_` are there
    Key worst_{};
};

}  // namespace mla::inline MLA_ISA::detail
