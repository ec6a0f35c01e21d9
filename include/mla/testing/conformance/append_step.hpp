// Appending tokens to a cache: the norm of their latents, the rotation of their rope keys, and how both are stored, in one.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/reference/formats.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/rope.hpp"
#include "mla/testing/conformance/stored_rows.hpp"

namespace mla::inline MLA_ISA::testing {

/// Where a port's rows have the two values that turn together: where the problem's rope has them, or value i and i + Dr/2.
enum class RopeInCache : std::uint8_t { as_given, in_halves };

/// Tokens [T, Dc + Dr] as kv_a gives them, to be stored as rows [RMSNorm(latent) | RoPE(rest)] of a kind.
struct AppendProblem {
    std::string name;
    reference::RowGeometry row{};
    Rope rope;
    double eps = 1e-6;
    Index tokens = 0;
    std::vector<std::int64_t> positions;  ///< [T]
    std::vector<float> values;            ///< [T, Dc + Dr]
    std::vector<float> weight;            ///< [Dc], of the norm
};

namespace detail {

[[nodiscard]] inline AppendProblem append_problem(const std::string& name, const reference::RowGeometry& row, const Rope& rope,
                                                  double size) {
    Generator generator = step_generator("append_" + name);
    constexpr Index tokens = 5;
    return {name,
            row,
            rope,
            1e-5,
            tokens,
            consecutive(777, tokens),
            gaussian_values<float>(generator, tokens * row.values(), size, 0.3 * size),
            gaussian_values<float>(generator, row.latent_dim, 0.1, 1.0)};
}

}  // namespace detail

[[nodiscard]] inline std::vector<AppendProblem> append_problems() {
    Rope pairs;
    Yarn yarn;
    yarn.factor = 40.0;
    yarn.mscale = 1.0;
    yarn.mscale_all_dim = 0.7;
    pairs.scaling = yarn;
    Rope halves;
    halves.pairing = RopePairing::half_split;
    std::vector<AppendProblem> problems;
    for (const reference::RowKind kind : reference::row_kinds) {
        const std::string rows = "/" + std::string(name(kind));
        problems.push_back(detail::append_problem("in_pairs" + rows, {kind, 512, 64}, pairs, 1.0));
        problems.push_back(detail::append_problem("in_halves" + rows, {kind, 130, 6}, halves, 1.0));
        problems.push_back(detail::append_problem("small_values" + rows, {kind, 96, 16}, pairs, 3e-3));
    }
    return problems;
}

/// How tokens are appended: the right way, or with a mistake.
struct AppendReading {
    std::string name;
    bool latent_normed = true;
    bool all_normed = false;   ///< by the mean square of latent and rest together
    bool rest_normed = false;  ///< by its own
    bool with_eps = true;
    bool rotated = true;
    bool latent_rotated = false;  ///< its first values, in the place of the rest
    bool other_pairing = false;
    std::int64_t shift = 0;  ///< of the positions
};

[[nodiscard]] inline std::vector<AppendReading> append_mistakes() {
    return {{.name = "the norm is left out", .latent_normed = false},
            {.name = "the norm is over latent and rope part together", .all_normed = true},
            {.name = "the rope part is normed too", .rest_normed = true},
            {.name = "eps is left out of the norm", .with_eps = false},
            {.name = "the rope part is not rotated", .rotated = false},
            {.name = "the latent is rotated, not the rope part", .latent_rotated = true},
            {.name = "the rope part is paired the other way", .other_pairing = true},
            {.name = "positions are one too high", .shift = 1},
            {.name = "positions are one too low", .shift = -1}};
}

namespace detail {

/// Divides values by √(mean square + eps).
inline void divide_by_root(double* values, Index count, double square, Index squares, double eps) {
    const double root = std::sqrt(square / static_cast<double>(squares) + eps);
    for (Index i = 0; i < count; ++i) values[i] = root > 0.0 ? values[i] / root : 0.0;
}

/// What is stored, [T, Dc + Dr].
[[nodiscard]] inline reference::Matrix appended(const AppendProblem& p, const AppendReading& reading) {
    const Index Dc = p.row.latent_dim, Dr = p.row.rope_dim;
    const double eps = reading.with_eps ? p.eps : 0.0;
    Rope rope = p.rope;
    if (reading.other_pairing)
        rope.pairing = rope.pairing == RopePairing::interleaved ? RopePairing::half_split : RopePairing::interleaved;
    reference::Matrix rows(p.tokens, Dc + Dr, {p.values.begin(), p.values.end()});
    for (Index t = 0; t < p.tokens; ++t) {
        double* const latent = rows.row(t);
        double* const rest = latent + Dc;
        const double own = reference::dot(latent, latent, Dc), other = reference::dot(rest, rest, Dr);
        if (reading.all_normed) {
            divide_by_root(latent, Dc + Dr, own + other, Dc + Dr, eps);
        } else if (reading.latent_normed) {
            divide_by_root(latent, Dc, own, Dc, eps);
        }
        if (reading.rest_normed) divide_by_root(rest, Dr, other, Dr, eps);
        for (Index i = 0; reading.latent_normed && i < Dc; ++i)
            latent[i] *= static_cast<double>(p.weight[static_cast<std::size_t>(i)]);
        const std::int64_t position = p.positions[static_cast<std::size_t>(t)] + reading.shift;
        if (reading.rotated) reference::rotate(rope, Dr, position, reading.latent_rotated ? latent : rest);
    }
    return rows;
}

/// What float errs by on the way to values: as in norm_answer and rope_answer.
[[nodiscard]] inline reference::Matrix append_errors(const AppendProblem& p, const reference::Matrix& values) {
    const Index Dc = p.row.latent_dim, Dr = p.row.rope_dim;
    reference::Matrix errors(values.rows, values.cols);
    for (Index t = 0; t < values.rows; ++t) {
        for (Index i = 0; i < Dc; ++i)
            errors(t, i) = float_roundoff * (6.0 + std::sqrt(static_cast<double>(Dc))) * std::abs(values(t, i));
        for (Index i = 0; i < Dr; ++i) {
            const Index other = p.rope.pairing == RopePairing::interleaved ? i ^ 1 : (i + Dr / 2) % Dr;
            // Rotated back, a pair's values are at most √2 times as large together.
            errors(t, Dc + i) =
                4.0 * float_roundoff * std::numbers::sqrt2 * (std::abs(values(t, Dc + i)) + std::abs(values(t, Dc + other)));
        }
    }
    return errors;
}

}  // namespace detail

/// What rows of which a port wrote the numbers `found` must say, rope parts as the problem's rope has them.
[[nodiscard]] inline StepAnswer append_answer(const AppendProblem& p, std::span<const double> found) {
    const auto expect = [&](const AppendReading& reading) {
        const reference::Matrix values = detail::appended(p, reading);
        return detail::expect_rows(p.row, values, detail::append_errors(p, values), found);
    };
    detail::RowExpectation right = expect({});
    StepAnswer answer{std::move(right.numbers), std::move(right.bounds), {}};
    for (const AppendReading& mistake : append_mistakes()) {
        detail::RowExpectation wrong = expect(mistake);
        answer.mistakes.push_back({mistake.name, std::move(wrong.numbers), std::move(wrong.bounds)});
    }
    return answer;
}

/// Numbers of rows whose rope parts are in halves, as those of rows that have them in pairs.
inline void pair_up(const reference::RowGeometry& row, Index tokens, std::vector<double>& numbers) {
    const Index half = row.rope_dim / 2;
    for (Index t = 0; t < tokens; ++t) {
        const auto rope = numbers.begin() + t * row.values() + row.latent_dim;
        const std::vector<double> halves(rope, rope + row.rope_dim);
        for (Index i = 0; i < row.rope_dim; ++i) rope[i] = halves[static_cast<std::size_t>(i % 2 * half + i / 2)];
    }
}

}  // namespace mla::inline MLA_ISA::testing
