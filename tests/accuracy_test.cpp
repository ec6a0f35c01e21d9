// How much decoding errs over each type of cache, where few probabilities are large and where many are tiny, against stated
// bounds.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/long_context.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/attention_result.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

using testing::LongContext;
using testing::Mass;

/// What a kernel that multiplies in units narrower than float may err by, in relative norm.
template <CacheElement C>
inline constexpr double narrow_goal = 0.0;
template <>
inline constexpr double narrow_goal<bf16> = 3e-3;
template <>
inline constexpr double narrow_goal<fp16> = 1e-3;
template <>
inline constexpr double narrow_goal<int8> = 1e-3;
template <>
inline constexpr double narrow_goal<fp8> = 5e-3;  // beside bf16's 3e-3, 2^-8 of a lone key's probability times its scale
template <>
inline constexpr double narrow_goal<fp8_v4> = 3e-3;

template <CacheElement C>
inline constexpr bool computes_in_float = std::is_same_v<C, float> || std::is_same_v<C, fp16>;

/// Where all is computed in float, the type of the cache is no excuse.
template <CacheElement C>
inline constexpr double goal = computes_in_float<C> ? testing::layer_goal<float> : narrow_goal<C>;

/// How much too long the outputs are, along the reference: below 0 where a tail was lost.
double bias(const std::vector<float>& out, const std::vector<double>& expected) {
    double product = 0.0;
    double square = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        product += static_cast<double>(out[i]) * expected[i];
        square += expected[i] * expected[i];
    }
    return product / square - 1.0;
}

template <CacheElement C>
void expect_within(const LongContext<C>& problem, const reference::Attended& expected, const SplitPlan& plan, double tolerance) {
    AttentionResult<float> result{1, problem.q().heads, problem.cache().latent_dim};
    Workspace workspace;
    decode_absorbed(problem.q(), problem.cache(), problem.scale, result.out_view(), result.lse_view(), workspace,
                    SerialExecutor{}, plan);
    const auto error = testing::compare(result.out, expected.output.values);
    EXPECT_TRUE(testing::within(error, tolerance)) << error << ", tolerance " << tolerance;
    // Roundings of many probabilities cancel.
    const double off = bias(result.out, expected.output.values);
    EXPECT_TRUE(std::abs(off) <= tolerance / 4.0) << "bias " << off << ", tolerance " << tolerance / 4.0;
    // The absolute error of an LSE is the relative one of its sum.
    const double lse_error = testing::compare(result.lse, expected.lse.values).max_abs;
    EXPECT_TRUE(lse_error <= 3.0 * tolerance) << "LSE " << lse_error << ", tolerance " << 3.0 * tolerance;
}

/// By the plan that the library makes, and in one range of keys, where one running maximum rules all probabilities and one sum
/// takes them all.
template <CacheElement C>
void expect_accurate(Mass mass, Index heads, Index length) {
    SCOPED_TRACE(std::string(name(mass)) + ", heads " + std::to_string(heads) + ", tokens " + std::to_string(length));
    const LongContext<C> problem(mass, heads, length);
    const reference::Attended expected = problem.expected();
    SplitPlan plan = plan_absorbed(1, heads, length);
    expect_within(problem, expected, plan, goal<C>);
    plan.splits = 1;
    expect_within(problem, expected, plan, goal<C> + testing::sum_tolerance<float>(length));
}

template <class C>
class AccuracyTest : public ::testing::Test {};
using FloatCaches = TestTypes<Without<double, CacheTypes>>;
TYPED_TEST_SUITE(AccuracyTest, FloatCaches);

TYPED_TEST(AccuracyTest, KeepsItsBoundsAt1024Tokens) {
    for (const Mass mass : testing::masses)
        for (const Index heads : {2, 6, 16}) expect_accurate<TypeParam>(mass, heads, 1024);
}

TYPED_TEST(AccuracyTest, KeepsItsBoundsAt65536Tokens) {
    for (const Mass mass : {Mass::peaked, Mass::decaying, Mass::flat, Mass::rising}) expect_accurate<TypeParam>(mass, 6, 65536);
}

}  // namespace
}  // namespace mla
