// The paged cache of many requests: against a contiguous cache, against a plain model, and through every way it can be refused.
#include "mla/cache/paged_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "mla/requests.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "support/allocations.hpp"
#include "support/paged_walk.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace {

using mla::bf16;
using mla::Compute;
using mla::Config;
using mla::fp16;
using mla::Index;
using mla::LatentCache;
using mla::MatrixView;
using mla::PagedCache;
using mla::PagedSequence;
using mla::Storage;
using mla::testing::allocations;
using mla::testing::gaussian_values;
using mla::testing::Generator;
using mla::testing::PagedWalk;
using mla::testing::SeededChoices;
using mla::testing::thrown;

constexpr Index dim = 43;  // Dc + Dr of small_config

static_assert(mla::LatentStore<LatentCache<bf16>> && mla::LatentStore<PagedSequence<bf16>>);
static_assert(!std::is_copy_constructible_v<PagedSequence<float>> && !std::is_copy_assignable_v<PagedSequence<float>>);
static_assert(std::is_nothrow_move_constructible_v<PagedSequence<float>> &&
              std::is_nothrow_move_assignable_v<PagedSequence<float>>);
static_assert(!std::is_move_constructible_v<PagedCache<float>> && !std::is_move_assignable_v<PagedCache<float>>);

template <class C>
class PagedCacheTest : public ::testing::Test {
  protected:
    const Config config = mla::testing::small_config();
    Generator generator{1};
};
TYPED_TEST_SUITE(PagedCacheTest, mla::TestTypes<mla::StorageTypes>, );

/// Tokens [count, dim] in rows of dim + 2.
template <Compute A>
struct Tokens {
    static constexpr Index stride = dim + 2;
    Index count;
    std::vector<A> values;

    Tokens(Generator& generator, Index token_count) : count(token_count), values(gaussian_values<A>(generator, count * stride)) {}
    [[nodiscard]] MatrixView<const A> view() const { return {values.data(), count, dim, stride}; }
};

/// Appends so many random tokens.
template <class Cache>
void grow(Cache& cache, Generator& generator, Index count) {
    cache.append(Tokens<float>(generator, count).view());
}

/// The cached bytes, token by token, without padding.
template <class Cache>
std::vector<std::string> contents(const Cache& cache) {
    const auto view = cache.view();
    EXPECT_NO_THROW(validate(view));
    EXPECT_EQ(view.length, cache.size());
    std::vector<std::string> rows;
    for (Index t = 0; t < view.length; ++t) {
        const auto* row = view.row(t);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(row) % 64, 0U) << "row " << t << " is not on a cache line";
        rows.emplace_back(reinterpret_cast<const char*>(row), static_cast<std::size_t>(view.row_dim()) * sizeof(*row));
    }
    return rows;
}
std::vector<std::string> first(std::vector<std::string> rows, Index count) {
    rows.resize(static_cast<std::size_t>(count));
    return rows;
}

/// The pages that a sequence holds.
template <Storage C>
std::vector<std::int32_t> pages_of(const PagedSequence<C>& sequence) {
    return {sequence.held_pages().begin(), sequence.held_pages().end()};
}

TYPED_TEST(PagedCacheTest, StartsFreeWithTheGeometryOfItsConfig) {
    Config half_split = this->config;
    half_split.rope.pairing = mla::RopePairing::half_split;
    PagedCache<TypeParam> cache(half_split, 7, 16);
    const LatentCache<TypeParam> contiguous(half_split, 1);
    EXPECT_EQ(cache.pages(), 7);
    EXPECT_EQ(cache.page_size(), 16);
    EXPECT_EQ(cache.free_pages(), 7);
    for (Index page = 0; page < 7; ++page) EXPECT_EQ(cache.references(page), 0);
    EXPECT_EQ(cache.latent_dim(), 33);
    EXPECT_EQ(cache.rope_dim(), 10);
    EXPECT_EQ(cache.pairing(), mla::RopePairing::half_split);
    EXPECT_EQ(cache.bytes_per_token(), contiguous.bytes_per_token());

    const PagedSequence<TypeParam> sequence = cache.sequence(100);
    EXPECT_EQ(sequence.size(), 0);
    EXPECT_EQ(sequence.capacity(), 100);
    EXPECT_EQ(sequence.latent_dim(), 33);
    EXPECT_EQ(sequence.rope_dim(), 10);
    EXPECT_EQ(sequence.pairing(), mla::RopePairing::half_split);
    EXPECT_EQ(sequence.bytes_per_token(), contiguous.bytes_per_token());
    EXPECT_EQ(sequence.view().latent_dim, 33);
    EXPECT_EQ(sequence.view().rope_dim, 10);
    EXPECT_EQ(sequence.view().pages, 7);
    EXPECT_EQ(sequence.view().page_size, 16);
    EXPECT_TRUE(contents(sequence).empty());
    EXPECT_EQ(cache.free_pages(), 7);
}

TYPED_TEST(PagedCacheTest, HoldsTheBytesOfAContiguousCache) {
    for (const Index page_size : {1, 3, 16, 17, 64, 256}) {
        PagedCache<TypeParam> cache(this->config, 3 + 600 / page_size, page_size);
        PagedSequence<TypeParam> paged = cache.sequence(600);
        LatentCache<TypeParam> contiguous(this->config, 600);
        for (const Index count : {1, 0, 2, 15, 16, 17, 64, 1, 256, 100}) {
            const Tokens<float> floats(this->generator, count);
            const Tokens<double> doubles(this->generator, count / 8);
            paged.append(floats.view());
            contiguous.append(floats.view());
            paged.append(doubles.view());
            contiguous.append(doubles.view());
            ASSERT_EQ(contents(paged), contents(contiguous)) << "pages of " << page_size;
        }
        for (const Index length : {500, 257, 256, 65, 64, 63, 17, 16, 3, 1, 0}) {
            paged.truncate(length);
            contiguous.truncate(length);
            grow(paged, this->generator, 1);
            paged.truncate(length);
            ASSERT_EQ(contents(paged), contents(contiguous)) << "pages of " << page_size << ", length " << length;
        }
    }
}

TYPED_TEST(PagedCacheTest, TakesAPageWhenATokenNeedsIt) {
    PagedCache<TypeParam> cache(this->config, 5, 3);
    PagedSequence<TypeParam> sequence = cache.sequence(15);
    for (Index size = 1; size <= 15; ++size) {
        grow(sequence, this->generator, 1);
        EXPECT_EQ(cache.free_pages(), 5 - (size + 2) / 3);
        EXPECT_EQ(sequence.view().used_pages(), 5 - cache.free_pages());
    }
    for (Index size = 14; size >= 0; --size) {
        sequence.truncate(size);
        EXPECT_EQ(cache.free_pages(), 5 - (size + 2) / 3);
    }
}

TYPED_TEST(PagedCacheTest, RowsStayWhereTheyAreWhileTheirPageIsNotShared) {
    PagedCache<TypeParam> cache(this->config, 4, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(16);
    grow(sequence, this->generator, 6);
    std::vector<const TypeParam*> rows;
    for (Index t = 0; t < 6; ++t) rows.push_back(sequence.view().row(t));
    grow(sequence, this->generator, 7);
    sequence.truncate(7);
    grow(sequence, this->generator, 3);
    PagedSequence<TypeParam> moved(std::move(sequence));
    for (Index t = 0; t < 6; ++t) EXPECT_EQ(moved.view().row(t), rows[static_cast<std::size_t>(t)]);
}

TYPED_TEST(PagedCacheTest, AnEndedSequenceGivesItsPagesBack) {
    PagedCache<TypeParam> cache(this->config, 6, 2);
    PagedSequence<TypeParam> kept = cache.sequence(4);
    grow(kept, this->generator, 3);
    {
        PagedSequence<TypeParam> ended = cache.sequence(8);
        grow(ended, this->generator, 5);
        ended.reserve(2);
        EXPECT_EQ(cache.free_pages(), 0);
        const PagedSequence<TypeParam> fork = kept.fork(3);
        EXPECT_EQ(cache.references(kept.held_pages()[0]), 2);
    }
    EXPECT_EQ(cache.free_pages(), 4);
    EXPECT_EQ(cache.references(kept.held_pages()[0]), 1);
    kept.reset();
    EXPECT_EQ(cache.free_pages(), 6);
    EXPECT_EQ(kept.size(), 0);
    EXPECT_EQ(kept.capacity(), 4);
}

// Shared pages ----------------------------------------------------------------------------------------------------------

TYPED_TEST(PagedCacheTest, AForkTakesNoPageAndReadsTheSameRows) {
    PagedCache<TypeParam> cache(this->config, 4, 3);
    PagedSequence<TypeParam> sequence = cache.sequence(12);
    grow(sequence, this->generator, 8);
    for (Index length = 0; length <= 8; ++length) {
        const PagedSequence<TypeParam> fork = sequence.fork(length, length + 20);
        EXPECT_EQ(cache.free_pages(), 1);
        EXPECT_EQ(fork.size(), length);
        EXPECT_EQ(fork.capacity(), length + 20);
        for (Index t = 0; t < length; ++t) EXPECT_EQ(fork.view().row(t), sequence.view().row(t));
        EXPECT_EQ(cache.references(sequence.held_pages()[2]), length > 6 ? 2 : 1);
        EXPECT_EQ(fork.held_pages().size(), static_cast<std::size_t>((length + 2) / 3));
    }
    EXPECT_EQ(sequence.fork(8).capacity(), 12);
    EXPECT_EQ(sequence.fork(8, 8).capacity(), 8);
}

TYPED_TEST(PagedCacheTest, AnAppendToEitherSideOfAForkIsUnseenByTheOther) {
    for (const Index page_size : {1, 2, 3, 4, 7}) {
        for (Index length = 0; length <= 7; ++length) {
            for (const bool appends_first : {false, true}) {
                PagedCache<TypeParam> cache(this->config, 40, page_size);
                PagedSequence<TypeParam> sequence = cache.sequence(20);
                grow(sequence, this->generator, 7);
                const auto before = contents(sequence);
                PagedSequence<TypeParam> fork = sequence.fork(length);
                if (appends_first) {
                    grow(sequence, this->generator, 2);
                    EXPECT_EQ(contents(fork), first(before, length));
                    grow(fork, this->generator, 5);
                } else {
                    grow(fork, this->generator, 5);
                    EXPECT_EQ(contents(sequence), before);
                    grow(sequence, this->generator, 2);
                }
                EXPECT_EQ(first(contents(sequence), 7), before);
                EXPECT_EQ(first(contents(fork), length), first(before, length));
                EXPECT_NE(contents(fork)[static_cast<std::size_t>(length)], contents(sequence)[static_cast<std::size_t>(length)]);
            }
        }
    }
}

TYPED_TEST(PagedCacheTest, OnlyAPartlyUsedPageIsCopiedAndOnlyOnce) {
    PagedCache<TypeParam> cache(this->config, 10, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(16);
    grow(sequence, this->generator, 6);
    PagedSequence<TypeParam> fork = sequence.fork(6);
    grow(fork, this->generator, 0);
    EXPECT_EQ(pages_of(fork), pages_of(sequence));
    grow(fork, this->generator, 1);
    EXPECT_EQ(fork.held_pages()[0], sequence.held_pages()[0]);
    EXPECT_NE(fork.held_pages()[1], sequence.held_pages()[1]);
    EXPECT_EQ(cache.free_pages(), 7);
    const auto pages = pages_of(fork);
    grow(fork, this->generator, 1);
    grow(sequence, this->generator, 2);
    EXPECT_EQ(pages_of(fork), pages);
    EXPECT_EQ(cache.free_pages(), 7);

    PagedSequence<TypeParam> aligned = sequence.fork(4);
    grow(aligned, this->generator, 1);
    EXPECT_EQ(aligned.held_pages()[0], sequence.held_pages()[0]);
    EXPECT_EQ(cache.references(sequence.held_pages()[0]), 3);
    EXPECT_EQ(cache.free_pages(), 6);
}

TYPED_TEST(PagedCacheTest, ASequenceTruncatedIntoASharedPageCopiesIt) {
    PagedCache<TypeParam> cache(this->config, 6, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(16);
    grow(sequence, this->generator, 8);
    const PagedSequence<TypeParam> fork = sequence.fork(8);
    const auto before = contents(fork);
    sequence.truncate(2);
    grow(sequence, this->generator, 3);
    EXPECT_EQ(contents(fork), before);
    EXPECT_EQ(first(contents(sequence), 2), first(before, 2));
    EXPECT_NE(contents(sequence)[2], before[2]);
    EXPECT_EQ(cache.free_pages(), 2);
}

TYPED_TEST(PagedCacheTest, ThePageOfASequenceWhoseForksEndedIsWrittenInPlace) {
    PagedCache<TypeParam> cache(this->config, 1, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(4);
    grow(sequence, this->generator, 2);
    { const PagedSequence<TypeParam> fork = sequence.fork(2); }
    EXPECT_NO_THROW(grow(sequence, this->generator, 2));
}

TYPED_TEST(PagedCacheTest, AForkOutlivesItsSource) {
    PagedCache<TypeParam> cache(this->config, 3, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(12);
    grow(sequence, this->generator, 7);
    const auto before = contents(sequence);
    PagedSequence<TypeParam> fork = sequence.fork(6);
    sequence.reset();
    grow(sequence, this->generator, 4);
    EXPECT_EQ(contents(fork), first(before, 6));
    grow(fork, this->generator, 2);  // in place: it is alone now
    EXPECT_EQ(first(contents(fork), 6), first(before, 6));
    EXPECT_EQ(cache.free_pages(), 0);
}

TYPED_TEST(PagedCacheTest, AMoveLeavesAnEmptySource) {
    PagedCache<TypeParam> cache(this->config, 4, 2);
    PagedCache<TypeParam> other_cache(this->config, 3, 5);
    PagedSequence<TypeParam> sequence = cache.sequence(6);
    grow(sequence, this->generator, 3);
    sequence.reserve(2);
    const auto before = contents(sequence);
    const auto pages = pages_of(sequence);
    const auto expect_empty = [&](PagedSequence<TypeParam>& source) {
        EXPECT_EQ(source.size(), 0);
        EXPECT_EQ(source.capacity(), 0);
        EXPECT_TRUE(source.held_pages().empty());
        EXPECT_TRUE(contents(source).empty());
        EXPECT_NO_THROW(grow(source, this->generator, 0));
        EXPECT_THROW(grow(source, this->generator, 1), std::length_error);
        EXPECT_EQ(source.fork(0, 3).capacity(), 3);
    };
    PagedSequence<TypeParam> moved(std::move(sequence));
    EXPECT_EQ(contents(moved), before);
    EXPECT_EQ(pages_of(moved), pages);
    expect_empty(sequence);  // NOLINT(bugprone-use-after-move): that is the point

    PagedSequence<TypeParam> assigned = other_cache.sequence(9);
    grow(assigned, this->generator, 9);
    EXPECT_EQ(other_cache.free_pages(), 1);
    assigned = std::move(moved);
    EXPECT_EQ(other_cache.free_pages(), 3);
    EXPECT_EQ(contents(assigned), before);
    EXPECT_EQ(assigned.capacity(), 6);
    EXPECT_EQ(pages_of(assigned), pages);
    expect_empty(moved);  // NOLINT(bugprone-use-after-move)

    PagedSequence<TypeParam>& itself = assigned;
    assigned = std::move(itself);
    EXPECT_EQ(contents(assigned), before);
    EXPECT_EQ(cache.free_pages(), 1);
}

// Reserved pages --------------------------------------------------------------------------------------------------------

TYPED_TEST(PagedCacheTest, WhatIsReservedCanBeAppendedWhateverOthersTake) {
    for (Index size = 0; size <= 5; ++size) {
        for (Index count = 0; count <= 7; ++count) {
            for (const bool shared : {false, true}) {
                PagedCache<TypeParam> cache(this->config, 9, 3);
                PagedSequence<TypeParam> sequence = cache.sequence(12);
                grow(sequence, this->generator, size);
                const PagedSequence<TypeParam> fork = sequence.fork(shared ? size : 0);
                const auto before = contents(sequence);
                sequence.reserve(count);
                EXPECT_EQ(sequence.size(), size);
                PagedSequence<TypeParam> rest = cache.sequence(100);
                grow(rest, this->generator, 3 * cache.free_pages());
                ASSERT_EQ(cache.free_pages(), 0);
                EXPECT_NO_THROW(sequence.require_room(count));
                for (Index t = 0; t < count; t += 2)
                    EXPECT_NO_THROW(grow(sequence, this->generator, std::min(Index{2}, count - t)));
                EXPECT_EQ(sequence.size(), size + count);
                EXPECT_EQ(first(contents(sequence), size), before);
                EXPECT_EQ(sequence.held_pages().size(), static_cast<std::size_t>(sequence.view().used_pages()));
            }
        }
    }
}

TYPED_TEST(PagedCacheTest, ReleasedPagesLeaveThePoolAsBeforeTheReserve) {
    PagedCache<TypeParam> cache(this->config, 9, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(40);
    grow(sequence, this->generator, 6);
    const PagedSequence<TypeParam> fork = sequence.fork(6);
    const auto before = contents(sequence);
    const auto pages = pages_of(sequence);
    sequence.reserve(7);  // 13 tokens are four pages, and a copy of the second
    EXPECT_EQ(cache.free_pages(), 4);
    EXPECT_EQ(pages_of(sequence).size(), 5U);
    sequence.reserve(3);  // has them already
    EXPECT_EQ(cache.free_pages(), 4);
    sequence.release_reserved();
    EXPECT_EQ(cache.free_pages(), 7);
    EXPECT_EQ(pages_of(sequence), pages);
    EXPECT_EQ(contents(sequence), before);
    EXPECT_EQ(cache.references(pages[1]), 2);

    sequence.reserve(7);
    grow(sequence, this->generator, 1);
    EXPECT_EQ(cache.free_pages(), 4);
    sequence.release_reserved();
    EXPECT_EQ(cache.free_pages(), 6);
    EXPECT_EQ(first(contents(sequence), 6), before);
}

TYPED_TEST(PagedCacheTest, TruncateResetAndForkLeaveNoPageReserved) {
    PagedCache<TypeParam> cache(this->config, 9, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(40);
    grow(sequence, this->generator, 6);
    sequence.reserve(8);
    EXPECT_EQ(cache.free_pages(), 5);
    EXPECT_EQ(sequence.fork(6).held_pages().size(), 2U);
    sequence.truncate(6);
    EXPECT_EQ(cache.free_pages(), 7);
    sequence.reserve(8);
    sequence.reset();
    EXPECT_EQ(cache.free_pages(), 9);
}

// Allocation --------------------------------------------------------------------------------------------------------------

TYPED_TEST(PagedCacheTest, OnlyASequencesStartAndForkAllocateAndOnceEach) {
    PagedCache<TypeParam> cache(this->config, 12, 4);
    const Tokens<float> tokens(this->generator, 7);
    std::uint64_t before = allocations();
    PagedSequence<TypeParam> sequence = cache.sequence(30);
    EXPECT_EQ(allocations(), before + 1);
    sequence.append(tokens.view());
    before = allocations();
    PagedSequence<TypeParam> fork = sequence.fork(7);
    EXPECT_EQ(allocations(), before + 1);

    before = allocations();
    fork.reserve(20);
    fork.append(tokens.view());
    fork.release_reserved();
    sequence.append(tokens.view());
    sequence.append(tokens.view());
    sequence.require_room(2);
    sequence.truncate(9);
    sequence.append(tokens.view());
    PagedSequence<TypeParam> moved(std::move(sequence));
    sequence = std::move(moved);
    fork.reset();
    sequence.reset();
    static_cast<void>(sequence.view());
    static_cast<void>(cache.free_pages());
    static_cast<void>(cache.references(0));
    EXPECT_EQ(allocations(), before);
}

TYPED_TEST(PagedCacheTest, ABlockTableIsNoLongerThanThePoolAllows) {
    PagedCache<TypeParam> cache(this->config, 2, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(Index{1} << 34);  // 16 GiB of entries, were it longer
    EXPECT_EQ(sequence.capacity(), Index{1} << 34);
    grow(sequence, this->generator, 6);
    PagedSequence<TypeParam> fork = sequence.fork(6);
    EXPECT_THROW(grow(fork, this->generator, 1), std::length_error);
    sequence.truncate(4);
    EXPECT_NO_THROW(grow(fork, this->generator, 2));
}

// What is refused ---------------------------------------------------------------------------------------------------------

TYPED_TEST(PagedCacheTest, AnExhaustedPoolSaysWhatIsNeededAndLeavesAllAsItWas) {
    PagedCache<TypeParam> cache(this->config, 4, 4);
    PagedSequence<TypeParam> sequence = cache.sequence(100);
    grow(sequence, this->generator, 6);
    PagedSequence<TypeParam> fork = sequence.fork(6);
    grow(fork, this->generator, 1);  // a third page
    PagedSequence<TypeParam> third = sequence.fork(6);
    const auto contents_before = contents(sequence);
    const auto pages_before = pages_of(sequence);
    const auto expect_unchanged = [&] {
        EXPECT_EQ(cache.free_pages(), 1);
        EXPECT_EQ(contents(sequence), contents_before);
        EXPECT_EQ(pages_of(sequence), pages_before);
        EXPECT_EQ(cache.references(pages_before[0]), 3);
        EXPECT_EQ(cache.references(pages_before[1]), 2);
    };
    // Two tokens fit the page's rest, but the page is shared; the third needs another.
    const std::string message = "mla: pages needed is 2, must be at most free_pages() = 1";
    EXPECT_EQ(thrown<std::length_error>([&] { grow(sequence, this->generator, 3); }), message);
    expect_unchanged();
    EXPECT_EQ(thrown<std::length_error>([&] { sequence.reserve(3); }), message);
    expect_unchanged();
    EXPECT_EQ(thrown<std::length_error>([&] { sequence.require_room(3); }), message);
    expect_unchanged();
    EXPECT_EQ(thrown<std::length_error>([&] { grow(sequence, this->generator, 94); }),
              "mla: pages needed is 24, must be at most free_pages() = 1");
    expect_unchanged();
    grow(sequence, this->generator, 2);
    EXPECT_EQ(thrown<std::length_error>([&] { grow(fork, this->generator, 2); }),
              "mla: pages needed is 1, must be at most free_pages() = 0");
    EXPECT_NO_THROW(grow(fork, this->generator, 1));
    EXPECT_NO_THROW(grow(third, this->generator, 2));  // the page that it shared is its own now
    third.reset();
    EXPECT_NO_THROW(grow(fork, this->generator, 1));
}

TYPED_TEST(PagedCacheTest, ARefusedCallLeavesTheSequenceAsItWas) {
    PagedCache<TypeParam> cache(this->config, 9, 2);
    PagedSequence<TypeParam> sequence = cache.sequence(7);
    grow(sequence, this->generator, 4);
    const auto before = contents(sequence);
    const Tokens<float> tokens(this->generator, 4);
    const float* data = tokens.values.data();
    using View = MatrixView<const float>;
    using std::invalid_argument;
    using std::length_error;
    const std::string no_room = "mla: tokens to append is 4, must be at most 3";
    EXPECT_EQ(thrown<length_error>([&] { sequence.append(tokens.view()); }), no_room);
    EXPECT_EQ(thrown<length_error>([&] { sequence.require_room(4); }), no_room);
    EXPECT_EQ(thrown<length_error>([&] { sequence.reserve(4); }), no_room);
    EXPECT_EQ(thrown<length_error>([&] { sequence.reserve(std::numeric_limits<Index>::max()); }),
              "mla: tokens to append is 9223372036854775807, must be at most 3");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.reserve(-1); }), "mla: tokens to append is -1, must be at least 0");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.require_room(-1); }), "mla: tokens to append is -1, must be at least 0");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.append(View(data, -1, dim)); }),
              "mla: tokens to append is -1, must be at least 0");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.append(View(data, 1, dim - 1)); }),
              "mla: tokens.cols is 42, must be kv_lora_rank + qk_rope_head_dim = 43");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.append(View(data, 2, dim, dim - 1)); }),
              "mla: tokens.stride is 42, must be at least 43");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.truncate(5); }), "mla: length is 5, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { sequence.truncate(-1); }), "mla: length is -1, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(sequence.fork(5, 9)); }), "mla: length is 5, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(sequence.fork(-1)); }), "mla: length is -1, must be in [0, 4]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(sequence.fork(4, 3)); }),
              "mla: max_tokens is 3, must be in [4, 17179869184]");
    EXPECT_EQ(contents(sequence), before);
    EXPECT_EQ(sequence.capacity(), 7);
    EXPECT_EQ(cache.free_pages(), 7);
}

TYPED_TEST(PagedCacheTest, RefusesAnInvalidConfigAndImpossibleSizes) {
    using Cache = PagedCache<TypeParam>;
    using std::invalid_argument;
    Config invalid = this->config;
    invalid.kv_lora_rank = 0;
    EXPECT_EQ(thrown<invalid_argument>([&] { Cache cache(invalid, 1, 1); }).substr(0, 23), "mla: kv_lora_rank is 0,");
    const auto sizes = [&](Index pages, Index page_size) {
        return thrown<invalid_argument>([&] { Cache cache(this->config, pages, page_size); });
    };
    EXPECT_EQ(sizes(1, 0), "mla: page_size is 0, must be in [1, 256]");
    EXPECT_EQ(sizes(1, -1), "mla: page_size is -1, must be in [1, 256]");
    EXPECT_EQ(sizes(1, 257), "mla: page_size is 257, must be in [1, 256]");
    EXPECT_EQ(sizes(-1, 1), "mla: pages is -1, must be in [0, 2147483647]");
    EXPECT_EQ(sizes(Index{1} << 31, 1), "mla: pages is 2147483648, must be in [0, 2147483647]");
    EXPECT_EQ(sizes((Index{1} << 26) + 1, 256), "mla: pages is 67108865, must be in [0, 67108864]");
    Cache cache(this->config, 3, 256);
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.sequence(-1)); }),
              "mla: max_tokens is -1, must be in [0, 17179869184]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.sequence((Index{1} << 34) + 1)); }),
              "mla: max_tokens is 17179869185, must be in [0, 17179869184]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.references(3)); }), "mla: page is 3, must be in [0, 2]");
    EXPECT_EQ(thrown<invalid_argument>([&] { static_cast<void>(cache.references(-1)); }), "mla: page is -1, must be in [0, 2]");
    EXPECT_EQ(cache.free_pages(), 3);
}

TYPED_TEST(PagedCacheTest, APoolWithoutPagesHoldsNothing) {
    PagedCache<TypeParam> cache(this->config, 0, 16);
    PagedSequence<TypeParam> sequence = cache.sequence(5);
    EXPECT_NO_THROW(grow(sequence, this->generator, 0));
    EXPECT_EQ(thrown<std::length_error>([&] { grow(sequence, this->generator, 1); }),
              "mla: pages needed is 1, must be at most free_pages() = 0");
    EXPECT_TRUE(contents(sequence).empty());
}

// Random operations -------------------------------------------------------------------------------------------------------

template <class Walk>
void expect_walks() {
    for (std::uint64_t seed = 0; seed < 150; ++seed) {
        Walk walk{SeededChoices(seed)};
        for (int step = 0; step < 150; ++step) ASSERT_NO_THROW(walk.step()) << "seed " << seed << ", step " << step;
    }
}

TYPED_TEST(PagedCacheTest, HoldsWhatAPlainModelHoldsAfterAnySequenceOfSteps) {
    expect_walks<PagedWalk<TypeParam, SeededChoices>>();
}

TYPED_TEST(PagedCacheTest, HoldsIndexKeysTogetherWithLatentsAfterAnySequenceOfSteps) {
    expect_walks<PagedWalk<TypeParam, SeededChoices, TypeParam>>();
}

}  // namespace
