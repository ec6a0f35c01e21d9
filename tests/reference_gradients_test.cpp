// The oracle's gradients against central differences of its forward functions, and each form's against the other's.
#include "mla/reference/gradients.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <ostream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mla/reference/reference.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace mla {
namespace {

using reference::AbsorbedGradients;
using reference::Attended;
using reference::AttentionGradients;
using reference::ExpandedGradients;
using reference::Matrix;
using reference::SoftmaxGradients;
using reference::Visible;
using testing::Generator;
using testing::random_matrix;
using testing::sum_tolerance;
using testing::unit_roundoff;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Hand-worked values take fewer than ten roundings on numbers below 8.
constexpr double few_roundings = 10 * 8 * unit_roundoff<double>;

// Problems -----------------------------------------------------------------------------------------------------------

Visible all(Index, Index) {
    return [](Index, Index) { return true; };
}
Visible last_three(Index T, Index L) { return reference::sliding(T, L, 3); }
/// Keys with gaps between them, some behind the query; query 2 sees none.
Visible scattered(Index, Index) {
    return [](Index t, Index s) { return t != 2 && (3 * t + 5 * s) % 4 != 1; };
}

struct Shape {
    Index T, H, L, Dc, Dr, Dn, Dv;
    Visible (*visible)(Index T, Index L) = reference::causal;

    [[nodiscard]] Index queries() const { return T * H; }
    [[nodiscard]] Index kv_b_rows() const { return H * (Dn + Dv); }
};

std::ostream& operator<<(std::ostream& stream, const Shape& s) {
    return stream << "T " << s.T << ", H " << s.H << ", L " << s.L << ", Dc " << s.Dc << ", Dr " << s.Dr << ", Dn " << s.Dn
                  << ", Dv " << s.Dv;
}

// One key, decode, a prompt, a chunk behind a context, queries that see no key, no key at all, no rope, one head; other masks.
const std::vector<Shape> shapes = {{1, 1, 1, 4, 2, 3, 2},
                                   {1, 3, 7, 5, 4, 3, 4},
                                   {4, 2, 4, 3, 2, 5, 3},
                                   {3, 2, 8, 6, 2, 4, 5},
                                   {5, 3, 2, 4, 2, 3, 2},
                                   {2, 2, 0, 4, 2, 3, 2},
                                   {4, 2, 6, 5, 0, 3, 4},
                                   {3, 1, 5, 4, 2, 2, 3},
                                   {4, 2, 9, 4, 2, 3, 3, last_three},
                                   {5, 2, 6, 4, 2, 3, 5, scattered},
                                   {3, 2, 5, 3, 2, 4, 2, all}};

/// Inputs from N(0, 1) of either form, and a loss: Σ d_output·output + Σ d_lse·lse.
struct Problem {
    Shape shape;
    Generator generator{7};
    Matrix q_absorbed = random_matrix(generator, shape.queries(), shape.Dc + shape.Dr);
    Matrix q = random_matrix(generator, shape.queries(), shape.Dn + shape.Dr);
    Matrix rows = random_matrix(generator, shape.L, shape.Dc + shape.Dr);
    Matrix kv_b = random_matrix(generator, shape.kv_b_rows(), shape.Dc);
    std::vector<double> sinks = testing::gaussian_values<double>(generator, shape.H);
    Attended d_latent{random_matrix(generator, shape.queries(), shape.Dc), random_matrix(generator, shape.T, shape.H)};
    Attended d_attended{random_matrix(generator, shape.queries(), shape.Dv), random_matrix(generator, shape.T, shape.H)};
    double absorbed_scale = 0.37;
    Visible visible = shape.visible(shape.T, shape.L);

    Problem(const Shape& s, bool with_sinks, bool with_lse) : shape(s) {
        if (!with_sinks) sinks.clear();
        if (!with_lse) d_latent.lse = d_attended.lse = Matrix();
    }

    [[nodiscard]] Config config() const {
        Config config;
        config.num_attention_heads = shape.H;
        config.kv_lora_rank = shape.Dc;
        config.qk_nope_head_dim = shape.Dn;
        config.qk_rope_head_dim = shape.Dr;
        config.v_head_dim = shape.Dv;
        config.sinks = !sinks.empty();
        return config;
    }
    [[nodiscard]] double expanded_scale() const { return reference::softmax_scale(config()); }

    [[nodiscard]] Attended absorbed() const {
        Attended attended = reference::attend_absorbed(q_absorbed, shape.T, shape.H, rows, shape.Dc, absorbed_scale, visible);
        return sinks.empty() ? attended : reference::with_sinks(std::move(attended), sinks);
    }
    [[nodiscard]] Attended expanded() const {
        AttentionWeights weights;
        weights.kv_b_proj = TensorRef(kv_b.values.data(), kv_b.rows, kv_b.cols);
        if (!sinks.empty()) weights.sinks = TensorRef(sinks.data(), 1, shape.H);
        return reference::attend_expanded_form(config(), weights, q, rows, visible);
    }
    [[nodiscard]] AbsorbedGradients absorbed_gradients() const {
        return reference::absorbed_gradients(q_absorbed, shape.T, shape.H, rows, shape.Dc, absorbed_scale, visible, d_latent,
                                             sinks);
    }
    [[nodiscard]] ExpandedGradients expanded_gradients() const {
        return reference::expanded_gradients(q, shape.T, shape.H, rows, kv_b, expanded_scale(), visible, d_attended, sinks);
    }
};

template <class Test>
void for_each_problem(const Test& test) {
    for (const Shape& shape : shapes)
        for (const bool with_sinks : {false, true})
            for (const bool with_lse : {false, true}) {
                SCOPED_TRACE(::testing::Message() << shape << ", sinks " << with_sinks << ", LSE " << with_lse);
                test(Problem(shape, with_sinks, with_lse));
            }
}

// Central differences ------------------------------------------------------------------------------------------------

/// Σ d_output·output + Σ d_lse·lse, the latter over the rows that see a key: of the others the LSE is constantly −∞.
double loss(const Attended& attended, const Attended& d) {
    double sum = std::inner_product(d.output.values.begin(), d.output.values.end(), attended.output.values.begin(), 0.0);
    for (std::size_t i = 0; i < d.lse.values.size(); ++i)
        if (attended.lse.values[i] != -infinity) sum += d.lse.values[i] * attended.lse.values[i];
    return sum;
}

constexpr double step = 0x1p-16;  // 1.5e-5

// Error of (f(x+h) − f(x−h)) / 2h, relative to the largest gradient of the tensor, or to 1 where all are smaller.
// Truncation is h²/6·f‴. A score is linear in any one input, of slope scale·(an entry of the other factor) ≤ 4 here; f‴ has the
// cube of the slope where the gradient has none, so f‴ ≤ 64 times its size: 3.9e-11·64 = 2.5e-9. Rounding: f sums at most 60
// terms of size 2.5 and random sign, which errs by 2.5·√60·sum_tolerance(60) = 2.1e-14; two of them over 2h are 1.4e-9.
// Together 3.9e-9.
constexpr double difference_tolerance = 4e-9;

template <class Loss>
std::vector<double> central_differences(std::vector<double>& values, const Loss& f) {
    std::vector<double> gradients;
    for (double& value : values) {
        const double kept = value;
        const double above = kept + step;
        const double below = kept - step;
        value = above;
        const double f_above = f();
        value = below;
        const double f_below = f();
        value = kept;
        gradients.push_back((f_above - f_below) / (above - below));  // what the step is after rounding
    }
    return gradients;
}

/// Within `tolerance` of the largest expected gradient, or of 1 where all are smaller; fails where either is not finite.
void expect_near(const std::vector<double>& gradients, const std::vector<double>& expected, double tolerance, const char* of) {
    ASSERT_EQ(gradients.size(), expected.size()) << of;
    double size = 1.0;
    for (const double gradient : expected) size = std::max(size, std::abs(gradient));
    for (std::size_t i = 0; i < gradients.size(); ++i) {
        ASSERT_TRUE(std::isfinite(gradients[i]) && std::isfinite(expected[i])) << of << " " << i;
        EXPECT_NEAR(gradients[i], expected[i], tolerance * size) << of << " " << i;
    }
}

/// `gradients` is what `f` changes by when `inputs`, which it reads, change.
template <class Loss>
void expect_differences(const std::vector<double>& gradients, std::vector<double>& inputs, const Loss& f, const char* of) {
    expect_near(gradients, central_differences(inputs, f), difference_tolerance, of);
}

TEST(ReferenceGradientsTest, AbsorbedGradientsAreCentralDifferences) {
    for_each_problem([](Problem problem) {
        const auto f = [&] { return loss(problem.absorbed(), problem.d_latent); };
        const AbsorbedGradients gradients = problem.absorbed_gradients();
        expect_differences(beside(gradients.d_q_lat, gradients.d_q_pe).values, problem.q_absorbed.values, f, "d_q");
        expect_differences(beside(gradients.d_c, gradients.d_k_pe).values, problem.rows.values, f, "d_rows");
        expect_differences(gradients.d_sinks, problem.sinks, f, "d_sinks");
    });
}

TEST(ReferenceGradientsTest, ExpandedGradientsAreCentralDifferences) {
    for_each_problem([](Problem problem) {
        const auto f = [&] { return loss(problem.expanded(), problem.d_attended); };
        const ExpandedGradients gradients = problem.expanded_gradients();
        expect_differences(gradients.d_q.values, problem.q.values, f, "d_q");
        expect_differences(gradients.d_rows.values, problem.rows.values, f, "d_rows");
        expect_differences(gradients.d_kv_b.values, problem.kv_b.values, f, "d_kv_b");
        expect_differences(gradients.d_sinks, problem.sinks, f, "d_sinks");
    });
}

TEST(ReferenceGradientsTest, GradientsOfGroupedHeadsAreCentralDifferences) {
    // Four query heads on two of keys [6, 2*3] and values [6, 2*2].
    constexpr Index T = 3;
    constexpr Index H = 4;
    constexpr Index G = 2;
    Generator generator(9);
    Matrix q = random_matrix(generator, T * H, 3);
    Matrix k = random_matrix(generator, 6, G * 3);
    Matrix v = random_matrix(generator, 6, G * 2);
    const Attended d_attended{random_matrix(generator, T * H, 2), random_matrix(generator, T, H)};
    const Visible visible = reference::causal(T, 6);
    const auto f = [&] { return loss(reference::attend_masked(q, k, v, T, H, G, 0.6, visible), d_attended); };
    const AttentionGradients gradients = reference::masked_gradients(q, k, v, T, H, G, 0.6, visible, d_attended);
    expect_differences(gradients.d_q.values, q.values, f, "d_q");
    expect_differences(gradients.d_k.values, k.values, f, "d_k");
    expect_differences(gradients.d_v.values, v.values, f, "d_v");
}

// Identities ---------------------------------------------------------------------------------------------------------

/// Sums of fewer than 100 terms, of scores below 16: exp makes the rounding of a score the relative error of a weight.
const double rounding_tolerance = 16 * sum_tolerance<double>(100);

/// Of head h: W_UK [Dn, Dc] and, behind it in kv_b, W_UV [Dv, Dc].
Matrix w_uk(const Problem& p, Index h) { return row_range(p.kv_b, h * (p.shape.Dn + p.shape.Dv), p.shape.Dn); }
Matrix w_uv(const Problem& p, Index h) { return row_range(p.kv_b, h * (p.shape.Dn + p.shape.Dv) + p.shape.Dn, p.shape.Dv); }

/// Makes the absorbed form compute what the expanded form does: q_lat = W_UKᵀ q_nope, d_latent = W_UVᵀ d_output.
void absorb_weights(Problem& p) {
    const auto& [T, H, L, Dc, Dr, Dn, Dv, visible] = p.shape;
    p.absorbed_scale = p.expanded_scale();
    p.d_latent = {Matrix(T * H, Dc), p.d_attended.lse};
    for (Index r = 0; r < T * H; ++r) {
        for (Index j = 0; j < Dc; ++j) p.q_absorbed(r, j) = 0.0;
        for (Index i = 0; i < Dn; ++i)
            for (Index j = 0; j < Dc; ++j) p.q_absorbed(r, j) += w_uk(p, r % H)(i, j) * p.q(r, i);
        for (Index i = 0; i < Dr; ++i) p.q_absorbed(r, Dc + i) = p.q(r, Dn + i);
        for (Index i = 0; i < Dv; ++i)
            for (Index j = 0; j < Dc; ++j) p.d_latent.output(r, j) += w_uv(p, r % H)(i, j) * p.d_attended.output(r, i);
    }
}

/// The expanded form's gradients from the absorbed form's: d_q_nope = W_UK d_q_lat, d_W_UK = Σ_t q_nope d_q_latᵀ and
/// d_W_UV = Σ_t d_output o_latᵀ.
ExpandedGradients through_weights(const Problem& p, const AbsorbedGradients& absorbed) {
    const auto& [T, H, L, Dc, Dr, Dn, Dv, visible] = p.shape;
    const Matrix o_lat = p.absorbed().output;
    Matrix d_q_nope(T * H, Dn);
    Matrix d_kv_b(p.kv_b.rows, Dc);
    for (Index r = 0; r < T * H; ++r) {
        const Index head = r % H * (Dn + Dv);
        for (Index i = 0; i < Dn; ++i) {
            d_q_nope(r, i) = reference::dot(p.kv_b.row(head + i), absorbed.d_q_lat.row(r), Dc);
            for (Index j = 0; j < Dc; ++j) d_kv_b(head + i, j) += p.q(r, i) * absorbed.d_q_lat(r, j);
        }
        for (Index i = 0; i < Dv; ++i)
            for (Index j = 0; j < Dc; ++j) d_kv_b(head + Dn + i, j) += p.d_attended.output(r, i) * o_lat(r, j);
    }
    return {beside(d_q_nope, absorbed.d_q_pe), beside(absorbed.d_c, absorbed.d_k_pe), std::move(d_kv_b), absorbed.d_sinks};
}

TEST(ReferenceGradientsTest, BothFormsAgreeThroughTheChainRule) {
    for_each_problem([](Problem problem) {
        absorb_weights(problem);
        const ExpandedGradients gradients = problem.expanded_gradients();
        const ExpandedGradients expected = through_weights(problem, problem.absorbed_gradients());
        expect_near(gradients.d_q.values, expected.d_q.values, rounding_tolerance, "d_q");
        expect_near(gradients.d_rows.values, expected.d_rows.values, rounding_tolerance, "d_rows");
        expect_near(gradients.d_kv_b.values, expected.d_kv_b.values, rounding_tolerance, "d_kv_b");
        expect_near(gradients.d_sinks, expected.d_sinks, rounding_tolerance, "d_sinks");
    });
}

/// The rows of `matrix` in another order.
Matrix permuted(const Matrix& matrix, const std::vector<Index>& order) {
    Matrix result(0, matrix.cols);
    for (const Index row : order) append_rows(result, row_range(matrix, row, 1));
    return result;
}

TEST(ReferenceGradientsTest, KeysThatAllQueriesSeeTakeTheirGradientsWithThem) {
    const std::vector<Index> order{3, 0, 4, 1, 2};
    Problem problem({3, 2, 5, 3, 2, 4, 2, all}, true, true);
    const AbsorbedGradients absorbed = problem.absorbed_gradients();
    const ExpandedGradients expanded = problem.expanded_gradients();
    problem.rows = permuted(problem.rows, order);
    const AbsorbedGradients moved = problem.absorbed_gradients();
    expect_near(moved.d_c.values, permuted(absorbed.d_c, order).values, rounding_tolerance, "d_c");
    expect_near(moved.d_k_pe.values, permuted(absorbed.d_k_pe, order).values, rounding_tolerance, "d_k_pe");
    expect_near(moved.d_q_lat.values, absorbed.d_q_lat.values, rounding_tolerance, "d_q_lat");
    const Matrix d_rows = permuted(expanded.d_rows, order);
    expect_near(problem.expanded_gradients().d_rows.values, d_rows.values, rounding_tolerance, "expanded d_rows");
    expect_near(problem.expanded_gradients().d_kv_b.values, expanded.d_kv_b.values, rounding_tolerance, "d_kv_b");
}

// Rows ---------------------------------------------------------------------------------------------------------------

TEST(ReferenceGradientsTest, HandWorkedRow) {
    // q = (1, 1), c = (4, 8), scale ½, k_pe such that the scores are 0 and ln 3: p = (¼, ¾). d_output = 1 gives d_p = c, D = 7
    // and d_score = ¼·(4 − 7), ¾·(8 − 7) = ∓¾.
    const double x = std::log(3.0);
    const Matrix rows(2, 2, {4, -4, 8, 2 * x - 8});
    const AbsorbedGradients gradients =
        reference::absorbed_gradients(Matrix(1, 2, {1, 1}), 1, 1, rows, 1, 0.5, all(1, 2), {Matrix(1, 1, {1}), {}});
    EXPECT_NEAR(gradients.d_q_lat(0, 0), 0.5 * 0.75 * (8 - 4), few_roundings);
    EXPECT_NEAR(gradients.d_q_pe(0, 0), 0.5 * 0.75 * (2 * x - 8 + 4), few_roundings);
    EXPECT_NEAR(gradients.d_c(0, 0), 0.25 - 0.5 * 0.75, few_roundings);
    EXPECT_NEAR(gradients.d_c(1, 0), 0.75 + 0.5 * 0.75, few_roundings);
    EXPECT_NEAR(gradients.d_k_pe(0, 0), -0.5 * 0.75, few_roundings);
    EXPECT_NEAR(gradients.d_k_pe(1, 0), 0.5 * 0.75, few_roundings);
    EXPECT_TRUE(gradients.d_sinks.empty());
}

TEST(ReferenceGradientsTest, HandWorkedSinkAndLse) {
    // p = (¼, ¾); a sink that weighs as much as both keys halves it. D = 4/8 + 3·8/8 = 3½.
    const SoftmaxGradients row = reference::softmax_gradients({0.0, std::log(3.0)}, std::log(4.0), {4, 8}, 2.0);
    EXPECT_NEAR(row.weights[0], 1 / 8.0, few_roundings);
    EXPECT_NEAR(row.weights[1], 3 / 8.0, few_roundings);
    EXPECT_NEAR(row.d_scores[0], 1 / 8.0 * 0.5 + 2 / 4.0, few_roundings);
    EXPECT_NEAR(row.d_scores[1], 3 / 8.0 * 4.5 + 2 * 3 / 4.0, few_roundings);
    EXPECT_NEAR(row.d_sink, -3.5 / 2, few_roundings);
}

TEST(ReferenceGradientsTest, ScoreGradientsOfARowSumToThatOfItsLse) {
    // A constant added to every score and to the sink changes no weight, and the LSE by as much.
    Generator generator(8);
    for (const Index n : {1, 2, 17, 90})
        for (const double sink : {-infinity, 0.3, 40.0})
            for (const double d_lse : {0.0, 1.7}) {
                const std::vector<double> scores = testing::gaussian_values<double>(generator, n, 3.0);
                const std::vector<double> d_weights = testing::gaussian_values<double>(generator, n);
                const SoftmaxGradients row = reference::softmax_gradients(scores, sink, d_weights, d_lse);
                const double sum = std::accumulate(row.d_scores.begin(), row.d_scores.end(), row.d_sink);
                EXPECT_NEAR(sum, d_lse, rounding_tolerance) << n << " keys, sink " << sink;
            }
}

TEST(ReferenceGradientsTest, EqualValuesGiveScoresNoGradient) {
    const std::vector<double> d_weights(5, 2.5);
    for (const double d : reference::softmax_gradients({0, 1, -3, 2, 0.5}, -infinity, d_weights, 0.0).d_scores)
        EXPECT_NEAR(d, 0.0, few_roundings);
}

TEST(ReferenceGradientsTest, LargeScoresAndSinksDoNotOverflow) {
    for (const double offset : {1e4, -1e4}) {
        const auto gradients = [&](double sink) {
            return reference::softmax_gradients({offset, offset + std::log(3.0)}, sink, {4, 8}, 0.0);
        };
        // offset + ln 3 is rounded by 1e4·u, which enters the probabilities
        const double tolerance = 8 * 1e4 * unit_roundoff<double>;
        EXPECT_NEAR(gradients(-infinity).d_scores[0], -0.75, tolerance);
        EXPECT_NEAR(gradients(offset - 2e4).d_scores[1], 0.75, tolerance);
        EXPECT_EQ(gradients(offset + 2e4).d_scores, (std::vector<double>{0, 0}));
        EXPECT_EQ(gradients(offset + 2e4).d_sink, 0.0);
    }
}

TEST(ReferenceGradientsTest, RowsWithoutAVisibleKeyGiveZeroWhateverComesBackToThem) {
    for (const Index L : {0, 2}) {
        const Shape shape{5, 3, L, 4, 2, 3, 2};
        Problem problem(shape, true, true);
        const AbsorbedGradients clean = problem.absorbed_gradients();
        const Index unseeing = (shape.T - L) * shape.H;
        std::fill_n(problem.d_latent.output.values.begin(), unseeing * shape.Dc, not_a_number);
        std::fill_n(problem.d_latent.lse.values.begin(), unseeing, not_a_number);
        const AbsorbedGradients gradients = problem.absorbed_gradients();
        for (Index r = 0; r < shape.queries(); ++r) {
            const double* d_q_lat = gradients.d_q_lat.row(r);
            EXPECT_EQ(std::all_of(d_q_lat, d_q_lat + shape.Dc, [](double d) { return d == 0.0; }), r < unseeing) << r;
        }
        EXPECT_EQ(gradients.d_q_pe.values, clean.d_q_pe.values);
        EXPECT_EQ(gradients.d_c.values, clean.d_c.values);
        EXPECT_EQ(gradients.d_k_pe.values, clean.d_k_pe.values);
        EXPECT_EQ(gradients.d_sinks, clean.d_sinks);
    }
}

TEST(ReferenceGradientsTest, GradientsOfAnotherShapeAreRefused) {
    Problem problem(shapes[2], true, true);
    const Problem other(shapes[3], true, true);
    problem.d_latent.output = other.d_latent.output;
    EXPECT_THROW(static_cast<void>(problem.absorbed_gradients()), std::invalid_argument);
    problem.d_attended.lse = other.d_attended.lse;
    EXPECT_THROW(static_cast<void>(problem.expanded_gradients()), std::invalid_argument);
    problem = other;
    problem.sinks.push_back(0.0);
    EXPECT_THROW(static_cast<void>(problem.absorbed_gradients()), std::invalid_argument);
    problem = other;
    problem.kv_b = Matrix(problem.kv_b.rows + 1, problem.kv_b.cols);
    EXPECT_THROW(static_cast<void>(problem.expanded_gradients()), std::invalid_argument);
}

}  // namespace
}  // namespace mla
