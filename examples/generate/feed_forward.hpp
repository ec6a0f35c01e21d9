// The feed-forward parts of DeepSeek-V3: a dense one in the first layers, experts in the others (section 2.1.2 of its paper).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "matrix.hpp"
#include "mla/io/checkpoint.hpp"

namespace generate {

/// down(silu(gate(x)) ⊙ up(x))
class DenseFeedForward {
  public:
    /// From the tensors `<name>.gate_proj.weight`, up_proj and down_proj.
    DenseFeedForward(mla::io::Checkpoint& checkpoint, const std::string& name, Index hidden, Index inner)
        : gate_(checkpoint.tensor(name + ".gate_proj.weight", inner, hidden)),
          up_(checkpoint.tensor(name + ".up_proj.weight", inner, hidden)),
          down_(checkpoint.tensor(name + ".down_proj.weight", hidden, inner)) {}

    Matrix operator()(const Matrix& x, const Products& products) const {
        Matrix gate = multiply(x, gate_, products);
        const Matrix up = multiply(x, up_, products);
        gate = gate.unaryExpr([](float value) { return value / (1.0F + std::exp(-value)); }).cwiseProduct(up);
        return multiply(gate, down_, products);
    }

  private:
    Weight gate_, up_, down_;
};

/// How tokens find their experts; the fields of config.json.
struct RoutingRule {
    Index experts = 0;        ///< n_routed_experts
    Index chosen = 0;         ///< num_experts_per_tok
    Index groups = 1;         ///< n_group: experts lie in so many groups of equal size
    Index groups_chosen = 1;  ///< topk_group: and only the best groups are looked at
    bool normalise = true;    ///< norm_topk_prob: weights are made to sum up to 1
    float scale = 1.0F;       ///< routed_scaling_factor: and multiplied by this

    static RoutingRule of(const nlohmann::json& config) {
        RoutingRule rule;
        rule.experts = config.at("n_routed_experts");
        rule.chosen = config.at("num_experts_per_tok");
        rule.groups = config.value("n_group", Index{1});
        rule.groups_chosen = config.value("topk_group", Index{1});
        rule.normalise = config.at("norm_topk_prob");
        rule.scale = config.at("routed_scaling_factor");
        const bool fits = rule.groups > 0 && rule.experts % rule.groups == 0 && rule.groups_chosen <= rule.groups &&
                          rule.chosen <= rule.groups_chosen * (rule.experts / rule.groups) &&
                          config.value("scoring_func", "sigmoid") == "sigmoid";
        if (!fits) throw std::invalid_argument("config.json: experts are not chosen as in DeepSeek-V3");
        return rule;
    }
};

/// An expert and what its output is multiplied by.
using Route = std::pair<Index, float>;

/// The `count` indices of `candidates` whose scores are highest, best first; the lower index of two that are equal.
inline std::vector<Index> best(std::vector<Index> candidates, Index count, const std::vector<float>& scores) {
    std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(), [&](Index a, Index b) {
        const float x = scores[static_cast<std::size_t>(a)];
        const float y = scores[static_cast<std::size_t>(b)];
        return x > y || (x == y && a < b);
    });
    candidates.resize(static_cast<std::size_t>(count));
    return candidates;
}

inline std::vector<Index> first_indices(Index count) {
    std::vector<Index> indices(static_cast<std::size_t>(count));
    std::iota(indices.begin(), indices.end(), Index{0});
    return indices;
}

/// The experts of one token. `bias` evens out the load: it counts in the choice, and not in the weights.
inline std::vector<Route> route(const RoutingRule& rule, const float* logits, const std::vector<float>& bias) {
    std::vector<float> scores, choice;
    for (const float correction : bias) {
        scores.push_back(1.0F / (1.0F + std::exp(-*logits++)));
        choice.push_back(scores.back() + correction);
    }

    // A group is worth what its two best experts are.
    const Index size = rule.experts / rule.groups;
    std::vector<std::vector<Index>> members(static_cast<std::size_t>(rule.groups));
    std::vector<float> worth;
    for (Index expert = 0; expert < rule.experts; ++expert) members[static_cast<std::size_t>(expert / size)].push_back(expert);
    for (const auto& group : members) {
        float sum = 0.0F;
        for (const Index expert : best(group, std::min<Index>(2, size), choice)) sum += choice[static_cast<std::size_t>(expert)];
        worth.push_back(sum);
    }

    std::vector<Index> candidates;
    for (const Index group : best(first_indices(rule.groups), rule.groups_chosen, worth))
        candidates.insert(candidates.end(), members[static_cast<std::size_t>(group)].begin(),
                          members[static_cast<std::size_t>(group)].end());

    std::vector<Route> routes;
    float sum = 0.0F;
    for (const Index expert : best(candidates, rule.chosen, choice)) {
        routes.emplace_back(expert, scores[static_cast<std::size_t>(expert)]);
        sum += routes.back().second;
    }
    for (Route& each : routes) each.second *= rule.scale / (rule.normalise ? sum + 1e-20F : 1.0F);
    return routes;
}

/// Σ over a token's experts of weight · expert(x), and the shared expert, which every token passes.
class ExpertFeedForward {
  public:
    ExpertFeedForward(mla::io::Checkpoint& checkpoint, const std::string& name, Index hidden)
        : rule_(RoutingRule::of(checkpoint.json())),
          router_(checkpoint.tensor(name + ".gate.weight", rule_.experts, hidden)),
          bias_(to_vector(checkpoint.tensor(name + ".gate.e_score_correction_bias", 1, rule_.experts))),
          shared_(checkpoint, name + ".shared_experts", hidden,
                  checkpoint.json().at("n_shared_experts").get<Index>() * inner(checkpoint)) {
        for (Index e = 0; e < rule_.experts; ++e)
            experts_.emplace_back(checkpoint, name + ".experts." + std::to_string(e), hidden, inner(checkpoint));
    }

    Matrix operator()(const Matrix& x, const Products& products) const {
        const Matrix logits = multiply(x, router_, {products.executor, mla::Precision::full});  // it decides, and is small
        std::vector<std::vector<std::pair<Index, float>>> visitors(experts_.size());  // a list of (token, weight) for each expert
        for (Index t = 0; t < x.rows(); ++t)
            for (const auto& [expert, weight] : route(rule_, logits.row(t).data(), bias_))
                visitors[static_cast<std::size_t>(expert)].emplace_back(t, weight);

        Matrix y = shared_(x, products);
        for (std::size_t e = 0; e < experts_.size(); ++e) {
            if (visitors[e].empty()) continue;
            Matrix gathered(static_cast<Index>(visitors[e].size()), x.cols());
            for (Index i = 0; i < gathered.rows(); ++i) gathered.row(i) = x.row(visitors[e][static_cast<std::size_t>(i)].first);
            const Matrix computed = experts_[e](gathered, products);
            for (Index i = 0; i < gathered.rows(); ++i) {
                const auto& [token, weight] = visitors[e][static_cast<std::size_t>(i)];
                y.row(token) += weight * computed.row(i);
            }
        }
        return y;
    }

  private:
    static Index inner(const mla::io::Checkpoint& checkpoint) { return checkpoint.json().at("moe_intermediate_size"); }

    RoutingRule rule_;
    Weight router_;
    std::vector<float> bias_;
    DenseFeedForward shared_;
    std::vector<DenseFeedForward> experts_;
};

}  // namespace generate
