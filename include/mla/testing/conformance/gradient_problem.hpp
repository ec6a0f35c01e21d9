// A problem of gradients of attention, what its queries attend to, and how its answer is put together.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "mla/reference/gradients.hpp"
#include "mla/reference/layer.hpp"
#include "mla/reference/matrix.hpp"

namespace mla::inline MLA_ISA::testing {

/// T queries over L cached rows under the causal mask, and the gradients of a loss by their outputs and natural LSEs. Everything
/// is exact in bf16.
struct GradientProblem {
    std::string name;
    Index tokens = 1;  ///< T, the last of L
    Index heads = 3;
    Index length = 1;  ///< L
    Index latent_dim = 32;
    Index rope_dim = 8;
    Index nope_dim = 0;  ///< 0: absorbed
    Index value_dim = 0;
    double scale = 1.0;
    std::vector<float> q = {};      ///< [T, H, query_dim]
    std::vector<float> rows = {};   ///< [L, Dc+Dr]
    std::vector<float> kv_b = {};   ///< [H·(Dn+Dv), Dc] of the expanded form: of each head W_UK above W_UV
    std::vector<float> d_out = {};  ///< [T, H, out_dim]
    std::vector<float> d_lse = {};  ///< [T, H]
    std::vector<float> sinks = {};  ///< [H], or empty

    [[nodiscard]] bool expanded() const noexcept { return nope_dim > 0; }
    [[nodiscard]] Index query_dim() const noexcept { return (expanded() ? nope_dim : latent_dim) + rope_dim; }
    [[nodiscard]] Index out_dim() const noexcept { return expanded() ? value_dim : latent_dim; }
    [[nodiscard]] Index row_dim() const noexcept { return latent_dim + rope_dim; }
    [[nodiscard]] Index kv_b_rows() const noexcept { return expanded() ? heads * (nope_dim + value_dim) : 0; }
    [[nodiscard]] double kv_b_at(Index row, Index i) const {
        return static_cast<double>(kv_b[static_cast<std::size_t>(row * latent_dim + i)]);
    }
    [[nodiscard]] double row_at(Index s, Index i) const {
        return static_cast<double>(rows[static_cast<std::size_t>(s * row_dim() + i)]);
    }
};

namespace detail {

/// What queries attend to, in double: one key and value for all heads (absorbed), or one for each.
struct GradientForm {
    reference::Matrix q;        ///< [T·H, D]
    reference::Matrix k;        ///< [L, G·D]
    reference::Matrix v;        ///< [L, G·out_dim]
    reference::Matrix k_terms;  ///< [L, G·D]: ‖w∘c‖ of values that are sums of Dc products, else 0
    reference::Matrix v_terms;  ///< [L, G·out_dim]
    reference::Matrix d_out;    ///< [T·H, out_dim]
    Index groups = 1;
    std::vector<double> sinks;

    explicit GradientForm(const GradientProblem& p)
        : q(p.tokens * p.heads, p.query_dim(), {p.q.begin(), p.q.end()}),
          d_out(p.tokens * p.heads, p.out_dim(), {p.d_out.begin(), p.d_out.end()}),
          groups(p.expanded() ? p.heads : 1),
          sinks(p.sinks.begin(), p.sinks.end()) {
        const reference::Matrix rows(p.length, p.row_dim(), {p.rows.begin(), p.rows.end()});
        k = rows;
        v = reference::columns(rows, 0, p.latent_dim);
        if (p.expanded()) {
            const reference::Matrix kv_b(p.kv_b_rows(), p.latent_dim, {p.kv_b.begin(), p.kv_b.end()});
            const reference::ExpandedRows expanded = reference::expand_rows(rows, kv_b, p.heads, p.nope_dim);
            k = expanded.k;
            v = expanded.v;
        }
        measure_terms(p);
    }

  private:
    void measure_terms(const GradientProblem& p) {
        k_terms = reference::Matrix(k.rows, k.cols);
        v_terms = reference::Matrix(v.rows, v.cols);
        for (Index s = 0; s < p.length; ++s)
            for (Index row = 0; row < p.kv_b_rows(); ++row) {
                double squares = 0.0;
                for (Index j = 0; j < p.latent_dim; ++j) squares += std::pow(p.kv_b_at(row, j) * p.row_at(s, j), 2);
                const Index h = row / (p.nope_dim + p.value_dim), i = row % (p.nope_dim + p.value_dim);
                double& term = i < p.nope_dim ? k_terms(s, h * p.query_dim() + i) : v_terms(s, h * p.value_dim + i - p.nope_dim);
                term = std::sqrt(squares);
            }
    }
};

/// [d_q | d_rows | d_kv_b | d_sinks] of parts, or of squares that add up likewise. Those of the expanded form are taken back
/// through [k_nope | v] = kv_b·c by products of a part and a factor, so many of which make a sum: product(part, the same of
/// `values`, factor, products).
template <class Product>
[[nodiscard]] std::vector<double> assemble(const GradientProblem& p, const reference::AttentionGradients& parts,
                                           const reference::AttentionGradients& values, Product&& product) {
    const Index Dc = p.latent_dim, D = p.query_dim(), Dn = p.nope_dim, Dv = p.value_dim;
    reference::Matrix d_rows(p.length, p.row_dim()), d_kv_b(p.kv_b_rows(), Dc);
    for (Index s = 0; s < p.length; ++s) {
        if (!p.expanded())
            for (Index i = 0; i < p.row_dim(); ++i) d_rows(s, i) = parts.d_k(s, i) + (i < Dc ? parts.d_v(s, i) : 0.0);
        for (Index row = 0; row < p.kv_b_rows(); ++row) {
            const Index h = row / (Dn + Dv), i = row % (Dn + Dv);
            const auto at = [&](const reference::AttentionGradients& of) {
                return i < Dn ? of.d_k(s, h * D + i) : of.d_v(s, h * Dv + i - Dn);
            };
            for (Index j = 0; j < Dc; ++j) {
                d_rows(s, j) += product(at(parts), at(values), p.kv_b_at(row, j), p.kv_b_rows());
                d_kv_b(row, j) += product(at(parts), at(values), p.row_at(s, j), p.length);
            }
        }
        for (Index h = 0; p.expanded() && h < p.heads; ++h)
            for (Index i = 0; i < p.rope_dim; ++i) d_rows(s, Dc + i) += parts.d_k(s, h * D + Dn + i);
    }
    std::vector<double> numbers = parts.d_q.values;
    for (const auto& more : {d_rows.values, d_kv_b.values, parts.d_sinks})
        numbers.insert(numbers.end(), more.begin(), more.end());
    return numbers;
}

}  // namespace detail

}  // namespace mla::inline MLA_ISA::testing
