// Plain steps around attention, and deliberately wrong ones made of them by one mistake each: as mutants.hpp for the kit's other
// half.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ostream>
#include <vector>

#include "mla/testing/conformance/run_step.hpp"

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
    };
}

/// The steps in float, each value by itself.
class PlainSteps {
  public:
    using Output = float;

    explicit PlainSteps(StepMistake mistake = StepMistake::none) : mistake_(mistake) {}

    void merge(const MergeProblem& p, MatrixView<float> out, float* lse) const {
        for (Index r = 0; r < p.rows; ++r) {
            const auto row = static_cast<std::size_t>(r);
            const float a = p.first_lse[row], b = p.second_lse[row];
            const float larger = std::max(a, b);
            const bool guarded = !is(StepMistake::empty_part_is_nan);
            const auto weight = [&](float part) {
                if (guarded && std::isinf(part)) return 0.0F;
                if (std::isinf(part)) return std::numeric_limits<float>::quiet_NaN();
                return is(StepMistake::merge_in_base_2) ? std::exp2(part - larger) : std::exp(part - larger);
            };
            float first = weight(a), second = weight(b);
            const float sum = first + second;
            lse[r] = sum == 0.0F ? -std::numeric_limits<float>::infinity()
                                 : larger + (is(StepMistake::merge_in_base_2) ? std::log2(sum) : std::log(sum));
            if (is(StepMistake::merged_lse_is_the_larger)) lse[r] = larger;
            if (is(StepMistake::merge_weights_swapped)) std::swap(first, second);
            if (is(StepMistake::merged_by_mean)) first = second = 0.5F * sum;
            for (Index c = 0; c < p.dim; ++c) {
                const auto at = static_cast<std::size_t>(r * p.dim + c);
                const auto part = [&](float w, float value) { return w == 0.0F ? 0.0F : w / sum * value; };
                out(r, c) = part(first, p.first_out[at]) + part(second, p.second_out[at]);
            }
        }
    }

    void rotate(const RopeProblem& p, MatrixView<float> x) const {
        Rope rope = p.rope;
        if (is(StepMistake::yarn_not_read)) rope.scaling = {};
        const std::vector<double> frequencies = reference::inverse_frequencies(rope, p.dim);
        const double magnitude = reference::rope_magnitude(rope);
        const bool pairs = (rope.pairing == RopePairing::interleaved) != is(StepMistake::other_pairing);
        for (Index t = 0; t < x.rows; ++t)
            for (Index i = 0; i < p.dim / 2; ++i) {
                const std::int64_t position =
                    p.positions[static_cast<std::size_t>(t)] + (is(StepMistake::position_one_high) ? 1 : 0);
                const double frequency = frequencies[static_cast<std::size_t>(i)];
                double angle = static_cast<double>(position) * frequency;
                if (is(StepMistake::angles_in_float))
                    angle = static_cast<double>(static_cast<float>(position) * static_cast<float>(frequency));
                if (is(StepMistake::turned_the_other_way)) angle = -angle;
                const auto cos = static_cast<float>(std::cos(angle) * magnitude),
                           sin = static_cast<float>(std::sin(angle) * magnitude);
                float& a = pairs ? x(t, 2 * i) : x(t, i);
                float& b = pairs ? x(t, 2 * i + 1) : x(t, i + p.dim / 2);
                const float turned = a * cos - b * sin;
                b = b * cos + a * sin;
                a = turned;
            }
    }

    void rms_norm(const NormProblem& p, MatrixView<float> x) const {
        for (Index r = 0; r < p.rows; ++r) {
            float square = 0.0F, mean = 0.0F;
            for (Index i = 0; i < p.dim; ++i) mean += x(r, i) / static_cast<float>(p.dim);
            if (!is(StepMistake::mean_taken_off)) mean = 0.0F;
            for (Index i = 0; i < p.dim; ++i) square += (x(r, i) - mean) * (x(r, i) - mean) / static_cast<float>(p.dim);
            const auto eps = static_cast<float>(p.eps);
            float root = std::sqrt(square + eps);
            if (is(StepMistake::eps_left_out)) root = square == 0.0F ? 1.0F : std::sqrt(square);
            if (is(StepMistake::eps_beside_the_root)) root = std::sqrt(square) + eps;
            for (Index i = 0; i < p.dim; ++i)
                x(r, i) = (x(r, i) - mean) / root *
                          (p.weight[static_cast<std::size_t>(i)] + (is(StepMistake::weights_from_one) ? 1.0F : 0.0F));
        }
    }

    void store(const StoreProblem& p, std::byte* rows) const {
        for (Index t = 0; t < p.tokens; ++t, rows += p.row.bytes()) {
            const float* const token = p.values.data() + t * p.row.values();
            reference::write_row(p.row, std::vector<double>(token, token + p.row.values()), rows);
            if (is(StepMistake::stored_cut_off)) cut_off_wide(p.row, token, rows);
            if (is(StepMistake::eight_bits_cut_off)) cut_off_narrow(p.row, token, rows);
        }
    }

  private:
    [[nodiscard]] bool is(StepMistake mistake) const noexcept { return mistake_ == mistake; }

    /// bf16 by the upper half of a float.
    static void cut_off_wide(const reference::RowGeometry& row, const float* token, std::byte* bytes) {
        if (row.wide_bytes() > 2 || row.kind == reference::RowKind::fp16) return;
        for (Index i = row.narrow(); i < row.values(); ++i)
            reference::detail::store(bytes + row.wide_offset() + (i - row.narrow()) * 2,
                                     static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(token[i]) >> 16U));
    }

    /// A step towards 0 wherever the nearest is further from it than the value. Magnitudes of e4m3 are in the order of their
    /// bits.
    static void cut_off_narrow(const reference::RowGeometry& row, const float* token, std::byte* bytes) {
        for (Index i = 0; i < row.narrow(); ++i) {
            const auto scale = static_cast<float>(reference::detail::scale_of(row, bytes, i / row.group()));
            const double stored = reference::detail::narrow_value(row.kind, bytes[i]);
            const float steps = token[i] / scale;
            if (!(std::abs(stored) > static_cast<double>(std::abs(steps)))) continue;
            const bool up = row.kind == reference::RowKind::int8 && stored < 0.0;
            bytes[i] = static_cast<std::byte>(static_cast<std::uint8_t>(bytes[i]) + (up ? 1U : 0xffU));
        }
    }

    StepMistake mistake_;
};

}  // namespace mla::inline MLA_ISA::testing
