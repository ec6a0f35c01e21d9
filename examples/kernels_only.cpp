// An engine that has weights, projections and a cache of its own takes only the kernel: `mla::decode_absorbed` reads
// queries and cached tokens, and writes outputs, where the engine keeps them. No Eigen, no Config, no LatentCache.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <span>
#include <vector>

#include "mla/kernels/decode_absorbed.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

using mla::Index;

constexpr Index H = 4, T = 2, L = 300;  // heads, query tokens, cached tokens: the two queries' own are the last
constexpr Index Dc = 128, Dr = 32;      // latent and rope key; a row of the cache is [latent | rope key]
constexpr Index layers = 3, layer = 1;  // this engine keeps the rows of a token's layers side by side

/// What the kernel is to compute: softmax(scale · q · rows) · latents, in plain loops.
std::vector<double> attend(const float* q, const float* rows, Index stride, Index keys, double scale) {
    std::vector<double> out(Dc);
    double sum = 0.0;
    for (Index s = 0; s < keys; ++s) {
        double score = 0.0;
        for (Index i = 0; i < Dc + Dr; ++i) score += double{q[i]} * double{rows[s * stride + i]};
        const double weight = std::exp(scale * score);
        for (Index i = 0; i < Dc; ++i) out[static_cast<std::size_t>(i)] += weight * double{rows[s * stride + i]};
        sum += weight;
    }
    for (double& value : out) value /= sum;
    return out;
}

int main() {
    // The engine's memory: the cache [token][layer][Dc+Dr], and queries and outputs [head][token][value].
    mla::testing::Generator generator(1);
    constexpr Index stride = layers * (Dc + Dr);
    auto slab = mla::testing::gaussian_values<float>(generator, L * stride);
    const auto queries = mla::testing::gaussian_values<float>(generator, H * T * (Dc + Dr));
    std::vector<float> outputs(H * T * Dc);
    constexpr float poison = std::numeric_limits<float>::quiet_NaN();  // proves that other layers' rows are left alone
    for (Index i = 0; i < L * stride; ++i)
        if (i % stride / (Dc + Dr) != layer) slab[static_cast<std::size_t>(i)] = poison;

    // Views say where things lie: pointer, sizes, then strides in elements. The cache may be bf16, fp16 or double as well.
    const mla::LatentView<float> cache{slab.data() + layer * (Dc + Dr), L, Dc, Dr, stride};
    const mla::HeadsView<const float> q(queries.data(), T, H, Dc + Dr, Dc + Dr, T * (Dc + Dr));
    const mla::HeadsView<float> out(outputs.data(), T, H, Dc, Dc, T * Dc);
    const float scale = 1.0F / std::sqrt(static_cast<float>(Dc + Dr));  // of this data; a model's is (Dn+Dr)^-½

    // Scratch may be the engine's too, on whole cache lines. Its size does not grow with the number of cached tokens.
    struct alignas(mla::scratch_alignment) Line {
        std::byte bytes[mla::scratch_alignment];
    };
    const std::size_t bytes = mla::absorbed_workspace_bytes<float>(mla::plan_absorbed(T, H, L), Dc, Dr, 1);
    std::vector<Line> scratch(bytes / sizeof(Line));
    mla::Workspace workspace(std::as_writable_bytes(std::span(scratch)));
    mla::decode_absorbed(q, cache, scale, out, {}, workspace, mla::SerialExecutor{});

    double error = 0.0, norm = 0.0;
    for (Index t = 0; t < T; ++t)
        for (Index h = 0; h < H; ++h) {
            const auto expected = attend(q.at(t, h), cache.data, cache.stride, L - T + t + 1, double{scale});
            for (Index i = 0; i < Dc; ++i) {
                error += std::pow(double{out.at(t, h)[i]} - expected[static_cast<std::size_t>(i)], 2);
                norm += std::pow(expected[static_cast<std::size_t>(i)], 2);
            }
        }
    const double relative = std::sqrt(error / norm);
    const double tolerance = mla::testing::sum_tolerance<float>(Dc + Dr + L);  // score sums, then value sums
    std::printf("decode_absorbed on an engine's own cache: relative error %.1e, allowed %.1e\n", relative, tolerance);
    return relative <= tolerance ? 0 : 1;
}
