// Which pages of a pool are free, and how often each of the others is in use.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::detail {

/// Hands out page numbers of a pool and counts the references to each; knows nothing of what lies in the pages. A page is
/// free exactly when it has no references. All of it may be called from any thread; nothing but the constructor allocates.
class PageAllocator {
  public:
    /// Pages are named by int32 in block tables.
    static constexpr Index max_pages = std::numeric_limits<std::int32_t>::max();

    /// `pages` is in [0, max_pages].
    explicit PageAllocator(Index pages) {
        references_.resize(static_cast<std::size_t>(pages));
        free_.reserve(static_cast<std::size_t>(pages));
        for (Index page = pages; page > 0; --page) free_.push_back(static_cast<std::int32_t>(page - 1));  // 0 is taken first
    }

    [[nodiscard]] Index pages() const noexcept { return static_cast<Index>(references_.size()); }

    [[nodiscard]] Index free_pages() const {
        const Lock lock(mutex_);
        return static_cast<Index>(free_.size());
    }

    /// How often `page` is in use; 0 when it is free.
    [[nodiscard]] Index references(Index page) const {
        require_in_range("page", page, Index{0}, pages() - 1);
        const Lock lock(mutex_);
        return references_[static_cast<std::size_t>(page)];
    }

    /// Takes `count` free pages, whose one reference is the caller's, and writes their numbers to `taken`.
    /// @throws std::length_error when fewer are free; none is then taken
    void take(Index count, std::int32_t* taken) {
        const Lock lock(mutex_);
        require_free(count, static_cast<Index>(free_.size()));
        for (Index i = 0; i < count; ++i) {
            taken[i] = free_.back();
            free_.pop_back();
            assert(uses(taken[i], lock) == 0);
            uses(taken[i], lock) = 1;
        }
    }

    /// One more reference to each of `pages`, all of them in use.
    void share(std::span<const std::int32_t> pages) {
        const Lock lock(mutex_);
        for (const std::int32_t page : pages) {
            assert(uses(page, lock) > 0);
            ++uses(page, lock);
        }
    }

    /// One reference less to each of `pages`, all of them in use; the last one frees a page.
    void give_back(std::span<const std::int32_t> pages) {
        const Lock lock(mutex_);
        for (const std::int32_t page : pages) {
            assert(uses(page, lock) > 0);
            if (--uses(page, lock) == 0) free_.push_back(page);
        }
    }

    /// @throws std::length_error unless `count` pages are among the `available` ones
    static void require_free(Index count, Index available) {
        if (count <= available) [[likely]]
            return;
        throw std::length_error(argument_message("pages needed", count, "at most free_pages() = " + std::to_string(available)));
    }

  private:
    using Lock = std::lock_guard<std::mutex>;

    [[nodiscard]] std::int32_t& uses(std::int32_t page, const Lock&) noexcept {
        assert(page >= 0 && page < pages());
        return references_[static_cast<std::size_t>(page)];
    }

    mutable std::mutex mutex_;
    std::vector<std::int32_t> references_;  ///< a page
    std::vector<std::int32_t> free_;        ///< taken from the end, so that the page given back last is reused first
};

}  // namespace mla::inline MLA_ISA::detail
