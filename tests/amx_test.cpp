// The tile registers of the processor against their model, bit for bit; tile_model_test.cpp holds that to Intel's manual. Built
// where the processor has AMX; elsewhere only compiled.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <type_traits>
#include <vector>

#include "mla/simd/prefetch.hpp"
#include "mla/simd/tile_registers.hpp"
#include "mla/testing/random.hpp"
#include "support/tile_shapes.hpp"

namespace mla {
namespace {

using simd::AmxTileRegisters;
using simd::ModelTileRegisters;
using simd::TileConfig;
using testing::config_of;
using testing::Generator;
using testing::tile_shapes;
using testing::TileShape;

class AmxTest : public ::testing::Test {
  protected:
    void SetUp() override {
        constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
        if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0) GTEST_SKIP() << "Linux grants no tile registers";
    }
};

/// What a register holds when it is loaded whole: 16 rows of 16 groups.
using Groups = std::vector<std::uint32_t>;
[[nodiscard]] Groups random_groups(Generator& generator) {
    Groups groups(256);
    for (auto& group : groups) group = static_cast<std::uint32_t>(generator());
    return groups;
}

struct Product {
    TileShape shape;
    Groups c, a, b;
};

/// C after multiply(registers), and what lay around it.
template <class Registers, class Multiply>
[[nodiscard]] Groups result_of(const Product& p, Multiply multiply) {
    simd::WholeTiles<Registers> registers;
    registers.configure(config_of(p.shape));
    registers.template load<0>(p.c.data(), 64);
    registers.template load<1>(p.a.data(), 64);
    registers.template load<2>(p.b.data(), 64);
    multiply(registers);
    Groups result(256, 0xeeeeeeee);
    registers.template store<0>(result.data(), 64);
    return result;
}

template <class Multiply>
void expect_same(const Product& p, Multiply multiply, bool floats) {
    const Groups found = result_of<AmxTileRegisters>(p, multiply);
    const Groups expected = result_of<ModelTileRegisters>(p, multiply);
    const auto bits = [&](std::uint32_t group) {
        return floats && std::isnan(std::bit_cast<float>(group)) ? 0x7fc00000U : group;  // any NaN is as good as another
    };
    for (std::size_t i = 0; i < found.size(); ++i)
        ASSERT_EQ(bits(found[i]), bits(expected[i])) << std::hex << "cell " << i << ": " << found[i] << ", model " << expected[i];
}

// Configurations, loads and stores ------------------------------------------------------------------------------------

TEST_F(AmxTest, AConfigurationIsReadBackAsItWasLoaded) {
    const auto expect_read_back = [](const TileConfig& config) {
        AmxTileRegisters::configure(config);
        const TileConfig found = AmxTileRegisters::configuration();
        EXPECT_EQ(std::memcmp(&found, &config, sizeof config), 0);
    };
    expect_read_back(TileConfig::whole());
    for (const TileShape& s : tile_shapes) expect_read_back(config_of(s));
    AmxTileRegisters::release();
    const TileConfig none = TileConfig::none(), released = AmxTileRegisters::configuration();
    EXPECT_EQ(std::memcmp(&released, &none, sizeof none), 0);
}

TEST_F(AmxTest, WholeTilesLeaveTheConfigurationAsTheyFoundIt) {
    for (const TileConfig& before : {TileConfig::none(), config_of({3, 2, 5}), TileConfig::whole()}) {
        AmxTileRegisters::configure(before);
        {
            const simd::WholeTiles<AmxTileRegisters> outer;
            const simd::WholeTiles<AmxTileRegisters> inner;
            const TileConfig whole = TileConfig::whole(), found = AmxTileRegisters::configuration();
            EXPECT_EQ(std::memcmp(&found, &whole, sizeof whole), 0);
        }
        const TileConfig after = AmxTileRegisters::configuration();
        EXPECT_EQ(std::memcmp(&after, &before, sizeof before), 0);
    }
    AmxTileRegisters::release();
}

template <class Registers, class Body>
[[nodiscard]] std::vector<std::uint8_t> memory_after(const TileConfig& config, Body body) {
    std::vector<std::uint8_t> memory(8192, 0xee);
    simd::WholeTiles<Registers> registers;
    registers.configure(config);
    body(registers, memory.data());
    return memory;
}

template <class Body>
void expect_same_memory(const TileConfig& config, Body body) {
    ASSERT_EQ(memory_after<AmxTileRegisters>(config, body), memory_after<ModelTileRegisters>(config, body));
}

/// Also backwards, and the same row each time.
TEST_F(AmxTest, LoadsAndStoresTakeTheRowsOfTheirStride) {
    Generator generator(1);
    std::vector<std::uint8_t> from(8192);
    for (auto& byte : from) byte = static_cast<std::uint8_t>(generator());
    for (const TileShape& s : tile_shapes)
        for (const Index stride : {0, 4, 60, 64, 68, 129, 200, -64, -77}) {
            const Index first = stride < 0 ? 4096 : 3;
            const Index stored_stride = 4 * s.groups + 12;
            expect_same_memory(config_of(s), [&](auto& registers, std::uint8_t* to) {
                registers.template load<1>(from.data() + first, stride);
                registers.template store<1>(to + 5, stored_stride);
            });
            if (stride != 0 && std::abs(stride) < 4 * s.groups) continue;  // rows on top of each other
            expect_same_memory(config_of(s), [&](auto& registers, std::uint8_t* to) {
                registers.template load<1>(from.data(), 64);
                registers.template store<1>(to + first, stride);
            });
        }
}

template <class Registers, int T>
void cycle_through(Registers& registers, const std::uint8_t* from, std::uint8_t* to) {
    registers.template load<T>(from + 97 * T, 70);
    if constexpr (T < 7) cycle_through<Registers, T + 1>(registers, from, to);
    if constexpr (T % 3 == 1) registers.template zero<T>();
    registers.template store<T>(to + 1024 * T, 64);
}

TEST_F(AmxTest, EightRegistersHoldWhatTheyWereLoadedWithUntilZeroed) {
    Generator generator(2);
    std::vector<std::uint8_t> from(2048);
    for (auto& byte : from) byte = static_cast<std::uint8_t>(generator());
    expect_same_memory(TileConfig::whole(), [&](auto& registers, std::uint8_t* to) {
        cycle_through<std::remove_reference_t<decltype(registers)>, 0>(registers, from.data(), to);
    });
    expect_same_memory(TileConfig::whole(), [&](auto& registers, std::uint8_t* to) {
        registers.template load<7>(from.data(), 64);
        registers.configure(TileConfig::whole());
        registers.template store<7>(to, 64);
    });
}

/// Linux saves them when a thread gives way.
TEST_F(AmxTest, ThreadsHaveRegistersOfTheirOwn) {
    const auto body = [](std::uint64_t seed, bool& kept) {
        Generator generator(seed);
        for (int i = 0; i < 20; ++i) {
            const Groups groups = random_groups(generator);
            Groups after(groups.size());
            simd::WholeTiles<AmxTileRegisters> registers;
            registers.load<3>(groups.data(), 64);
            for (int turn = 0; turn < 3; ++turn) sched_yield();
            registers.store<3>(after.data(), 64);
            kept = kept && after == groups;
        }
    };
    bool kept[2] = {true, true};
    std::thread other(body, 1, std::ref(kept[0]));
    body(2, kept[1]);
    other.join();
    EXPECT_TRUE(kept[0]);
    EXPECT_TRUE(kept[1]);
}

// Products ------------------------------------------------------------------------------------------------------------

constexpr auto dot_bf16 = [](auto& registers) { registers.template dot_bf16<0, 1, 2>(); };

/// Bits whose exponents lie within `spread` of `exponent`, one in 64 of them a zero, a subnormal, an infinity or a NaN.
[[nodiscard]] std::uint16_t random_bf16(Generator& generator, unsigned exponent, unsigned spread) {
    const auto bits = static_cast<unsigned>(generator());
    const unsigned special = bits >> 16U & 0x3ffU;
    const unsigned near = exponent - spread + (bits >> 8U & 0xffU) % (2 * spread + 1);
    const unsigned taken = special < 8 ? 0 : special < 10 ? 255 : std::min(near, 254U);
    const unsigned mantissa = special % 2 == 0 && taken % 255 == 0 ? 0 : bits & 0x7fU;
    return static_cast<std::uint16_t>((bits >> 16U & 0x8000U) | taken << 7U | mantissa);
}

TEST_F(AmxTest, ProductsOfBf16AreThoseOfTheModelBitForBit) {
    Generator generator(3);
    const auto next = [&](unsigned exponent, unsigned spread) { return std::uint32_t{random_bf16(generator, exponent, spread)}; };
    const auto pairs = [&](unsigned exponent, unsigned spread) {
        Groups groups(256);
        for (auto& group : groups) group = next(exponent, spread);
        for (auto& group : groups) group |= next(exponent, spread) << 16U;
        return groups;
    };
    const auto floats = [&](unsigned exponent, unsigned spread) {
        Groups groups = random_groups(generator);
        for (auto& group : groups) group = next(exponent, spread) << 16U | (group & 0xffffU);
        return groups;
    };
    for (const TileShape& s : tile_shapes)
        for (int i = 0; i < 8; ++i) {
            // Sums as large as products; many exponents; on the border to subnormals; on the border to infinity; anything.
            expect_same({s, floats(129, 4), pairs(127, 2), pairs(127, 2)}, dot_bf16, true);
            expect_same({s, floats(120, 40), pairs(120, 20), pairs(120, 20)}, dot_bf16, true);
            expect_same({s, floats(4, 4), pairs(64, 7), pairs(64, 7)}, dot_bf16, true);
            expect_same({s, floats(250, 4), pairs(189, 4), pairs(189, 4)}, dot_bf16, true);
            expect_same({s, random_groups(generator), random_groups(generator), random_groups(generator)}, dot_bf16, true);
        }
}

/// 2^-126 and what is less than it by half of its last place, which rounds up to it.
TEST_F(AmxTest, WhatRoundsToTheLeastNormalNumberIsTreatedAsInTheModel) {
    Groups c(256, 0), a(256, 0), b(256, 0);
    const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value) >> 16U; };
    a[0] = bits(0x1p-63F);
    b[0] = bits(0x1p-63F);
    a[1] = bits(-0x1p-75F);
    b[16] = bits(0x1p-76F);
    expect_same({{16, 16, 16}, c, a, b}, dot_bf16, true);
    b[16] = bits(0x1.8p-76F);
    expect_same({{16, 16, 16}, c, a, b}, dot_bf16, true);
}

TEST_F(AmxTest, TheThreadsRoundingModeChangesNothing) {
    Generator generator(4);
    const Product p{{16, 16, 16}, random_groups(generator), random_groups(generator), random_groups(generator)};
    const Groups expected = result_of<AmxTileRegisters>(p, dot_bf16);
    const unsigned before = _mm_getcsr();
    for (const unsigned mode : {0x1f80U | 0x2000U, 0x1f80U | 0x4000U, 0x1f80U | 0x8040U}) {
        _mm_setcsr(mode);
        const Groups found = result_of<AmxTileRegisters>(p, dot_bf16);
        const unsigned after = _mm_getcsr();
        _mm_setcsr(before);
        EXPECT_EQ(found, expected);
        EXPECT_EQ(after, mode);
    }
}

template <bool SignedA, bool SignedB>
void expect_same_products_of_bytes() {
    Generator generator(5);
    for (const TileShape& s : tile_shapes)
        for (int i = 0; i < 4; ++i)
            expect_same(
                {s, random_groups(generator), random_groups(generator), random_groups(generator)},
                [](auto& registers) { registers.template dot_bytes<0, 1, 2, SignedA, SignedB>(); }, false);
}

TEST_F(AmxTest, ProductsOfBytesOfEitherSignAreThoseOfTheModel) {
    expect_same_products_of_bytes<true, true>();
    expect_same_products_of_bytes<true, false>();
    expect_same_products_of_bytes<false, true>();
    expect_same_products_of_bytes<false, false>();
}

// The product of kernels ----------------------------------------------------------------------------------------------

struct Sides {
    std::vector<bf16> a, b;
};

template <class Target, int M, int N>
[[nodiscard]] std::vector<float> product_of(const Sides& sides, Index steps) {
    std::vector<float> c(static_cast<std::size_t>(256 * M * N), 3.0F);
    const Index depth = 32 * steps, columns = 16 * N;
    simd::TileRows left[simd::extent<M>], right[simd::extent<N>];
    for (Index m = 0; m < M; ++m) left[m] = {sides.a.data() + 16 * m * depth, 2 * depth, 64};
    for (Index n = 0; n < N; ++n) right[n] = {sides.b.data() + 32 * n, 4 * columns, 64 * columns};
    simd::TileRegisters<Target> registers;
    simd::TileProduct<Target, M, N> product(registers);
    simd::Prefetch nothing;
    product.load(c.data(), columns);
    product.multiply(steps, left, right, nothing);
    product.store(c.data(), columns);
    return c;
}

template <int M, int N>
void expect_product_of_registers(Index steps) {
    Generator generator(6);
    const Sides sides{testing::gaussian_values<bf16>(generator, 16 * M * 32 * steps),
                      testing::gaussian_values<bf16>(generator, 16 * N * 32 * steps)};
    EXPECT_EQ((product_of<targets::amx, M, N>(sides, steps)), (product_of<targets::emulated<targets::amx>, M, N>(sides, steps)))
        << M << " x " << N << ", " << steps << " steps";
}

TEST_F(AmxTest, TheProductOfKernelsIsThatOnTheModelInEveryShapeAndDepth) {
    for (Index steps = 0; steps < 6; ++steps) {
        expect_product_of_registers<2, 2>(steps);
        expect_product_of_registers<3, 1>(steps);
        expect_product_of_registers<2, 1>(steps);
        expect_product_of_registers<1, 1>(steps);
        expect_product_of_registers<1, 2>(steps);
        expect_product_of_registers<1, 3>(steps);
    }
}

template <bool Rows, bool Columns>
void expect_same_product_of_bytes() {
    Generator generator(7);
    Groups a = random_groups(generator), b = random_groups(generator);
    const Groups more_a = random_groups(generator), more_b = random_groups(generator);
    a.insert(a.end(), more_a.begin(), more_a.end());
    b.insert(b.end(), more_b.begin(), more_b.end());
    EXPECT_EQ((testing::product_of_bytes<targets::amx, Rows, Columns>(a.data(), b.data())),
              (testing::product_of_bytes<targets::emulated<targets::amx>, Rows, Columns>(a.data(), b.data())));
}

TEST_F(AmxTest, TheProductOfBytesIsThatOnTheModelWhicheverSidesAreInTwoParts) {
    expect_same_product_of_bytes<false, false>();
    expect_same_product_of_bytes<false, true>();
    expect_same_product_of_bytes<true, false>();
    expect_same_product_of_bytes<true, true>();
}

}  // namespace
}  // namespace mla
