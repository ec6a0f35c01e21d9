// The oracle against transformers' own attention modules: the golden files of tests/golden.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <tuple>

#include "mla/reference/reference.hpp"
#include "support/golden.hpp"

namespace mla {
namespace {

using reference::Form;
using reference::Matrix;

/// ‖found − expected‖ / ‖expected‖ over all elements; NaN when anything is.
double relative_error(const Matrix& found, const Matrix& expected) {
    if (found.rows != expected.rows || found.cols != expected.cols) return std::numeric_limits<double>::quiet_NaN();
    double difference = 0.0;
    double norm = 0.0;
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
        difference += (found.values[i] - expected.values[i]) * (found.values[i] - expected.values[i]);
        norm += expected.values[i] * expected.values[i];
    }
    return std::sqrt(difference / norm);
}

/// How far two computations of the layer may lie apart, both in arithmetic of unit roundoff u. Rounding errors being
/// independent, a sum of n products errs by about √n·u of its size; the layer chains the sums counted here, and the
/// softmax passes on a score's error as it is. Frequency 0 is exact, so that the largest error of an angle is that of
/// position · base^(−2/Dr): its frequency errs by 2u, the product by u; cosine and sine err as much as the angle.
/// Both sides err: twice the sum of all. What is observed is a tenth of it.
double tolerance(const golden::Case& layer) {
    const double u = layer.in_double ? 0x1p-53 : 0x1p-24;
    const Config& c = layer.config;
    double sums = 0.0;
    for (const Index n : {c.hidden_size, c.q_lora_rank, c.kv_lora_rank, c.kv_lora_rank, c.qk_head_dim(), layer.x.rows, c.o_dim()})
        sums += std::sqrt(static_cast<double>(n));
    const double frequency = std::pow(c.rope.base, -2.0 / static_cast<double>(c.qk_rope_head_dim));
    return 2.0 * u * (sums + 3.0 * frequency * static_cast<double>(layer.positions.back()));
}

Matrix rows(const Matrix& matrix, Index begin, Index count) {
    Matrix part(count, matrix.cols);
    std::copy_n(matrix.row(begin), count * matrix.cols, part.values.data());
    return part;
}

/// What the oracle caches.
struct Caches {
    Matrix rows;
    Matrix index_keys;
};

/// The oracle's output for all tokens fed in the given chunks; `caches` takes what it caches.
Matrix run_oracle(const golden::Case& layer, const std::vector<Index>& chunks, Form form, Caches& caches) {
    Matrix y(0, layer.config.hidden_size);
    caches = {Matrix(0, layer.config.cache_dim()), Matrix(0, layer.config.indexer.row_dim())};
    for (const Index count : chunks) {
        const auto positions =
            std::span(layer.positions).subspan(static_cast<std::size_t>(y.rows), static_cast<std::size_t>(count));
        const Matrix x = rows(layer.x, y.rows, count);
        if (layer.config.shares_cache) append_rows(caches.rows, rows(layer.cache, y.rows, count));
        append_rows(
            y, layer.config.indexer.heads > 0
                   ? reference::forward_sparse(layer.config, layer.weights, x, positions, caches.rows, caches.index_keys, form)
                   : reference::forward(layer.config, layer.weights, x, positions, caches.rows, form));
    }
    return y;
}

TEST(GoldenFilesTest, AllCasesAreThere) { EXPECT_EQ(golden::names().size(), 29U); }

class GoldenReferenceTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenReferenceTest, BothFormsMatchTransformersInAnyChunking) {
    const golden::Case layer = golden::load(GetParam());
    for (const golden::Run& run : layer.runs)
        for (const Form form : {Form::expanded, Form::absorbed}) {
            Caches caches;
            const Matrix y = run_oracle(layer, run.chunks, form, caches);
            const double error = relative_error(y, run.y);
            EXPECT_FALSE(!(error <= tolerance(layer)))
                << run.name << ", form " << static_cast<int>(form) << ": error " << error << ", tolerance " << tolerance(layer);
        }
}

TEST_P(GoldenReferenceTest, CacheHoldsWhatTransformersCaches) {
    const golden::Case layer = golden::load(GetParam());
    Caches caches;
    run_oracle(layer, {layer.x.rows}, Form::absorbed, caches);
    const double error = relative_error(caches.rows, layer.cache);
    EXPECT_FALSE(!(error <= tolerance(layer))) << "error " << error << ", tolerance " << tolerance(layer);
    if (layer.config.indexer.heads == 0) return;
    const double index_error = relative_error(caches.index_keys, layer.index_keys);
    EXPECT_FALSE(!(index_error <= tolerance(layer))) << "index keys: error " << index_error;
}

TEST_P(GoldenReferenceTest, SelectsTheKeysThatTransformersSelects) {
    const golden::Case layer = golden::load(GetParam());
    const Config& c = layer.config;
    if (c.indexer.heads == 0) return;
    const Matrix keys = reference::project_index_keys(c, layer.weights, layer.x, layer.positions);
    EXPECT_EQ(reference::select(c, layer.weights, layer.x, layer.positions, keys), layer.selection);
}

TEST_P(GoldenReferenceTest, ConstantsAreThoseOfTheModules) {
    const golden::Case layer = golden::load(GetParam());
    // Both sides compute it from the same few numbers: a handful of roundings.
    EXPECT_FALSE(!(std::abs(layer.config.softmax_scale() - layer.softmax_scale) <= 8 * 0x1p-53 * layer.softmax_scale));
    EXPECT_EQ(layer.config.latent_norm_eps, layer.latent_norm_eps);
}

INSTANTIATE_TEST_SUITE_P(Transformers, GoldenReferenceTest, ::testing::ValuesIn(golden::names()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace mla
