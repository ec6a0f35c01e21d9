// A case as a port meets it: bytes of cached rows, block tables, queries; and what they stand for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "mla/core/views.hpp"
#include "mla/reference/formats.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/testing/conformance/cases.hpp"
#include "mla/testing/random.hpp"

namespace mla::inline MLA_ISA::testing {

/// Zeros that take no room until they are written to.
class LazyMemory {
  public:
    LazyMemory() = default;
    /// @throws std::bad_alloc when there is no address space for it
    explicit LazyMemory(std::size_t bytes) : data_(static_cast<std::byte*>(std::calloc(bytes, 1))), size_(bytes) {
        if (data_ == nullptr && bytes > 0) throw std::bad_alloc();
    }
    [[nodiscard]] std::byte* data() noexcept { return data_.get(); }
    [[nodiscard]] const std::byte* data() const noexcept { return data_.get(); }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

  private:
    struct Free {
        void operator()(std::byte* data) const noexcept { std::free(data); }
    };
    std::unique_ptr<std::byte, Free> data_;
    std::size_t size_ = 0;
};

/// How rows lie in memory.
struct CacheLayout {
    reference::RowKind kind = reference::RowKind::bf16;
    Index page_size = 0;  ///< tokens; 0: every request's rows in one piece
};

/// What stands in entries of a block table that no token uses, in a case of its own: elsewhere a page of NaN, which a mistake may
/// read without ending the program.
inline constexpr std::int32_t unused_page = 2147480000;

/// A case in a layout. Memory that belongs to no token holds NaN, or what is read as NaN.
struct AttentionProblem {
    AttentionCase about;
    CacheLayout layout;
    reference::RowGeometry row{};
    double scale = 1.0;          ///< of the scores, exact in float; not (Dc+Dr)^-1/2
    std::vector<float> queries;  ///< [T, H, query_dim], exact in bf16 and in fp16
    std::vector<float> kv_b;     ///< [H, Dn+Dv, Dc] of an expanded case, as in a checkpoint: W_UK above W_UV; exact likewise
    std::vector<float> sinks;    ///< [H], or empty
    std::vector<std::int32_t> query_begin;  ///< [R + 1]
    std::vector<std::int32_t> lengths;      ///< [R]
    std::vector<std::int32_t> selection;    ///< [T, selected]: slots, −1 for none; of a sparse case
    std::vector<std::vector<char>> trees;   ///< [R]: masks [T, T] of 0 and 1, of a case with trees
    LazyMemory memory;                      ///< rows, `row_bytes` apart
    Index row_bytes = 0;
    Index pages = 0;                         ///< of the pool
    Index table_width = 0;                   ///< entries of a request's block table
    std::vector<std::int32_t> block_tables;  ///< [R, table_width]
    std::vector<Index> first_rows;           ///< [R]: where a request's rows begin, without pages
    std::vector<reference::Matrix> rows;     ///< [R]: what the rows stand for, [L, Dc+Dr]

    [[nodiscard]] Index requests() const noexcept { return static_cast<Index>(lengths.size()); }
    [[nodiscard]] Index tokens() const noexcept { return query_begin.back(); }
    [[nodiscard]] Index length(Index request) const noexcept { return lengths[static_cast<std::size_t>(request)]; }
    [[nodiscard]] Index first_query(Index request) const noexcept { return query_begin[static_cast<std::size_t>(request)]; }
    [[nodiscard]] Index queries_of(Index request) const noexcept { return first_query(request + 1) - first_query(request); }
    [[nodiscard]] bool paged() const noexcept { return layout.page_size > 0; }
    [[nodiscard]] const std::int32_t* block_table(Index request) const noexcept {
        return block_tables.data() + request * table_width;
    }
    /// The number of a token's row in the memory: in a pool its slot.
    [[nodiscard]] Index row_of(Index request, Index token) const noexcept {
        if (!paged()) return first_rows[static_cast<std::size_t>(request)] + token;
        return Index{block_table(request)[token / layout.page_size]} * layout.page_size + token % layout.page_size;
    }
    /// What a selection calls a token: its slot, or its number without pages.
    [[nodiscard]] Index slot_of(Index request, Index token) const noexcept { return paged() ? row_of(request, token) : token; }
    /// Whether query `t` of a request sees key `s` before any selection.
    [[nodiscard]] bool sees(Index request, Index t, Index s) const noexcept {
        const Index own = length(request) - queries_of(request);  // position of the first query
        if (!trees.empty() && s >= own && queries_of(request) <= length(request))
            return trees[static_cast<std::size_t>(request)][static_cast<std::size_t>(t * queries_of(request) + s - own)] != 0;
        return s <= own + t;
    }
};

namespace detail {

/// A value of N(0, sigma²) that bf16 and fp16 hold.
[[nodiscard]] inline float query_value(Generator& generator, double sigma) {
    const auto value = static_cast<float>(round_to<bf16>(sigma * gaussian(generator)));
    return std::abs(value) < 0x1p-16F ? 0.0F : value;
}

/// What a query's last value, and a key's, are made for scores about ±1000.
[[nodiscard]] inline double far_factor(double scale) { return static_cast<double>(round_to<bf16>(std::sqrt(1000.0 / scale))); }

[[nodiscard]] inline double query_sigma(Distribution scores) {
    return scores == Distribution::peaked ? 30.0 : scores == Distribution::flat ? 0.02 : 1.0;
}

[[nodiscard]] inline bool is_far(Distribution scores) {
    return scores == Distribution::far_below_zero || scores == Distribution::far_above_zero;
}

inline void fill_queries(AttentionProblem& problem, Generator& generator) {
    const AttentionCase& c = problem.about;
    const Index dim = c.query_dim();
    for (Index i = 0; i < problem.tokens() * c.heads * dim; ++i)
        problem.queries.push_back(query_value(generator, query_sigma(c.scores)));
    if (is_far(c.scores)) {
        const double factor = far_factor(problem.scale) * (c.scores == Distribution::far_below_zero ? -1.0 : 1.0);
        for (Index r = 1; r <= problem.tokens() * c.heads; ++r)
            problem.queries[static_cast<std::size_t>(r * dim - 1)] = static_cast<float>(factor);
    }
    const double fan_in = 1.0 / std::sqrt(static_cast<double>(c.latent_dim));
    for (Index i = 0; c.expanded() && i < c.heads * (c.nope_dim + c.value_dim) * c.latent_dim; ++i)
        problem.kv_b.push_back(query_value(generator, fan_in));
    if (!c.sinks) return;
    for (Index h = 0; h < c.heads; ++h) problem.sinks.push_back(static_cast<float>(2.0 * gaussian(generator)));
    if (!c.infinite_sinks) return;
    problem.sinks[0] = -std::numeric_limits<float>::infinity();
    problem.sinks[1] = std::numeric_limits<float>::infinity();
}

/// Key `s` of a request, before it is stored; `before`: the one before it.
[[nodiscard]] inline std::vector<double> key_values(const AttentionProblem& problem, Generator& generator, Index s,
                                                    const std::vector<double>& before) {
    const AttentionCase& c = problem.about;
    std::vector<double> values(static_cast<std::size_t>(c.latent_dim + c.rope_dim));
    for (double& value : values) value = gaussian(generator);
    if (is_far(c.scores)) values.back() = far_factor(problem.scale);
    if (c.scores == Distribution::near_ties && s % 2 == 1) {
        values = before;
        values.front() *= 1.0 + 0x1p-8;
    }
    if (c.scores == Distribution::subnormal_values)
        for (Index i = 0; i < c.latent_dim; i += 5) values[static_cast<std::size_t>(i)] *= 1e-40;
    return values;
}

/// Stores every request's keys at their rows, and what is read back.
inline void fill_rows(AttentionProblem& problem, Generator& generator) {
    for (Index r = 0; r < problem.requests(); ++r) {
        reference::Matrix rows(problem.length(r), problem.row.values());
        std::vector<double> values;
        for (Index s = 0; s < rows.rows; ++s) {
            values = key_values(problem, generator, s, values);
            std::byte* const to = problem.memory.data() + problem.row_of(r, s) * problem.row_bytes;
            reference::write_row(problem.row, values, to);
            const std::vector<double> stored = reference::read_row(problem.row, to);
            std::copy(stored.begin(), stored.end(), rows.row(s));
        }
        problem.rows.push_back(std::move(rows));
    }
}

/// Numbers 0 … count − 1 in a random order.
[[nodiscard]] inline std::vector<std::int32_t> shuffled(Generator& generator, Index count) {
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int32_t>(i);
    shuffle(generator, numbers);
    return numbers;
}

/// Where pages lie: each as many times further than it need as leaves 2^32 bytes between the first and the last of `used` ones,
/// whichever numbers they get.
[[nodiscard]] inline Index page_spread(const AttentionProblem& problem, Index used) {
    if (!problem.about.far_pages) return 1;
    return divide_up(Index{1} << 32, problem.layout.page_size * problem.row_bytes * (used - 1)) + 1;
}

/// Places rows in pages that lie in a random order in a pool with some to spare.
inline void place_in_pages(AttentionProblem& problem, Generator& generator) {
    constexpr Index spare = 3;
    const Index size = problem.layout.page_size;
    Index used = 0;
    for (const std::int32_t length : problem.lengths) {
        problem.table_width = std::max(problem.table_width, divide_up(length, size) + 1);
        used += divide_up(length, size);
    }
    const Index spread = page_spread(problem, used);
    std::vector<std::int32_t> order = shuffled(generator, used + spare);
    for (std::int32_t& page : order) page *= static_cast<std::int32_t>(spread);
    problem.pages = (used + spare) * spread;
    problem.block_tables.assign(static_cast<std::size_t>(problem.requests() * problem.table_width),
                                problem.about.wild_table ? unused_page : order.back());
    auto page = order.begin();
    for (Index r = 0; r < problem.requests(); ++r)
        for (Index i = 0; i < divide_up(problem.length(r), size); ++i)
            problem.block_tables[static_cast<std::size_t>(r * problem.table_width + i)] = *page++;
    const Index page_bytes = size * problem.row_bytes;
    problem.memory = LazyMemory(static_cast<std::size_t>(problem.pages * page_bytes));
    for (const std::int32_t each : order) std::fill_n(problem.memory.data() + each * page_bytes, page_bytes, std::byte{0xff});
}

/// Places each request's rows in one piece, with a row between two of them.
inline void place_in_pieces(AttentionProblem& problem) {
    Index rows = 0;
    for (const std::int32_t length : problem.lengths) {
        problem.first_rows.push_back(rows);
        rows += length + 1;
    }
    problem.memory = LazyMemory(static_cast<std::size_t>(rows * problem.row_bytes));
    std::fill_n(problem.memory.data(), problem.memory.size(), std::byte{0xff});
}

/// Lists for each query `selected` slots of keys that it sees, as many as there are, with −1 and repeated ones between them.
inline void fill_selection(AttentionProblem& problem, Generator& generator) {
    const Index most = problem.about.selected;
    if (most == 0) return;
    for (Index r = 0; r < problem.requests(); ++r)
        for (Index t = 0; t < problem.queries_of(r); ++t) {
            std::vector<std::int32_t> seen;
            for (const std::int32_t s : shuffled(generator, problem.length(r)))
                if (problem.sees(r, t, s)) seen.push_back(static_cast<std::int32_t>(problem.slot_of(r, s)));
            std::vector<std::int32_t> list(static_cast<std::size_t>(most), -1);
            for (std::size_t i = 0; i < list.size(); ++i) {
                if (i % 7 == 3) continue;  // none
                if (i % 11 == 5 && !seen.empty())
                    list[i] = seen.front();
                else if (i < seen.size())
                    list[i] = seen[i];
            }
            problem.selection.insert(problem.selection.end(), list.begin(), list.end());
        }
}

inline void fill_trees(AttentionProblem& problem, Generator& generator) {
    if (!problem.about.tree) return;
    for (Index r = 0; r < problem.requests(); ++r) {
        const Index queries = problem.queries_of(r);
        std::vector<char> mask(static_cast<std::size_t>(queries * queries));
        for (Index t = 0; t < queries; ++t)
            for (Index s = 0; s <= t; ++s)
                mask[static_cast<std::size_t>(t * queries + s)] = static_cast<char>(s == t || generator() % 2 == 0);
        problem.trees.push_back(std::move(mask));
    }
}

}  // namespace detail

/// The case's data, the same for every layout but for what its rows round.
[[nodiscard]] inline AttentionProblem make_problem(const AttentionCase& c, const CacheLayout& layout) {
    AttentionProblem problem;
    problem.about = c;
    problem.layout = layout;
    problem.row = {layout.kind, c.latent_dim, c.rope_dim};
    problem.row_bytes = round_up(problem.row.bytes(), Index{8});
    problem.scale = static_cast<double>(static_cast<float>(1.0 / std::sqrt(0.7 * static_cast<double>(c.query_dim()))));
    problem.query_begin.push_back(0);
    for (const RequestSize& request : c.requests) {
        problem.query_begin.push_back(problem.query_begin.back() + static_cast<std::int32_t>(request.queries));
        problem.lengths.push_back(static_cast<std::int32_t>(request.length));
    }
    Generator generator(seed_of(c));
    detail::fill_queries(problem, generator);
    detail::fill_trees(problem, generator);
    Generator places(seed_of(c) + 1);
    if (problem.paged())
        detail::place_in_pages(problem, places);
    else
        detail::place_in_pieces(problem);
    detail::fill_rows(problem, generator);
    detail::fill_selection(problem, places);
    return problem;
}

}  // namespace mla::inline MLA_ISA::testing
