// What a rounded cache costs, quality/bible/<cache type>/threads:1, and what narrower weights of attention do,
// quality/bible/weights:<type>/threads:1, of the model in examples/generate on text that it has not seen. A step decodes one
// window of text, a byte a call; `bits_a_byte` is over the whole text.
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "evaluate.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

constexpr std::size_t window = 512;  // the context that the model was trained for

/// The model with its projections packed in a way.
[[nodiscard]] const generate::Decoder& decoder(Packing packing = Packing::layer_type) {
    static std::map<Packing, generate::Decoder> loaded;
    const auto found = loaded.find(packing);
    if (found != loaded.end()) return found->second;
    return loaded
        .try_emplace(packing, std::filesystem::path(MLA_EXAMPLE_DIR) / "model", nullptr, Precision::operand,
                     PackOptions::all(packing))
        .first->second;
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

/// How far the logits of a window lie from those of a decoder whose weights are as they were trained, in units of their norm.
[[nodiscard]] double logit_error(const generate::Decoder& narrow, std::string_view text) {
    std::vector<generate::Token> tokens;
    for (const char c : text.substr(0, window)) tokens.push_back(static_cast<unsigned char>(c));
    const auto logits = [&](const generate::Decoder& decoder) {
        auto caches = decoder.make_caches<float>(static_cast<Index>(window));
        Workspace workspace;
        return decoder.logits(decoder.forward(tokens, caches, SerialExecutor{}, workspace), SerialExecutor{});
    };
    const generate::Matrix expected = logits(decoder());
    return static_cast<double>((logits(narrow) - expected).norm() / expected.norm());
}

/// Projections of attention kept as one of the quantised types; the rest of the model, and the cache, stay wide.
class WeightQualityCase final : public Case {
  public:
    explicit WeightQualityCase(Packing packing) : Case(Work{}), decoder_(decoder(packing)), text_(held_out_text()) {
        counters = {{"bits_a_byte", read(text_)},
                    {"logit_error", logit_error(decoder_, text_)},
                    {"tokens_a_step", static_cast<double>(window)}};
    }

    void step() override { bits_ = static_cast<float>(read(std::string_view(text_).substr(0, window))); }
    [[nodiscard]] MatrixView<const float> result() const override { return {&bits_, 1, 1}; }

  private:
    [[nodiscard]] double read(std::string_view text) const {
        return generate::bits_a_byte<float>(decoder_, text, window, window, SerialExecutor{});
    }

    const generate::Decoder& decoder_;
    std::string text_;
    float bits_ = 0.0F;
};

void add_cases(const Presets&) {
    for_each_type(FloatCacheTypes{}, []<class C>() {
        add_case(std::string("quality/bible/") + cache_type_name<C>() + part("threads", 1),
                 [] { return std::make_unique<QualityCase<C>>(); });
    });
    for (const auto& [packing, type] : {std::pair{Packing::layer_type, "bf16"}, std::pair{Packing::fp8, "fp8"},
                                        std::pair{Packing::int8, "int8"}, std::pair{Packing::int4, "int4"}})
        add_case(std::string("quality/bible/weights:") + type + part("threads", 1),
                 [packing = packing] { return std::make_unique<WeightQualityCase>(packing); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
