// The peaks of this machine, by number of threads: roofline/<probe>/threads:<n>.
#include "program.hpp"

namespace mla::bench {
namespace {

/// Registers a probe, `make()` → callable that returns a rate a second, whose median is reported as `counter` in billions.
template <class Make>
void add_probe(const std::string& name, const char* counter, Make make) {
    benchmark::RegisterBenchmark(name.c_str(), [counter, make](benchmark::State& state) {
        auto probe = make();
        std::vector<double> rates;
        for (auto _ : state) rates.push_back(probe());
        state.counters[counter] = 1e-9 * median(std::move(rates));
    })->Unit(benchmark::kMillisecond);
}

/// Reading a range that each thread has for itself, and which stays in the cache it fits into.
void add_cache_probe(const char* range, Index bytes_a_thread, Index threads) {
    add_probe("roofline/read/" + std::string(range) + part("threads", threads), "GBps", [=] {
        auto reader = std::make_shared<Reader>(threads * bytes_a_thread);
        return [=] { return reader->rate(Machine::instance().team(threads)); };
    });
}

void add_cases(const Presets&) {
    for (const Index threads : thread_counts()) {
        const auto arithmetic = [=](const char* type, double (*probe)(ThreadTeam&)) {
            add_probe("roofline/" + std::string(type) + part("threads", threads), "GFLOPS",
                      [=] { return [=] { return probe(Machine::instance().team(threads)); }; });
        };
        arithmetic("fma_fp32", fma_rate);
        if (Target::dots_bf16) arithmetic("dot_bf16", dot_bf16_rate);
        if (uses_tiles()) arithmetic("tiles_bf16", tile_bf16_rate);
        arithmetic("dot_int16", dot_int16_rate);
        add_cache_probe("512KiB", Index{512} << 10, threads);
        add_cache_probe("8MiB", Index{8} << 20, threads);
        add_probe("roofline/read/dram" + part("threads", threads), "GBps",
                  [=] { return [=] { return Machine::instance().read_rate(threads); }; });
        add_probe("roofline/read_and_multiply/dram" + part("threads", threads), "GBps",
                  [=] { return [=] { return Machine::instance().multiply_rate(threads); }; });
    }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
