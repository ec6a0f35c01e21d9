// Scratch memory: sized once, reused by every step.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "mla/core/errors.hpp"
#include "mla/core/memory.hpp"

namespace mla::inline MLA_ISA {

/// Carves arrays out of one piece of memory, in order. Without memory it only counts, so that the same code that carves
/// a layout also sizes it.
class Arena {
  public:
    Arena() = default;  ///< counts only
    explicit Arena(std::byte* memory) noexcept : memory_(memory) {}

    /// `count` uninitialised elements on a cache line; nullptr while counting.
    template <class T>
    [[nodiscard]] T* take(Index count) noexcept {
        const std::size_t offset = used_;
        const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
        used_ += (bytes + scratch_alignment - 1) / scratch_alignment * scratch_alignment;
        return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + offset);
    }

    [[nodiscard]] std::size_t bytes() const noexcept { return used_; }

  private:
    std::byte* memory_ = nullptr;
    std::size_t used_ = 0;
};

/// The scratch of a step. Owned, it grows when a step needs more than any before it and is reused by all that need less;
/// on a caller's memory it never allocates. Not to be shared by steps that run at the same time.
class Workspace {
  public:
    Workspace() = default;

    /// Uses the caller's memory, which must outlive this and start on a multiple of `scratch_alignment`.
    explicit Workspace(std::span<std::byte> memory) : memory_(memory.data()), size_(memory.size()), fixed_(true) {
        const auto misaligned = reinterpret_cast<std::uintptr_t>(memory_) % scratch_alignment;
        require(misaligned == 0, "workspace memory address modulo 64", misaligned, 0);
    }

    /// A move leaves an empty workspace that would own what it needs.
    Workspace(Workspace&& other) noexcept { swap(other); }
    Workspace& operator=(Workspace&& other) noexcept {
        Workspace taken(std::move(other));
        swap(taken);
        return *this;
    }

    /// Makes at least `bytes` available; what an earlier call carved is gone.
    /// @throws std::length_error when the caller's memory is smaller, naming the bytes needed
    void reserve(std::size_t bytes) {
        if (bytes <= size_) return;
        if (fixed_) require_capacity("workspace bytes needed", bytes, size_);
        owned_.reset();
        memory_ = nullptr;
        size_ = 0;
        owned_ = detail::allocate_aligned<std::byte>(static_cast<Index>(bytes));
        memory_ = owned_.get();
        size_ = bytes;
    }

    /// Calls `layout(Arena&)` once to size and once to carve, and returns what it carved.
    template <class Layout>
    [[nodiscard]] auto carve(Layout&& layout) {
        Arena counter;
        static_cast<void>(layout(counter));
        reserve(counter.bytes());
        Arena arena(memory_);
        return layout(arena);
    }

    [[nodiscard]] std::size_t size() const noexcept { return size_; }

  private:
    void swap(Workspace& other) noexcept {
        std::swap(owned_, other.owned_);
        std::swap(memory_, other.memory_);
        std::swap(size_, other.size_);
        std::swap(fixed_, other.fixed_);
    }

    detail::AlignedArray<std::byte> owned_;
    std::byte* memory_ = nullptr;
    std::size_t size_ = 0;
    bool fixed_ = false;
};

}  // namespace mla::inline MLA_ISA
