// Absorbed decode: decode/<preset>/<cache type>/L:<cached tokens>/q:<query tokens>/threads:<n>. In the place of a preset also
// H<heads>_Dc<kv_lora_rank>: geometries between those of models, which should not fall behind their neighbours.
#include "core_cases.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

/// What attention is measured on.
struct Geometry {
    std::string name;
    Config config;
    std::vector<Index> lengths;
    std::vector<Index> query_counts;
};

/// Those of the models wanted, and a range of heads at two ranks, of one length and one query.
[[nodiscard]] std::vector<Geometry> geometries(const Presets& wanted) {
    std::vector<Geometry> all;
    for (const presets::Preset& preset : wanted) all.push_back({preset.name, preset.config(), cached_lengths(), {1, 4}});
    for (const Index rank : {512, 256})
        for (const Index heads : {1, 8, 16, 20, 40, 64, 128}) {
            Config config = presets::deepseek_v3();
            config.num_attention_heads = heads;
            config.kv_lora_rank = rank;
            all.push_back({"H" + std::to_string(heads) + "_Dc" + std::to_string(rank), config, {4096}, {1}});
        }
    return all;
}

template <CacheElement C>
void add_decode(const Geometry& geometry) {
    for (const Index length : geometry.lengths)
        for (const Index queries : geometry.query_counts)
            for (const Index threads : thread_counts())
                add_case(
                    "decode/" + geometry.name + "/" + cache_type_name<C>() + part("L", length) + part("q", queries) +
                        part("threads", threads),
                    [=, config = geometry.config] { return std::make_unique<DecodeCase<C>>(config, queries, length, threads); });
}

void add_cases(const Presets& wanted) {
    for (const Geometry& geometry : geometries(wanted))
        for_each_type(FloatCacheTypes{}, [&]<class C>() { add_decode<C>(geometry); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
