// A plain attention kernel that can be made wrong by one mistake.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "mla/testing/conformance/port.hpp"

namespace mla::inline MLA_ISA::testing {

enum class Mistake : std::uint8_t {
    none,
    not_scaled,
    scaled_by_width,
    scaled_twice,
    exp2_of_scores,
    exp_of_log2_scores,
    query_rope_in_halves,
    query_rope_in_pairs,
    rope_left_out,
    latent_left_out,
    own_token_hidden,
    one_token_too_many,
    mask_top_left,
    no_mask,
    tree_not_read,
    first_16_keys_lost,
    last_key_lost,
    rest_of_32_keys_lost,
    only_first_64_keys,
    part_of_page_lost,
    values_from_the_end,
    table_not_read,
    table_one_late,
    table_backwards,
    first_request_for_all,
    eight_bits_not_scaled,
    scale_of_next_group,
    first_scale_for_all,
    scales_of_half_groups,
    row_past_the_length,
    selected_twice_counts_twice,
    minus_one_is_first_token,
    selection_not_read,
    lse_to_base_2,
    lse_max_plus_log2,
    lse_of_unscaled_scores,
    lse_infinite_without_keys,
    lse_zero_without_keys,
    lse_with_sink,
    sinks_not_read,
    sink_of_next_head,
    nan_without_keys,
    not_divided_by_sum,
    nothing_written,
    heads_and_queries_swapped,
    last_head_not_computed,
    halves_merged_by_mean,
    empty_part_gives_nan,
    maximum_from_zero,
    no_maximum,
    probabilities_in_eight_bits,
    sums_in_bf16,
    lse_not_written,
    one_value_off,
    kv_b_keys_first,
    kv_b_of_next_head,
};

/// Softmax attention in double, a row at a time, with one mistake.
class PlainKernel {
  public:
    using Output = float;
    static constexpr const char* name = "PlainKernel";

    explicit PlainKernel(Mistake mistake = Mistake::none) : mistake_(mistake) {}

    [[nodiscard]] static Supported supported() {
        Supported supported;
        supported.expanded = true;
        supported.kinds.assign(reference::row_kinds.begin(), reference::row_kinds.end());
        return supported;
    }

    void attend(const AttentionProblem& problem, HeadsView<float> out, MatrixView<float> lse) const {
        if (is(Mistake::nothing_written)) return;
        for (Index r = 0; r < problem.requests(); ++r)
            for (Index t = 0; t < problem.queries_of(r); ++t) {
                const std::vector<std::vector<double>> rows = rows_of(problem, r, t);
                for (Index h = 0; h < problem.about.heads; ++h) {
                    if (is(Mistake::last_head_not_computed) && h == problem.about.heads - 1) continue;
                    const Index query = problem.first_query(r) + t;
                    Index to_query = query, to_head = h;
                    if (is(Mistake::heads_and_queries_swapped)) {
                        const Index row = h * problem.tokens() + query;
                        to_query = row / problem.about.heads;
                        to_head = row % problem.about.heads;
                    }
                    const Row row = compute(problem, rows, query, h);
                    for (Index c = 0; c < out.dim; ++c)
                        out.at(to_query, to_head)[c] = static_cast<float>(row.out[static_cast<std::size_t>(c)]);
                    if (!is(Mistake::lse_not_written) || h > 0) lse(to_query, to_head) = static_cast<float>(row.lse);
                }
            }
    }

  private:
    struct Row {
        std::vector<double> out;
        double lse;
    };
    /// A key that a query sees, as often as it counts.
    struct Key {
        std::vector<double> key;
        std::vector<double> value;
        double score = 0.0;
    };

    [[nodiscard]] bool is(Mistake mistake) const noexcept { return mistake_ == mistake; }

    [[nodiscard]] const std::byte* row_of(const AttentionProblem& problem, Index r, Index token) const {
        if (is(Mistake::first_request_for_all) && problem.length(0) > 0) {
            token = std::min(token, problem.length(0) - 1);
            r = 0;
        }
        Index row = 0;
        if (problem.paged()) {
            const Index size = problem.layout.page_size;
            const Index used = divide_up(problem.length(r), size);
            Index entry = token / size;
            if (is(Mistake::table_one_late)) entry = (entry + 1) % used;
            if (is(Mistake::table_backwards)) entry = used - 1 - entry;
            const Index page = is(Mistake::table_not_read) ? entry : problem.block_table(r)[entry];
            row = page * size + token % size;
            if (page >= problem.pages) row = problem.pages * size - 1;  // what another kernel would fall over
        } else {
            row = problem.first_rows[static_cast<std::size_t>(r)] + token;
        }
        return problem.memory.data() + row * problem.row_bytes;
    }

    [[nodiscard]] std::vector<double> read(const AttentionProblem& problem, const std::byte* bytes) const {
        const reference::RowGeometry& row = problem.row;
        std::vector<double> values = reference::read_row(row, bytes);
        for (Index i = 0; i < row.narrow(); ++i) {
            double& value = values[static_cast<std::size_t>(i)];
            const double stored = reference::detail::narrow_value(row.kind, bytes[i]);
            const Index group = i / row.group();
            if (is(Mistake::eight_bits_not_scaled)) value = stored;
            if (is(Mistake::scale_of_next_group))
                value = stored * reference::detail::scale_of(row, bytes, (group + 1) % row.scales());
            if (is(Mistake::scales_of_half_groups)) {
                const Index scale = i / std::max<Index>(row.group() / 2, 1);
                const bool past = row.scale_offset() + (scale + 1) * row.scale_bytes() > row.bytes();
                value =
                    stored * (past ? std::numeric_limits<double>::quiet_NaN() : reference::detail::scale_of(row, bytes, scale));
            }
            if (is(Mistake::first_scale_for_all)) value = stored * reference::detail::scale_of(row, bytes, 0);
        }
        return values;
    }

    [[nodiscard]] bool sees(const AttentionProblem& problem, Index r, Index t, Index s) const {
        const Index T = problem.queries_of(r);
        const Index own = problem.length(r) - T + t;
        if (is(Mistake::own_token_hidden)) return s < own;
        if (is(Mistake::one_token_too_many)) return s <= own + 1;
        if (is(Mistake::mask_top_left)) return s <= t;
        if (is(Mistake::no_mask)) return true;
        if (is(Mistake::tree_not_read)) return s <= own;
        return problem.sees(r, t, s);
    }

    [[nodiscard]] std::vector<Index> tokens_of(const AttentionProblem& problem, Index r, Index t) const {
        std::vector<Index> tokens;
        const Index L = problem.length(r);
        if (problem.about.selected == 0 || is(Mistake::selection_not_read)) {
            for (Index s = 0; s < L; ++s)
                if (problem.about.selected == 0 ? sees(problem, r, t, s) : problem.sees(r, t, s)) tokens.push_back(s);
        } else {
            for (Index i = 0; i < problem.about.selected; ++i) {
                const Index at = (problem.first_query(r) + t) * problem.about.selected + i;
                const std::int32_t slot = problem.selection[static_cast<std::size_t>(at)];
                if (slot < 0) {
                    if (is(Mistake::minus_one_is_first_token) && L > 0) tokens.push_back(0);
                    continue;
                }
                for (Index s = 0; s < L; ++s) {
                    if (problem.slot_of(r, s) != slot) continue;
                    const bool there = std::find(tokens.begin(), tokens.end(), s) != tokens.end();
                    if (!there || is(Mistake::selected_twice_counts_twice) || is(Mistake::minus_one_is_first_token))
                        tokens.push_back(s);
                }
            }
        }
        lose_some(problem, r, tokens);
        return tokens;
    }

    void lose_some(const AttentionProblem& problem, Index r, std::vector<Index>& tokens) const {
        const auto size = static_cast<Index>(tokens.size());
        if (is(Mistake::first_16_keys_lost)) tokens.erase(tokens.begin(), tokens.begin() + std::min<Index>(16, size));
        if (is(Mistake::last_key_lost) && size > 0) tokens.pop_back();
        if (is(Mistake::rest_of_32_keys_lost)) tokens.resize(static_cast<std::size_t>(size / 32 * 32));
        if (is(Mistake::only_first_64_keys)) tokens.resize(static_cast<std::size_t>(std::min<Index>(size, 64)));
        if (is(Mistake::part_of_page_lost) && problem.paged()) {
            const Index whole = problem.length(r) / problem.layout.page_size * problem.layout.page_size;
            std::erase_if(tokens, [=](Index s) { return s >= whole; });
        }
        if (is(Mistake::row_past_the_length)) tokens.push_back(problem.length(r));
    }

    [[nodiscard]] std::vector<double> query_of(const AttentionProblem& problem, Index query, Index h) const {
        const Index dim = problem.about.query_dim(), Dr = problem.about.rope_dim, first = dim - Dr;
        const float* const from = problem.queries.data() + (query * problem.about.heads + h) * dim;
        std::vector<double> values(from, from + dim);
        for (Index i = 0; i < Dr; ++i) {
            Index place = i;
            if (is(Mistake::query_rope_in_halves)) place = i % 2 * (Dr / 2) + i / 2;
            if (is(Mistake::query_rope_in_pairs)) place = i < Dr / 2 ? 2 * i : 2 * (i - Dr / 2) + 1;
            values[static_cast<std::size_t>(first + i)] =
                is(Mistake::rope_left_out) ? 0.0 : static_cast<double>(from[first + place]);
        }
        if (is(Mistake::latent_left_out)) std::fill_n(values.begin(), first, 0.0);
        return values;
    }

    [[nodiscard]] double scale_of(const AttentionProblem& problem) const {
        if (is(Mistake::not_scaled)) return 1.0;
        if (is(Mistake::scaled_by_width)) return 1.0 / std::sqrt(static_cast<double>(problem.row.values()));
        if (is(Mistake::scaled_twice)) return problem.scale * problem.scale;
        if (is(Mistake::exp2_of_scores)) return problem.scale * std::numbers::ln2;
        if (is(Mistake::exp_of_log2_scores)) return problem.scale * std::numbers::log2e;
        return problem.scale;
    }

    /// What a head scores a row by, and what it takes of it: the row and its latent, or what kv_b makes of them.
    [[nodiscard]] Key key_of(const AttentionProblem& problem, Index h, std::vector<double> row) const {
        const AttentionCase& c = problem.about;
        const auto latent = row.begin() + (is(Mistake::values_from_the_end) ? c.rope_dim : 0);
        std::vector<double> value(latent, latent + c.latent_dim);
        if (!c.expanded()) return {std::move(row), std::move(value)};
        if (is(Mistake::kv_b_of_next_head)) h = (h + 1) % c.heads;
        const bool keys_first = is(Mistake::kv_b_keys_first);
        const Index first_key = keys_first ? h * c.nope_dim : h * (c.nope_dim + c.value_dim);
        const Index first_value = keys_first ? c.heads * c.nope_dim + h * c.value_dim : first_key + c.nope_dim;
        const auto project = [&](Index first, Index rows, const std::vector<double>& x) {
            std::vector<double> y(static_cast<std::size_t>(rows));
            for (Index i = 0; i < rows; ++i)
                for (Index k = 0; k < c.latent_dim; ++k)
                    y[static_cast<std::size_t>(i)] +=
                        static_cast<double>(problem.kv_b[static_cast<std::size_t>((first + i) * c.latent_dim + k)]) *
                        x[static_cast<std::size_t>(k)];
            return y;
        };
        std::vector<double> key = project(first_key, c.nope_dim, row);
        key.insert(key.end(), row.begin() + c.latent_dim, row.end());
        return {std::move(key), project(first_value, c.value_dim, value)};
    }

    /// The rows of the tokens that a query attends to.
    [[nodiscard]] std::vector<std::vector<double>> rows_of(const AttentionProblem& problem, Index r, Index t) const {
        std::vector<std::vector<double>> rows;
        for (const Index token : tokens_of(problem, r, t)) rows.push_back(read(problem, row_of(problem, r, token)));
        return rows;
    }

    [[nodiscard]] std::vector<Key> keys_of(const AttentionProblem& problem, const std::vector<std::vector<double>>& rows,
                                           Index at, Index h) const {
        const std::vector<double> query = query_of(problem, at, h);
        std::vector<Key> keys;
        for (const std::vector<double>& row : rows) {
            Key key = key_of(problem, h, row);
            for (std::size_t i = 0; i < query.size(); ++i) {
                key.score += query[i] * key.key[i];
                if (is(Mistake::sums_in_bf16)) key.score = static_cast<double>(round_to<bf16>(key.score));
            }
            key.score *= scale_of(problem);
            keys.push_back(std::move(key));
        }
        return keys;
    }

    /// Head h of query `at` over rows.
    [[nodiscard]] Row compute(const AttentionProblem& problem, const std::vector<std::vector<double>>& rows, Index at,
                              Index h) const {
        const std::vector<Key> keys = keys_of(problem, rows, at, h);
        double sink = -std::numeric_limits<double>::infinity();
        if (!problem.sinks.empty() && !is(Mistake::sinks_not_read))
            sink = static_cast<double>(
                problem.sinks[static_cast<std::size_t>(is(Mistake::sink_of_next_head) ? (h + 1) % problem.about.heads : h)]);
        if (is(Mistake::halves_merged_by_mean)) {
            const auto middle = keys.begin() + static_cast<Index>(keys.size() / 2);
            Row whole = softmax(problem, keys, sink);
            const Row first = softmax(problem, {keys.begin(), middle}, sink),
                      second = softmax(problem, {middle, keys.end()}, sink);
            for (std::size_t c = 0; c < whole.out.size(); ++c) whole.out[c] = (first.out[c] + second.out[c]) / 2.0;
            return whole;
        }
        Row row = softmax(problem, keys, sink);
        if (is(Mistake::one_value_off) && h == 0) row.out.back() *= 1.001;
        if (is(Mistake::empty_part_gives_nan) && keys.size() < 2) {
            std::fill(row.out.begin(), row.out.end(), std::numeric_limits<double>::quiet_NaN());
            row.lse = std::numeric_limits<double>::quiet_NaN();
        }
        return row;
    }

    [[nodiscard]] Row softmax(const AttentionProblem& problem, const std::vector<Key>& keys, double sink) const {
        constexpr double infinity = std::numeric_limits<double>::infinity();
        Row row{std::vector<double>(static_cast<std::size_t>(problem.about.out_dim())), -infinity};
        if (keys.empty()) {
            if (is(Mistake::nan_without_keys))
                std::fill(row.out.begin(), row.out.end(), std::numeric_limits<double>::quiet_NaN());
            if (is(Mistake::lse_infinite_without_keys)) row.lse = infinity;
            if (is(Mistake::lse_zero_without_keys)) row.lse = 0.0;
            if (is(Mistake::lse_with_sink)) row.lse = sink;
            return row;
        }
        double largest = is(Mistake::maximum_from_zero) ? 0.0 : -infinity;
        for (const Key& key : keys) largest = std::max(largest, key.score);
        if (is(Mistake::no_maximum)) largest = 0.0;
        std::vector<double> probabilities;
        for (const Key& key : keys) {
            const float p = std::exp(static_cast<float>(key.score - largest));  // overflows and vanishes
            probabilities.push_back(is(Mistake::probabilities_in_eight_bits)
                                        ? std::nearbyint(static_cast<double>(p) * 127.0) / 127.0
                                        : std::exp(key.score - largest));
            if (is(Mistake::no_maximum) || is(Mistake::maximum_from_zero)) probabilities.back() = static_cast<double>(p);
        }
        double total = 0.0;
        for (const double p : probabilities) total += p;
        row.lse = largest + (is(Mistake::lse_max_plus_log2) ? std::log2(total) : std::log(total));
        const double divisor = is(Mistake::not_divided_by_sum) ? 1.0 : total + std::exp(sink - largest);
        for (std::size_t k = 0; k < keys.size(); ++k)
            for (std::size_t c = 0; c < row.out.size(); ++c) row.out[c] += probabilities[k] / divisor * keys[k].value[c];
        if (is(Mistake::lse_of_unscaled_scores)) row.lse = unscaled_lse(keys, problem.scale);
        if (is(Mistake::lse_to_base_2)) row.lse *= std::numbers::log2e;
        if (is(Mistake::lse_with_sink)) {
            const double most = std::max(row.lse, sink);
            row.lse = std::isinf(most) ? most : most + std::log(std::exp(row.lse - most) + std::exp(sink - most));
        }
        return row;
    }

    [[nodiscard]] static double unscaled_lse(const std::vector<Key>& keys, double scale) {
        double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
        for (const Key& key : keys) largest = std::max(largest, key.score / scale);
        for (const Key& key : keys) sum += std::exp(key.score / scale - largest);
        return largest + std::log(sum);
    }

    Mistake mistake_;
};

}  // namespace mla::inline MLA_ISA::testing
