// Absorbed decode: decode/<preset>/<cache type>/L:<cached tokens>/q:<query tokens>/threads:<n>.
#include "core_cases.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

template <CacheElement C>
void add_decode(const presets::Preset& preset) {
    const Config config = preset.config();
    for (const Index length : cached_lengths())
        for (const Index queries : {Index{1}, Index{4}})
            for (const Index threads : thread_counts())
                add_case("decode/" + std::string(preset.name) + "/" + cache_type_name<C>() + part("L", length) +
                             part("q", queries) + part("threads", threads),
                         [=] { return std::make_unique<DecodeCase<C>>(config, queries, length, threads); });
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) for_each_type(FloatCacheTypes{}, [&]<class C>() { add_decode<C>(preset); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
