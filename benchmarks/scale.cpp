// What more threads bring: scale/(decode|layer)/<preset>/bf16/L:<cached tokens>/threads:<n>, in turns with one thread, which has
// a case of its own. Counter `ratio` is the speed-up.
#include "program.hpp"
#include "serving_cases.hpp"

namespace mla::bench {
namespace {

/// 2, 4, 8 … threads, and as many as there are cores.
[[nodiscard]] std::vector<Index> team_sizes() {
    const Index cores = thread_counts().back();
    std::vector<Index> sizes;
    for (Index size = 2; size < cores; size *= 2) sizes.push_back(size);
    if (cores > 1) sizes.push_back(cores);
    return sizes;
}

/// Adds cases of `make(threads)`, those of several threads beside one.
template <class Make>
void add_scaled(const std::string& name, Index length, Make make) {
    const std::string called = "scale/" + name + "/bf16" + part("L", length);
    add_case(called + part("threads", 1), [=] { return make(Index{1}); });
    for (const Index threads : team_sizes())
        add_case(called + part("threads", threads), [=] { return std::make_unique<PairedCase>(make(threads), make(Index{1})); });
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) {
        const Config config = preset.config();
        const std::string name = preset.name;
        for (const Index length : {1024, 4096, 65536})
            add_scaled("decode/" + name, length,
                       [=](Index threads) { return std::make_unique<DecodeCase<bf16>>(config, 1, length, threads); });
        add_scaled("layer/" + name, 4096, [=](Index threads) {
            return mla_layer_case<bf16>(WeightsName{name + "/bf16", "mla"}, config, 1, 4096, threads);
        });
    }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
