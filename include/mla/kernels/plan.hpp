// Plans: which form of attention to compute, and how its work is cut. Plain values, computed before a call, that depend on the
// problem and never on the number of threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

#include "mla/config.hpp"
#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"
#include "mla/kernels/row_list.hpp"

namespace mla::inline MLA_ISA {

/// The two equal ways to compute MLA (DeepSeek-V2, section 2.1.2).
enum class Form : std::uint8_t {
    automatic,  ///< the cheaper one by `choose_form`
    absorbed,   ///< scores and values on the latents themselves; decode
    expanded,   ///< keys and values decompressed a head at a time; prefill
};

/// Multiply-adds of attending with `queries` tokens to `keys` cached tokens, the queries' own included, in either form.
[[nodiscard]] inline double absorbed_cost(const Config& config, Index queries, Index keys) noexcept {
    const auto pairs = static_cast<double>(queries) * (static_cast<double>(keys) - 0.5 * static_cast<double>(queries - 1));
    const auto per_pair = static_cast<double>(2 * config.kv_lora_rank + config.qk_rope_head_dim);
    const auto absorb = static_cast<double>(queries * config.kv_lora_rank * (config.qk_nope_head_dim + config.v_head_dim));
    return static_cast<double>(config.num_attention_heads) * (pairs * per_pair + absorb);
}

[[nodiscard]] inline double expanded_cost(const Config& config, Index queries, Index keys) noexcept {
    const auto pairs = static_cast<double>(queries) * (static_cast<double>(keys) - 0.5 * static_cast<double>(queries - 1));
    const auto per_pair = static_cast<double>(config.qk_head_dim() + config.v_head_dim);
    const auto expand = static_cast<double>(keys * config.kv_lora_rank * (config.qk_nope_head_dim + config.v_head_dim));
    return static_cast<double>(config.num_attention_heads) * (pairs * per_pair + expand);
}

/// Multiply-adds of sparse attention in the absorbed form: an indexer scores all keys, and the queries attend to those that it
/// selects. For long contexts of DeepSeek-V3.2 a key that is scored costs a 17th of one that is attended to.
[[nodiscard]] inline double sparse_cost(const Config& config, Index queries, Index keys) noexcept {
    const auto pairs = static_cast<double>(queries) * (static_cast<double>(keys) - 0.5 * static_cast<double>(queries - 1));
    const auto scoring = static_cast<double>(config.indexer.heads * (config.indexer.head_dim + 1));
    const Index attended = config.indexer.top_k == 0 ? keys : std::min(keys, config.indexer.top_k);
    return pairs * scoring + absorbed_cost(config, queries, attended);
}

/// The form with fewer multiply-adds. For long contexts the two meet at Dc(Dn+Dv) / ((2Dc+Dr) − (Dn+Dr+Dv)) queries, 171 for
/// DeepSeek-V3.
[[nodiscard]] inline Form choose_form(const Config& config, Index queries, Index keys) noexcept {
    return absorbed_cost(config, queries, keys) <= expanded_cost(config, queries, keys) ? Form::absorbed : Form::expanded;
}

/// How attention over given keys is cut: streams (sets of rows that share keys) × groups of rows × ranges of keys. Partial
/// results of the ranges merge in pairs, those of pairs in pairs of pairs, and so on, whoever computed them: so results have the
/// same bits for any number of threads, and a thread that has several neighbours merges them while they are in its caches.
struct SplitPlan {
    static constexpr Index wanted_items = 64;  ///< of a request, where it has keys enough
    static constexpr Index item_rows = 16;     ///< rows of such an item, at most
    static constexpr Index range_tokens = 16;  ///< what ranges are multiples of

    Index streams = 1;     ///< key-value heads; 1 in absorbed MLA
    Index rows = 0;        ///< of a stream: queries × heads that share its keys
    Index group_rows = 1;  ///< rows that share the reading of a block
    Index keys = 0;        ///< cached tokens
    Index splits = 1;      ///< ranges of keys, as even as whole `range_tokens` allow

    [[nodiscard]] Index groups() const noexcept { return divide_up(rows, group_rows); }
    /// The first key of a range, and of range `splits` the number of keys.
    [[nodiscard]] Index split_begin(Index split) const noexcept {
        return std::min(divide_up(keys, range_tokens) * split / splits * range_tokens, keys);
    }
    /// Splits that a plan of as many rows over any number of keys may have.
    [[nodiscard]] Index most_splits() const noexcept { return std::max(splits, wanted_splits()); }
    [[nodiscard]] Index rows_of(Index group) const noexcept { return std::min(group_rows, rows - group * group_rows); }
    /// A power of two, with which groups of `item_rows` make the items that are wanted.
    [[nodiscard]] Index wanted_splits() const noexcept {
        const Index cuts = std::max<Index>(streams * divide_up(rows, item_rows), 1);
        return static_cast<Index>(std::bit_ceil(static_cast<std::size_t>(divide_up(wanted_items, cuts))));
    }
};

/// What scratch is sized for must not overflow, whatever its dims: 2^40 rows of partial results are more than any machine holds.
inline constexpr double most_plan_rows = 0x1p40;

/// @throws std::invalid_argument when a member is out of range: groups have no more rows and ranges no more keys than there are
inline void validate(const SplitPlan& plan) {
    require_at_least("plan.streams", plan.streams, Index{1});
    require_at_least("plan.rows", plan.rows, Index{0});
    require_at_least("plan.keys", plan.keys, Index{0});
    require_in_range("plan.group_rows", plan.group_rows, Index{1}, std::max<Index>(plan.rows, 1));
    require_in_range("plan.splits", plan.splits, Index{1}, std::max<Index>(plan.keys, 1));
    const double rows = static_cast<double>(plan.streams) * static_cast<double>(plan.rows) * static_cast<double>(plan.splits);
    require_in_range("plan.streams * plan.rows * plan.splits", rows, 0.0, most_plan_rows);
}

/// A plan for `queries` tokens over `keys` cached tokens, where each of `streams` sets of keys serves `heads` heads. A group has
/// up to 128 rows, whose outputs (256 KiB at Dc 512) then stay in L2; keys are cut into a power of two of ranges, so many that 16
/// rows of each make 64 items, but not below 128 keys: merging a range takes as long as attending to 4 (Zen 3).
[[nodiscard]] inline SplitPlan plan_splits(Index queries, Index heads, Index keys, Index streams = 1) noexcept {
    constexpr Index most_rows = 128;
    constexpr Index worth_splitting = 128;
    SplitPlan plan;
    plan.streams = streams;
    plan.rows = queries * heads;
    // Whole queries in a group, where they fit, share one causal limit a panel.
    plan.group_rows = heads >= most_rows ? most_rows : std::max<Index>(most_rows / heads, 1) * heads;
    plan.group_rows = std::clamp<Index>(plan.group_rows, 1, std::max<Index>(plan.rows, 1));
    plan.keys = keys;
    const auto parts = static_cast<std::size_t>(std::max<Index>(keys / worth_splitting, 1));
    plan.splits = std::min(static_cast<Index>(std::bit_floor(parts)), plan.wanted_splits());
    return plan;
}

/// The plan of absorbed MLA: all heads share the one set of latents.
[[nodiscard]] inline SplitPlan plan_absorbed(Index queries, Index heads, Index keys) noexcept {
    return plan_splits(queries, heads, keys);
}

/// How expanded attention is cut: heads × groups of queries. A head's keys are decompressed once a group. Where that makes too
/// few items for the workers of a call, they share decompressed keys, which changes no bits.
struct ExpandedPlan {
    static constexpr Index most_group_queries = 4096;  ///< 2 MiB of outputs at Dv 128

    Index queries = 0;
    Index heads = 1;
    Index group_queries = 1;  ///< queries of an item

    [[nodiscard]] Index groups() const noexcept { return divide_up(queries, group_queries); }
    [[nodiscard]] Index items() const noexcept { return heads * groups(); }
};

/// @throws std::invalid_argument when a member is out of range
inline void validate(const ExpandedPlan& plan) {
    require_at_least("plan.queries", plan.queries, Index{0});
    require_at_least("plan.heads", plan.heads, Index{1});
    require_in_range("plan.group_queries", plan.group_queries, Index{1}, std::max<Index>(plan.queries, 1));
    require_in_range("plan.heads * plan.queries", static_cast<double>(plan.heads) * static_cast<double>(plan.queries), 0.0,
                     most_plan_rows);
}

/// A plan for `queries` tokens of `heads` heads, all of a head in one group while they are no more than most_group_queries.
[[nodiscard]] inline ExpandedPlan plan_expanded(Index queries, Index heads) noexcept {
    return {queries, heads, std::clamp<Index>(queries, 1, ExpandedPlan::most_group_queries)};
}

}  // namespace mla::inline MLA_ISA
