// Writes text: loads a checkpoint, reads a prompt in one call, then produces a byte a step and prints it as it comes.
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "decoder.hpp"
#include "sampler.hpp"

namespace {

using namespace generate;

struct Options {
    std::filesystem::path model = MLA_MODEL_DIR;
    std::string prompt = "And it came to pass";
    Index tokens = 400;
    double temperature = 0.7;
    std::uint64_t seed = 1;
    std::string cache = "bf16";
};

constexpr const char* usage =
    "usage: mla_generate [--model FOLDER] [--prompt TEXT] [--tokens N] [--temperature T] [--seed N]\n"
    "                    [--cache fp32|bf16|fp16|int8|fp8|fp8_v4]\n"
    "Continues TEXT with a model whose tokens are bytes. Temperature 0 always takes the likeliest byte.\n";

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; i += 2) {
        const std::string_view flag = argv[i];
        if (i + 1 == argc) throw std::invalid_argument(usage);
        const std::string value = argv[i + 1];
        if (flag == "--model")
            options.model = value;
        else if (flag == "--prompt")
            options.prompt = value;
        else if (flag == "--tokens")
            options.tokens = std::stoll(value);
        else if (flag == "--temperature")
            options.temperature = std::stod(value);
        else if (flag == "--seed")
            options.seed = std::stoull(value);
        else if (flag == "--cache")
            options.cache = value;
        else
            throw std::invalid_argument(usage);
    }
    const bool sound = !options.prompt.empty() && options.tokens > 0 && options.temperature >= 0.0;
    if (!sound) throw std::invalid_argument(usage);
    return options;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class C>
void write_text(const Decoder& decoder, const Options& options) {
    const mla::SerialExecutor executor;  // a model this small is not worth more threads
    mla::Workspace workspace;            // kept from step to step
    Caches<C> caches = decoder.make_caches<C>(static_cast<Index>(options.prompt.size()) + options.tokens);
    Sampler sample(options.temperature, options.seed);

    std::vector<Token> tokens;
    for (const char c : options.prompt) tokens.push_back(static_cast<unsigned char>(c));
    std::cout << options.prompt << std::flush;

    auto start = std::chrono::steady_clock::now();
    Matrix x = decoder.forward(tokens, caches, executor, workspace);
    const double prompt_seconds = seconds_since(start);

    start = std::chrono::steady_clock::now();
    for (Index i = 0; i < options.tokens; ++i) {
        const Matrix logits = decoder.logits(x.bottomRows(1), executor);
        const Token next = sample({logits.data(), static_cast<std::size_t>(logits.size())});
        std::cout << static_cast<char>(next) << std::flush;
        x = decoder.forward(std::span(&next, 1), caches, executor, workspace);
    }
    const double seconds = seconds_since(start);

    std::fprintf(stderr,
                 "\n\nprompt: %zu tokens, %.0f tokens/s; written: %td tokens, %.0f tokens/s; cache: %s, %td bytes, %td a token\n",
                 tokens.size(), static_cast<double>(tokens.size()) / prompt_seconds, options.tokens,
                 static_cast<double>(options.tokens) / seconds, options.cache.c_str(), cached_bytes(caches),
                 cached_bytes(caches) / caches.front().size());
}

}  // namespace

int main(int argc, char** argv) try {
    const Options options = parse(argc, argv);
    const Decoder decoder(options.model, [](const mla::io::LoadProgress& progress) {
        if (progress.total > 1U << 28U)  // large enough to be waited for
            std::fprintf(stderr, "\rloading: %3.0f %%",
                         100.0 * static_cast<double>(progress.bytes) / static_cast<double>(progress.total));
    });
    if (decoder.vocabulary() > 256) throw std::invalid_argument("mla_generate: the model's tokens are no bytes");
    if (options.cache == "fp32")
        write_text<float>(decoder, options);
    else if (options.cache == "bf16")
        write_text<mla::bf16>(decoder, options);
    else if (options.cache == "fp16")
        write_text<mla::fp16>(decoder, options);
    else if (options.cache == "int8")
        write_text<mla::int8>(decoder, options);
    else if (options.cache == "fp8")
        write_text<mla::fp8>(decoder, options);
    else if (options.cache == "fp8_v4")
        write_text<mla::fp8_v4>(decoder, options);
    else
        throw std::invalid_argument(usage);
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
