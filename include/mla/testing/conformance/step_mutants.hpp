// Mistakes by which the plain steps around attention are made wrong, as mutants.hpp has them for the kit's other half.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA::testing {

enum class StepMistake : std::uint8_t {
    none,
    merged_by_mean,
    merge_weights_swapped,
    merge_in_base_2,
    merged_lse_is_the_larger,
    empty_part_is_nan,
    other_pairing,
    position_one_high,
    turned_the_other_way,
    yarn_not_read,
    angles_in_float,
    eps_left_out,
    eps_beside_the_root,
    mean_taken_off,
    weights_from_one,
    stored_cut_off,
    eight_bits_cut_off,
    scales_rounded_down,
    append_not_normed,
    append_all_normed,
    append_rest_normed,
    append_without_eps,
    append_not_rotated,
    append_latent_rotated,
    append_other_pairing,
    append_position_late,
    append_position_early,
    layer_mscale_left_out,
    layer_other_pairing,
    layer_query_not_normed,
    layer_latent_not_normed,
    layer_without_eps,
    layer_no_mask,
    layer_positions_restart,
    layer_values_first,
    layer_heads_transposed,
    gradient_delta_left_out,
    gradient_as_value_left_out,
    gradient_as_key_left_out,
    gradient_not_scaled,
    gradient_of_lse_left_out,
    gradient_no_mask,
    gradient_rope_of_first_head,
};

struct StepMutant {
    StepMistake mistake;
    const char* name;
    const char* diagnosis;
};

inline std::ostream& operator<<(std::ostream& stream, const StepMutant& mutant) { return stream << mutant.name; }

[[nodiscard]] inline std::vector<StepMutant> step_mutants() {
    return {
        {StepMistake::merged_by_mean, "merged_by_mean", "parts are merged by their mean"},
        {StepMistake::merge_weights_swapped, "merge_weights_swapped", "parts' weights are swapped"},
        {StepMistake::merge_in_base_2, "merge_in_base_2", "natural LSEs are read as base 2"},
        {StepMistake::merged_lse_is_the_larger, "merged_lse_is_the_larger", "LSE is the larger of both"},
        {StepMistake::empty_part_is_nan, "empty_part_is_nan", "an empty part gives NaN"},
        {StepMistake::other_pairing, "other_pairing", "values are paired the other way"},
        {StepMistake::position_one_high, "position_one_high", "positions are one too high"},
        {StepMistake::turned_the_other_way, "turned_the_other_way", "the rotation turns the other way"},
        {StepMistake::yarn_not_read, "yarn_not_read", "YaRN is not looked at"},
        {StepMistake::angles_in_float, "angles_in_float", "angles are computed in float"},
        {StepMistake::eps_left_out, "eps_left_out", "eps is left out"},
        {StepMistake::eps_beside_the_root, "eps_beside_the_root", "eps is added to the root"},
        {StepMistake::mean_taken_off, "mean_taken_off", "the mean is taken off"},
        {StepMistake::weights_from_one, "weights_from_one", "weights count from 1"},
        {StepMistake::stored_cut_off, "stored_cut_off", "16-bit values are cut off, not rounded to the nearest"},
        {StepMistake::eight_bits_cut_off, "eight_bits_cut_off", "eight-bit values are cut off, not rounded to the nearest"},
        {StepMistake::scales_rounded_down, "scales_rounded_down", "scales are rounded down to a power of two"},
        {StepMistake::append_not_normed, "append_not_normed", "the norm is left out"},
        {StepMistake::append_all_normed, "append_all_normed", "the norm is over latent and rope part together"},
        {StepMistake::append_rest_normed, "append_rest_normed", "the rope part is normed too"},
        {StepMistake::append_without_eps, "append_without_eps", "eps is left out of the norm"},
        {StepMistake::append_not_rotated, "append_not_rotated", "the rope part is not rotated"},
        {StepMistake::append_latent_rotated, "append_latent_rotated", "the latent is rotated, not the rope part"},
        {StepMistake::append_other_pairing, "append_other_pairing", "the rope part is paired the other way"},
        {StepMistake::append_position_late, "append_position_late", "positions are one too high"},
        {StepMistake::append_position_early, "append_position_early", "positions are one too low"},
        {StepMistake::layer_mscale_left_out, "layer_mscale_left_out", "the softmax scale is without YaRN's mscale squared"},
        {StepMistake::layer_other_pairing, "layer_other_pairing", "the rope parts are paired the other way"},
        {StepMistake::layer_query_not_normed, "layer_query_not_normed", "the query latent is not normed"},
        {StepMistake::layer_latent_not_normed, "layer_latent_not_normed", "the latent is not normed"},
        {StepMistake::layer_without_eps, "layer_without_eps", "eps is left out of the norms"},
        {StepMistake::layer_no_mask, "layer_no_mask", "there is no causal mask"},
        {StepMistake::layer_positions_restart, "layer_positions_restart", "positions begin at 0 in every call"},
        {StepMistake::layer_values_first, "layer_values_first", "kv_b is read as the values of a head, then its keys"},
        {StepMistake::layer_heads_transposed, "layer_heads_transposed", "o_proj takes a value of all heads, then the next"},
        {StepMistake::gradient_delta_left_out, "gradient_delta_left_out",
         "the sum of weights times their gradients is not taken off"},
        {StepMistake::gradient_as_value_left_out, "gradient_as_value_left_out", "the latent's gradient as a value is left out"},
        {StepMistake::gradient_as_key_left_out, "gradient_as_key_left_out", "the latent's gradient as a key is left out"},
        {StepMistake::gradient_not_scaled, "gradient_not_scaled", "gradients of queries and keys are not scaled"},
        {StepMistake::gradient_of_lse_left_out, "gradient_of_lse_left_out", "the gradient of the LSE is left out"},
        {StepMistake::gradient_no_mask, "gradient_no_mask", "there is no causal mask"},
        {StepMistake::gradient_rope_of_first_head, "gradient_rope_of_first_head",
         "the rope key's gradient is that of the first head"},
    };
}

}  // namespace mla::inline MLA_ISA::testing
