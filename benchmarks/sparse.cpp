// Sparse attention of one token: sparse/attend/<preset>/<cache>/pages_<memory>/L:<cached tokens>/threads:<n> over the keys that
// the model selects, whose `ratio` is the speed against dense attention to as many; sparse/select/<preset>/<index keys>/L:…
// selecting them; sparse/dense/<preset>/<cache>/L:… attending to all.
#include "program.hpp"
#include "sparse_cases.hpp"

namespace mla::bench {
namespace {

constexpr Index lengths[] = {4096, 8192, 16384, 32768, 65536, 131072};

template <CacheElement C>
void add_attend(const presets::Preset& preset, Index threads) {
    for (const MemoryPages pages : {MemoryPages::small, MemoryPages::large})
        for (const Index length : {Index{16384}, Index{131072}})
            add_case(std::string("sparse/attend/") + preset.name + "/" + cache_type_name<C>() + "/pages_" + name(pages) +
                         part("L", length) + part("threads", threads),
                     [=, config = preset.config()] {
                         return std::make_unique<SparseCase<C>>(config, config.indexer.top_k, length, pages, threads);
                     });
}

template <CacheElement C>
void add_select_and_dense(const presets::Preset& preset, Index threads) {
    for (const Index length : lengths) {
        const std::string end =
            std::string("/") + preset.name + "/" + cache_type_name<C>() + part("L", length) + part("threads", threads);
        add_case("sparse/select" + end,
                 [=, config = preset.config()] { return std::make_unique<SelectCase<C>>(config, length, threads); });
        add_case("sparse/dense" + end,
                 [=, config = preset.config()] { return std::make_unique<DecodeCase<C>>(config, 1, length, threads); });
    }
}

/// Of all models those that select keys.
void add_cases(const Presets&) {
    for (const presets::Preset& preset : {presets::Preset{"deepseek_v3_2", presets::deepseek_v3_2}, {"glm_5", presets::glm_5}})
        for (const Index threads : thread_counts()) {
            for_each_type(FloatCacheTypes{}, [&]<class C>() { add_attend<C>(preset, threads); });
            for_each_type(TypeList<bf16, fp8>{}, [&]<class C>() { add_select_and_dense<C>(preset, threads); });
        }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
