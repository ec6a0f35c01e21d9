// The main function of every benchmark program, and what it says about the machine before it starts.
#pragma once

#include <benchmark/benchmark.h>

#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "mla/presets.hpp"
#include "support.hpp"

namespace mla::bench {

using Presets = std::vector<presets::Preset>;

[[nodiscard]] inline presets::Preset preset_named(std::string_view wanted) {
    std::string known;
    for (const presets::Preset& preset : presets::all()) {
        if (preset.name == wanted) return preset;
        known += std::string(known.empty() ? "" : ", ") + preset.name;
    }
    throw std::invalid_argument("--presets: " + std::string(wanted) + " is none of " + known);
}

/// The models whose cases a program has: those of --presets=<name>,<name>…, which it takes from the arguments.
[[nodiscard]] inline Presets take_presets(int& argc, char** argv) {
    std::string list = "deepseek_v3,deepseek_v2_lite";
    constexpr std::string_view flag = "--presets=";
    int kept = 1;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        if (argument.starts_with(flag))
            list = argument.substr(flag.size());
        else
            argv[kept++] = argv[i];
    }
    argc = kept;
    Presets wanted;
    std::istringstream names(list);
    for (std::string name; std::getline(names, name, ',');) wanted.push_back(preset_named(name));
    return wanted;
}

[[nodiscard]] inline std::string compiler_name() {
#if defined(__clang__)
    return __VERSION__;  // starts with its own name
#elif defined(__GNUC__)
    return std::string("GCC ") + __VERSION__;
#else
    return "unknown";
#endif
}

inline void add_context() {
    benchmark::AddCustomContext("isa", std::string(target_name()));
    benchmark::AddCustomContext("bf16_products", bf16_products());
    benchmark::AddCustomContext("compiler", compiler_name());
    benchmark::AddCustomContext("threads", std::to_string(thread_counts().back()));
    for (const Index threads : {Index{1}, thread_counts().back()}) {
        Machine& machine = Machine::instance();
        const auto add = [&](const std::string& limit, double rate) {
            std::ostringstream text;
            text.precision(4);
            text << 1e-9 * rate;
            benchmark::AddCustomContext("peak_" + limit + "_threads_" + std::to_string(threads), text.str());
        };
        add("fp32_GFLOPS", fma_rate(machine.team(threads)));
        if (Target::dots_bf16 || uses_tiles()) add("bf16_GFLOPS", bf16_rate(machine.team(threads)));
        add("int16_GOPS", dot_int16_rate(machine.team(threads)));
        add("dram_GBps", machine.read_rate(threads));
        if (thread_counts().back() == 1) break;
    }
}

/// Runs the cases that `add_cases(presets)` registers, under Google Benchmark's flags and --presets.
template <class AddCases>
int run_program(int argc, char** argv, AddCases add_cases) try {
    const Presets wanted = take_presets(argc, argv);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    add_context();
    add_cases(wanted);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}

/// "/L:4096"
[[nodiscard]] inline std::string part(const char* name, Index value) {
    return std::string("/").append(name).append(":").append(std::to_string(value));
}

/// 1024, 2048 … 65536 cached tokens.
[[nodiscard]] inline std::vector<Index> cached_lengths() {
    std::vector<Index> lengths;
    for (Index length = 1024; length <= 65536; length *= 2) lengths.push_back(length);
    return lengths;
}

}  // namespace mla::bench
