// Serving: serving/<paged|formats|batch|cascade|layer>/<preset>/…/threads:<n>. Each case takes turns with what it is compared
// with, and counter `ratio` is its throughput over that one's:
//   paged    one token over a cache in pages, against the same in a contiguous cache
//   formats  one token over each format of cache, against bf16
//   batch    requests of different lengths and query counts in one call, against one call each
//   cascade  16 requests that share a prefix of 16,384 tokens read once, against the same batch without sharing
//   layer    a whole layer's step for a batch in a paged cache, against one call each on contiguous caches
#include "program.hpp"
#include "serving_cases.hpp"

namespace mla::bench {
namespace {

constexpr Index long_context = 16384;

[[nodiscard]] std::string case_name(const char* what, const presets::Preset& preset, const std::string& rest, Index threads) {
    return std::string("serving/") + what + "/" + preset.name + "/" + rest + part("threads", threads);
}

template <CacheElement C>
void add_paged(const presets::Preset& preset, Index threads) {
    const Config config = preset.config();
    for (const Index page_size : {16, 64, 256})
        add_case(case_name("paged", preset, std::string(cache_type_name<C>()) + part("page", page_size) + part("L", long_context),
                           threads),
                 [=]() -> std::unique_ptr<Case> {
                     const std::vector<RequestShape> one{{1, long_context}};
                     return std::make_unique<PairedCase>(
                         std::make_unique<BatchCase<C>>(config, one, std::make_shared<PagedBatches<C>>(config, one, page_size), 0,
                                                        BatchCase<C>::Way::together, threads),
                         std::make_unique<DecodeCase<C>>(config, 1, long_context, threads));
                 });
}

template <CacheElement C>
void add_format(const presets::Preset& preset, Index threads) {
    const Config config = preset.config();
    add_case(case_name("formats", preset, std::string(cache_type_name<C>()) + part("L", long_context), threads),
             [=]() -> std::unique_ptr<Case> {
                 return std::make_unique<PairedCase>(std::make_unique<DecodeCase<C>>(config, 1, long_context, threads),
                                                     std::make_unique<DecodeCase<bf16>>(config, 1, long_context, threads));
             });
}

/// A batch against the same batch in another way.
void add_batch(const char* what, const presets::Preset& preset, const char* name, const std::vector<RequestShape>& shapes,
               Index shared, typename BatchCase<bf16>::Way reference, Index threads) {
    const Config config = preset.config();
    add_case(case_name(what, preset, std::string("bf16/") + name, threads), [=]() -> std::unique_ptr<Case> {
        using Way = BatchCase<bf16>::Way;
        const auto batches = std::make_shared<PagedBatches<bf16>>(config, shapes, Index{64}, shared);
        return std::make_unique<PairedCase>(
            std::make_unique<BatchCase<bf16>>(config, shapes, batches, shared, Way::together, threads),
            std::make_unique<BatchCase<bf16>>(config, shapes, batches, Index{0}, reference, threads));
    });
}

void add_layer(const presets::Preset& preset, const char* name, const std::vector<RequestShape>& shapes, Index threads) {
    const Config config = preset.config();
    const WeightsName weights{preset.name, "mla"};
    add_case(case_name("layer", preset, std::string("bf16/") + name, threads), [=]() -> std::unique_ptr<Case> {
        return std::make_unique<PairedCase>(
            std::make_unique<LayerBatchCase<bf16, bf16>>(weights, config, shapes, true, threads),
            std::make_unique<LayerBatchCase<bf16, bf16>>(weights, config, shapes, false, threads));
    });
}

/// One request of 60,000 tokens beside thirty of 200.
[[nodiscard]] std::vector<RequestShape> uneven_requests() {
    std::vector<RequestShape> shapes{{1, 60000}};
    shapes.insert(shapes.end(), 30, {1, 200});
    return shapes;
}

/// Decoding, drafts of four tokens, and a piece of a prompt.
[[nodiscard]] std::vector<RequestShape> mixed_requests() {
    std::vector<RequestShape> shapes(8, {1, 4096});
    shapes.insert(shapes.end(), 4, {4, 2048});
    shapes.push_back({64, 1024});
    return shapes;
}

void add_cases(const Presets& wanted) {
    using Way = BatchCase<bf16>::Way;
    for (const presets::Preset& preset : wanted)
        for (const Index threads : thread_counts()) {
            add_paged<float>(preset, threads);
            add_paged<bf16>(preset, threads);
            for_each_type(FloatCacheTypes{}, [&]<class C>() { add_format<C>(preset, threads); });
            add_batch("batch", preset, "uneven", uneven_requests(), 0, Way::apart, threads);
            add_batch("batch", preset, "mixed", mixed_requests(), 0, Way::apart, threads);
            add_batch("cascade", preset, "requests:16", std::vector<RequestShape>(16, {1, long_context + 128}), long_context,
                      Way::together, threads);
            add_layer(preset, "decode:16", std::vector<RequestShape>(16, {1, 1024}), threads);
            add_layer(preset, "mixed", mixed_requests(), threads);
        }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
