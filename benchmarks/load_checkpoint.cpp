// Loads the attention of a checkpoint (write_checkpoint.py writes one), runs it, and says what loading took beside what reading
// the same files takes. usage: mla_load_checkpoint <folder>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "mla/attention.hpp"
#include "mla/io/checkpoint.hpp"
#include "mla/testing/random.hpp"
#include "thread_team.hpp"

namespace {

using mla::Index;
namespace fs = std::filesystem;
using Layer = mla::Attention<mla::bf16>;

constexpr int rounds = 5;  // the median of which counts

std::vector<fs::path> safetensors_files(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
}

/// Asks the system to forget what it keeps of the files in memory, so that the next reader waits for the disk.
void forget(const std::vector<fs::path>& files) {
    for (const fs::path& path : files) {
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) throw std::runtime_error("cannot open " + path.string());
        ::fdatasync(file);  // what is still to be written cannot be forgotten
        ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        ::close(file);
    }
}

/// Reads all files as fast as `read` gives them: over and over into one small buffer, or each into memory that was not used
/// before, as whoever keeps what he reads must.
void read_files(const std::vector<fs::path>& files, bool keep) {
    constexpr Index some = Index{1} << 20U;
    auto memory = mla::detail::allocate_aligned<char>(some);
    for (const fs::path& path : files) {
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) throw std::runtime_error("cannot open " + path.string());
        if (keep) memory = mla::detail::allocate_aligned<char>(static_cast<Index>(fs::file_size(path)) + some);
        for (Index at = 0, got = 1; got > 0; at += keep ? got : 0)
            got = ::read(file, memory.get() + at, static_cast<std::size_t>(some));
        ::close(file);
    }
}

std::vector<Layer> load(const fs::path& folder, mla::ExecutorRef executor = mla::SerialExecutor{}) {
    mla::io::Checkpoint checkpoint(folder);
    std::vector<Layer> layers;
    for (Index layer = 0; layer < checkpoint.json().at("num_hidden_layers").get<Index>(); ++layer) {
        layers.emplace_back(checkpoint.config(layer), checkpoint.attention_weights(layer), mla::Precision::operand,
                            mla::PackOptions{}, executor);
        checkpoint.release();
    }
    return layers;
}

/// Median seconds of `action`, with the files in the system's memory or not.
template <class Action>
double median_seconds(const std::vector<fs::path>& files, bool cold, Action action) {
    std::vector<double> seconds;
    for (int round = 0; round < rounds; ++round) {
        if (cold) forget(files);
        const auto start = std::chrono::steady_clock::now();
        action();
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(seconds.begin(), seconds.begin() + rounds / 2, seconds.end());
    return seconds[rounds / 2];
}

/// A line of /proc/self/status in MiB, such as VmHWM (the most memory ever held) and RssAnon (what no file backs).
double status_mebibytes(const std::string& field) {
    std::ifstream status("/proc/self/status");
    for (std::string name; status >> name; status.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
        double kibibytes = 0.0;
        if (name == field + ":" && status >> kibibytes) return kibibytes / 1024.0;
    }
    throw std::runtime_error("no " + field + " in /proc/self/status");
}

/// A prompt and a step through every layer; true when all outputs are finite and none is zero throughout.
bool runs(const std::vector<Layer>& layers) {
    constexpr Index prompt = 32;
    bool sound = true;
    for (const Layer& layer : layers) {
        const mla::RowMatrix<float> x = mla::RowMatrix<float>::Random(prompt + 1, layer.config().hidden_size);
        mla::RowMatrix<float> y = mla::RowMatrix<float>::Zero(x.rows(), x.cols());
        mla::LatentCache<mla::bf16> cache(layer.config(), x.rows());
        layer.forward(x.topRows(prompt), mla::testing::consecutive(0, prompt), cache, y.topRows(prompt));
        layer.forward(x.bottomRows(1), mla::testing::consecutive(prompt, 1), cache, y.bottomRows(1));
        sound = sound && y.allFinite() && y.row(0).norm() > 0.0F && y.row(prompt).norm() > 0.0F;
    }
    return sound;
}

double mebibytes(double bytes) { return bytes / (1U << 20U); }

/// Loads and runs the layers. They must be all that loading leaves in memory, and beside them it may hold a file, not all of
/// them.
void measure_memory(const fs::path& folder, const std::vector<fs::path>& files) {
    double total = 0.0;
    double largest = 0.0;
    for (const fs::path& file : files) {
        const double size = mebibytes(static_cast<double>(fs::file_size(file)));
        total += size;
        largest = std::max(largest, size);
    }
    const double before = status_mebibytes("VmRSS");
    const std::vector<Layer> layers = load(folder);
    const double peak = status_mebibytes("VmHWM") - before;
    const double kept = status_mebibytes("VmRSS") - before;
    double packed = 0.0;
    for (const Layer& layer : layers) packed += mebibytes(static_cast<double>(layer.weight_bytes()));

    std::printf("%zu layers, files %.1f MiB, packed %.1f MiB\n", layers.size(), total, packed);
    std::printf("memory beyond the program: %.1f MiB at most while loading, of which %.1f MiB stay\n", peak, kept);
    constexpr double other = 8.0;  // allocator, tables of names, code that was not needed before
    if (peak > packed + largest + other) throw std::runtime_error("more than the packed weights and a file was in memory");
    if (!runs(layers)) throw std::runtime_error("a layer's outputs are not finite, or zero");
}

void measure_speed(const fs::path& folder, const std::vector<fs::path>& files, bool cold) {
    double bytes = 0.0;
    for (const fs::path& file : files) bytes += static_cast<double>(fs::file_size(file));
    const auto threads = static_cast<Index>(std::max(std::thread::hardware_concurrency(), 1U));
    mla::bench::ThreadTeam team(threads);
    const double reading = median_seconds(files, cold, [&] { read_files(files, false); });
    const double keeping = median_seconds(files, cold, [&] { read_files(files, true); });
    std::printf("files %s: read in %.1f ms (%.2f GB/s), into new memory in %.1f ms\n", cold ? "on the disk" : "in memory",
                1e3 * reading, 1e-9 * bytes / reading, 1e3 * keeping);
    const auto report = [&](Index count, double loading) {
        std::printf("  loaded over %td threads in %.1f ms (%.2f GB/s): %.2f times as long, %.2f times as into new memory\n",
                    count, 1e3 * loading, 1e-9 * bytes / loading, loading / reading, loading / keeping);
    };
    report(1, median_seconds(files, cold, [&] { static_cast<void>(load(folder)); }));
    report(threads, median_seconds(files, cold, [&] { static_cast<void>(load(folder, team)); }));
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 2) throw std::invalid_argument("usage: mla_load_checkpoint <folder>");
    const fs::path folder = argv[1];
    const std::vector<fs::path> files = safetensors_files(folder);
    measure_memory(folder, files);
    measure_speed(folder, files, false);
    measure_speed(folder, files, true);
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
