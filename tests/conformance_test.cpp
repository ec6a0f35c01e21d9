// Our kernels, of the target that calls run on, as a port that is held to the conformance kit.
#include "mla/testing/conformance/suite.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <type_traits>
#include <vector>

#include "mla/attention.hpp"
#include "mla/cache/latent_cache.hpp"
#include "mla/cache/rows.hpp"
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/kernels/decode_sparse.hpp"
#include "mla/kernels/select_keys.hpp"
#include "mla/math/rms_norm.hpp"
#include "mla/math/rope.hpp"
#include "mla/math/softmax_state.hpp"
#include "mla/testing/tolerance.hpp"
#include "support/kernels.hpp"

namespace mla {
namespace {

using reference::RowKind;
using testing::AttentionProblem;

/// Calls f.template operator()<C>() with the element of rows of a kind.
template <class F>
void with_element(RowKind kind, F&& f) {
    for_each_type(CacheTypes{}, [&]<class C>() {
        if (name(kind) == cache_type_name<C>()) f.template operator()<C>();
    });
}

/// The views of a problem's requests.
template <CacheElement C>
[[nodiscard]] std::vector<LatentView<C>> contiguous(const AttentionProblem& problem) {
    const auto* const rows = reinterpret_cast<const C*>(problem.memory.data());
    const Index stride = problem.row_bytes / static_cast<Index>(sizeof(C));
    std::vector<LatentView<C>> views;
    for (Index r = 0; r < problem.requests(); ++r)
        views.push_back({rows + problem.first_rows[static_cast<std::size_t>(r)] * stride, problem.length(r),
                         problem.about.latent_dim, problem.about.rope_dim, stride});
    return views;
}
template <CacheElement C>
[[nodiscard]] PagedBatch<C> paged(const AttentionProblem& problem) {
    const Index stride = problem.row_bytes / static_cast<Index>(sizeof(C));
    return {.pool = reinterpret_cast<const C*>(problem.memory.data()),
            .pages = problem.pages,
            .page_size = problem.layout.page_size,
            .page_stride = problem.layout.page_size * stride,
            .block_tables = {problem.block_tables.data(), problem.requests(), problem.table_width},
            .lengths = problem.lengths,
            .latent_dim = problem.about.latent_dim,
            .rope_dim = problem.about.rope_dim,
            .stride = stride};
}

template <Compute A, Precision P>
class Kernels {
  public:
    using Output = A;
    static constexpr const char* name = std::is_same_v<A, double> ? "KernelsInDouble"
                                        : P == Precision::full    ? "KernelsInFull"
                                                                  : "Kernels";

    [[nodiscard]] static testing::Supported supported() {
        testing::Supported supported;
        supported.kinds.assign(reference::row_kinds.begin(), reference::row_kinds.end());
        supported.expanded = true;
        supported.rounding = [](const AttentionProblem& problem) {
            const RowKind kind = problem.layout.kind;
            testing::Rounding rounding;
            rounding.sums = testing::unit_roundoff<A>;
            const bool wide = kind == RowKind::fp64 || kind == RowKind::fp32 || kind == RowKind::fp16;
            if (std::is_same_v<A, double> || P == Precision::full || wide) return rounding;
            if (problem.about.expanded()) {
                rounding.probabilities = rounding.decompressed = testing::unit_roundoff<bf16>;
            } else if (kind == RowKind::int8) {
                rounding.probability_step = 0.5 / 32767.0;
                rounding.queries = 0.5 / 8191.0;
                rounding.keys = 0.5 / 4095.0;
            } else {
                rounding.probabilities = testing::unit_roundoff<bf16>;
            }
            return rounding;
        };
        return supported;
    }

    void attend(const AttentionProblem& problem, HeadsView<A> out, MatrixView<A> lse) {
        with_element(problem.layout.kind, [&]<CacheElement C>() {
            problem.paged() ? attend_in(problem, paged<C>(problem), out, lse)
                            : attend_in(problem, contiguous<C>(problem), out, lse);
        });
    }

    static void merge(const testing::MergeProblem& problem, MatrixView<A> out, A* lse) {
        const std::vector<A> second(problem.second_out.begin(), problem.second_out.end());
        const std::vector<A> second_lse(problem.second_lse.begin(), problem.second_lse.end());
        std::copy(problem.first_out.begin(), problem.first_out.end(), out.data);
        std::copy(problem.first_lse.begin(), problem.first_lse.end(), lse);
        mla::merge(out, lse, MatrixView<const A>(second.data(), problem.rows, problem.dim), second_lse.data());
    }
    static void rotate(const testing::RopeProblem& problem, MatrixView<A> x) {
        const RotaryEmbedding rope(problem.rope, problem.dim);
        std::vector<A> angles(static_cast<std::size_t>(problem.dim));
        for (Index t = 0; t < x.rows; ++t) {
            rope.angles(problem.positions[static_cast<std::size_t>(t)], angles.data());
            rope.rotate(angles.data(), x.row(t));
        }
    }
    static void rms_norm(const testing::NormProblem& problem, MatrixView<A> x) {
        const std::vector<A> weight(problem.weight.begin(), problem.weight.end());
        mla::rms_norm(x, weight.data(), problem.eps);
    }
    /// Over keys in bf16, which hold them exactly.
    void select(const testing::SelectProblem& problem, MatrixView<std::int32_t> selection) {
        const std::vector<A> q(problem.q.begin(), problem.q.end());
        const std::vector<A> weights(problem.weights.begin(), problem.weights.end());
        std::vector<bf16> keys;
        for (const float value : problem.k) keys.emplace_back(value);
        const std::array<LatentView<bf16>, 1> views{{{keys.data(), problem.keys, problem.dim, 0, problem.dim}}};
        const std::array<std::int32_t, 2> query_begin{0, static_cast<std::int32_t>(problem.queries)};
        select_keys<A>({q.data(), problem.queries, problem.heads, problem.dim},
                       MatrixView<const A>(weights.data(), problem.queries, problem.heads), views, query_begin, selection,
                       workspace_, SerialExecutor{}, P);
    }
    static void store(const testing::StoreProblem& problem, std::byte* rows) {
        write_rows(problem.row, {problem.values.begin(), problem.values.end()}, rows);
    }
    static void append(const testing::AppendProblem& problem, std::byte* rows) {
        const Index Dc = problem.row.latent_dim, Dr = problem.row.rope_dim;
        std::vector<A> tokens(problem.values.begin(), problem.values.end());
        const std::vector<A> weight(problem.weight.begin(), problem.weight.end());
        mla::rms_norm(MatrixView<A>(tokens.data(), problem.tokens, Dc, Dc + Dr), weight.data(), problem.eps);
        const RotaryEmbedding rope(problem.rope, Dr);
        std::vector<A> angles(static_cast<std::size_t>(Dr));
        for (Index t = 0; t < problem.tokens; ++t) {
            rope.angles(problem.positions[static_cast<std::size_t>(t)], angles.data());
            rope.rotate(angles.data(), tokens.data() + t * (Dc + Dr) + Dc);
        }
        write_rows(problem.row, tokens, rows);
    }

  private:
    static void write_rows(const reference::RowGeometry& row, const std::vector<A>& values, std::byte* rows) {
        const Index tokens = static_cast<Index>(values.size()) / row.values();
        with_element(row.kind, [&]<CacheElement C>() {
            const RowFormat<C> format{row.latent_dim, row.rope_dim};
            mla::append(MatrixView<const A>(values.data(), tokens, format.values()), format,
                        MatrixView<C>(reinterpret_cast<C*>(rows), tokens, format.elements()));
        });
    }

    template <LatentBatch Batch>
    void attend_in(const AttentionProblem& problem, const Batch& caches, HeadsView<A> out, MatrixView<A> lse) {
        const std::vector<A> queries(problem.queries.begin(), problem.queries.end());
        const std::vector<A> sinks(problem.sinks.begin(), problem.sinks.end());
        const HeadsView<const A> q(queries.data(), problem.tokens(), problem.about.heads, problem.about.query_dim());
        const auto scale = static_cast<A>(problem.scale);
        if (problem.about.expanded()) return expand(problem, q, caches, sinks, out, lse);
        if (problem.about.selected > 0) {
            decode_sparse<A>(q, caches, problem.query_begin, {problem.selection.data(), problem.tokens(), problem.about.selected},
                             scale, out, lse, workspace_, SerialExecutor{}, {.sinks = sinks, .precision = P});
            return;
        }
        std::vector<MatrixView<const bool>> trees;
        for (Index r = 0; r < static_cast<Index>(problem.trees.size()); ++r)
            trees.emplace_back(reinterpret_cast<const bool*>(problem.trees[static_cast<std::size_t>(r)].data()),
                               problem.queries_of(r), problem.queries_of(r));
        decode_absorbed<A>(q, caches, problem.query_begin, scale, out, lse, workspace_, SerialExecutor{},
                           {.sinks = sinks, .trees = trees, .precision = P});
    }

    /// A request at a time; W_UK and W_UV packed a matrix a head.
    template <LatentBatch Batch>
    void expand(const AttentionProblem& problem, const HeadsView<const A>& q, const Batch& caches, const std::vector<A>& sinks,
                const HeadsView<A>& out, const MatrixView<A>& lse) {
        const testing::AttentionCase& c = problem.about;
        const std::vector<A> kv_b(problem.kv_b.begin(), problem.kv_b.end());
        const PackedExpansion<A> weights({kv_b.data(), c.heads * (c.nope_dim + c.value_dim), c.latent_dim}, c.heads, c.nope_dim,
                                         c.value_dim);
        for (Index r = 0; r < problem.requests(); ++r) {
            const Index first = problem.first_query(r), count = problem.queries_of(r);
            if (count == 0) continue;
            prefill_expanded<A>(q.token_range(first, count), caches[static_cast<std::size_t>(r)], weights.weights(),
                                static_cast<A>(problem.scale), out.token_range(first, count), lse.row_range(first, count),
                                workspace_, SerialExecutor{}, sinks, P);
        }
    }

    Workspace workspace_;
};

/// A layer with weights and a cache of T.
template <Storage T>
class Layers {
  public:
    using Output = compute_t<T>;
    static constexpr const char* name = std::is_same_v<T, bf16> ? "LayersInBf16" : "LayersInFloat";

    [[nodiscard]] static testing::Supported supported() {
        testing::Supported supported;
        if (std::is_same_v<T, bf16>)
            supported.layer_rounding = [](const testing::LayerProblem&) {
                constexpr double u = testing::unit_roundoff<bf16>;
                return testing::LayerRounding{.activations = u, .cache = u, .probabilities = u};
            };
        return supported;
    }

    static void layer(const testing::LayerProblem& problem, MatrixView<Output> y) {
        const Attention<T, Dynamic> attention(problem.config, problem.weights.refs());
        LatentCache<T> cache(problem.config, problem.tokens());
        RowMatrix<Output> x(problem.tokens(), problem.config.hidden_size);
        std::copy(problem.x.begin(), problem.x.end(), x.data());
        Workspace workspace;
        Index first = 0;
        for (const Index count : problem.calls) {
            const auto positions =
                std::span(problem.positions).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
            RowMatrix<Output> out(count, y.cols);
            attention.forward(x.middleRows(first, count), positions, cache, out, SerialExecutor{}, workspace);
            std::copy_n(out.data(), out.size(), y.row(first));
            first += count;
        }
    }
};

const int registered = testing::register_conformance<Kernels<float, Precision::operand>>() +
                       testing::register_conformance<Kernels<float, Precision::full>>() +
                       testing::register_conformance<Kernels<double, Precision::full>>() +
                       testing::register_conformance<Layers<float>>() + testing::register_conformance<Layers<bf16>>();

}  // namespace
}  // namespace mla
