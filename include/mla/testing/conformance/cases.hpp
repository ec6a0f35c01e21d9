// The cases of attention over cached latents by which a port is judged: named, seeded, the same on every machine.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::testing {

/// How long a case takes: small ones together seconds, standard ones minutes, stress ones as long and as much memory as it takes.
enum class Tier : std::uint8_t { small, standard, stress };

[[nodiscard]] constexpr const char* name(Tier tier) noexcept {
    switch (tier) {
        case Tier::small: return "small";
        case Tier::standard: return "standard";
        case Tier::stress: return "stress";
    }
    return "unknown";
}

/// How the scores of a query are distributed over its keys.
enum class Distribution : std::uint8_t {
    gaussian,          ///< N(0, 1): every key counts
    peaked,            ///< N(0, 30²): a key or two take all
    flat,              ///< all nearly the same
    far_below_zero,    ///< about −1000, N(0, 1) on top: no exponential is above 0 unless the maximum is taken off
    far_above_zero,    ///< about +1000: exponentials overflow unless the maximum is taken off
    near_ties,         ///< keys in pairs that differ in one value's last bit
    subnormal_values,  ///< every fifth latent value is subnormal in float and bf16
};

struct RequestSize {
    Index queries = 1;
    Index length = 1;  ///< cached tokens, those of the queries the last
};

/// Requests whose queries attend to latents in a cache.
struct AttentionCase {
    std::string name;
    Tier tier = Tier::small;
    Index heads = 16;
    Index latent_dim = 64;
    Index rope_dim = 16;
    Index nope_dim =
        0;  ///< 0: absorbed, queries on the latents themselves; else expanded: on keys and values that kv_b makes of them
    Index value_dim = 0;  ///< of an expanded case
    std::vector<RequestSize> requests = {};
    Distribution scores = Distribution::gaussian;
    bool sinks = false;           ///< a logit a head
    bool infinite_sinks = false;  ///< those of the first two heads are −inf and +inf
    bool tree = false;            ///< queries of a request see each other by a mask
    Index selected = 0;           ///< sparse: keys listed for each query, −1 and repeated ones among them; 0: dense
    bool far_pages = false;       ///< pages of a pool lie up to 2^32 bytes and more apart
    bool wild_table = false;      ///< entries of a block table that no token uses name no page of the pool

    [[nodiscard]] bool expanded() const noexcept { return nope_dim > 0; }
    [[nodiscard]] Index query_dim() const noexcept { return (expanded() ? nope_dim : latent_dim) + rope_dim; }
    [[nodiscard]] Index out_dim() const noexcept { return expanded() ? value_dim : latent_dim; }
};

/// The seed of a case's data, from its name (FNV-1a).
[[nodiscard]] inline std::uint64_t seed_of(const AttentionCase& c) {
    std::uint64_t hash = 0xcbf29ce484222325U;
    for (const char letter : c.name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3U;
    return hash;
}

/// All cases, in order.
[[nodiscard]] inline std::vector<AttentionCase> attention_cases() {
    std::vector<AttentionCase> cases;
    const auto add = [&](AttentionCase c) { cases.push_back(std::move(c)); };
    add({.name = "decode_one_token", .requests = {{1, 40}}});
    add({.name = "decode_one_head", .heads = 1, .requests = {{1, 97}}});
    add({.name = "decode_three_heads", .heads = 3, .latent_dim = 48, .rope_dim = 8, .requests = {{1, 130}, {1, 20}}});
    add({.name = "decode_odd_heads", .heads = 63, .latent_dim = 32, .rope_dim = 8, .requests = {{1, 70}}});
    add({.name = "decode_odd_dims", .heads = 5, .latent_dim = 33, .rope_dim = 6, .requests = {{1, 77}, {2, 31}}});
    add({.name = "decode_without_rope", .heads = 6, .latent_dim = 64, .rope_dim = 0, .requests = {{1, 50}, {3, 50}}});
    add({.name = "decode_length_one", .requests = {{1, 1}}});
    add({.name = "decode_length_zero", .requests = {{1, 0}, {1, 9}, {2, 0}}});
    add({.name = "decode_several_queries", .heads = 8, .requests = {{4, 140}, {2, 65}}});
    add({.name = "more_queries_than_keys", .heads = 4, .requests = {{7, 3}, {5, 5}}});
    add({.name = "ragged_batch",
         .heads = 10,
         .latent_dim = 48,
         .rope_dim = 8,
         .requests = {{1, 20}, {1, 140}, {0, 17}, {3, 64}, {1, 63}, {2, 65}, {0, 0}, {1, 1}}});
    add({.name = "wild_table_entries", .heads = 3, .requests = {{1, 20}, {2, 48}, {1, 0}}, .wild_table = true});
    add({.name = "several_scales", .heads = 3, .latent_dim = 300, .requests = {{2, 40}, {1, 30}}});
    add({.name = "prompt", .heads = 4, .latent_dim = 48, .rope_dim = 8, .requests = {{40, 40}}});
    add({.name = "chunk_of_a_prompt", .heads = 4, .latent_dim = 48, .rope_dim = 8, .requests = {{23, 90}, {1, 12}}});
    add({.name = "peaked", .heads = 8, .requests = {{2, 150}}, .scores = Distribution::peaked});
    add({.name = "flat", .heads = 8, .requests = {{2, 150}}, .scores = Distribution::flat});
    add({.name = "far_below_zero", .heads = 6, .requests = {{2, 150}, {1, 1}}, .scores = Distribution::far_below_zero});
    add({.name = "far_above_zero", .heads = 6, .requests = {{2, 150}}, .scores = Distribution::far_above_zero});
    add({.name = "near_ties", .heads = 6, .requests = {{2, 128}}, .scores = Distribution::near_ties});
    add({.name = "subnormal_values", .heads = 6, .requests = {{1, 60}}, .scores = Distribution::subnormal_values});
    add({.name = "sinks", .heads = 7, .requests = {{2, 70}, {1, 30}, {1, 0}}, .sinks = true});
    add({.name = "infinite_sinks", .heads = 7, .requests = {{2, 70}}, .sinks = true, .infinite_sinks = true});
    add({.name = "tree", .heads = 6, .requests = {{5, 60}, {3, 3}, {1, 20}}, .tree = true});
    add({.name = "selected", .heads = 8, .requests = {{1, 200}, {2, 90}}, .selected = 40});
    add({.name = "selected_few_tokens", .heads = 8, .requests = {{1, 5}, {3, 7}, {1, 0}}, .selected = 20});
    add({.name = "selected_with_sinks", .heads = 5, .requests = {{2, 120}}, .sinks = true, .selected = 33});
    const auto expanded = [&](AttentionCase c, Index nope, Index value) {
        c.name = "expanded_" + c.name;
        c.nope_dim = nope;
        c.value_dim = value;
        add(std::move(c));
    };
    expanded({.name = "prompt", .heads = 3, .latent_dim = 48, .rope_dim = 8, .requests = {{40, 40}}}, 24, 16);
    expanded({.name = "chunk", .heads = 3, .latent_dim = 48, .rope_dim = 8, .requests = {{23, 130}}}, 16, 24);
    expanded({.name = "odd_dims", .heads = 5, .latent_dim = 33, .rope_dim = 6, .requests = {{7, 50}}}, 13, 11);
    expanded({.name = "without_rope", .heads = 4, .rope_dim = 0, .requests = {{9, 30}}}, 16, 16);
    expanded({.name = "batch", .heads = 4, .latent_dim = 48, .rope_dim = 8, .requests = {{5, 5}, {0, 9}, {1, 70}, {12, 33}}}, 24,
             16);
    expanded({.name = "more_queries_than_keys", .heads = 3, .latent_dim = 48, .rope_dim = 8, .requests = {{7, 3}, {2, 0}}}, 24,
             16);
    expanded({.name = "peaked", .heads = 3, .requests = {{12, 90}}, .scores = Distribution::peaked}, 24, 16);
    expanded({.name = "far_below_zero", .heads = 3, .requests = {{9, 60}}, .scores = Distribution::far_below_zero}, 24, 16);
    expanded({.name = "sinks", .heads = 5, .latent_dim = 48, .rope_dim = 8, .requests = {{11, 40}}, .sinks = true}, 24, 16);
    add({.name = "deepseek_decode", .heads = 128, .latent_dim = 512, .rope_dim = 64, .requests = {{1, 300}}});
    for (const Index heads : {3, 16, 63, 64, 128})
        add({.name = "deepseek_batch_" + std::to_string(heads) + "_heads",
             .tier = Tier::standard,
             .heads = heads,
             .latent_dim = 512,
             .rope_dim = 64,
             .requests = {{1, 20}, {2, 140}, {1, 1000}, {4, 64}, {0, 10}, {1, 4096}}});
    add({.name = "deepseek_prompt", .tier = Tier::standard, .latent_dim = 512, .rope_dim = 64, .requests = {{200, 333}}});
    expanded({.name = "deepseek_prompt", .tier = Tier::standard, .latent_dim = 512, .rope_dim = 64, .requests = {{200, 333}}},
             128, 128);
    add({.name = "deepseek_selected",
         .tier = Tier::standard,
         .heads = 64,
         .latent_dim = 512,
         .rope_dim = 64,
         .requests = {{1, 3000}, {2, 2500}},
         .selected = 2048});
    add({.name = "long_context_flat",
         .tier = Tier::stress,
         .latent_dim = 512,
         .rope_dim = 64,
         .requests = {{1, 65536}},
         .scores = Distribution::flat});
    add({.name = "long_context", .tier = Tier::stress, .latent_dim = 512, .rope_dim = 64, .requests = {{1, 65536}, {1, 7}}});
    add({.name = "far_pages",
         .tier = Tier::stress,
         .heads = 4,
         .latent_dim = 512,
         .rope_dim = 64,
         .requests = {{1, 150}, {2, 40}},
         .far_pages = true});
    return cases;
}

}  // namespace mla::inline MLA_ISA::testing
