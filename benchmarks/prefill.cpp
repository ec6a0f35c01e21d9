// Expanded prefill: prefill/<preset>/<cache type>/T:<queries>/L:<keys>/threads:<n>, with weights of the cache's type, or of bf16
// where weights have no such type. GFLOPS and peak_pct count the flops that the causal mask leaves; decompressing keys and values
// once is expansion_flops on top.
#include "core_cases.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

template <CacheElement C>
void add_prefill(const presets::Preset& preset) {
    const Config config = preset.config();
    for (const auto& [queries, length] : {std::pair<Index, Index>{512, 512}, {512, 2048}, {2048, 2048}})
        for (const Index threads : thread_counts())
            add_case("prefill/" + std::string(preset.name) + "/" + cache_type_name<C>() + part("T", queries) + part("L", length) +
                         part("threads", threads),
                     [=, t = queries, l = length] { return std::make_unique<PrefillCase<C>>(config, t, l, threads); });
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) for_each_type(FloatCacheTypes{}, [&]<class C>() { add_prefill<C>(preset); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
