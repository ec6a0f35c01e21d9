// What decoding errs by: accuracy/<cache type>/<spread of probabilities>/L:<cached tokens>/threads:1, 16 heads in the geometry of
// DeepSeek. `relative_norm` and `max_element` (in units of the rms) are against the double reference on the rows as they read
// back.
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/long_context.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

constexpr Index heads = 16;

template <CacheElement C>
class AccuracyCase : public Case {
    using Problem = testing::LongContext<C>;

  public:
    AccuracyCase(testing::Mass mass, Index length) : Case(Work{}), problem_(mass, heads, length) {
        step();
        const auto error = testing::compare(out_, problem_.expected().output.values);
        counters = {{"relative_norm", error.relative_norm}, {"max_element", error.max_element}};
    }

    void step() override {
        decode_absorbed(problem_.q(), problem_.cache(), Problem::scale, HeadsView<float>(out_.data(), 1, heads, value_dim), {},
                        workspace_, team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return {out_.data(), heads, value_dim}; }

  private:
    static constexpr Index value_dim = Problem::format.latent_dim;

    Problem problem_;
    std::vector<float> out_ = std::vector<float>(static_cast<std::size_t>(heads * value_dim));
    Workspace workspace_;
};

void add_cases(const Presets&) {
    for (const Index length : {1024, 65536})
        for (const testing::Mass mass : testing::masses)
            for_each_type(FloatCacheTypes{}, [=]<class C>() {
                add_case(std::string("accuracy/") + cache_type_name<C>() + "/" + testing::name(mass) + part("L", length) +
                             part("threads", 1),
                         [=] { return std::make_unique<AccuracyCase<C>>(mass, length); });
            });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
