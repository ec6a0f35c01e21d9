// Scratch memory: what it hands out, and when it allocates.
#include "mla/core/workspace.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/thrown.hpp"

namespace {

using mla::Arena;
using mla::Index;
using mla::scratch_alignment;
using mla::Workspace;
using mla::testing::allocations;
using mla::testing::thrown;

bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % scratch_alignment == 0; }

/// Arrays whose sizes are no multiples of a cache line: 24, 65, 0 and 64 bytes, which take 64, 128, 0 and 64.
struct Arrays {
    double* doubles;
    char* chars;
    int* none;
    float* floats;
};
Arrays arrays(Arena& arena) { return {arena.take<double>(3), arena.take<char>(65), arena.take<int>(0), arena.take<float>(16)}; }
constexpr std::size_t arrays_bytes = 256;

/// One array of `bytes` bytes.
auto bytes_of(Index bytes) {
    return [bytes](Arena& arena) { return arena.take<std::byte>(bytes); };
}

struct alignas(scratch_alignment) Line {
    std::byte bytes[scratch_alignment];
};
std::span<std::byte> bytes_in(std::vector<Line>& lines) { return std::as_writable_bytes(std::span<Line>(lines)); }

TEST(AllocationTest, ArraysStartOnACacheLineAndThoseOfALargePageOnALargePage) {
    const auto address = [](const auto& array) { return reinterpret_cast<std::uintptr_t>(array.get()); };
    for (const mla::Index count : {0, 1, 1000, (1 << 21) - 1})
        EXPECT_EQ(address(mla::detail::allocate_aligned<std::byte>(count)) % mla::scratch_alignment, 0U) << count;
    for (const mla::Index count : {1 << 21, 5000000})
        EXPECT_EQ(address(mla::detail::allocate_aligned<std::byte>(count)) % mla::detail::large_page, 0U) << count;
}

TEST(ArenaTest, WithoutMemoryItOnlyCounts) {
    Arena arena;
    const Arrays counted = arrays(arena);
    EXPECT_EQ(counted.doubles, nullptr);
    EXPECT_EQ(counted.floats, nullptr);
    EXPECT_EQ(arena.bytes(), arrays_bytes);
}

TEST(ArenaTest, TakesWhatItCounts) {
    std::vector<Line> lines(arrays_bytes / scratch_alignment);
    Arena arena(bytes_in(lines).data());
    const Arrays carved = arrays(arena);
    EXPECT_EQ(arena.bytes(), arrays_bytes);
    EXPECT_EQ(static_cast<void*>(carved.doubles), &lines[0]);
    EXPECT_EQ(static_cast<void*>(carved.chars), &lines[1]);
    EXPECT_EQ(static_cast<void*>(carved.floats), &lines[3]);
}

TEST(WorkspaceTest, CarvesArraysOnCacheLinesThatDoNotOverlap) {
    Workspace workspace;
    const Arrays carved = workspace.carve(arrays);
    EXPECT_TRUE(aligned(carved.doubles) && aligned(carved.chars) && aligned(carved.floats));
    std::memset(carved.doubles, 1, 3 * sizeof(double));
    std::memset(carved.chars, 2, 65);
    std::memset(carved.floats, 3, 16 * sizeof(float));
    EXPECT_EQ(reinterpret_cast<char*>(carved.doubles)[23], 1);
    EXPECT_EQ(carved.chars[0], 2);
    EXPECT_EQ(carved.chars[64], 2);
    EXPECT_EQ(reinterpret_cast<char*>(carved.floats)[0], 3);
    EXPECT_EQ(workspace.size(), arrays_bytes);
}

TEST(WorkspaceTest, GrowsForALargerStepAndReusesItsMemoryForOthers) {
    Workspace workspace;
    const auto count = [&](Index bytes) {
        const std::uint64_t before = allocations();
        std::byte* memory = workspace.carve(bytes_of(bytes));
        std::memset(memory, 1, static_cast<std::size_t>(bytes));
        return allocations() - before;
    };
    EXPECT_EQ(count(1000), 1U);
    EXPECT_EQ(count(1000), 0U);
    EXPECT_EQ(count(7), 0U);
    EXPECT_EQ(count(1024), 0U);  // what 1000 bytes were rounded up to
    EXPECT_EQ(count(1025), 1U);
    EXPECT_EQ(count(1000), 0U);
    EXPECT_EQ(workspace.size(), 1088U);
}

TEST(WorkspaceTest, ALayoutWithoutArraysNeedsNoMemory) {
    const std::uint64_t before = allocations();
    Workspace workspace;
    EXPECT_EQ(workspace.carve(bytes_of(0)), nullptr);
    EXPECT_EQ(allocations(), before);
}

TEST(WorkspaceTest, OnTheCallersMemoryItStaysThereAndNeverAllocates) {
    std::vector<Line> lines(arrays_bytes / scratch_alignment);  // just enough
    const std::uint64_t before = allocations();
    Workspace workspace(bytes_in(lines));
    for (int step = 0; step < 2; ++step) {
        const Arrays carved = workspace.carve(arrays);
        EXPECT_EQ(static_cast<void*>(carved.doubles), &lines[0]);
        EXPECT_EQ(static_cast<void*>(carved.floats), &lines[3]);
    }
    EXPECT_EQ(allocations(), before);
    EXPECT_EQ(workspace.size(), arrays_bytes);
}

TEST(WorkspaceTest, OnTooLittleMemoryItNamesTheBytesNeededAndStaysUsable) {
    std::vector<Line> lines(2);
    Workspace workspace(bytes_in(lines));
    EXPECT_EQ(thrown<std::length_error>([&] { std::ignore = workspace.carve(arrays); }),
              "mla: workspace bytes needed is 256, must be at most 128");
    EXPECT_THROW(workspace.reserve(129), std::length_error);
    EXPECT_EQ(workspace.size(), 128U);
    EXPECT_EQ(static_cast<void*>(workspace.carve(bytes_of(128))), lines.data());

    Workspace none{std::span<std::byte>()};
    EXPECT_THROW(none.reserve(1), std::length_error);
    EXPECT_NO_THROW(none.reserve(0));
}

TEST(WorkspaceTest, RejectsMisalignedMemory) {
    std::vector<Line> lines(2);
    for (const std::size_t offset : {1U, 8U, 32U, 63U})
        EXPECT_EQ(thrown<std::invalid_argument>([&] { Workspace workspace(bytes_in(lines).subspan(offset)); }),
                  "mla: workspace memory address modulo 64 is " + std::to_string(offset) + ", must be 0");
    EXPECT_NO_THROW(Workspace(bytes_in(lines).subspan(64)));
}

TEST(WorkspaceTest, AMoveTakesTheMemoryAndLeavesAnEmptySource) {
    Workspace first;
    std::byte* memory = first.carve(bytes_of(100));
    Workspace second(std::move(first));
    EXPECT_EQ(first.size(), 0U);  // NOLINT(bugprone-use-after-move): that is the point
    EXPECT_EQ(second.carve(bytes_of(100)), memory);
    EXPECT_NE(first.carve(bytes_of(100)), memory);

    std::vector<Line> lines(1);
    Workspace on_lines(bytes_in(lines));
    second = std::move(on_lines);
    EXPECT_EQ(static_cast<void*>(second.carve(bytes_of(64))), lines.data());
    EXPECT_THROW(second.reserve(65), std::length_error);
    EXPECT_EQ(on_lines.size(), 0U);         // NOLINT(bugprone-use-after-move)
    EXPECT_NO_THROW(on_lines.reserve(65));  // an empty one owns what it needs
}

}  // namespace
