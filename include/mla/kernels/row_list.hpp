// Which rows make a block: the one thing that pages change.
#pragma once

#include <array>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::detail {

/// Tokens of a block, a multiple of every score tile. 96 rows of 576 floats (216 KiB) leave room in a 1 MiB L2 for the packed
/// queries and the outputs of 128 rows (288 and 256 KiB).
inline constexpr Index block_tokens = 96;

/// Up to a block's rows in the order of their tokens, wherever each lies.
template <class T>
class RowList {
  public:
    void add(const T* row) noexcept { rows_[static_cast<std::size_t>(size_++)] = row; }
    void add(const T* first, Index stride, Index count) noexcept {
        const void** const end = rows_.data() + size_;
        for (Index i = 0; i < count; ++i) end[i] = first + i * stride;
        size_ += count;
    }
    /// Lists rows of `other` past its own, so that every index of `other` finds a row here too; the size stays.
    void cover(const RowList& other) noexcept {
        for (Index i = size_; i < other.size_; ++i) rows_[static_cast<std::size_t>(i)] = other.rows_[static_cast<std::size_t>(i)];
    }
    void clear() noexcept { size_ = 0; }
    [[nodiscard]] Index size() const noexcept { return size_; }
    [[nodiscard]] const T* operator[](Index index) const noexcept {
        return static_cast<const T*>(rows_[static_cast<std::size_t>(index)]);
    }
    [[nodiscard]] const void* const* data() const noexcept { return rows_.data(); }

  private:
    std::array<const void*, static_cast<std::size_t>(block_tokens)> rows_;
    Index size_ = 0;
};

}  // namespace mla::inline MLA_ISA::detail
