// The projections: linear/<preset>/<matrix>/<type>/T:<tokens>/threads:<n>. Matrices are named as in a checkpoint; w_uk and w_uv
// are the halves of kv_b_proj as decode uses them, a small product a head.
#include "linear_case.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

template <Weight S>
void add_linear(const presets::Preset& preset) {
    for (const Shape& shape : shapes(preset.config())) {
        if (QuantisedWeight<S> && shape.heads > 1) continue;  // which no codes are made of
        const std::string weights = std::string(preset.name) + "/" + shape.name + "/" + Format<S>::name;
        for (const Index tokens : {Index{1}, Index{8}, Index{64}, Index{512}})
            for (const Index threads : thread_counts())
                add_case("linear/" + weights + part("T", tokens) + part("threads", threads),
                         [=] { return std::make_unique<LinearCase<S>>(weights, shape, tokens, threads); });
    }
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted)
        for_each_type(Without<double, WeightTypes>{}, [&]<class S>() { add_linear<S>(preset); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
