// Batches of the sizes that FlashMLA's and FlashInfer's own tests cover, each request's rows sampled against the fp64 oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/attention_result.hpp"
#include "support/kernels.hpp"
#include "support/stored_rows.hpp"

namespace mla {
namespace {

using testing::Generator;

struct Batch {
    Index requests, queries, length, heads, latent_dim, rope_dim, page_size;
    bool vary;  ///< lengths and query counts differ from request to request, and some are 0
};

std::ostream& operator<<(std::ostream& stream, const Batch& b) {
    return stream << b.requests << " requests, " << b.queries << " queries, " << b.length << " tokens, " << b.heads
                  << " heads, Dc " << b.latent_dim << ", pages of " << b.page_size;
}

/// Row `row` of a request's queries by the oracle: output [Dc], then LSE.
[[nodiscard]] std::vector<double> exact_row(const float* query, const reference::Matrix& rows, Index latent_dim, Index visible,
                                            double scale) {
    reference::Matrix q(1, rows.cols);
    for (Index i = 0; i < rows.cols; ++i) q(0, i) = static_cast<double>(query[i]);
    const auto expected = reference::attend_masked(q, rows, reference::columns(rows, 0, latent_dim), 1, 1, 1, scale,
                                                   [=](Index, Index s) { return s < visible; });
    std::vector<double> values = expected.output.values;
    values.push_back(expected.lse(0, 0));
    return values;
}

template <CacheElement C>
void check(const Batch& b) {
    Generator generator(static_cast<std::uint64_t>(b.requests * 1000 + b.length + b.heads));
    const auto below = [&](Index most) { return static_cast<Index>(generator() % static_cast<std::uint64_t>(most + 1)); };
    std::vector<std::unique_ptr<StoredRows<C>>> stored;
    std::vector<std::unique_ptr<ScatteredRows<C>>> pages;
    std::vector<PagedView<C>> views;
    std::vector<std::int32_t> query_begin{0};
    for (Index r = 0; r < b.requests; ++r) {
        const Index length = b.vary ? below(b.length) : b.length;
        stored.push_back(std::make_unique<StoredRows<C>>(r % 7 == 5 ? 0 : length, b.latent_dim, b.rope_dim, generator()));
        pages.push_back(std::make_unique<ScatteredRows<C>>(*stored.back(), b.page_size, generator()));
        views.push_back(pages.back()->view());
        query_begin.push_back(query_begin.back() + static_cast<std::int32_t>(b.vary ? below(b.queries) : b.queries));
    }
    const Index tokens = query_begin.back();
    const Index dim = b.latent_dim + b.rope_dim;
    const auto rounded = testing::gaussian_values<bf16>(generator, tokens * b.heads * dim);
    const std::vector<float> queries(rounded.begin(), rounded.end());
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
    AttentionResult<float> result{tokens, b.heads, b.latent_dim};
    Workspace workspace;
    decode_absorbed(HeadsView<const float>(queries.data(), tokens, b.heads, dim), views, query_begin, scale, result.out_view(),
                    result.lse_view(), workspace, SerialExecutor{});

    // Samples of all requests are judged together: of thousands of rows judged apart, some always lie in the tail.
    std::vector<float> found, found_lse;
    std::vector<double> expected, expected_lse;
    for (std::size_t r = 0; r < views.size(); ++r) {
        const Index count = query_begin[r + 1] - query_begin[r];
        if (count == 0) continue;
        const auto rows = stored[r]->matrix();
        for (int sample = 0; sample < 2; ++sample) {
            const Index query = below(count - 1);
            const Index row = (query_begin[r] + query) * b.heads + below(b.heads - 1);
            const auto exact = exact_row(queries.data() + row * dim, rows, b.latent_dim, rows.rows - count + query + 1,
                                         static_cast<double>(scale));
            expected.insert(expected.end(), exact.begin(), exact.end() - 1);
            expected_lse.push_back(exact.back());
            found.insert(found.end(), result.out.begin() + row * b.latent_dim, result.out.begin() + (row + 1) * b.latent_dim);
            found_lse.push_back(result.lse[static_cast<std::size_t>(row)]);
        }
    }
    if (found.empty()) return;
    const double tolerance = testing::sum_tolerance<float>(dim + b.length) + decode_allowance<C>;
    const auto error = testing::compare(found, expected);
    const auto lse_error = testing::compare(found_lse, expected_lse);
    EXPECT_TRUE(testing::within(error, tolerance)) << b << ": " << error << ", tolerance " << tolerance;
    EXPECT_TRUE(testing::within(lse_error, tolerance)) << b << ": LSE " << lse_error << ", tolerance " << tolerance;
}

template <class C>
class BatchGridTest : public ::testing::Test {};
using CacheTypes = ::testing::Types<float, bf16, fp8>;
TYPED_TEST_SUITE(BatchGridTest, CacheTypes);

TYPED_TEST(BatchGridTest, FlashMlasDecodeBatchesMatchTheReference) {
    for (const Index requests : {1, 2, 6, 64})
        for (const Index queries : {1, 2, 4})
            for (const Index length : {20, 140, 4096})
                for (const Index heads : {1, 3, 9, 63, 64, 126, 128}) {
                    if (requests * queries * length * heads > 100'000) continue;  // minutes; smaller ones have the same parts
                    check<TypeParam>({requests, queries, length, heads, 512, 64, 64, requests > 2});
                }
}

TYPED_TEST(BatchGridTest, FlashInfersBatchesMatchTheReference) {
    for (const Index page_size : {1, 16, 32})
        for (const Index queries : {1, 7, 17}) check<TypeParam>({12, queries, 514, 8, 128, 32, page_size, true});
    check<TypeParam>({157, 4, 300, 8, 128, 32, 16, true});
    check<TypeParam>({3, 17, 8736, 8, 128, 32, 16, true});
}

}  // namespace
}  // namespace mla
