// Products of pairs of bf16, on processors too where the library prefers to widen: AVX512-BF16 that is slow is right all the
// same.
#define MLA_PREFER_DOT_BF16 1

#include <gtest/gtest.h>

#include "mla/testing/conformance.hpp"
#include "support/kernels.hpp"

namespace mla {
namespace {

#if defined(__AVX512BF16__)

static_assert(decode_allowance<bf16> > 0.0 && activation_allowance<bf16> > 0.0, "pairs are multiplied");

TEST(Bf16PairsTest, DecodeFromAbsorbedQueriesWithinTheToleranceOfRoundedProbabilities) {
    for (const testing::AttentionShape& shape : testing::absorbed_shapes()) {
        const auto verdict = testing::judge(testing::absorbed_problem<bf16>(shape), decode, decode_allowance<bf16>);
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

TEST(Bf16PairsTest, DecompressAndAttendWithinTheToleranceOfRoundedActivations) {
    for (const testing::AttentionShape& shape : testing::expanded_shapes()) {
        const auto verdict =
            testing::judge(testing::expanded_problem<bf16>(shape), prefill<bf16>, expansion_allowance<bf16>(shape));
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

#else

TEST(Bf16PairsTest, NeedAvx512Bf16) { GTEST_SKIP() << "compiled for instructions without products of bf16"; }

#endif

}  // namespace
}  // namespace mla
