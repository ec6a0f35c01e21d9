// A whole layer: tokens of a prompt, then some at a time, over a cache that grows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/reference/layer.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/conformance/step.hpp"
#include "mla/testing/random.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::testing {

/// Tokens x [T, hidden] at positions [T], exact in bf16 as the weights are, which come in calls of so many tokens each.
struct LayerProblem {
    std::string name;
    Config config;
    RandomWeights<bf16> weights;
    std::vector<Index> calls;
    std::vector<std::int64_t> positions;
    std::vector<float> x;

    [[nodiscard]] Index tokens() const noexcept { return static_cast<Index>(positions.size()); }
};

namespace detail {

[[nodiscard]] inline LayerProblem layer_problem(const std::string& name, const Config& config, std::int64_t position = 0,
                                                double size = 1.0) {
    const std::vector<Index> calls{9, 1, 1, 3, 1};
    constexpr Index tokens = 15;
    Generator generator = step_generator("layer_" + name);
    LayerProblem problem{name, config, RandomWeights<bf16>(config, generator()), calls, consecutive(position, tokens), {}};
    for (Index i = 0; i < tokens * config.hidden_size; ++i)
        problem.x.push_back(static_cast<float>(round_to<bf16>(size * gaussian(generator))));
    return problem;
}

}  // namespace detail

[[nodiscard]] inline std::vector<LayerProblem> layer_problems() {
    std::vector<LayerProblem> problems;
    const auto add = [&](const char* name, auto&& change, std::int64_t position = 0, double size = 1.0) {
        Config config = small_config();
        change(config);
        problems.push_back(detail::layer_problem(name, config, position, size));
    };
    add("q_lora", [](Config&) {});
    add("q_proj_in_halves", [](Config& c) { c.q_lora_rank = 0, c.rope.pairing = RopePairing::half_split; });
    add(
        "yarn", [](Config& c) { c.rope.scaling = small_yarn(); }, 1000);
    add(
        "yarn_in_halves", [](Config& c) { c.rope.scaling = small_yarn(), c.rope.pairing = RopePairing::half_split; }, 60);
    add(
        "biases", [](Config& c) { c.attention_bias = true; }, 5);
    add("sliding_window", [](Config& c) { c.sliding_window = 4; });
    add("sinks", [](Config& c) { c.sinks = true; });
    add(
        "small_values", [](Config& c) { c.latent_norm_eps = 1e-5; }, 0, 3e-3);
    return problems;
}

/// How a layer is computed: the right way, or with a mistake.
struct LayerReading {
    std::string name;
    std::function<void(Config&)> change = {};
    bool query_normed = true;
    bool latent_normed = true;
    bool causal = true;
    bool positions_go_on = true;    ///< from call to call
    bool values_first = false;      ///< of the rows that a head has in kv_b
    bool heads_transposed = false;  ///< o_proj takes value j of all heads, then value j + 1
};

[[nodiscard]] inline std::vector<LayerReading> layer_mistakes() {
    const auto other_pairing = [](Config& c) {
        c.rope.pairing = c.rope.pairing == RopePairing::interleaved ? RopePairing::half_split : RopePairing::interleaved;
    };
    const auto unscaled = [](Config& c) {
        if (auto* yarn = std::get_if<Yarn>(&c.rope.scaling)) yarn->scales_softmax = false;
    };
    return {{.name = "the softmax scale is without YaRN's mscale squared", .change = unscaled},
            {.name = "the rope parts are paired the other way", .change = other_pairing},
            {.name = "the rope parts are not rotated", .change = [](Config& c) { c.rope.rotates = false; }},
            {.name = "YaRN is not looked at", .change = [](Config& c) { c.rope.scaling = {}; }},
            {.name = "the query latent is not normed", .query_normed = false},
            {.name = "the latent is not normed", .latent_normed = false},
            {.name = "eps is left out of the norms", .change = [](Config& c) { c.latent_norm_eps = 0.0; }},
            {.name = "there is no causal mask", .causal = false},
            {.name = "positions begin at 0 in every call", .positions_go_on = false},
            {.name = "kv_b is read as the values of a head, then its keys", .values_first = true},
            {.name = "o_proj takes a value of all heads, then the next", .heads_transposed = true},
            {.name = "biases are left out", .change = [](Config& c) { c.attention_bias = false; }},
            {.name = "the sliding window is not looked at", .change = [](Config& c) { c.sliding_window = 0; }},
            {.name = "sinks are not looked at", .change = [](Config& c) { c.sinks = false; }}};
}

namespace detail {

/// Weights in double as a mistake takes them.
struct MisreadWeights {
    Config config;
    AttentionWeights refs;
    reference::Matrix kv_b, q_proj;

    MisreadWeights(const LayerProblem& p, const LayerReading& reading) : config(p.config), refs(p.weights.refs()) {
        if (reading.change) reading.change(config);
        if (reading.values_first) swap_kv_b();
        // Without the norm between them two linear maps are one; q_a's bias is lost on the way.
        if (!reading.query_normed && config.q_lora_rank > 0) merge_query_maps();
    }
    MisreadWeights(const MisreadWeights&) = delete;
    MisreadWeights& operator=(const MisreadWeights&) = delete;

  private:
    void swap_kv_b() {
        const Index Dn = config.qk_nope_head_dim, Dv = config.v_head_dim;
        const reference::Matrix right = reference::to_matrix(refs.kv_b_proj);
        kv_b = right;
        for (Index row = 0; row < right.rows; ++row) {
            const Index head = row / (Dn + Dv), i = row % (Dn + Dv);
            std::copy_n(right.row(head * (Dn + Dv) + (i < Dn ? Dv + i : i - Dn)), right.cols, kv_b.row(row));
        }
        refs.kv_b_proj = TensorRef(kv_b.values.data(), kv_b.rows, kv_b.cols);
    }
    void merge_query_maps() {
        const reference::Matrix q_a = reference::to_matrix(refs.q_a_proj), q_b = reference::to_matrix(refs.q_b_proj);
        q_proj = reference::Matrix(q_b.rows, q_a.cols);
        for (Index o = 0; o < q_b.rows; ++o)
            for (Index k = 0; k < q_b.cols; ++k)
                for (Index i = 0; i < q_a.cols; ++i) q_proj(o, i) += q_b(o, k) * q_a(k, i);
        config.q_lora_rank = 0;
        refs.q_proj = TensorRef(q_proj.values.data(), q_proj.rows, q_proj.cols);
    }
};

/// [c | k_pe] of a call's tokens; latents not normed where the mistake is that.
[[nodiscard]] inline reference::Matrix layer_rows(const MisreadWeights& weights, const LayerReading& reading,
                                                  const reference::Matrix& x, std::span<const std::int64_t> positions) {
    const Config& config = weights.config;
    reference::Matrix rows = reference::project_cache_rows(config, weights.refs, x, positions);
    if (reading.latent_normed) return rows;
    const reference::Matrix kv_a = reference::to_matrix(weights.refs.kv_a_proj_with_mqa);
    const reference::Matrix latents = config.attention_bias
                                          ? reference::linear(x, kv_a, reference::to_matrix(weights.refs.kv_a_bias))
                                          : reference::linear(x, kv_a);
    for (Index t = 0; t < rows.rows; ++t) std::copy_n(latents.row(t), config.kv_lora_rank, rows.row(t));
    return rows;
}

/// Values of heads [T·H, Dv] in the order [T, Dv, H].
[[nodiscard]] inline reference::Matrix transposed_heads(const reference::Matrix& o, Index H) {
    reference::Matrix transposed(o.rows, o.cols);
    for (Index row = 0; row < o.rows; ++row)
        for (Index j = 0; j < o.cols; ++j)
            transposed.values[static_cast<std::size_t>(row / H * H * o.cols + j * H + row % H)] = o(row, j);
    return transposed;
}

}  // namespace detail

/// y [T, hidden], by the reference.
[[nodiscard]] inline reference::Matrix layer_outputs(const LayerProblem& p, const LayerReading& reading, reference::Form form) {
    const detail::MisreadWeights weights(p, reading);
    const Config& config = weights.config;
    const reference::Matrix x(p.tokens(), config.hidden_size, {p.x.begin(), p.x.end()});
    reference::Matrix cache(0, config.cache_dim()), y(0, config.hidden_size);
    Index first = 0;
    for (const Index count : p.calls) {
        const std::vector<std::int64_t> positions =
            reading.positions_go_on ? std::vector<std::int64_t>(p.positions.begin() + first, p.positions.begin() + first + count)
                                    : consecutive(0, count);
        const reference::Matrix tokens = reference::row_range(x, first, count);
        const reference::Matrix q = reference::project_queries(config, weights.refs, tokens, positions);
        reference::append_rows(cache, detail::layer_rows(weights, reading, tokens, positions));
        const reference::Visible visible = reading.causal ? reference::visible_in(config, count, cache.rows)
                                                          : reference::Visible([](Index, Index) { return true; });
        reference::Matrix o = form == reference::Form::expanded
                                  ? reference::attend_expanded_form(config, weights.refs, q, cache, visible).output
                                  : reference::attend_absorbed_form(config, weights.refs, q, cache, visible).output;
        if (reading.heads_transposed) o = detail::transposed_heads(o, config.num_attention_heads);
        reference::append_rows(y, reference::project_output(config, weights.refs, o));
        first += count;
    }
    return y;
}

/// What a layer rounds, as it declares: unit roundoffs.
struct LayerRounding {
    double sums = 0x1p-24;       ///< of the type in which products are added up
    double activations = 0.0;    ///< where they are rounded to meet weights
    double cache = 0.0;          ///< of what it caches
    double probabilities = 0.0;  ///< where they are rounded before they meet values
};

/// How much a row of y may err, relative to its norm. Errors are independent, so those of the chain of sums (see layer_tolerance)
/// add up as one sum as long as all together. Rounding errs by u/√3 at random: of activations five times on the way (q_a, q_b,
/// W_UK, W_UV, o_proj: √(5/3)·u), of the cache in keys and in values (√(2/3)·u), of probabilities once. What errs before the
/// softmax moves scores, whose deviation is that of scale·√(Dn+Dr) where queries and keys are normed, by as much of itself and
/// more.
[[nodiscard]] inline double layer_error(const LayerProblem& p, const LayerRounding& rounding) {
    const Config& c = p.config;
    const Index length =
        c.hidden_size + c.q_lora_rank + c.qk_nope_head_dim + c.cache_dim() + p.tokens() + c.kv_lora_rank + c.o_dim();
    const double sums = rounding.sums * (2.0 + std::sqrt(static_cast<double>(length)));
    const double deviation = c.softmax_scale() * std::sqrt(static_cast<double>(c.qk_head_dim()));
    const double rounded =
        std::sqrt(5.0 / 3.0 * rounding.activations * rounding.activations + 2.0 / 3.0 * rounding.cache * rounding.cache +
                  rounding.probabilities * rounding.probabilities / 3.0);
    return std::hypot(sums, rounded) * (1.0 + deviation);
}

/// y [T, hidden]. The values of a row share its error evenly; each is held to four times its share.
[[nodiscard]] inline StepAnswer layer_answer(const LayerProblem& p, const LayerRounding& rounding) {
    const auto outputs = [&](const LayerReading& reading) { return layer_outputs(p, reading, reference::Form::absorbed).values; };
    StepAnswer answer{outputs({}), {}, {}};
    const Index hidden = p.config.hidden_size;
    for (Index t = 0; t < p.tokens(); ++t) {
        const double* const y = answer.values.data() + t * hidden;
        const double share = std::sqrt(reference::dot(y, y, hidden) / static_cast<double>(hidden));
        answer.bounds.insert(answer.bounds.end(), static_cast<std::size_t>(hidden), 4.0 * layer_error(p, rounding) * share);
    }
    for (const LayerReading& mistake : layer_mistakes()) answer.mistakes.push_back({mistake.name, outputs(mistake)});
    return answer;
}

}  // namespace mla::inline MLA_ISA::testing
