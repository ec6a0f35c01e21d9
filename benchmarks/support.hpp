// How every benchmark program measures: cases and their counters.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "mla/formats/formats.hpp"

namespace mla::bench {

/// The types that cases go over: all that are computed in float. Double is there to check with.
using FloatStorageTypes = Without<double, StorageTypes>;
using FloatCacheTypes = Without<double, CacheTypes>;

/// What one step of a case amounts to.
struct Work {
    double flops = 0.0;
    double bytes = 0.0;               ///< of cache and weights, each read once
    double tokens = 1.0;              ///< query tokens
    ArithmeticProbe peak = fma_rate;  ///< what products of its type could reach
    Index threads = 1;
};

using Counters = std::vector<std::pair<std::string, double>>;

/// One measured thing with its data. Made when its turn comes, gone when the next one's does.
class Case {
  public:
    explicit Case(const Work& work) : work_(work) {}
    Case(const Case&) = delete;
    Case& operator=(const Case&) = delete;
    virtual ~Case() = default;

    /// What is timed.
    virtual void step() = 0;
    /// Does a step and returns its seconds. A case whose steps another process does has them measured there.
    [[nodiscard]] virtual double timed_step() {
        const auto start = Clock::now();
        step();
        return seconds_since(start);
    }
    /// What the last step computed.
    [[nodiscard]] virtual MatrixView<const float> result() const = 0;
    /// A case that takes turns with this one, step by step, so that the machine is in the same mood for both; or null. Counter
    /// `ratio` is its time over this one's: above 1 where this one is faster.
    [[nodiscard]] virtual Case* reference() { return nullptr; }

    [[nodiscard]] const Work& work() const noexcept { return work_; }
    [[nodiscard]] ThreadTeam& team() const { return Machine::instance().team(work_.threads); }
    /// Counters beside those that every case has.
    Counters counters;
    /// Further ones, which the steps so far tell.
    [[nodiscard]] virtual Counters step_counters() const { return {}; }

  private:
    Work work_;
};

/// The machine's limits for a case, as probed: flop/s and bytes/s.
struct Limits {
    double type = 0.0;
    double fp32 = 0.0;
    double read = 0.0;
};

[[nodiscard]] inline double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

/// Limits probed before, between and after the steps of a case. Their medians stand, since a machine that others share may change
/// its speed from one tenth of a second to the next.
class Probes {
  public:
    Probes(ArithmeticProbe peak, Index threads) : peak_(peak), threads_(threads) {}

    void probe() {
        std::this_thread::sleep_for(rest);
        Machine& machine = Machine::instance();
        ThreadTeam& team = machine.team(threads_);
        fp32_.push_back(fma_rate(team));
        type_.push_back(peak_ == ArithmeticProbe{fma_rate} ? fp32_.back() : peak_(team));
        read_.push_back(machine.read_rate(threads_));
        last_ = Clock::now();
    }

    /// Whether the last probe is long ago.
    [[nodiscard]] bool due() const { return seconds_since(last_) > interval_seconds; }
    /// Whether there are enough for a median.
    [[nodiscard]] bool enough() const { return read_.size() >= 5; }
    [[nodiscard]] Limits limits() const { return {median(type_), median(fp32_), median(read_)}; }

  private:
    static constexpr double interval_seconds = 0.1;
    /// Threads that a library keeps spinning after its step sleep by then: OpenBLAS's after 2^26 cycles, OpenMP's sooner.
    static constexpr std::chrono::milliseconds rest{30};

    ArithmeticProbe peak_;
    Index threads_;
    Clock::time_point last_;
    std::vector<double> type_, fp32_, read_;
};

/// Bytes that the data of a case must reach in turn, so that each step finds its own in DRAM, as a model of many layers does.
[[nodiscard]] inline double cold_bytes() { return 4.0 * static_cast<double>(last_level_cache_bytes()); }

/// How many copies of something that a step reads make it cold.
[[nodiscard]] inline Index cold_copies(double bytes) {
    return std::max(static_cast<Index>(std::ceil(cold_bytes() / bytes)), Index{1});
}

/// Ends a case in good order where the kernel would end the program: promised memory that does not exist.
/// @throws std::bad_alloc when less than `bytes` are free, as far as the system tells
inline void require_memory(double bytes) {
    std::ifstream info("/proc/meminfo");
    for (std::string field; info >> field; info.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
        double kibibytes = 0.0;
        if (field == "MemAvailable:" && info >> kibibytes && 1024.0 * kibibytes < 1.05 * bytes) throw std::bad_alloc();
    }
}

/// Things that steps take in turn.
template <class T>
class Ring {
  public:
    template <class Make>
    Ring(Index count, Make make) {
        items_.reserve(static_cast<std::size_t>(count));
        for (Index i = 0; i < count; ++i) items_.push_back(make());
    }
    [[nodiscard]] T& turn() {
        next_ = next_ + 1 == items_.size() ? 0 : next_ + 1;
        return items_[next_];
    }
    [[nodiscard]] const T& first() const { return items_.front(); }

  private:
    std::vector<T> items_;
    std::size_t next_ = 0;
};

/// The result of `make()` for a key, kept as long as calls name the same group: what neighbouring cases share.
template <class T, class Make>
[[nodiscard]] std::shared_ptr<T> shared_by(const std::string& group, const std::string& key, Make make) {
    static std::map<std::string, std::shared_ptr<T>> kept;
    static std::string kept_group;
    if (kept_group != group) kept.clear();
    kept_group = group;
    std::shared_ptr<T>& found = kept[key];
    if (found == nullptr) found = make();
    return found;
}

using MakeCase = std::function<std::unique_ptr<Case>()>;

/// Not a number anywhere, or nothing but zeros: then whatever was timed is not what it claims to be.
[[nodiscard]] inline bool is_sound(MatrixView<const float> result) {
    bool any = false;
    for (Index r = 0; r < result.rows; ++r)
        for (Index c = 0; c < result.cols; ++c) {
            if (!std::isfinite(result(r, c))) return false;
            any = any || result(r, c) != 0.0F;
        }
    return any;
}

/// How long a case runs before it is timed: what it shares with cases before it may have lain idle for seconds, and some systems
/// reclaim idle memory.
inline constexpr double warm_up_seconds = 0.2;

/// The case of that name, warmed up. Its memory replaces that of the case before.
[[nodiscard]] inline Case& current_case(const std::string& name, const MakeCase& make) {
    static std::unique_ptr<Case> current;
    static std::string current_name;
    if (current == nullptr || current_name != name) {
        current.reset();
        auto next = make();
        const auto start = Clock::now();
        do {
            next->step();
            if (Case* const reference = next->reference()) reference->step();
        } while (seconds_since(start) < warm_up_seconds);
        if (!is_sound(next->result())) throw std::runtime_error("the result is not finite, or all zero");
        current = std::move(next);
        current_name = name;
    }
    return *current;
}

inline void set_counters(benchmark::State& state, const Case& measured, double seconds, const Limits& limits) {
    const Work& work = measured.work();
    const double flops = work.flops / seconds;
    const double bytes = work.bytes / seconds;
    state.counters["GFLOPS"] = 1e-9 * flops;
    state.counters["GBps"] = 1e-9 * bytes;
    state.counters["peak_pct"] = 100.0 * flops / limits.type;
    state.counters["fp32_pct"] = 100.0 * flops / limits.fp32;
    state.counters["bw_pct"] = 100.0 * bytes / limits.read;
    state.counters["tokens_per_s"] = work.tokens / seconds;
    state.counters["median_s"] = seconds;
    state.counters["flops"] = work.flops;
    state.counters["bytes"] = work.bytes;
    state.counters["peak_GFLOPS"] = 1e-9 * limits.type;
    state.counters["fp32_GFLOPS"] = 1e-9 * limits.fp32;
    state.counters["dram_GBps"] = 1e-9 * limits.read;
    for (const auto& [name, value] : measured.counters) state.counters[name] = value;
    for (const auto& [name, value] : measured.step_counters()) state.counters[name] = value;
}

inline void run_case(benchmark::State& state, const std::string& name, const MakeCase& make) try {
    Case& measured = current_case(name, make);
    const Work& work = measured.work();
    Probes probes(work.peak, work.threads);
    probes.probe();
    std::vector<double> seconds, ratios;
    for (auto _ : state) {
        seconds.push_back(measured.timed_step());
        if (Case* const reference = measured.reference()) ratios.push_back(reference->timed_step() / seconds.back());
        if (!probes.due()) continue;
        state.PauseTiming();
        probes.probe();
        state.ResumeTiming();
    }
    do {
        probes.probe();
    } while (!probes.enough());
    if (!ratios.empty()) state.counters["ratio"] = median(std::move(ratios));
    set_counters(state, measured, median(std::move(seconds)), probes.limits());
} catch (const std::bad_alloc&) {
    state.SkipWithError("not enough memory");
} catch (const std::exception& error) {
    state.SkipWithError(error.what());
}

/// Registers a case. `make()` returns a std::unique_ptr to it.
template <class Make>
void add_case(const std::string& name, Make make) {
    benchmark::RegisterBenchmark(name.c_str(), [name, make](benchmark::State& state) {
        run_case(state, name, make);
    })->Unit(benchmark::kMillisecond);
}

}  // namespace mla::bench
