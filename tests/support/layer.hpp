// A layer with random weights, beside the oracle with the same.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "mla/attention.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace mla {

/// Tokens of a prompt: x [T, hidden] ~ N(0, 1), positions from `first` on.
template <Compute A>
struct Prompt {
    RowMatrix<A> x;
    std::vector<std::int64_t> positions;

    Prompt(const Config& config, Index tokens, std::uint64_t seed, std::int64_t first = 0)
        : x(tokens, config.hidden_size), positions(testing::consecutive(first, tokens)) {
        testing::Generator generator(seed);
        for (Index i = 0; i < x.size(); ++i) x.data()[i] = testing::round_to<A>(testing::gaussian(generator));
    }

    [[nodiscard]] reference::Matrix matrix() const {
        return testing::widened(std::vector<A>(x.data(), x.data() + x.size()), x.rows(), x.cols());
    }
};

/// The rows that a cache holds, widened, without padding.
template <Storage C, class K>
[[nodiscard]] reference::Matrix cached_rows(const LatentCache<C, K>& cache) {
    const LatentView<C> view = cache.view();
    reference::Matrix rows(view.length, view.row_dim());
    for (Index t = 0; t < rows.rows; ++t)
        for (Index i = 0; i < rows.cols; ++i) rows(t, i) = static_cast<double>(view.row(t)[i]);
    return rows;
}

/// Equal in every bit of every cached value (and in length).
template <Storage C>
[[nodiscard]] bool same_tokens(const LatentCache<C>& a, const LatentCache<C>& b) {
    if (a.size() != b.size()) return false;
    for (Index t = 0; t < a.size(); ++t)
        if (std::memcmp(a.view().row(t), b.view().row(t), static_cast<std::size_t>(a.view().row_dim()) * sizeof(C)) != 0)
            return false;
    return true;
}

/// Equal in every bit.
template <Compute A>
[[nodiscard]] bool same_bits(const RowMatrix<A>& a, const RowMatrix<A>& b) {
    if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
    return a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(A)) == 0;
}

/// Feeds `prompt` in pieces of the given sizes to the layer and returns y of all tokens. `before(begin, count)` is called before
/// each.
template <class Layer, class Cache, class Before = void (*)(Index, Index)>
[[nodiscard]] typename Layer::Matrix feed(
    const Layer& layer, const Prompt<typename Layer::Activation>& prompt, const std::vector<Index>& chunks, Cache& cache,
    Form form = Form::automatic, ExecutorRef executor = SerialExecutor{}, Before before = [](Index, Index) {}) {
    typename Layer::Matrix y = Layer::Matrix::Constant(prompt.x.rows(), prompt.x.cols(), 12345);
    Workspace workspace;
    Index begin = 0;
    for (const Index count : chunks) {
        const auto positions =
            std::span(prompt.positions).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
        before(begin, count);
        layer.forward(prompt.x.middleRows(begin, count), positions, cache, y.middleRows(begin, count), executor, workspace, form);
        begin += count;
    }
    return y;
}

/// `feed` all at once, into a cache of its own.
template <Storage C, class Layer>
[[nodiscard]] typename Layer::Matrix run(const Layer& layer, const Prompt<typename Layer::Activation>& prompt,
                                         Form form = Form::automatic, ExecutorRef executor = SerialExecutor{}) {
    LatentCache<C> cache(layer.config(), prompt.x.rows());
    return feed(layer, prompt, {prompt.x.rows()}, cache, form, executor);
}

template <Compute A>
[[nodiscard]] testing::Error compare(const RowMatrix<A>& y, const reference::Matrix& expected) {
    return testing::compare(std::span<const A>(y.data(), static_cast<std::size_t>(y.size())), expected.values);
}

template <Compute A>
[[nodiscard]] testing::Error compare(const RowMatrix<A>& y, const RowMatrix<A>& expected) {
    return testing::compare(std::span<const A>(y.data(), static_cast<std::size_t>(y.size())),
                            std::vector<double>(expected.data(), expected.data() + expected.size()));
}

}  // namespace mla
