// The numerical contract on every target: the same values enter products, whatever the machine, the division of the work and the
// calling thread's floating-point mode; only sums of floats may differ in their last bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "mla/attention.hpp"
#include "mla/cache/latent_cache.hpp"
#include "mla/core/target_report.hpp"
#include "mla/testing/shape_problems.hpp"
#include "support/attention_result.hpp"
#include "support/kernels.hpp"
#include "support/layer.hpp"
#include "support/stored_rows.hpp"
#include "support/targets.hpp"
#include "support/thrown.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::AttentionShape;
using testing::OnTarget;

/// Few rows, one vector of rows, panels, several groups; whole vectors and odd dimensions; fewer keys than queries.
const std::vector<AttentionShape> shapes = {{1, 1, 300, 64, 16}, {2, 2, 130, 48, 8},  {1, 16, 200, 128, 64}, {3, 5, 97, 33, 7},
                                            {1, 40, 250, 64, 0}, {4, 24, 110, 80, 8}, {5, 3, 2, 32, 8}};

/// A float's sums over `length` terms on two targets, each within its tolerance of the exact one.
[[nodiscard]] double float_gap(Index length) { return 2.0 * testing::sum_tolerance<float>(length); }

/// What a gap between floats grows to where they are rounded by u of themselves at most: of two that differ by e of themselves,
/// one in u/e lies so near a boundary that they round apart, by 2u at most. Root mean square: 2·√(e·u).
[[nodiscard]] double rounded_gap(double gap, double u = testing::unit_roundoff<bf16>) { return 2.0 * std::sqrt(gap * u); }

/// What probabilities over a cache of C are rounded by: to bf16, to integers of 15 bits, or not.
template <class C>
inline constexpr double rounding = std::is_same_v<C, bf16> || is_fp8<C> ? testing::unit_roundoff<bf16>
                                   : std::is_same_v<C, int8>            ? 0x1p-16
                                                                        : 0.0;

/// How far two targets, or two divisions of the work, may lie apart over a cache of C.
template <class C>
[[nodiscard]] double allowed_gap(Index length, Precision precision) {
    if (precision == Precision::full) return float_gap(length);
    return float_gap(length) + rounded_gap(float_gap(length), rounding<C>);
}

template <CacheElement C>
[[nodiscard]] AttentionResult<float> attend(const std::vector<float>& queries, const AttentionShape& s,
                                            const LatentView<C>& cache, Precision precision, const SplitPlan& plan) {
    AttentionResult<float> result{s.T, s.H, s.Dc};
    Workspace workspace;
    decode_absorbed(HeadsView<const float>(queries.data(), s.T, s.H, s.Dc + s.Dr), cache, 0.2F, result.out_view(),
                    result.lse_view(), workspace, SerialExecutor{}, plan, precision);
    return result;
}
template <CacheElement C>
[[nodiscard]] AttentionResult<float> attend(const std::vector<float>& queries, const AttentionShape& s,
                                            const LatentView<C>& cache, Precision precision) {
    return attend(queries, s, cache, precision, plan_absorbed(s.T, s.H, cache.length));
}

[[nodiscard]] std::vector<double> widened(const std::vector<float>& values) { return {values.begin(), values.end()}; }

template <class C>
class EveryFormat : public ::testing::Test {};
using Formats = TestTypes<Without<double, CacheTypes>>;
TYPED_TEST_SUITE(EveryFormat, Formats, );

TYPED_TEST(EveryFormat, GivesTheSameOnEveryTarget) {
    for (const AttentionShape& s : shapes) {
        testing::Generator generator(3);
        const auto queries = testing::gaussian_values<float>(generator, s.T * s.H * (s.Dc + s.Dr));
        const StoredRows<TypeParam> rows(s.L, s.Dc, s.Dr, 5);
        for (const Precision precision : {Precision::operand, Precision::full}) {
            std::vector<double> expected;
            for (const std::string& name : testing::runnable_targets()) {
                const OnTarget target(name);
                const auto result = attend(queries, s, rows.view(), precision);
                if (expected.empty()) expected = widened(result.out);
                const auto error = testing::compare(result.out, expected);
                EXPECT_TRUE(testing::within(error, allowed_gap<TypeParam>(s.Dc + s.Dr + s.L, precision)))
                    << name << ", " << mla::name(precision) << ", " << s << ": " << error;
            }
        }
    }
}

/// Every query by itself, over the keys that it sees, against all in one call.
TYPED_TEST(EveryFormat, GivesAQueryTheSameInACallOfManyAndInOneOfItsOwn) {
    for (const AttentionShape& s : shapes) {
        if (s.T == 1 || s.L < s.T) continue;
        testing::Generator generator(4);
        const auto queries = testing::gaussian_values<float>(generator, s.T * s.H * (s.Dc + s.Dr));
        const StoredRows<TypeParam> rows(s.L, s.Dc, s.Dr, 6);
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            const auto together = attend(queries, s, rows.view(), Precision::operand);
            std::vector<float> alone;
            for (Index t = 0; t < s.T; ++t) {
                const auto first = queries.begin() + t * s.H * (s.Dc + s.Dr);
                const auto one = attend(std::vector<float>(first, first + s.H * (s.Dc + s.Dr)), {1, s.H, s.L, s.Dc, s.Dr},
                                        rows.view().prefix(s.L - s.T + t + 1), Precision::operand);
                alone.insert(alone.end(), one.out.begin(), one.out.end());
            }
            const auto error = testing::compare(alone, widened(together.out));
            EXPECT_TRUE(testing::within(error, allowed_gap<TypeParam>(s.Dc + s.Dr + s.L, Precision::operand)))
                << name << ", " << s << ": " << error;
        }
    }
}

/// Ranges begin at other keys than one range's blocks do, and meet other maxima first.
TYPED_TEST(EveryFormat, GivesTheSameHoweverTheKeysAreCutIntoRanges) {
    for (const AttentionShape& s :
         {AttentionShape{1, 1, 700, 64, 16}, AttentionShape{1, 16, 1000, 128, 64}, AttentionShape{2, 24, 500, 48, 8}}) {
        testing::Generator generator(15);
        auto queries = testing::gaussian_values<float>(generator, s.T * s.H * (s.Dc + s.Dr));
        const StoredRows<TypeParam> rows(s.L, s.Dc, s.Dr, 16);
        // Integers are of a block's own maximum, so that other blocks have others: each errs by 2^-16 of that maximum, which here
        // is up to 8 times the root mean square of the probabilities.
        const double blocks = std::is_same_v<TypeParam, int8> ? 8.0 * rounding<TypeParam> : 0.0;
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            SplitPlan plan = plan_absorbed(s.T, s.H, s.L);
            plan.splits = 1;
            const auto expected = widened(attend(queries, s, rows.view(), Precision::operand, plan).out);
            for (plan.splits = 2; plan.splits < 20; plan.splits += 5) {
                const auto error = testing::compare(attend(queries, s, rows.view(), Precision::operand, plan).out, expected);
                const double allowed = allowed_gap<TypeParam>(s.Dc + s.Dr + s.L, Precision::operand) + blocks;
                EXPECT_TRUE(testing::within(error, allowed)) << name << ", " << s << ", " << plan.splits << " ranges: " << error;
            }
        }
    }
}

// The bounds of docs/accuracy.md ---------------------------------------------------------------------------------------

template <class S>
class EveryStorage : public ::testing::Test {};
TYPED_TEST_SUITE(EveryStorage, TestTypes<StorageTypes>, );

TYPED_TEST(EveryStorage, IsWithinItsBoundOnEveryTarget) {
    using S = TypeParam;
    const auto full = [](auto q, auto cache, auto scale, auto out, auto lse) {
        Workspace workspace;
        decode_absorbed(q, cache, scale, out, lse, workspace, SerialExecutor{}, Precision::full);
    };
    for (const AttentionShape& s : shapes) {
        const auto problem = testing::absorbed_problem<S>(s);
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            const auto rounded = testing::judge(problem, decode, decode_allowance<S>);
            EXPECT_TRUE(rounded.passed()) << name << ": " << rounded;
            const auto exact = testing::judge(problem, full);
            EXPECT_TRUE(exact.passed()) << name << ": " << exact;
        }
    }
}

TYPED_TEST(EveryStorage, IsWithinItsBoundOnEveryTargetWhenExpanded) {
    using S = TypeParam;
    for (const AttentionShape& s : {AttentionShape{5, 2, 40, 48, 8, 12, 20}, AttentionShape{33, 1, 130, 64, 16, 32, 32},
                                    AttentionShape{2, 2, 97, 40, 0, 16, 9}}) {
        const auto problem = testing::expanded_problem<S>(s);
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            const auto verdict = testing::judge(problem, prefill<S>, expansion_allowance<S>(s));
            EXPECT_TRUE(verdict.passed()) << name << ": " << verdict;
        }
    }
}

// Integers ------------------------------------------------------------------------------------------------------------

/// The LSE of one key is its score. Sums of integers are exact, so that only the logarithm's last bits may differ.
TEST(Int8Contract, ScoresAreTheSameOnEveryTarget) {
    for (const Index H : {1, 16, 40}) {
        testing::Generator generator(7);
        const auto queries = testing::gaussian_values<float>(generator, H * 576);
        const StoredRows<int8> rows(1, 512, 64, 8);
        std::vector<float> expected;
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            AttentionResult<float> result{1, H, 512};
            decode(HeadsView<const float>(queries.data(), 1, H, 576), rows.view(), 0.25F, result.out_view(), result.lse_view());
            if (expected.empty()) expected = result.lse;
            for (std::size_t h = 0; h < expected.size(); ++h)
                EXPECT_NEAR(result.lse[h], expected[h], 0x1p-22F * std::max(1.0F, std::abs(expected[h])))
                    << name << ", head " << h;
        }
    }
}

// Scales --------------------------------------------------------------------------------------------------------------

/// A query of zeros sees its one key with the probability 1, so that each output is a single product.
template <class C, class Products>
void expect_outputs(Index Dc, Products products) {
    const StoredRows<C> rows(1, Dc, 64, 8);
    const std::vector<float> expected = products(rows);
    for (const Index H : {1, 3, 16, 40}) {
        const std::vector<float> queries(static_cast<std::size_t>(H * (Dc + 64)));
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            const auto result = attend(queries, {1, H, 1, Dc, 64}, rows.view(), Precision::operand);
            for (std::size_t i = 0; i < result.out.size(); ++i)
                ASSERT_EQ(result.out[i], expected[i % expected.size()]) << name << ", " << H << " heads, value " << i;
        }
    }
}

TEST(Fp8Contract, AProbabilityTimesTheScaleIsRoundedAndMeetsTheStoredNumber) {
    for (const Index Dc : {33, 130, 256})
        expect_outputs<fp8>(Dc, [=](const StoredRows<fp8>& rows) {
            std::vector<float> products;
            for (Index c = 0; c < Dc; ++c) {
                const float scale = Format<fp8>::scale(rows.format, rows.view().row(0), c / 128);
                products.push_back(static_cast<float>(bf16(scale)) * static_cast<float>(rows.view().row(0)[c]));
            }
            return products;
        });
}

TEST(Fp8Contract, AValueOfV4IsOneOfBf16) {
    for (const Index Dc : {96, 130, 256})
        expect_outputs<fp8_v4>(Dc, [=](const StoredRows<fp8_v4>& rows) {
            std::vector<float> token(static_cast<std::size_t>(rows.format.values()));
            read_row(rows.format, rows.view().row(0), token.data());
            return std::vector<float>(token.begin(), token.begin() + Dc);
        });
}

TEST(Fp8Contract, AProbabilityTimesTheScaleThatIsSubnormalCountsAsZero) {
    StoredRows<fp8> rows(1, 128, 0, 9);
    const float scale = 0x1p-126F / 2.0F;
    std::memcpy(static_cast<void*>(rows.elements.data() + 128), &scale, sizeof scale);
    for (const Index H : {1, 16, 40}) {
        const std::vector<float> queries(static_cast<std::size_t>(H * 128));
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            const auto result = attend(queries, {1, H, 1, 128, 0}, rows.view(), Precision::operand);
            for (const float value : result.out) ASSERT_EQ(value, 0.0F) << name << ", " << H;
        }
    }
}

// The layer -----------------------------------------------------------------------------------------------------------

TEST(LayerContract, GivesTheSameOnEveryTargetAndInAnyPieces) {
    const Config config = testing::small_config();
    const testing::RandomWeights<bf16> weights(config, 9);
    for (const Precision precision : {Precision::operand, Precision::full}) {
        const Attention<bf16> layer(config, weights.refs(), precision);
        const Prompt<float> prompt(config, 40, 10);
        std::vector<double> expected;
        for (const std::string& name : testing::runnable_targets()) {
            const OnTarget target(name);
            for (const std::vector<Index>& pieces : {std::vector<Index>{40}, {7, 33}, std::vector<Index>(40, 1)}) {
                LatentCache<bf16> cache(config, 40);
                const auto y = feed(layer, prompt, pieces, cache, Form::absorbed);
                const std::vector<float> found(y.data(), y.data() + y.size());
                if (expected.empty()) expected = widened(found);
                // A rounded cache turns any difference of floats into one of roundings, in either precision.
                const double gap = testing::layer_tolerance<float>(config, 40);
                // BFDOT's sums err by a third more, and of the few values of so small a layer that then round apart one may weigh
                // as much as all that others have.
                const double few = name == "neon_bf16" ? 2.0 : 1.0;
                const auto error = testing::compare(found, expected);
                EXPECT_TRUE(testing::within(error, gap + few * 2.0 * rounded_gap(gap)))
                    << name << ", " << mla::name(precision) << ", " << pieces.size() << " pieces: " << error;
            }
        }
    }
}

// The calling thread's mode -------------------------------------------------------------------------------------------

#if defined(__x86_64__)
/// Flushes subnormals and rounds down while it lives.
struct OddMode {
    unsigned before = _mm_getcsr();
    OddMode() { _mm_setcsr(0x1f80U | 0x8040U | 0x2000U); }
    OddMode(const OddMode&) = delete;
    OddMode& operator=(const OddMode&) = delete;
    ~OddMode() { _mm_setcsr(before); }
};

TYPED_TEST(EveryFormat, TheCallersFloatingPointModeChangesNothingAndIsRestored) {
    const AttentionShape s{2, 3, 150, 48, 8};
    testing::Generator generator(11);
    auto queries = testing::gaussian_values<float>(generator, s.T * s.H * (s.Dc + s.Dr));
    for (std::size_t i = 0; i < queries.size(); i += 5) queries[i] *= 0x1p-130F;  // subnormal
    StoredRows<TypeParam> rows(s.L, s.Dc, s.Dr, 12);
    if constexpr (std::is_same_v<TypeParam, fp16> || std::is_same_v<TypeParam, bf16>)
        for (std::size_t i = 0; i < rows.elements.size(); i += 7) rows.elements[i].bits &= 0x803fU;  // subnormal ones among them
    for (const std::string& name : testing::runnable_targets()) {
        const OnTarget target(name);
        const auto expected = attend(queries, s, rows.view(), Precision::operand);
        const OddMode mode;
        const unsigned set = _mm_getcsr() & ~0x3fU;
        const auto found = attend(queries, s, rows.view(), Precision::operand);
        EXPECT_EQ(_mm_getcsr() & ~0x3fU, set) << name;
        EXPECT_TRUE(found.same(expected)) << name;
    }
}

TEST(LayerContract, TheCallersFloatingPointModeChangesNothing) {
    const Config config = testing::small_config();
    const testing::RandomWeights<fp16> weights(config, 13);
    const Attention<fp16> layer(config, weights.refs());
    const Prompt<float> prompt(config, 12, 14);
    const auto expected = run<fp16>(layer, prompt);
    const OddMode mode;
    EXPECT_TRUE(same_bits(run<fp16>(layer, prompt), expected));
}
#endif

/// One rule for all targets: a subnormal bf16 is 0 in a product.
TEST(SubnormalContract, SubnormalOperandsCountAsZeroOnEveryTarget) {
    constexpr Index Dc = 32, H = 16;
    std::vector<bf16> row(Dc);
    for (bf16& value : row) value.bits = 0x0040;  // 2^-127
    const std::vector<float> queries(static_cast<std::size_t>(H * Dc), 0x1p120F);
    for (const std::string& name : testing::runnable_targets()) {
        const OnTarget target(name);
        AttentionResult<float> result{1, H, Dc};
        decode(HeadsView<const float>(queries.data(), 1, H, Dc), LatentView<bf16>{row.data(), 1, Dc, 0, Dc}, 1.0F,
               result.out_view(), result.lse_view());
        for (const float lse : result.lse) EXPECT_EQ(lse, 0.0F) << name;  // would be 0.25
        for (const float value : result.out) EXPECT_EQ(value, 0.0F) << name;
    }
}

// The choice ----------------------------------------------------------------------------------------------------------

TEST(ChosenTarget, IsTheOneAskedForAndUnknownNamesAreErrors) {
    for (const std::string& name : testing::runnable_targets()) {
        const OnTarget target(name);
        EXPECT_EQ(detail::full_name(chosen_target()), name);
    }
    const std::string message = testing::thrown<std::invalid_argument>([] { choose_target("avx1024"); });
    EXPECT_EQ(message, "mla: target is avx1024, must be one of " + testing::linked_names());
}

TEST(TargetReport, SaysOfEachLinkedTargetWhatItIsToThisProcessorAndWhyOneIsChosen) {
    for (const std::string& name : testing::runnable_targets()) {
        const OnTarget target(name);
        const std::string report = target_report();
        EXPECT_EQ(std::ranges::count(report, '\n'), std::ssize(linked_targets())) << report;
        EXPECT_NE(("\n" + report).find("\n" + name + ": chosen"), std::string::npos) << report;
        for (const abi::Target* other : linked_targets()) {
            const std::string line = "\n" + detail::full_name(*other) + (runs_here(*other) ? ": " : ": not this processor's\n");
            EXPECT_NE(("\n" + report).find(line), std::string::npos) << report;
        }
    }
}

TEST(TargetReport, SaysThatTheBestIsChosenUnlessAnotherIsAskedFor) {
    const char* const forced = std::getenv("MLA_TARGET");
    if (forced != nullptr) GTEST_SKIP() << "MLA_TARGET is " << forced;
    const std::string best = detail::full_name(chosen_target());
    EXPECT_NE(target_report().find(best + ": chosen, the best that runs\n"), std::string::npos) << target_report();
    for (const std::string& name : testing::runnable_targets()) {
        const OnTarget target(name);
        if (name == best) continue;
        EXPECT_NE(target_report().find(name + ": chosen by choose_target\n"), std::string::npos) << target_report();
    }
}

TEST(ChosenTarget, IsNeverAnEmulatedOneUnlessForced) {
    const char* const forced = std::getenv("MLA_TARGET");
    if (forced != nullptr) GTEST_SKIP() << "MLA_TARGET is " << forced;
    EXPECT_EQ(chosen_target().is_emulated, 0);
    EXPECT_TRUE(runs_here(chosen_target()));
}

}  // namespace
}  // namespace mla
