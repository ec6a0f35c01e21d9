// MLA beside multi-head and grouped-query attention with the same heads, hidden size and types, all of head dimension 128, in
// bf16: compare/core/<preset>/<mla|mha|gqa>/T:<new tokens>/L:<cached tokens>/threads:<n>, and compare/layer/… for the whole
// layer. MLA's core is what its layer would choose: absorbed for few tokens, expanded for many, decompression included in the
// time.
#include "layer_case.hpp"
#include "program.hpp"

namespace mla::bench {
namespace {

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

using MakeAttention = std::function<std::unique_ptr<Case>(const Tokens&, Index threads)>;

/// A kind of attention, and how its cases are made.
struct Kind {
    const char* name;
    MakeAttention core;
    MakeAttention layer;
};

[[nodiscard]] Kind mla_kind(const std::string& model, const Config& config) {
    return {"mla", [=](const Tokens& t, Index threads) { return mla_core_case(config, t.count, t.length, threads); },
            [=](const Tokens& t, Index threads) {
                return mla_layer_case<bf16>({model, "mla"}, config, t.count, t.length, threads);
            }};
}

[[nodiscard]] Kind grouped_kind(const std::string& model, const char* name, const baselines::GroupedQueryConfig& config) {
    return {
        name,
        [=](const Tokens& t, Index threads) { return std::make_unique<GroupedCase<bf16>>(config, t.count, t.length, threads); },
        [=](const Tokens& t, Index threads) {
            return grouped_layer_case<bf16>({model, name}, config, t.count, t.length, threads);
        }};
}

/// The kinds take turns at each length, so that the machine is in the same mood for all of them.
void add_cases(const Presets& wanted) {
    const Index threads = thread_counts().back();
    for (const presets::Preset& preset : wanted) {
        const Config config = preset.config();
        const std::string model = preset.name;
        const Index heads = config.num_attention_heads;
        const std::vector<Kind> kinds{mla_kind(model, config),
                                      grouped_kind(model, "gqa", grouped_config(config, group_heads(heads))),
                                      grouped_kind(model, "mha", grouped_config(config, heads))};
        const auto add = [&](const char* what, MakeAttention Kind::*make) {
            for (const Tokens& t : tokens_to_compare())
                for (const Kind& kind : kinds)
                    add_case(std::string("compare/") + what + "/" + model + "/" + kind.name + part("T", t.count) +
                                 part("L", t.length) + part("threads", threads),
                             [=, attention = kind.*make] { return attention(t, threads); });
        };
        add("core", &Kind::core);
        add("layer", &Kind::layer);
    }
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
