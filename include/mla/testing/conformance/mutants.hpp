// Deliberately wrong kernels, each the plain one with one mistake: the kit is judged by them. It must pass the plain one, fail
// all others, and say of those with a diagnosis what is wrong. To add one: a name in plain_kernel.hpp and the place there where
// it goes wrong, and a line below.
#pragma once

#include <ostream>
#include <vector>

#include "mla/testing/conformance/plain_kernel.hpp"

namespace mla::inline MLA_ISA::testing {

struct Mutant {
    Mistake mistake;
    const char* name;
    const char* diagnosis = "";  ///< what the kit is to say of it; empty: that it fails
};

inline std::ostream& operator<<(std::ostream& stream, const Mutant& mutant) { return stream << mutant.name; }

[[nodiscard]] inline std::vector<Mutant> mutants() {
    return {
        {Mistake::not_scaled, "not_scaled", "scores are not scaled"},
        {Mistake::scaled_by_width, "scaled_by_width", "scores are scaled by the root of the row's width"},
        {Mistake::scaled_twice, "scaled_twice", "scores are scaled twice"},
        {Mistake::exp2_of_scores, "exp2_of_scores", "exp2 of scores without log2(e)"},
        {Mistake::exp_of_log2_scores, "exp_of_log2_scores", "exp of scores times log2(e)"},
        {Mistake::query_rope_in_halves, "query_rope_in_halves", "rope part of queries is in halves, of keys in pairs"},
        {Mistake::query_rope_in_pairs, "query_rope_in_pairs", "rope part of queries is in pairs, of keys in halves"},
        {Mistake::rope_left_out, "rope_left_out", "the rope part is left out of the scores"},
        {Mistake::latent_left_out, "latent_left_out", "the latent part is left out of the scores"},
        {Mistake::own_token_hidden, "own_token_hidden", "the mask hides a query's own token"},
        {Mistake::one_token_too_many, "one_token_too_many", "the mask shows one token too many"},
        {Mistake::mask_top_left, "mask_top_left", "the causal mask is aligned top left"},
        {Mistake::no_mask, "no_mask", "there is no causal mask"},
        {Mistake::tree_not_read, "tree_not_read", "the tree's mask is not looked at"},
        {Mistake::first_16_keys_lost, "first_16_keys_lost", "the first 16 keys are lost"},
        {Mistake::last_key_lost, "last_key_lost", "the last key is lost"},
        {Mistake::rest_of_32_keys_lost, "rest_of_32_keys_lost", "keys after the last whole 32 are lost"},
        {Mistake::only_first_64_keys, "only_first_64_keys", "only the first 64 keys count"},
        {Mistake::part_of_page_lost, "part_of_page_lost", "tokens of a page that is not full are lost"},
        {Mistake::values_from_the_end, "values_from_the_end", "values are the end of the row"},
        {Mistake::table_not_read, "table_not_read", "the block table is not looked at"},
        {Mistake::table_one_late, "table_one_late", "the block table is read one entry late"},
        {Mistake::table_backwards, "table_backwards", "the block table is read backwards"},
        {Mistake::first_request_for_all, "first_request_for_all", "every request reads the cache of the first"},
        {Mistake::eight_bits_not_scaled, "eight_bits_not_scaled", "values are not scaled"},
        {Mistake::scale_of_next_group, "scale_of_next_group", "values are scaled by the scale of the next group"},
        {Mistake::first_scale_for_all, "first_scale_for_all", "all values are scaled by the first scale"},
        {Mistake::scales_of_half_groups, "scales_of_half_groups", "scales are read for groups of half the size"},
        {Mistake::row_past_the_length, "row_past_the_length", "a row past the length is read"},
        {Mistake::selected_twice_counts_twice, "selected_twice_counts_twice", "a key that is selected twice counts twice"},
        {Mistake::minus_one_is_first_token, "minus_one_is_first_token", "−1 in a selection is read as the first token"},
        {Mistake::selection_not_read, "selection_not_read", "the selection is not looked at"},
        {Mistake::lse_to_base_2, "lse_to_base_2", "LSE is to base 2"},
        {Mistake::lse_max_plus_log2, "lse_max_plus_log2", "LSE is the maximum plus the binary logarithm of the sum"},
        {Mistake::lse_of_unscaled_scores, "lse_of_unscaled_scores", "LSE is of scores that are not scaled"},
        {Mistake::lse_infinite_without_keys, "lse_infinite_without_keys", "LSE of a row without keys is +inf"},
        {Mistake::lse_zero_without_keys, "lse_zero_without_keys", "LSE of a row without keys is 0"},
        {Mistake::lse_with_sink, "lse_with_sink", "LSE counts the sink"},
        {Mistake::sinks_not_read, "sinks_not_read", "sinks are not looked at"},
        {Mistake::sink_of_next_head, "sink_of_next_head", "a head takes the sink of the next"},
        {Mistake::nan_without_keys, "nan_without_keys", "a row without keys is NaN"},
        {Mistake::not_divided_by_sum, "not_divided_by_sum", "outputs are not divided by their sum of exponentials"},
        {Mistake::nothing_written, "nothing_written", "nothing is written"},
        {Mistake::heads_and_queries_swapped, "heads_and_queries_swapped", "heads and queries are swapped in the output"},
        {Mistake::last_head_not_computed, "last_head_not_computed", "the last head is not computed"},
        {Mistake::halves_merged_by_mean, "halves_merged_by_mean", "two halves of the keys are merged by their mean"},
        {Mistake::empty_part_gives_nan, "empty_part_gives_nan", "a merge with a part that saw no key gives NaN"},
        {Mistake::maximum_from_zero, "maximum_from_zero"},
        {Mistake::no_maximum, "no_maximum"},
        {Mistake::probabilities_in_eight_bits, "probabilities_in_eight_bits"},
        {Mistake::sums_in_bf16, "sums_in_bf16"},
        {Mistake::lse_not_written, "lse_not_written", "some LSEs are not written"},
        {Mistake::one_value_off, "one_value_off"},
        {Mistake::kv_b_keys_first, "kv_b_keys_first", "kv_b is read as the keys of all heads, then their values"},
        {Mistake::kv_b_of_next_head, "kv_b_of_next_head", "a head takes the keys and values of the next"},
    };
}

}  // namespace mla::inline MLA_ISA::testing
