// Our kernels beside other libraries' matrix products, those that were found when this was built, and beside PyTorch, where
// python3 has it when this runs: libraries/<mla|eigen|openblas|onednn|pytorch>/<case>, where <case> is named as among decode and
// linear:
//   decode   absorbed, of the library as two products with a softmax between; of PyTorch one token
//   linear   projections of all heads together; those of one head each would be a call a head
// A case is left out where the library cannot be told how many threads to use.
#include "eigen_product.hpp"
#include "library_cases.hpp"
#include "program.hpp"
#include "pytorch_case.hpp"

#ifdef MLA_BENCH_OPENBLAS
#include "openblas_product.hpp"
#endif
#ifdef MLA_BENCH_ONEDNN
#include "onednn_product.hpp"
#endif

namespace mla::bench {
namespace {

/// Calls `add(std::type_identity<Product>)` for each library that multiplies matrices of S; of bf16 only where products of it are
/// faster than of floats.
template <Storage S, class Add>
void for_each_product(Add add) {
    if constexpr (std::is_same_v<S, float>) add(std::type_identity<EigenProduct>());
#ifdef MLA_BENCH_OPENBLAS
    if constexpr (std::is_same_v<S, float>) add(std::type_identity<OpenBlasProduct>());
#endif
#ifdef MLA_BENCH_ONEDNN
    if (std::is_same_v<S, float> || Target::dots_bf16 || uses_tiles()) add(std::type_identity<OneDnnProduct<S>>());
#endif
}

/// The case `name` on `threads` threads as ours and as each library's. `ours()` returns a case,
/// `theirs(std::type_identity<Product>)` too.
template <Storage S, class Ours, class Theirs>
void add_beside(const std::string& name, Index threads, Ours ours, Theirs theirs) {
    add_case("libraries/mla/" + name + part("threads", threads), ours);
    for_each_product<S>([&]<class Product>(std::type_identity<Product> product) {
        if (!Product::use_threads(threads)) return;
        add_case(std::string("libraries/") + Product::library + "/" + name + part("threads", threads), [=] {
            static_cast<void>(Product::use_threads(threads));
            return theirs(product);
        });
    });
}

template <class Make>
void add_pytorch(const std::string& name, Index threads, Make make) {
    if (!pytorch_version().empty()) add_case("libraries/pytorch/" + name + part("threads", threads), make);
}

template <Storage S>
void add_decode(const presets::Preset& preset, Index length, Index queries, Index threads) {
    const Config config = preset.config();
    const std::string name =
        std::string("decode/") + preset.name + "/" + Format<S>::name + part("L", length) + part("q", queries);
    add_beside<S>(
        name, threads, [=] { return std::make_unique<DecodeCase<S>>(config, queries, length, threads); },
        [=]<class Product>(std::type_identity<Product>) {
            return std::make_unique<LibraryDecodeCase<Product>>(config, queries, length, threads);
        });
    if (queries == 1) add_pytorch(name, threads, [=] { return pytorch_decode_case<S>(config, length, threads); });
}

template <Storage S>
void add_linear(const presets::Preset& preset, const Shape& shape, Index tokens, Index threads) {
    const std::string weights = std::string(preset.name) + "/" + shape.name + "/" + Format<S>::name;
    const std::string name = "linear/" + weights + part("T", tokens);
    add_beside<S>(
        name, threads, [=] { return std::make_unique<LinearCase<S>>(weights, shape, tokens, threads); },
        [=]<class Product>(std::type_identity<Product>) {
            return std::make_unique<LibraryLinearCase<Product>>(shape, tokens, threads);
        });
    add_pytorch(name, threads, [=] { return pytorch_linear_case<S>(shape, tokens, threads); });
}

template <Storage S>
void add_cases_of(const presets::Preset& preset) {
    for (const Index length : {1024, 4096, 16384, 65536})
        for (const Index queries : {1, 4})
            for (const Index threads : thread_counts()) add_decode<S>(preset, length, queries, threads);
    for (const Shape& shape : shapes(preset.config())) {
        if (shape.heads > 1) continue;
        for (const Index tokens : {1, 8, 64, 512})
            for (const Index threads : thread_counts()) add_linear<S>(preset, shape, tokens, threads);
    }
}

void add_cases(const Presets& wanted) {
    benchmark::AddCustomContext("pytorch", pytorch_version().empty() ? "not installed" : pytorch_version());
    for (const presets::Preset& preset : wanted) {
        add_cases_of<float>(preset);
        add_cases_of<bf16>(preset);
    }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
