// MLA beside multi-head and grouped-query attention with the same heads, hidden size and types, all of head dimension 128, in bf16:
// compare/core/<preset>/<mla|mha|gqa>/T:<new tokens>/L:<cached tokens>/threads:<n>, and compare/layer/… for the whole layer.
// MLA's core is what its layer would choose: absorbed for few tokens, expanded for many, decompression included in the time.
#include "layer_case.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

/// Key-value heads of the grouped-query attention that a model is compared with: 8, as Llama 3 and its like have beside 32 to
/// 128 heads; beside 16 heads 4, a group of as many queries as those with 32 have.
[[nodiscard]] Index group_heads(Index heads) { return heads >= 32 ? 8 : 4; }

[[nodiscard]] baselines::GroupedQueryConfig grouped_config(const Config& mla, Index kv_heads) {
    baselines::GroupedQueryConfig config;
    config.hidden_size = mla.hidden_size;
    config.num_attention_heads = mla.num_attention_heads;
    config.num_key_value_heads = kv_heads;
    config.head_dim = 128;
    return config;
}

[[nodiscard]] std::unique_ptr<Case> mla_core_case(const Config& config, Index tokens, Index length, Index threads) {
    if (choose_form(config, tokens, length) == Form::absorbed)
        return std::make_unique<DecodeCase<bf16>>(config, tokens, length, threads);
    return std::make_unique<PrefillCase<bf16>>(config, tokens, length, threads);
}

/// New tokens and cached tokens, the new ones included.
struct Tokens {
    Index count;
    Index length;
};

[[nodiscard]] std::vector<Tokens> tokens_to_compare() {
    std::vector<Tokens> all;
    for (const Index length : cached_lengths()) all.push_back({1, length});
    all.push_back({512, 512});
    all.push_back({2048, 2048});
    return all;
}

/// Cases compare/core/… and compare/layer/… of one kind of attention, on all threads.
template <class Core, class Layer>
void add_kind(const std::string& kind, Core core, Layer layer) {
    const Index threads = thread_counts().back();
    const auto name = [&](const char* what, const Tokens& t) {
        return std::string("compare/") + what + "/" + kind + part("T", t.count) + part("L", t.length) + part("threads", threads);
    };
    for (const Tokens& t : tokens_to_compare()) add_case(name("core", t), [=] { return core(t.count, t.length, threads); });
    for (const Tokens& t : tokens_to_compare()) add_case(name("layer", t), [=] { return layer(t.count, t.length, threads); });
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) {
        const Config config = preset.config();
        const std::string mla = std::string(preset.name) + "/mla";
        add_kind(
            mla, [=](Index tokens, Index length, Index threads) { return mla_core_case(config, tokens, length, threads); },
            [=](Index tokens, Index length, Index threads) { return mla_layer_case<bf16>(mla, config, tokens, length, threads); });
        const auto add_grouped = [&](const char* kind, Index kv_heads) {
            const auto grouped = grouped_config(config, kv_heads);
            const std::string name = std::string(preset.name) + "/" + kind;
            add_kind(
                name,
                [=](Index tokens, Index length, Index threads) {
                    return std::make_unique<GroupedCase<bf16>>(grouped, tokens, length, threads);
                },
                [=](Index tokens, Index length, Index threads) {
                    return grouped_layer_case<bf16>(name, grouped, tokens, length, threads);
                });
        };
        add_grouped("gqa", group_heads(config.num_attention_heads));
        add_grouped("mha", config.num_attention_heads);
    }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
