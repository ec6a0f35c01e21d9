// The attention kernels at every triple of sizes: what their own tests leave to pairs.
#include <gtest/gtest.h>

#include "mla/testing/shape_problems.hpp"
#include "support/kernels.hpp"

namespace mla {
namespace {

using testing::AttentionShape;
using testing::judge;
using testing::Verdict;

/// float is read where it lies, bf16 is converted; double and fp16 take the same ways.
template <class C>
class KernelGridTest : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(KernelGridTest, StorageTypes);

TYPED_TEST(KernelGridTest, AbsorbedMatchesTheReferenceAtEveryTripleOfSizes) {
    for (const AttentionShape& shape : testing::absorbed_shapes(3)) {
        const Verdict verdict = judge(testing::absorbed_problem<TypeParam>(shape), decode, decode_allowance<TypeParam>);
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

TYPED_TEST(KernelGridTest, ExpandedMatchesTheReferenceAtEveryTripleOfSizes) {
    for (const AttentionShape& shape : testing::expanded_shapes(3)) {
        const Verdict verdict =
            judge(testing::expanded_problem<TypeParam>(shape), prefill<TypeParam>, expansion_allowance<TypeParam>(shape));
        EXPECT_TRUE(verdict.passed()) << verdict;
    }
}

}  // namespace
}  // namespace mla
