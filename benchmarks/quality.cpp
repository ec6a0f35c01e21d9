// What a rounded cache costs: quality/bible/<cache type>/threads:1, of the model in examples/generate on text that it has not
// seen. A step decodes one window of text, a byte a call; `bits_a_byte` is over the whole text.
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "evaluate.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

constexpr std::size_t window = 512;  // the context that the model was trained for

[[nodiscard]] const generate::Decoder& decoder() {
    static const generate::Decoder loaded(std::filesystem::path(MLA_EXAMPLE_DIR) / "model");
    return loaded;
}

[[nodiscard]] std::string held_out_text() {
    std::ifstream file(std::filesystem::path(MLA_EXAMPLE_DIR) / "held_out.txt", std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (text.size() < window) throw std::runtime_error("examples/generate/held_out.txt is missing or short");
    return text;
}

/// C: what the cache stores.
template <class C>
class QualityCase final : public Case {
  public:
    QualityCase() : Case(Work{}), text_(held_out_text()) {
        const auto caches = decoder().make_caches<C>(1);
        const auto a_token = static_cast<double>(caches.front().bytes_per_token() * decoder().layers());
        counters = {
            {"bits_a_byte", read(text_)}, {"cache_bytes_a_token", a_token}, {"tokens_a_step", static_cast<double>(window)}};
    }

    void step() override { bits_ = static_cast<float>(read(std::string_view(text_).substr(0, window))); }
    [[nodiscard]] MatrixView<const float> result() const override { return {&bits_, 1, 1}; }

  private:
    [[nodiscard]] static double read(std::string_view text) {
        return generate::bits_a_byte<C>(decoder(), text, window, 1, SerialExecutor{});
    }

    std::string text_;
    float bits_ = 0.0F;
};

void add_cases(const Presets&) {
    for_each_type(FloatCacheTypes{}, []<class C>() {
        add_case(std::string("quality/bible/") + cache_type_name<C>() + part("threads", 1),
                 [] { return std::make_unique<QualityCase<C>>(); });
    });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
