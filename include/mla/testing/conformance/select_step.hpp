// The selection of sparse attention: which keys an indexer's scores choose for each query.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "mla/reference/attention.hpp"
#include "mla/testing/conformance/step.hpp"

namespace mla::inline MLA_ISA::testing {

/// The last T of L tokens choose keys by I[t, s] = Σ_h weights[t, h] · relu(q[t, h] · k[s]), each of those up to itself. Queries,
/// weights and keys are exact in bf16.
struct SelectProblem {
    std::string name;
    Index queries = 1;  ///< T
    Index heads = 1;    ///< Hi
    Index dim = 1;      ///< Di
    Index keys = 1;     ///< L
    Index top_k = 1;
    std::vector<float> q;        ///< [T, Hi, Di]
    std::vector<float> weights;  ///< [T, Hi], of either sign
    std::vector<float> k;        ///< [L, Di]
};

[[nodiscard]] inline std::vector<SelectProblem> select_problems() {
    std::vector<SelectProblem> problems;
    for (const auto& [name, T, Hi, Di, L, top_k] :
         {std::tuple{"one_query", 1, 8, 32, 100, 16}, std::tuple{"prompt", 40, 4, 16, 40, 8},
          std::tuple{"chunk", 9, 6, 24, 150, 32}, std::tuple{"odd", 5, 3, 17, 77, 5}, std::tuple{"fewer_keys", 4, 8, 32, 12, 20},
          std::tuple{"one_key", 3, 4, 16, 90, 1}, std::tuple{"deepseek", 2, 64, 128, 400, 128}}) {
        SelectProblem p{name, T, Hi, Di, L, top_k, {}, {}, {}};
        Generator generator = detail::step_generator(std::string("select_") + name);
        const auto draw = [&](std::vector<float>& values, Index count) {
            for (Index i = 0; i < count; ++i) values.push_back(static_cast<float>(round_to<bf16>(gaussian(generator))));
        };
        draw(p.q, p.queries * p.heads * p.dim);
        draw(p.weights, p.queries * p.heads);
        draw(p.k, p.keys * p.dim);
        problems.push_back(std::move(p));
    }
    return problems;
}

/// How a selection is made: the right way, or with a mistake.
struct SelectReading {
    std::string name;
    std::function<double(double weight, double product)> term = [](double weight, double product) {
        return weight * std::max(product, 0.0);
    };
    bool causal = true;
    bool largest = true;
};

[[nodiscard]] inline std::vector<SelectReading> select_mistakes() {
    return {{.name = "products below 0 count", .term = [](double weight, double product) { return weight * product; }},
            {.name = "weights of heads are left out", .term = [](double, double product) { return std::max(product, 0.0); }},
            {.name = "weights of heads count without their sign",
             .term = [](double weight, double product) { return std::abs(weight) * std::max(product, 0.0); }},
            {.name = "relu is taken of the weighted product",
             .term = [](double weight, double product) { return std::max(weight * product, 0.0); }},
            {.name = "queries choose among keys behind them", .causal = false},
            {.name = "the smallest scores are chosen", .largest = false}};
}

/// Scores [T, L]; and, in `terms`, what their errors are in proportion to.
[[nodiscard]] inline reference::Matrix select_scores(const SelectProblem& p, const SelectReading& reading,
                                                     reference::Matrix* terms = nullptr) {
    reference::Matrix scores(p.queries, p.keys);
    if (terms != nullptr) *terms = scores;
    for (Index t = 0; t < p.queries; ++t)
        for (Index s = 0; s < p.keys; ++s)
            for (Index h = 0; h < p.heads; ++h) {
                double product = 0.0, squares = 0.0;
                for (Index i = 0; i < p.dim; ++i) {
                    const double term = static_cast<double>(p.q[static_cast<std::size_t>((t * p.heads + h) * p.dim + i)]) *
                                        static_cast<double>(p.k[static_cast<std::size_t>(s * p.dim + i)]);
                    product += term;
                    squares += term * term;
                }
                const auto weight = static_cast<double>(p.weights[static_cast<std::size_t>(t * p.heads + h)]);
                scores(t, s) += reading.term(weight, product);
                if (terms != nullptr) (*terms)(t, s) += std::abs(weight) * std::sqrt(squares);
            }
    return scores;
}

namespace detail {

/// The keys that query t chooses, ascending.
[[nodiscard]] inline std::vector<Index> chosen_keys(const SelectProblem& p, const SelectReading& reading,
                                                    const reference::Matrix& scores, Index t) {
    const Index visible = reading.causal ? reference::visible_keys(t, p.queries, p.keys) : p.keys;
    std::vector<Index> keys(static_cast<std::size_t>(visible));
    for (Index s = 0; s < visible; ++s) keys[static_cast<std::size_t>(s)] = s;
    std::stable_sort(keys.begin(), keys.end(), [&](Index a, Index b) {
        return reading.largest ? scores(t, a) > scores(t, b) : scores(t, a) < scores(t, b);
    });
    if (visible > p.top_k) keys.resize(static_cast<std::size_t>(p.top_k));
    std::sort(keys.begin(), keys.end());
    return keys;
}

/// What is wrong with the keys that query t chooses, ascending, or nothing. `terms`: what errors of scores are in proportion to.
[[nodiscard]] inline std::string wrong_choice(const SelectProblem& p, const reference::Matrix& scores,
                                              const reference::Matrix& terms, Index t, const std::vector<Index>& keys) {
    const std::vector<Index> expected = chosen_keys(p, {}, scores, t);
    if (keys.size() != expected.size())
        return "chooses " + std::to_string(keys.size()) + " keys, must be " + std::to_string(expected.size());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) return "chooses a key twice";
    const double roundoff =
        float_roundoff * (4.0 + std::sqrt(static_cast<double>(p.dim)) + std::sqrt(static_cast<double>(p.heads)));
    const auto at_most = [&](Index s) { return scores(t, s) + 2.0 * roundoff * terms(t, s); };
    double least = std::numeric_limits<double>::infinity();
    for (const Index s : expected) least = std::min(least, at_most(s));
    for (const Index s : keys) {
        if (s >= reference::visible_keys(t, p.queries, p.keys))
            return "chooses key " + std::to_string(s) + ", which it does not see";
        if (!std::binary_search(expected.begin(), expected.end(), s) && at_most(s) < least)
            return "chooses key " + std::to_string(s) + " of score " + std::to_string(scores(t, s)) + ", the least must be " +
                   std::to_string(least);
    }
    return {};
}

/// The mistake that leads to the keys that each query chooses, as a phrase.
[[nodiscard]] inline std::string likeness(const SelectProblem& p, const std::vector<std::vector<Index>>& found) {
    for (const SelectReading& mistake : select_mistakes()) {
        const reference::Matrix scores = select_scores(p, mistake);
        bool same = true;
        for (Index t = 0; t < p.queries; ++t)
            same = same && found[static_cast<std::size_t>(t)] == chosen_keys(p, mistake, scores, t);
        if (same) return "looks like: " + mistake.name;
    }
    return "no known mistake gives this selection";
}

}  // namespace detail

/// What is wrong with a selection, an empty text where nothing is. Of keys whose scores are nearer to each other than rounding
/// allows either may be chosen. selection [T, top_k]: key numbers in any order, −1 for none.
[[nodiscard]] inline std::string judge_selection(const SelectProblem& p, const std::vector<std::int32_t>& selection) {
    require_equal("selection.size()", static_cast<Index>(selection.size()), "T * top_k", p.queries * p.top_k);
    reference::Matrix terms;
    const reference::Matrix scores = select_scores(p, {}, &terms);
    std::vector<std::vector<Index>> found;
    std::string wrong;
    for (Index t = 0; t < p.queries; ++t) {
        std::vector<Index> keys(selection.begin() + t * p.top_k, selection.begin() + (t + 1) * p.top_k);
        std::erase_if(keys, [](Index key) { return key < 0; });
        std::sort(keys.begin(), keys.end());
        const std::string what = detail::wrong_choice(p, scores, terms, t, keys);
        if (wrong.empty() && !what.empty()) wrong = p.name + ": query " + std::to_string(t) + " " + what;
        found.push_back(std::move(keys));
    }
    return wrong.empty() ? wrong : wrong + "\n  " + detail::likeness(p, found);
}

}  // namespace mla::inline MLA_ISA::testing
