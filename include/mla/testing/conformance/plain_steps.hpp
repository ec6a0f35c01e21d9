// The steps around attention, plain, and wrong by one mistake where asked.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "mla/testing/conformance/plain_gradients.hpp"
#include "mla/testing/conformance/plain_layer.hpp"
#include "mla/testing/conformance/plain_math.hpp"
#include "mla/testing/conformance/run_step.hpp"
#include "mla/testing/conformance/step_mutants.hpp"

namespace mla::inline MLA_ISA::testing {

/// The steps in float, each value by itself.
class PlainSteps {
  public:
    using Output = float;

    static constexpr const char* name = "PlainSteps";

    [[nodiscard]] static Supported supported() { return {}; }

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
                detail::turn_pair(std::cos(angle) * magnitude, std::sin(angle) * magnitude, pairs ? x(t, 2 * i) : x(t, i),
                                  pairs ? x(t, 2 * i + 1) : x(t, i + p.dim / 2));
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
            if (is(StepMistake::scales_rounded_down)) round_scales_down(p.row, token, rows);
        }
    }

    void append(const AppendProblem& p, std::byte* rows) const {
        const reference::RowGeometry& row = p.row;
        for (Index t = 0; t < p.tokens; ++t, rows += row.bytes()) {
            const auto first = p.values.begin() + t * row.values();
            std::vector<float> token(first, first + row.values());
            norm_latent(p, token.data());
            std::int64_t position = p.positions[static_cast<std::size_t>(t)];
            if (is(StepMistake::append_position_late)) ++position;
            if (is(StepMistake::append_position_early)) --position;
            const bool other = is(StepMistake::append_other_pairing);
            const bool pairs = (p.rope.pairing == RopePairing::interleaved) != other;
            float* const turned = token.data() + (is(StepMistake::append_latent_rotated) ? 0 : row.latent_dim);
            if (!is(StepMistake::append_not_rotated)) detail::turn(p.rope, position, pairs, row.rope_dim, turned);
            reference::write_row(row, std::vector<double>(token.begin(), token.end()), rows);
        }
    }

    void gradients(const GradientProblem& p, const GradientOutputs<float>& to) const { PlainGradients(p, mistake_).run(to); }

    void layer(const LayerProblem& p, MatrixView<float> y) const { PlainLayer(p, mistake_).run(y); }

  private:
    [[nodiscard]] bool is(StepMistake mistake) const noexcept { return mistake_ == mistake; }

    void norm_latent(const AppendProblem& p, float* token) const {
        const Index Dc = p.row.latent_dim, Dr = p.row.rope_dim;
        const double eps = is(StepMistake::append_without_eps) ? 0.0 : p.eps;
        const bool together = is(StepMistake::append_all_normed);
        const float divisor = detail::root_of_squares(token, together ? Dc + Dr : Dc, eps);
        const bool rest_normed = is(StepMistake::append_rest_normed);
        const float rest = together ? divisor : rest_normed ? detail::root_of_squares(token + Dc, Dr, eps) : 1.0F;
        if (!is(StepMistake::append_not_normed))
            for (Index i = 0; i < Dc; ++i) token[i] = token[i] / divisor * p.weight[static_cast<std::size_t>(i)];
        for (Index i = Dc; i < Dc + Dr; ++i) token[i] /= rest;
    }

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

    /// Halves scales of one byte, those of groups of zeros too, and stores the values anew.
    static void round_scales_down(const reference::RowGeometry& row, const float* token, std::byte* bytes) {
        if (row.kind != reference::RowKind::fp8_v4) return;
        for (Index group = 0; group < row.scales(); ++group) {
            std::byte& scale = bytes[row.scale_offset() + group];
            scale = static_cast<std::byte>(static_cast<std::uint8_t>(scale) - 1U);
        }
        for (Index i = 0; i < row.narrow(); ++i)
            bytes[i] = static_cast<std::byte>(
                reference::nearest(reference::e4m3_layout,
                                   static_cast<double>(token[i]) / reference::detail::scale_of(row, bytes, i / row.group())));
    }

    StepMistake mistake_;
};

}  // namespace mla::inline MLA_ISA::testing
