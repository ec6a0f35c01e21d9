// What this machine can do at most: probes of its arithmetic and of its memory.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "mla/core/chosen_target.hpp"
#include "mla/core/memory.hpp"
#include "mla/simd/tile.hpp"
#include "mla/simd/tile_registers.hpp"
#include "random_data.hpp"
#include "thread_team.hpp"

namespace mla::bench {

using Clock = std::chrono::steady_clock;
using Target = targets::native;

[[nodiscard]] inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// How long a probe runs: long enough to average over interrupts, short enough to stand between the steps of every case.
inline constexpr double probe_seconds = 0.02;

/// Calls `burst(thread)`, which returns how many operations it did, on every thread of the team for `probe_seconds`; returns
/// the operations a second of all threads.
template <class Burst>
[[nodiscard]] double rate(ThreadTeam& team, Burst burst) {
    std::vector<double> rates(static_cast<std::size_t>(team.concurrency()));
    team.parallel_for(team.concurrency(), [&](Index thread) {
        const auto start = Clock::now();
        double operations = 0.0;
        double elapsed = 0.0;
        do {
            operations += burst(thread);
            elapsed = seconds_since(start);
        } while (elapsed < probe_seconds);
        rates[static_cast<std::size_t>(thread)] = operations / elapsed;
    });
    double sum = 0.0;
    for (const double each : rates) sum += each;
    return sum;
}

/// Independent sums: more than latency × throughput of a multiply-add on any core (Zen 4: 4 × 1, Golden Cove: 4 × 2, bf16 dot
/// on Zen 4: 6 × 1), and with two operands they fit into 16 registers.
inline constexpr int probe_sums = 12;
inline constexpr int probe_unroll = 4;     ///< rounds between two jumps: GCC may copy every sum there
inline constexpr int probe_rounds = 4096;  ///< some 14 µs, beside which reading the clock is nothing

/// Does probe_rounds × probe_sums times sum = step(sum, a, b), in registers. The compiler knows nothing of the values it
/// starts from and must hand over each sum, so that it can neither merge nor drop one.
template <class Sum, class Operand, class Step>
MLA_ALWAYS_INLINE void register_burst(Step step) {
    using Element = typename Sum::value_type;
    using Word = typename Operand::value_type;
    alignas(64) Element sums[probe_sums * Sum::size];
    alignas(64) Word operands[2 * Operand::size];
    for (std::size_t i = 0; i < std::size(sums); ++i) sums[i] = static_cast<Element>(i + 1);
    for (std::size_t i = 0; i < std::size(operands); ++i)
        operands[i] = std::is_same_v<Word, float> ? static_cast<Word>(1.0F + 0.001F * static_cast<float>(i))
                                                  : static_cast<Word>(0x3f803f81U + i);
    Element* memory = sums;
    const Word* factors = operands;
    benchmark::DoNotOptimize(memory);
    benchmark::DoNotOptimize(factors);
    benchmark::ClobberMemory();
    const Operand a = Operand::load_aligned(factors);
    const Operand b = Operand::load_aligned(factors + Operand::size);
    Sum sum[probe_sums];
    simd::unroll<probe_sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA {
        sum[i] = Sum::load_aligned(memory + i * Sum::size);
        simd::keep_in_register(sum[i]);
    });
    for (int round = 0; round < probe_rounds; round += probe_unroll)
        simd::unroll<probe_unroll * probe_sums>(
            [&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sum[i % probe_sums] = step(sum[i % probe_sums], a, b); });
    simd::unroll<probe_sums>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { sum[i].store_aligned(memory + i * Sum::size); });
    benchmark::ClobberMemory();
}

/// Operations of a burst on vectors of `lanes`, each of which multiplies and adds `products` values.
[[nodiscard]] constexpr double burst_operations(std::size_t lanes, int products) {
    return 2.0 * probe_rounds * probe_sums * static_cast<double>(lanes) * products;
}

/// fp32 multiply-adds: flop/s.
[[nodiscard]] inline double fma_rate(ThreadTeam& team) {
    using Floats = simd::Batch<Target, float>;
    return rate(team, [](Index) {
        register_burst<Floats, Floats>([](const Floats& sum, const Floats& a, const Floats& b)
                                           MLA_ALWAYS_INLINE_LAMBDA { return simd::fma<Target, float>(a, b, sum); });
        return burst_operations(Floats::size, 1);
    });
}

/// bf16 dot products: flop/s, or 0 where the target has no such instruction.
[[nodiscard]] inline double dot_bf16_rate([[maybe_unused]] ThreadTeam& team) {
    if constexpr (!Target::dots_bf16) return 0.0;
    using Floats = simd::Batch<Target, float>;
    using Packed = simd::PackedBatch<Target>;
    return rate(team, [](Index) {
        register_burst<Floats, Packed>([](const Floats& sum, const Packed& a, const Packed& b) MLA_ALWAYS_INLINE_LAMBDA {
            return simd::multiply_add<Target, simd::Bf16Pair>(a, b, sum);
        });
        return burst_operations(Floats::size, 2);
    });
}

/// The target that kernels run on.
[[nodiscard]] inline std::string_view target_name() {
#if MLA_IS_COMPILED
    return chosen_target().name;
#else
    return Target::name;
#endif
}

/// Whether kernels multiply bf16 in tile registers.
[[nodiscard]] inline bool uses_tiles() { return target_name() == targets::amx::name; }

/// Products of bf16 in tile registers, 2×2 of them: flop/s. Only where `uses_tiles`, which asks for them.
#if MLA_HAS_AMX
[[nodiscard]] inline double tile_bf16_rate(ThreadTeam& team) {
    return rate(team, [](Index) {
        simd::AmxTileRegisters registers;
        simd::unroll<simd::tile_registers>([&](auto i) MLA_ALWAYS_INLINE_LAMBDA { registers.template zero<i>(); });
        for (int round = 0; round < probe_rounds; ++round) {
            registers.dot_bf16<0, 4, 6>();
            registers.dot_bf16<1, 4, 7>();
            registers.dot_bf16<2, 5, 6>();
            registers.dot_bf16<3, 5, 7>();
        }
        return 4.0 * probe_rounds * 2.0 * simd::tile_rows * simd::tile_groups * 2.0 * simd::tile_rows;
    });
}
#else
[[nodiscard]] inline double tile_bf16_rate(ThreadTeam& /*team*/) { return 0.0; }
#endif

/// Products of bf16 as kernels make them in vectors.
[[nodiscard]] inline double vector_bf16_rate(ThreadTeam& team) {
    return Target::dots_bf16 ? dot_bf16_rate(team) : fma_rate(team);
}

/// Products of bf16 as kernels make them of many rows.
[[nodiscard]] inline double bf16_rate(ThreadTeam& team) { return uses_tiles() ? tile_bf16_rate(team) : vector_bf16_rate(team); }

/// What makes them.
[[nodiscard]] inline const char* bf16_products() {
    if (uses_tiles()) return "tile registers";
    return Target::dots_bf16 ? "dot products of bf16" : "multiply-adds of fp32";
}

/// int16 dot products: operations a second. A product of sums, not of the operands alone, is none that the compiler could compute
/// once before the loop; its latency, 3 and 1 cycles at two a cycle, stays hidden.
[[nodiscard]] inline double dot_int16_rate(ThreadTeam& team) {
    using Integers = simd::Batch<Target, std::int32_t>;
    using Packed = simd::PackedBatch<Target>;
    return rate(team, [](Index) {
        register_burst<Integers, Packed>([](const Integers& sum, const Packed& a, const Packed&) MLA_ALWAYS_INLINE_LAMBDA {
            return simd::multiply_add<Target, simd::Int16Pair>(std::bit_cast<Packed>(sum), a, sum);
        });
        return burst_operations(Integers::size, 2);
    });
}

/// The probe of the dot product that values of C fit into, scales apart; of fp32 where the machine has no narrower one, or a slow
/// one.
using ArithmeticProbe = double (*)(ThreadTeam&);
template <class C>
inline constexpr ArithmeticProbe dot_rate = fma_rate;
template <>
inline constexpr ArithmeticProbe dot_rate<bf16> = bf16_rate;
template <>
inline constexpr ArithmeticProbe dot_rate<fp8> = dot_rate<bf16>;
template <>
inline constexpr ArithmeticProbe dot_rate<fp8_v4> = dot_rate<bf16>;
template <>
inline constexpr ArithmeticProbe dot_rate<int8> = dot_int16_rate;

/// Bytes of the largest cache of the processor that a core can use.
[[nodiscard]] inline Index last_level_cache_bytes() {
    Index largest = Index{32} << 20;
    for (const auto& cache : benchmark::CPUInfo::Get().caches) largest = std::max<Index>(largest, cache.size);
    return largest;
}

/// Reads memory in order, over and over, a piece a burst; each thread of a team has its own part of it.
class Reader {
  public:
    explicit Reader(Index bytes) : size_(round_up(bytes / 4, piece)), data_(random_values<float>(size_ + fetched_ahead)) {}

    /// Bytes a second of all threads. A probe goes on where the last one stopped.
    [[nodiscard]] double rate(ThreadTeam& team) { return rate(team, sum); }

    /// The same where each line is fetched ahead and meets products of vectors, about as many as in attention of 4 rows over
    /// bf16.
    [[nodiscard]] double multiply_rate(ThreadTeam& team) { return rate(team, multiply); }

  private:
    static constexpr Index piece = 1 << 15;  ///< floats: 128 KiB
    static constexpr Index fetched_ahead = 6 << 10;
    static constexpr int line_products = 16;

    struct alignas(64) Position {
        Index value = 0;
    };

    [[nodiscard]] double rate(ThreadTeam& team, void (*read)(const float*)) {
        const Index part = size_ / team.concurrency() / piece * piece;
        positions_.resize(static_cast<std::size_t>(std::max(team.concurrency(), static_cast<Index>(positions_.size()))));
        return bench::rate(team, [&](Index thread) {
            Index& position = positions_[static_cast<std::size_t>(thread)].value;
            position = (position + piece) % part;
            read(data_.get() + thread * part + position);
            return 4.0 * static_cast<double>(piece);
        });
    }

    static void sum(const float* values) {
        using Floats = simd::Batch<Target, float>;
        constexpr int streams = 8;
        Floats sums[streams];
        for (Floats& each : sums) each = Floats(0.0F);
        for (Index i = 0; i < piece; i += streams * simd::lanes<Target, float>)
            simd::unroll<streams>([&](auto s) MLA_ALWAYS_INLINE_LAMBDA {
                sums[s] += Floats::load_aligned(values + i + s * simd::lanes<Target, float>);
            });
        for (Floats& each : sums) benchmark::DoNotOptimize(each);
    }

    static void multiply(const float* values) {
        using Floats = simd::Batch<Target, float>;
        constexpr Index lanes = simd::lanes<Target, float>;
        constexpr Index line = 64 / static_cast<Index>(sizeof(float));
        constexpr int chains = line_products / 2;  // latency then takes no longer than two products a cycle
        const Floats factor(0.5F);
        Floats sums[chains];
        for (Floats& each : sums) {
            each = Floats(0.0F);
            benchmark::DoNotOptimize(each);
        }
        for (const float* const end = values + piece; values < end; values += line) {
            __builtin_prefetch(values + fetched_ahead, 0, 2);
            simd::unroll<line_products>([&](auto p) MLA_ALWAYS_INLINE_LAMBDA {
                sums[p % chains] =
                    simd::fma<Target, float>(Floats::load_aligned(values + p % (line / lanes) * lanes), factor, sums[p % chains]);
            });
        }
        for (Floats& each : sums) benchmark::DoNotOptimize(each);
    }

    Index size_;
    detail::AlignedArray<float> data_;
    std::vector<Position> positions_;
};

/// The threads of this process, and a piece of memory far larger than its caches.
class Machine {
  public:
    [[nodiscard]] static Machine& instance() {
        static Machine machine;
        return machine;
    }

    [[nodiscard]] ThreadTeam& team(Index threads) { return teams_.try_emplace(threads, threads).first->second; }
    /// Bytes a second read from DRAM.
    [[nodiscard]] double read_rate(Index threads) { return memory_.rate(team(threads)); }
    /// The same beside arithmetic.
    [[nodiscard]] double multiply_rate(Index threads) { return memory_.multiply_rate(team(threads)); }

  private:
    std::map<Index, ThreadTeam> teams_;
    Reader memory_{8 * last_level_cache_bytes()};
};

/// 1, 2 and as many as there are cores.
[[nodiscard]] inline std::vector<Index> thread_counts() {
    const auto cores = static_cast<Index>(std::max(1U, std::thread::hardware_concurrency()));
    std::vector<Index> counts{1};
    for (const Index count : {Index{2}, cores})
        if (count <= cores && count > counts.back()) counts.push_back(count);
    return counts;
}

}  // namespace mla::bench
