// The baseline that MLA is compared with: grouped-query and multi-head attention against the fp64 oracle.
#include "mla/baselines/grouped_attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <vector>

#include "mla/reference/attention.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/attention_result.hpp"
#include "support/kernels.hpp"
#include "support/type_lists.hpp"

namespace mla {
namespace {

/// T queries of H heads over L tokens of G key-value heads, each of D values.
struct Shape {
    Index T, H, G, L, D;
};

std::ostream& operator<<(std::ostream& stream, const Shape& s) {
    return stream << "T " << s.T << ", H " << s.H << ", G " << s.G << ", L " << s.L << ", D " << s.D;
}

/// One head and many, groups of few rows and of many, whole and ragged vectors and blocks, and more queries than tokens.
const std::vector<Shape> shapes = {{1, 1, 1, 1, 8},     {1, 4, 4, 97, 128}, {1, 16, 4, 700, 128}, {1, 32, 2, 193, 64},
                                   {2, 6, 3, 96, 34},   {5, 8, 1, 385, 20}, {17, 6, 2, 60, 64},   {9, 4, 2, 3, 32},
                                   {1, 6, 2, 1300, 40}, {1, 6, 2, 130, 48}, {1, 16, 1, 130, 48},  {1, 8, 2, 130, 2}};

/// Keys or values [L, G · D] from N(0, 1), which C keeps as they are.
template <Storage C>
[[nodiscard]] std::vector<compute_t<C>> draw(testing::Generator& generator, const Shape& s) {
    const auto stored = testing::gaussian_values<C>(generator, s.L * s.G * s.D);
    return {stored.begin(), stored.end()};
}

template <class C>
class GroupedAttentionTest : public ::testing::Test {};
TYPED_TEST_SUITE(GroupedAttentionTest, TestTypes<StorageTypes>);

TYPED_TEST(GroupedAttentionTest, MatchesTheReference) {
    using A = compute_t<TypeParam>;
    for (const Shape& s : shapes) {
        testing::Generator generator(static_cast<std::uint64_t>(s.L));
        const auto keys = draw<TypeParam>(generator, s);
        const auto values = draw<TypeParam>(generator, s);
        const auto stored_queries = testing::gaussian_values<TypeParam>(generator, s.T * s.H * s.D);
        const std::vector<A> queries(stored_queries.begin(), stored_queries.end());
        const auto scale = static_cast<A>(1.0 / std::sqrt(static_cast<double>(s.D)));

        baselines::GroupedQueryConfig config;
        config.hidden_size = s.H * s.D;
        config.num_attention_heads = s.H;
        config.num_key_value_heads = s.G;
        config.head_dim = s.D;
        baselines::KvCache<TypeParam> cache(config, s.L + 2);
        cache.append(HeadsView<const A>(keys.data(), s.L, s.G, s.D), HeadsView<const A>(values.data(), s.L, s.G, s.D));
        AttentionResult<A> result{s.T, s.H, s.D};
        Workspace workspace;
        baselines::grouped_attention(HeadsView<const A>(queries.data(), s.T, s.H, s.D), cache.view(), scale, result.out_view(),
                                     result.lse_view(), workspace, SerialExecutor{});

        const auto expected =
            reference::attend_multi_head(testing::widened(queries, s.T * s.H, s.D), testing::widened(keys, s.L, s.G * s.D),
                                         testing::widened(values, s.L, s.G * s.D), s.T, s.H, s.G, static_cast<double>(scale));
        const double tolerance = testing::sum_tolerance<A>(s.D + s.L) + decode_allowance<TypeParam>;
        const auto error = testing::compare(result.out, expected.output.values);
        EXPECT_TRUE(testing::within(error, tolerance)) << s << ": " << error << ", tolerance " << tolerance;
        EXPECT_TRUE(testing::within(testing::compare(result.lse, expected.lse.values), tolerance)) << s;
    }
}

}  // namespace
}  // namespace mla
