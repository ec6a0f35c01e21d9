// Grids of shapes: problems of attention with their exact answers by the sizes that meet in them, for kernels called with plain
// views. Named cases, every kind of row, and what a failure looks like are those of testing/conformance. It needs no test
// framework:
//
//     for (const AttentionShape& shape : absorbed_shapes()) {
//         const auto problem = absorbed_problem<bf16>(shape);
//         const Verdict verdict = judge(problem, my_kernel);  // called with plain views
//         if (!verdict.passed()) std::cerr << verdict << '\n';
//     }
#pragma once

#include <cmath>
#include <concepts>
#include <limits>
#include <ostream>
#include <vector>

#include "mla/cache/latent_view.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/shapes.hpp"
#include "mla/testing/tolerance.hpp"

namespace mla::inline MLA_ISA::testing {

/// One problem and its answer. All inputs are values of C, so that an implementation that computes on C itself loses
/// nothing on the way in. What lies beside the inputs is NaN: the padding of a cache row, and the rows after the last.
template <Storage C, Compute A = compute_t<C>>
struct ShapeProblem {
    AttentionShape shape;
    Index query_dim = 0;           ///< Dc+Dr absorbed, Dn+Dr expanded
    Index out_dim = 0;             ///< Dc absorbed, Dv expanded
    A scale = A(1);                ///< of the scores
    std::vector<A> queries;        ///< [T, H, query_dim]
    std::vector<C> rows;           ///< [L, Dc+Dr], rows Dc+Dr+padding apart
    std::vector<C> kv_b;           ///< [H·(Dn+Dv), Dc] as in a checkpoint; empty in the absorbed form
    reference::Attended expected;  ///< output [T·H, out_dim], lse [T, H]
    double tolerance = 0.0;        ///< of an implementation that computes in A

    [[nodiscard]] HeadsView<const A> q() const { return {queries.data(), shape.T, shape.H, query_dim}; }
    [[nodiscard]] LatentView<C> cache() const {
        return {rows.data(), shape.L, shape.Dc, shape.Dr, shape.Dc + shape.Dr + shape.padding};
    }
    [[nodiscard]] TensorRef expansion() const { return {kv_b.data(), shape.H * (shape.Dn + shape.Dv), shape.Dc}; }
};

namespace detail {

/// Rows of NaN behind the last cached token.
inline constexpr Index spare_rows = 2;

/// How large scores are made: ±10⁴ is `factor` of the query's last rotary value times that of the key, and whole numbers up
/// to `range` elsewhere add a little. With a power of two as scale every product and every sum is then exact, so that the
/// softmax of scores this large can be judged as finely as any other.
struct LargeScores {
    double scale;
    int range;
    [[nodiscard]] double factor() const { return std::sqrt(1e4 / scale); }
};
/// Many different scores: few would round the same way again and again, and their errors would not cancel.
inline constexpr LargeScores large_absorbed{1.0 / 256.0, 8};
/// Sums over Dc, then over Dn: small numbers are enough.
inline constexpr LargeScores large_expanded{1.0 / 16.0, 1};

[[nodiscard]] inline LargeScores large_scores(const AttentionShape& shape) {
    return shape.Dv == 0 ? large_absorbed : large_expanded;
}

/// `count` values that are exact in S: N(0, sigma²), or whole numbers for large scores.
template <Storage S>
[[nodiscard]] std::vector<S> draw(Generator& generator, Index count, const AttentionShape& shape, double sigma = 1.0) {
    if (shape.scores != Scores::large) return gaussian_values<S>(generator, count, sigma);
    const int range = large_scores(shape).range;
    std::vector<S> values(static_cast<std::size_t>(count));
    for (S& value : values) value = round_to<S>(static_cast<double>(generator() % static_cast<unsigned>(2 * range + 1)) - range);
    return values;
}

/// Queries and cache rows; returns the rows without padding.
template <Storage C, Compute A>
[[nodiscard]] reference::Matrix fill_inputs(ShapeProblem<C, A>& problem, Generator& generator) {
    const AttentionShape& shape = problem.shape;
    const Index row_dim = shape.Dc + shape.Dr;
    const double sigma = shape.scores == Scores::peaked ? peaked_sigma : 1.0;
    std::vector<C> queries = draw<C>(generator, shape.T * shape.H * problem.query_dim, shape, sigma);
    std::vector<C> rows = draw<C>(generator, shape.L * row_dim, shape);
    if (shape.scores == Scores::large) {
        const double factor = large_scores(shape).factor();
        for (Index r = 0; r < shape.T * shape.H; ++r)
            queries.at(static_cast<std::size_t>((r + 1) * problem.query_dim - 1)) = round_to<C>(r % 2 == 0 ? factor : -factor);
        for (Index s = 0; s < shape.L; ++s) rows.at(static_cast<std::size_t>((s + 1) * row_dim - 1)) = round_to<C>(factor);
    }
    for (const C value : queries) problem.queries.push_back(static_cast<A>(value));
    const Index stride = row_dim + shape.padding;
    problem.rows.assign(static_cast<std::size_t>((shape.L + spare_rows) * stride),
                        round_to<C>(std::numeric_limits<double>::quiet_NaN()));
    for (Index s = 0; s < shape.L; ++s) std::copy_n(rows.data() + s * row_dim, row_dim, problem.rows.data() + s * stride);
    return widened(rows, shape.L, row_dim);
}

[[nodiscard]] inline Generator generator_of(const AttentionShape& shape) {
    std::uint64_t seed = 1;
    for (const Index value : shape.axes()) seed = seed * 1000003 + static_cast<std::uint64_t>(value);
    return Generator(seed);
}

/// Scores of σ pass on their rounding errors σ times as large.
template <Compute A>
[[nodiscard]] double attention_tolerance(const AttentionShape& shape, Index sums) {
    return sum_tolerance<A>(sums + shape.L) * (shape.scores == Scores::peaked ? peaked_sigma : 1.0);
}

}  // namespace detail

/// Absorbed attention (decode): queries [T, H, Dc+Dr] on the cache rows themselves, outputs [T, H, Dc].
/// Tolerance: sums of Dc+Dr products (scores) and of L (values); see layer_tolerance.
template <Storage C, Compute A = compute_t<C>>
[[nodiscard]] ShapeProblem<C, A> absorbed_problem(const AttentionShape& shape) {
    require(shape.scores != Scores::large || shape.Dr > 0, "shape.Dr", shape.Dr, "positive where scores are large");
    ShapeProblem<C, A> problem;
    problem.shape = shape;
    problem.query_dim = shape.Dc + shape.Dr;
    problem.out_dim = shape.Dc;
    problem.scale = static_cast<A>(shape.scores == Scores::large ? detail::large_absorbed.scale
                                                                 : 1.0 / std::sqrt(static_cast<double>(problem.query_dim)));
    Generator generator = detail::generator_of(shape);
    const reference::Matrix rows = detail::fill_inputs(problem, generator);
    const auto q = widened(problem.queries, shape.T * shape.H, problem.query_dim);
    problem.expected = reference::attend_absorbed(q, shape.T, shape.H, rows, shape.Dc, static_cast<double>(problem.scale));
    problem.tolerance = detail::attention_tolerance<A>(shape, problem.query_dim);
    return problem;
}

/// Expanded attention (prefill): queries [T, H, Dn+Dr] on keys and values that kv_b makes of the latents, outputs [T, H, Dv].
/// Tolerance: sums of Dc (W_UK), Dn+Dr (scores), L (values) and Dc products (W_UV).
template <Storage C, Compute A = compute_t<C>>
[[nodiscard]] ShapeProblem<C, A> expanded_problem(const AttentionShape& shape) {
    Config config;
    config.num_attention_heads = shape.H;
    config.kv_lora_rank = shape.Dc;
    config.qk_nope_head_dim = shape.Dn;
    config.qk_rope_head_dim = shape.Dr;
    config.v_head_dim = shape.Dv;
    require(shape.scores != Scores::large || (shape.Dr > 0 && config.softmax_scale() == detail::large_expanded.scale),
            "shape.Dn + shape.Dr", config.qk_head_dim(), "256, with shape.Dr positive, where scores are large");
    ShapeProblem<C, A> problem;
    problem.shape = shape;
    problem.query_dim = config.qk_head_dim();
    problem.out_dim = shape.Dv;
    problem.scale = static_cast<A>(config.softmax_scale());
    Generator generator = detail::generator_of(shape);
    const reference::Matrix rows = detail::fill_inputs(problem, generator);
    const Index weights = shape.H * (shape.Dn + shape.Dv);
    problem.kv_b = detail::draw<C>(generator, weights * shape.Dc, shape, 1.0 / std::sqrt(static_cast<double>(shape.Dc)));
    AttentionWeights tensors;
    tensors.kv_b_proj = problem.expansion();
    const auto q = widened(problem.queries, shape.T * shape.H, problem.query_dim);
    problem.expected = reference::attend_expanded_form(config, tensors, q, rows);
    problem.tolerance = detail::attention_tolerance<A>(shape, problem.query_dim + 2 * shape.Dc);
    return problem;
}

/// How an implementation did on a problem.
struct Verdict {
    AttentionShape shape;
    Error output;            ///< the worst element among it
    double lse_error = 0.0;  ///< max |lse − ref| / max(1, |ref|); infinite where one is −inf or NaN and the other is not
    double tolerance = 0.0;

    /// False for NaN. LSE is judged by its worst row: the tolerance is 2.4σ of one, the largest of a million lies near 5σ.
    [[nodiscard]] bool passed() const { return within(output, tolerance) && lse_error <= 3.0 * tolerance; }
};

inline std::ostream& operator<<(std::ostream& stream, const Verdict& verdict) {
    return stream << verdict.shape << ": output " << verdict.output << ", LSE " << verdict.lse_error << ", tolerance "
                  << verdict.tolerance;
}

namespace detail {

template <Compute A>
[[nodiscard]] double worst_lse(const std::vector<A>& found, const std::vector<double>& expected) {
    double worst = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto lse = static_cast<double>(found[i]);
        if (lse == expected[i]) continue;
        const double error = std::abs(lse - expected[i]) / std::max(1.0, std::abs(expected[i]));
        worst = error <= worst ? worst : error;
        if (std::isnan(error)) return std::numeric_limits<double>::infinity();
    }
    return worst;
}

/// Calls `run(out, lse)` on arrays of NaN, each with a value behind it that must survive.
template <Storage C, Compute A, class Run>
[[nodiscard]] Verdict judge_outputs(const ShapeProblem<C, A>& problem, double allowance, Run run) {
    const AttentionShape& shape = problem.shape;
    const Index rows = shape.T * shape.H;
    const auto sentinel = static_cast<A>(12345);
    std::vector<A> out(static_cast<std::size_t>(rows * problem.out_dim), std::numeric_limits<A>::quiet_NaN());
    std::vector<A> lse(static_cast<std::size_t>(rows), std::numeric_limits<A>::quiet_NaN());
    out.push_back(sentinel);
    lse.push_back(sentinel);
    run(HeadsView<A>(out.data(), shape.T, shape.H, problem.out_dim), MatrixView<A>(lse.data(), shape.T, shape.H));
    Verdict verdict{shape, {}, std::numeric_limits<double>::infinity(), problem.tolerance + allowance};
    if (out.back() != sentinel || lse.back() != sentinel) return verdict;
    out.pop_back();
    verdict.output = compare(out, problem.expected.output.values);
    verdict.lse_error = worst_lse(lse, problem.expected.lse.values);
    return verdict;
}

}  // namespace detail

/// An implementation of absorbed attention, called with q, cache, scale, out and lse.
template <class Kernel, class C, class A>
concept AbsorbedKernel = std::invocable<Kernel&, HeadsView<const A>, LatentView<C>, A, HeadsView<A>, MatrixView<A>>;

/// An implementation of expanded attention, called with q, cache, kv_b [H·(Dn+Dv), Dc], scale, out and lse.
template <class Kernel, class C, class A>
concept ExpandedKernel = std::invocable<Kernel&, HeadsView<const A>, LatentView<C>, TensorRef, A, HeadsView<A>, MatrixView<A>>;

/// Lets `kernel` solve the problem and compares. `allowance` is added to the tolerance for an implementation that rounds on its
/// way: probabilities rounded to S, say, ask for rounded_probabilities<S>.
template <Storage C, Compute A, class Kernel>
    requires AbsorbedKernel<Kernel, C, A>
[[nodiscard]] Verdict judge(const ShapeProblem<C, A>& problem, Kernel&& kernel, double allowance = 0.0) {
    return detail::judge_outputs(problem, allowance, [&](HeadsView<A> out, MatrixView<A> lse) {
        kernel(problem.q(), problem.cache(), problem.scale, out, lse);
    });
}

template <Storage C, Compute A, class Kernel>
    requires ExpandedKernel<Kernel, C, A>
[[nodiscard]] Verdict judge(const ShapeProblem<C, A>& problem, Kernel&& kernel, double allowance = 0.0) {
    return detail::judge_outputs(problem, allowance, [&](HeadsView<A> out, MatrixView<A> lse) {
        kernel(problem.q(), problem.cache(), problem.expansion(), problem.scale, out, lse);
    });
}

}  // namespace mla::inline MLA_ISA::testing
