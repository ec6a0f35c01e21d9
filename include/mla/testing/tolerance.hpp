// Tolerances derived from the type's rounding and the length of the sums; all are for the relative norm of an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "mla/config.hpp"
#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::testing {

/// Largest relative error of rounding to nearest: half the spacing of the numbers just above 1.
template <Storage S>
inline constexpr double unit_roundoff = std::is_same_v<S, double>  ? 0x1p-53
                                        : std::is_same_v<S, float> ? 0x1p-24
                                        : std::is_same_v<S, fp16>  ? 0x1p-11
                                                                   : 0x1p-8;

/// Error of a sum of `length` products computed in A.
/// Derivation: terms of random sign make partial sums that grow as sqrt(k); each addition errs by u/√3 of its partial
/// sum (uniform rounding), so the errors add up to u·sqrt(Σk/3) = u·length/√6, against a result of size sqrt(length):
/// 0.41·u·sqrt(length). The constant 1 leaves a factor 2.4; the 2 covers rounding of the operands and of the result.
template <Compute A>
[[nodiscard]] double sum_tolerance(Index length) {
    return unit_roundoff<A> * (2.0 + std::sqrt(static_cast<double>(length)));
}

/// Bound on the tolerance of a layer, whatever its size.
template <Compute A>
inline constexpr double layer_goal = std::is_same_v<A, double> ? 1e-13 : 2e-6;

/// Error of a layer computed in A over `keys` cached tokens, against the fp64 reference on the same stored inputs.
/// Derivation: the layer is a chain of sums whose independent errors add as squares, so their lengths add under the root:
/// hidden (q_a, kv_a), Rq (q_b), Dn (W_UKᵀ), Dc+Dr (scores), keys (values), Dc (W_UV), H·Dv (o_proj). Scores have
/// variance near 1 under RandomWeights, so that exp passes an error on without making it larger.
template <Compute A>
[[nodiscard]] double layer_tolerance(const Config& config, Index keys) {
    const Index length = config.hidden_size + config.q_lora_rank + config.qk_nope_head_dim + config.cache_dim() + keys +
                         config.kv_lora_rank + config.o_dim();
    return std::min(sum_tolerance<A>(length), layer_goal<A>);
}

/// Added error when the cache is stored as S and the reference's is not rounded.
/// Derivation: rounding errs by at most u, by u/√3 at random; it enters through the scores and through the values, each
/// as an average of independent errors: together below 2·u. 0 where S is what the layer computes in.
template <Storage S>
inline constexpr double storage_tolerance = std::is_same_v<S, compute_t<S>> ? 0.0 : 2.0 * unit_roundoff<S>;

/// Added error when probabilities are rounded to S before they are multiplied with the values and summed.
/// Derivation: each errs by at most u of itself; divided by their sum as rounded they still sum to 1, so that what moves is at
/// most u/2 of the weight, from one value to another of its size: below u of the output where few keys count, and u/√3 over
/// the root of their number where many do. LSE moves by at most u. Rounded times a scale, with the sum as it was, the weight of a
/// value moves by at most u of itself: again below u of the output.
template <Storage S>
inline constexpr double rounded_probabilities = unit_roundoff<S>;

/// Added error when a query is rounded to multiples of 1/8191 of its largest value, a rope key of 1/4095, and probabilities of
/// 1/32767 of the largest of 96.
/// Derivation: rounding to a step errs by step/√12. The largest of 576 normal values lies near 3.3, of 64 near 2.6: queries err
/// by 1.2e-4 of themselves, rope keys by 1.9e-4, and with them scores of deviation 1 by as much; a probability errs by 8.8e-6 of
/// the largest, which is at most √96 = 9.8 times their rms: 8.6e-5. Together 2.4e-4; a factor of 2 is left for shorter, spikier
/// rows.
inline constexpr double rounded_to_int16 = 0x1p-11;

}  // namespace mla::inline MLA_ISA::testing
