// A whole MLA layer: layer/<preset>/<type of cache and weights>/T:<new tokens>/L:<cached tokens>/threads:<n>, and with
// projections that are kept narrower layer/<preset>/bf16/weights:<type>/T:<…>. A step of one token also tells where its time
// goes.
#include "layer_profile.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

template <Storage S>
void add_layer(const presets::Preset& preset) {
    const Config config = preset.config();
    const std::string weights = std::string(preset.name) + "/" + name(dtype_of<S>);
    const auto add = [&](Index tokens, Index length) {
        for (const Index threads : thread_counts())
            add_case("layer/" + weights + part("T", tokens) + part("L", length) + part("threads", threads), [=] {
                return tokens == 1 ? profiled_decode_case<S>({weights, "mla"}, config, length, threads)
                                   : mla_layer_case<S>({weights, "mla"}, config, tokens, length, threads);
            });
    };
    for (const Index length : cached_lengths()) add(1, length);
    add(512, 512);
    add(512, 2048);
    add(2048, 2048);
}

/// What projections kept as fp8, int8 or int4 save, beside bf16.
void add_packings(const presets::Preset& preset) {
    const Config config = preset.config();
    constexpr Index length = 4096;
    for (const auto& [packing, type] : {std::pair{Packing::layer_type, "bf16"}, std::pair{Packing::fp8, "fp8"},
                                        std::pair{Packing::int8, "int8"}, std::pair{Packing::int4, "int4"}}) {
        const std::string name = std::string(preset.name) + "/bf16/weights:" + type;
        for (const Index tokens : {1, 16, 64})
            for (const Index threads : thread_counts())
                add_case("layer/" + name + part("T", tokens) + part("L", length) + part("threads", threads),
                         [=, packing = packing] {
                             const WeightsName weights{name, "mla", packing};
                             return tokens == 1 ? profiled_decode_case<bf16>(weights, config, length, threads)
                                                : mla_layer_case<bf16>(weights, config, tokens, length, threads);
                         });
    }
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) {
        for_each_type(FloatStorageTypes{}, [&]<class S>() { add_layer<S>(preset); });
        add_packings(preset);
    }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
