// RMSNorm, RoPE and the softmax state against the fp64 reference and against identities of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "mla/math/rms_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/math/softmax_state.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace {

using mla::Compute;
using mla::Index;
using mla::LongRope;
using mla::MatrixView;
using mla::Rope;
using mla::RopePairing;
using mla::RotaryEmbedding;
using mla::SoftmaxState;
using mla::Yarn;
using mla::reference::Matrix;
using mla::testing::gaussian_values;
using mla::testing::Generator;
using mla::testing::unit_roundoff;
using mla::testing::widened;

template <class A>
constexpr A infinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A not_a_number = std::numeric_limits<A>::quiet_NaN();

template <class A>
class MathTest : public ::testing::Test {};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(MathTest, ComputeTypes, );

// RMSNorm -------------------------------------------------------------------------------------------------------------

/// Relative error of an element. Half of that of the mean square reaches the root: half a rounding of the squares, and
/// sqrt(n)/6 of the sum (partial sums of equal signs grow as k and each addition errs by u/√3 of its own: u·sqrt(Σk²/3)
/// of n, which is u·sqrt(n)/3); of that the triple, three standard deviations. Then the scale is rounded, and two products.
/// In double the reference errs as much.
template <Compute A>
double norm_tolerance(Index n) {
    const double one_side = unit_roundoff<A> * (3.5 + std::sqrt(static_cast<double>(n)) / 2.0);
    return std::is_same_v<A, double> ? 2.0 * one_side : one_side;
}

template <Compute A>
void expect_norm(Index rows, Index dim, double eps, double multiplier, double size) {
    const Index stride = dim + 3;
    Generator generator(static_cast<std::uint64_t>(dim));
    const auto weight = gaussian_values<A>(generator, dim, 0.1, 1.0);
    const auto before = gaussian_values<A>(generator, rows * stride, size);
    std::vector<A> x = before;
    mla::rms_norm(MatrixView<A>(x.data(), rows, dim, stride), weight.data(), eps, multiplier);

    Matrix expected = mla::reference::columns(widened(before, rows, stride), 0, dim);
    mla::reference::rms_norm(expected, widened(weight, 1, dim), eps);
    for (Index r = 0; r < rows; ++r)
        for (Index i = 0; i < stride; ++i) {
            const auto slot = static_cast<std::size_t>(r * stride + i);
            if (i >= dim) {
                ASSERT_EQ(x[slot], before[slot]) << "between rows";
                continue;
            }
            const double reference = expected(r, i) * multiplier;
            const double error = std::abs(static_cast<double>(x[slot]) - reference);
            ASSERT_TRUE(error <= norm_tolerance<A>(dim) * std::abs(reference)) << error / std::abs(reference) << " at " << dim;
        }
}

TYPED_TEST(MathTest, RmsNormMatchesTheReferenceAtEveryLength) {
    for (Index dim = 1; dim <= 70; ++dim) expect_norm<TypeParam>(3, dim, 1e-6, 1.0, 1.0);
    for (const Index dim : {512, 768, 1536, 7168}) expect_norm<TypeParam>(2, dim, 1e-6, 1.0, 1.0);
    expect_norm<TypeParam>(0, 5, 1e-6, 1.0, 1.0);
}

TYPED_TEST(MathTest, RmsNormAddsEpsAndMultiplies) {
    for (const double eps : {0.0, 1e-6, 1e-5})
        for (const double size : {1e-4, 1.0, 1e4})  // at 1e-4 eps is as large as the mean square and more
            for (const double multiplier : {1.0, 2.6457513110645907, 0.1}) expect_norm<TypeParam>(2, 37, eps, multiplier, size);
}

TYPED_TEST(MathTest, RmsNormKeepsZerosAndKeepsANanInItsRow) {
    std::vector<TypeParam> x(3 * 20, TypeParam(0));
    x[20] = not_a_number<TypeParam>;
    x[59] = TypeParam(2);
    const std::vector<TypeParam> weight(20, TypeParam(1));
    mla::rms_norm(MatrixView<TypeParam>(x.data(), 3, 20), weight.data(), 1e-6);
    for (std::size_t i = 0; i < 20; ++i) {
        EXPECT_EQ(x[i], TypeParam(0));
        EXPECT_TRUE(std::isnan(x[20 + i]));
        EXPECT_FALSE(std::isnan(x[40 + i]));
    }
}

// RoPE ----------------------------------------------------------------------------------------------------------------

struct NamedRope {
    std::string name;
    Rope rope;
    Index dim;
};

/// Both pairings with each scaling, at dimensions from none to that of the published models.
std::vector<NamedRope> ropes() {
    Yarn deepseek;
    deepseek.factor = 40.0;
    deepseek.mscale = 1.3;
    deepseek.mscale_all_dim = 0.707;
    Yarn plain = deepseek;
    plain.mscale.reset();
    plain.truncate = false;
    Yarn kimi = deepseek;
    kimi.beta_fast = 1.0;
    kimi.attention_factor = 0.9;
    std::vector<NamedRope> ropes;
    for (const RopePairing pairing : {RopePairing::interleaved, RopePairing::half_split})
        for (const Index dim : {0, 2, 10, 64}) {
            LongRope longrope{{}, 1.19};
            for (Index i = 0; i < dim / 2; ++i) longrope.factors.push_back(1.0 + 0.7 * static_cast<double>(i));
            const std::string suffix = std::string(mla::name(pairing)) + ", " + std::to_string(dim);
            ropes.push_back({"none, " + suffix, {10000.0, pairing, {}}, dim});
            ropes.push_back({"yarn with two mscales, " + suffix, {10000.0, pairing, deepseek}, dim});
            ropes.push_back({"yarn without truncation, " + suffix, {1e7, pairing, plain}, dim});
            ropes.push_back({"yarn with equal betas, " + suffix, {50000.0, pairing, kimi}, dim});
            ropes.push_back({"longrope, " + suffix, {10000.0, pairing, longrope}, dim});
        }
    return ropes;
}

constexpr std::int64_t positions[] = {0, 1, 2, 77, 4095, 4096, 1000000, std::int64_t{1} << 40};

/// Error of cos and sin in double: the angle, position·frequency, inherits a few roundings of the frequency and has one
/// of its own; cos, sin and the magnitude add one each.
double angle_tolerance(std::int64_t position, double frequency) {
    return unit_roundoff<double> * (8.0 * static_cast<double>(position) * frequency + 4.0);
}

TEST(RopeTest, FrequenciesAreThoseOfTheReference) {
    for (const NamedRope& named : ropes()) {
        const RotaryEmbedding embedding(named.rope, named.dim);
        const std::vector<double> expected = mla::reference::inverse_frequencies(named.rope, named.dim);
        EXPECT_EQ(embedding.dim(), named.dim);
        ASSERT_EQ(embedding.frequencies().size(), expected.size()) << named.name;
        for (std::size_t i = 0; i < expected.size(); ++i)
            EXPECT_NEAR(embedding.frequencies()[i] / expected[i], 1.0, 8 * unit_roundoff<double>) << named.name;
    }
}

TYPED_TEST(MathTest, RopeTurnsAsTheReferenceAtEveryPosition) {
    using A = TypeParam;
    Generator generator(2);
    for (const NamedRope& named : ropes()) {
        const RotaryEmbedding embedding(named.rope, named.dim);
        const std::vector<double> frequencies = mla::reference::inverse_frequencies(named.rope, named.dim);
        const auto vector = gaussian_values<A>(generator, named.dim);
        for (const std::int64_t position : positions) {
            std::vector<A> table(vector.size());
            std::vector<A> turned = vector;
            embedding.angles(position, table.data());
            embedding.rotate(table.data(), turned.data());
            Matrix expected = widened(vector, 1, named.dim);
            mla::reference::rotate(named.rope, named.dim, position, expected.row(0));

            double size = 0.0;
            for (const A value : vector) size = std::max(size, 2.0 * std::abs(static_cast<double>(value)));
            size *= mla::reference::rope_magnitude(named.rope);
            for (std::size_t i = 0; i < turned.size(); ++i) {
                const bool interleaved = named.rope.pairing == RopePairing::interleaved;
                const double frequency = frequencies[interleaved ? i / 2 : i % frequencies.size()];
                // In A the table is rounded, then a product each and the sum: three roundings of what is below |x| + |y|.
                const double tolerance = size * (3.0 * unit_roundoff<A> + 2.0 * angle_tolerance(position, frequency));
                const double error = std::abs(static_cast<double>(turned[i]) - expected.values[i]);
                ASSERT_TRUE(error <= tolerance) << named.name << ", position " << position << ", dim " << i;
            }
        }
    }
}

TEST(RopeTest, AnglesAreRightToDoublePrecisionHoweverFar) {
    // The same angles in long double, where that is more: only the rounding of the product position·frequency remains.
    const RotaryEmbedding embedding(Rope{}, 64);
    for (const std::int64_t position : positions) {
        std::vector<double> table(64);
        embedding.angles(position, table.data());
        for (std::size_t i = 0; i < 32; ++i) {
            const long double angle = static_cast<long double>(position) * static_cast<long double>(embedding.frequencies()[i]);
            const double tolerance = unit_roundoff<double> * (static_cast<double>(angle) + 2.0);
            EXPECT_NEAR(table[i], static_cast<double>(std::cos(angle)), tolerance) << position << ", pair " << i;
            EXPECT_NEAR(table[32 + i], static_cast<double>(std::sin(angle)), tolerance) << position << ", pair " << i;
        }
    }
}

TYPED_TEST(MathTest, RopeScoresDependOnTheRelativePositionOnly) {
    using A = TypeParam;
    constexpr Index dim = 64;
    Generator generator(3);
    for (const NamedRope& named : ropes()) {
        if (named.dim != dim) continue;
        const RotaryEmbedding embedding(named.rope, dim);
        const auto q = gaussian_values<A>(generator, dim);
        const auto k = gaussian_values<A>(generator, dim);
        const auto turned = [&](std::vector<A> vector, std::int64_t position) {
            std::vector<A> table(dim);
            embedding.angles(position, table.data());
            embedding.rotate(table.data(), vector.data());
            return widened(vector, 1, dim);
        };
        const auto score = [&](std::int64_t q_position, std::int64_t k_position) {
            return mla::reference::dot(turned(q, q_position).row(0), turned(k, k_position).row(0), dim);
        };
        const Matrix wide_q = widened(q, 1, dim);
        const Matrix wide_k = widened(k, 1, dim);
        const double norms = std::sqrt(mla::reference::dot(wide_q.row(0), wide_q.row(0), dim) *
                                       mla::reference::dot(wide_k.row(0), wide_k.row(0), dim));
        const double size = norms * std::pow(mla::reference::rope_magnitude(named.rope), 2);
        for (const std::int64_t shift : {std::int64_t{1}, std::int64_t{77}, std::int64_t{1000000}, std::int64_t{1} << 40}) {
            // Each of four turned vectors errs by three roundings in A and by the rounding of its angle; no frequency passes 1.
            const double angle_error = unit_roundoff<double> * static_cast<double>(shift + 23);
            const double tolerance = 4.0 * size * (3.0 * unit_roundoff<A> + angle_error);
            EXPECT_NEAR(score(23 + shift, 4 + shift), score(23, 4), tolerance) << named.name << ", shift " << shift;
        }
        EXPECT_GT(std::abs(score(24, 4) - score(23, 4)), 1e-3 * size) << named.name << ": the position is ignored";
    }
}

// Softmax state ---------------------------------------------------------------------------------------------------------

template <class A>
SoftmaxState<A> state_of(const std::vector<A>& scores) {
    SoftmaxState<A> state;
    for (const A score : scores) state.max = std::max(state.max, score);
    for (const A score : scores) state.sum += std::exp2(score - state.max);
    return state;
}

TYPED_TEST(MathTest, TheEmptyStateIsNeutral) {
    using A = TypeParam;
    const SoftmaxState<A> empty;
    const SoftmaxState<A> some{A(-3), A(1.75)};
    for (const auto& merged : {merge(empty, some), merge(some, empty)}) {
        EXPECT_EQ(merged.max, some.max);
        EXPECT_EQ(merged.sum, some.sum);
    }
    const auto nothing = merge(empty, empty);
    EXPECT_EQ(nothing.max, -infinity<A>);
    EXPECT_EQ(nothing.sum, A(0));
    EXPECT_EQ(nothing.lse(), -infinity<A>);
    EXPECT_EQ(empty.weight(-infinity<A>), A(0));
    EXPECT_EQ(empty.weight(A(0)), A(0));
}

TYPED_TEST(MathTest, PartsMergeToTheWholeInAnyOrderAtAnyOffset) {
    using A = TypeParam;
    Generator generator(4);
    for (const double offset : {0.0, 1e4, -1e4}) {
        const auto scores = gaussian_values<A>(generator, 60, 3.0, offset);
        const auto whole = state_of(std::vector<double>(scores.begin(), scores.end()));
        std::vector<SoftmaxState<A>> parts;
        for (std::size_t begin = 0; begin < scores.size(); begin += 7)
            parts.push_back(state_of(std::vector<A>(scores.begin() + static_cast<Index>(begin),
                                                    scores.begin() + static_cast<Index>(std::min(begin + 7, scores.size())))));
        parts.insert(parts.begin() + 3, SoftmaxState<A>{});
        for (int order = 0; order < 20; ++order) {
            SoftmaxState<A> merged;
            for (const auto& part : parts) merged = order % 2 == 0 ? merge(merged, part) : merge(part, merged);
            EXPECT_EQ(static_cast<double>(merged.max), whole.max);
            // 60 terms of equal sign: at most one rounding a term and three a merge (difference, exp, product), 10 of them.
            // Scores near 1e4 are exact here, and so are their differences: the offset costs nothing.
            EXPECT_NEAR(static_cast<double>(merged.sum) / whole.sum, 1.0, (60 + 30) * unit_roundoff<A>) << offset;
            EXPECT_NEAR(static_cast<double>(merged.lse()), whole.lse(),
                        (60 + 30 + std::abs(offset)) * unit_roundoff<A> + std::abs(whole.lse()) * unit_roundoff<A>);
            std::shuffle(parts.begin(), parts.end(), generator);
        }
    }
}

TYPED_TEST(MathTest, AStateFarBelowAddsNothing) {
    using A = TypeParam;
    const SoftmaxState<A> high{A(1e4), A(3)};
    const SoftmaxState<A> low{A(-1e4), A(5)};
    for (const auto& merged : {merge(high, low), merge(low, high)}) {
        EXPECT_EQ(merged.max, high.max);
        EXPECT_EQ(merged.sum, high.sum);
    }
}

TYPED_TEST(MathTest, ANanOnEitherSideStays) {
    using A = TypeParam;
    const SoftmaxState<A> nan_states[] = {{not_a_number<A>, A(1)}, {A(0), not_a_number<A>}, {not_a_number<A>, not_a_number<A>}};
    for (const auto& nan_state : nan_states)
        for (const auto& other : {SoftmaxState<A>{}, SoftmaxState<A>{A(1), A(2)}, SoftmaxState<A>{A(-1), A(2)}, nan_state}) {
            EXPECT_TRUE(std::isnan(merge(nan_state, other).lse())) << other.max;
            EXPECT_TRUE(std::isnan(merge(other, nan_state).lse())) << other.max;
        }
}

// Merging outputs -------------------------------------------------------------------------------------------------------

/// Partial results of attention, outputs in rows that lie apart.
template <Compute A>
struct Partial {
    static constexpr Index gap = 2;
    Index rows;
    Index dim;
    std::vector<A> output;  // [rows, dim] in rows of dim + gap
    std::vector<A> lse;     // [rows]

    Partial(Index row_count, Index row_dim, A fill = A(0))
        : rows(row_count),
          dim(row_dim),
          output(static_cast<std::size_t>(rows * (dim + gap)), fill),
          lse(static_cast<std::size_t>(rows)) {}

    explicit Partial(const mla::reference::Attended& attended) : Partial(attended.output.rows, attended.output.cols) {
        for (Index r = 0; r < rows; ++r) {
            lse[static_cast<std::size_t>(r)] = static_cast<A>(attended.lse.values[static_cast<std::size_t>(r)]);
            for (Index c = 0; c < dim; ++c) view()(r, c) = static_cast<A>(attended.output(r, c));
        }
    }

    [[nodiscard]] MatrixView<A> view() { return {output.data(), rows, dim, dim + gap}; }

    /// The same in double, as the reference has it.
    [[nodiscard]] mla::reference::Attended widen() {
        mla::reference::Attended attended{Matrix(rows, dim), widened(lse, 1, rows)};
        for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < dim; ++c) attended.output(r, c) = static_cast<double>(view()(r, c));
        return attended;
    }
};

/// Rows that see no key on either side, on one side, or on none, at LSEs near `offset`.
template <Compute A>
Partial<A> random_partial(Generator& generator, double offset, Index empty_below, Index empty_from) {
    Partial<A> partial(12, 19);
    partial.output = gaussian_values<A>(generator, static_cast<Index>(partial.output.size()));
    partial.lse = gaussian_values<A>(generator, partial.rows, 2.0, offset);
    for (Index r = 0; r < partial.rows; ++r) {
        if (r >= empty_below && r < empty_from) continue;
        partial.lse[static_cast<std::size_t>(r)] = -infinity<A>;
        for (Index c = 0; c < partial.dim; ++c) partial.view()(r, c) = A(0);
    }
    return partial;
}

template <Compute A>
void expect_merge_of_reference(Partial<A> mine, Partial<A> theirs) {
    const mla::reference::Attended expected = mla::reference::merge(mine.widen(), theirs.widen());
    const std::vector<A> before = mine.output;
    merge(mine.view(), mine.lse.data(), MatrixView<const A>(theirs.view()), theirs.lse.data());
    const mla::reference::Attended merged = mine.widen();
    for (Index r = 0; r < mine.rows; ++r) {
        const double lse = expected.lse(0, r);
        // One rounding of the result, which may be large, and a few of weights between 0 and 1 and of their sum.
        const bool as_close = std::abs(merged.lse(0, r) - lse) <= unit_roundoff<A> * (std::abs(lse) + 8);
        EXPECT_TRUE(merged.lse(0, r) == lse || as_close) << merged.lse(0, r) << ", must be " << lse;
        for (Index c = 0; c < mine.dim; ++c) {
            // A weight exp(−d) whose d is rounded errs by d·exp(−d) < 0.4; with exp, sum, quotient and two products fewer
            // than 8 roundings of values below the larger of the two, which random numbers keep below 5.
            const double error = std::abs(merged.output(r, c) - expected.output(r, c));
            EXPECT_TRUE(error <= 8 * 5 * unit_roundoff<A>) << error << " in row " << r << ", LSE " << lse;
        }
        for (Index slot = r * (mine.dim + mine.gap) + mine.dim; slot < (r + 1) * (mine.dim + mine.gap); ++slot)
            EXPECT_EQ(mine.output[static_cast<std::size_t>(slot)], before[static_cast<std::size_t>(slot)]) << "between rows";
    }
}

TYPED_TEST(MathTest, MergedOutputsAreThoseOfTheReferenceWithEmptyRowsOnEitherSide) {
    Generator generator(5);
    for (const double offset : {0.0, 1e4, -1e4})
        for (const double other_offset : {0.0, 1e4, -1e4, offset + 0.5}) {
            const auto first = random_partial<TypeParam>(generator, offset, 4, 12);         // rows 0 … 3 saw nothing,
            const auto second = random_partial<TypeParam>(generator, other_offset, 2, 10);  // here 0, 1, 10 and 11
            expect_merge_of_reference(first, second);
            expect_merge_of_reference(second, first);
        }
}

TYPED_TEST(MathTest, RowsThatSawNoKeyOnEitherSideStayZeroAndMinusInfinity) {
    using A = TypeParam;
    Partial<A> mine(2, 3);
    mine.lse = {-infinity<A>, -infinity<A>};
    Partial<A> theirs = mine;
    merge(mine.view(), mine.lse.data(), MatrixView<const A>(theirs.view()), theirs.lse.data());
    EXPECT_EQ(mine.lse, theirs.lse);
    EXPECT_EQ(mine.output, theirs.output);
}

TYPED_TEST(MathTest, WhatAnEmptyPartHoldsIsNotReadHoweverItIsMarked) {
    using A = TypeParam;
    Generator generator(7);
    for (const A mark : {-infinity<A>, infinity<A>})
        for (const A garbage : {not_a_number<A>, infinity<A>, A(3)}) {
            Partial<A> empty(2, 3);
            empty.lse = {mark, mark};
            for (Index r = 0; r < 2; ++r)
                for (Index c = 0; c < 3; ++c) empty.view()(r, c) = garbage;
            const auto full = random_partial<A>(generator, 0.0, 0, 12);
            Partial<A> seen(2, 3);
            for (Index r = 0; r < 2; ++r) {
                seen.lse[static_cast<std::size_t>(r)] = full.lse[static_cast<std::size_t>(r)];
                for (Index c = 0; c < 3; ++c) seen.view()(r, c) = full.output[static_cast<std::size_t>(3 * r + c)];
            }
            for (const bool in_mine : {true, false}) {
                Partial<A> mine = in_mine ? empty : seen;
                Partial<A> theirs = in_mine ? seen : empty;
                expect_merge_of_reference(mine, theirs);
                merge(mine.view(), mine.lse.data(), MatrixView<const A>(theirs.view()), theirs.lse.data());
                EXPECT_EQ(mine.lse, seen.lse);
                EXPECT_EQ(mine.widen().output.values, seen.widen().output.values) << mark << ' ' << garbage;
            }
            Partial<A> nothing = empty;
            merge(nothing.view(), nothing.lse.data(), MatrixView<const A>(empty.view()), empty.lse.data());
            EXPECT_EQ(nothing.lse, (std::vector<A>{-infinity<A>, -infinity<A>}));
            EXPECT_EQ(nothing.widen().output.values, std::vector<double>(6, 0.0)) << mark << ' ' << garbage;
        }
}

TYPED_TEST(MathTest, AttentionOverTwoSetsOfKeysMergesToAttentionOverAll) {
    using A = TypeParam;
    constexpr Index H = 5;
    constexpr Index L = 23;
    constexpr Index D = 8;
    Generator generator(6);
    const Matrix q = widened(gaussian_values<double>(generator, H * D), H, D);
    const auto keys = gaussian_values<double>(generator, L * D);
    const auto attend = [&](Index begin, Index end) {
        const std::vector<double> part(keys.begin() + begin * D, keys.begin() + end * D);
        return mla::reference::attend_multi_head(q, Matrix(end - begin, D, part), Matrix(end - begin, D, part), 1, H, 1, 1.0);
    };
    const auto whole = attend(0, L);
    for (const Index split : {Index{0}, Index{1}, Index{9}, L - 1, L}) {
        Partial<A> first(attend(0, split));
        Partial<A> second(attend(split, L));
        merge(first.view(), first.lse.data(), MatrixView<const A>(second.view()), second.lse.data());
        const auto merged = first.widen();
        for (Index h = 0; h < H; ++h) {
            // As above, and both LSEs (below 16 here) were rounded before: that enters the weights.
            const double tolerance = (2 * 16 + 8) * unit_roundoff<A>;
            ASSERT_LT(std::abs(whole.lse(0, h)), 16.0);
            EXPECT_TRUE(std::abs(merged.lse(0, h) - whole.lse(0, h)) <= tolerance) << "split at " << split;
            for (Index c = 0; c < D; ++c)
                EXPECT_TRUE(std::abs(merged.output(h, c) - whole.output(h, c)) <= 5 * tolerance) << "split at " << split;
        }
    }
}

TYPED_TEST(MathTest, ANanLseReachesItsOwnRowOnly) {
    using A = TypeParam;
    for (const bool in_mine : {true, false}) {
        Partial<A> mine(3, 4, A(1));
        Partial<A> theirs(3, 4, A(2));
        (in_mine ? mine : theirs).lse[1] = not_a_number<A>;
        merge(mine.view(), mine.lse.data(), MatrixView<const A>(theirs.view()), theirs.lse.data());
        for (Index r = 0; r < 3; ++r) {
            EXPECT_EQ(std::isnan(mine.lse[static_cast<std::size_t>(r)]), r == 1);
            for (Index c = 0; c < 4; ++c) EXPECT_EQ(std::isnan(mine.view()(r, c)), r == 1);
        }
        EXPECT_EQ(mine.view()(0, 0), A(1.5));  // equal LSEs weigh half
    }
}

}  // namespace
