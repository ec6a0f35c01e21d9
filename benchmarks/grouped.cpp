// Grouped-query attention alone, with the heads of an MLA model: grouped/<preset>/<type>/L:<cached tokens>/threads:<n>.
#include "core_cases.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

template <Storage C>
void add_grouped(const presets::Preset& preset) {
    const Config mla = preset.config();
    const auto config = grouped_config(mla, group_heads(mla.num_attention_heads));
    for (const Index length : cached_lengths())
        for (const Index threads : thread_counts())
            add_case(
                "grouped/" + std::string(preset.name) + "/" + name(dtype_of<C>) + part("L", length) + part("threads", threads),
                [=] { return std::make_unique<GroupedCase<C>>(config, Index{1}, length, threads); });
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) for_each_type(FloatStorageTypes{}, [&]<class C>() { add_grouped<C>(preset); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
