// What many workers make of a layer's whole step, simulated loop by loop: whatever all tokens take on one worker must not become
// what the others wait for.
#include <gtest/gtest.h>

#include "mla/linear/linear.hpp"
#include "mla/presets.hpp"
#include "support/simulated_workers.hpp"

namespace mla {
namespace {

/// Seconds that a token took on a Zen 3 core.
constexpr double angles_seconds = 0.8e-6;
constexpr double norm_seconds_a_value = 0.29e-9;
constexpr double rotation_seconds = 53e-9;    ///< of 64 values
constexpr double copied_head_seconds = 9e-9;  ///< of 64 values
constexpr double append_seconds = 2.8e-6;     ///< in fp8, the slowest; 0.3e-6 in bf16

/// A step of T tokens, the last of L, of a layer with weights of bf16. That DRAM gives each worker what it gives one is assumed:
/// this is about how loops are divided.
class SimulatedStep {
  public:
    SimulatedStep(const Config& config, Index T, Index L, Index workers) : c_(config), T_(T), workers_(workers) {
        const Index heads = c_.num_attention_heads;
        each_token(1, angles_seconds);
        if (c_.q_lora_rank > 0) {
            product(c_.hidden_size, c_.q_lora_rank);
            each_token(tokens_a_piece, norm_seconds_a_value * static_cast<double>(c_.q_lora_rank));
        }
        product(c_.q_lora_rank > 0 ? c_.q_lora_rank : c_.hidden_size, c_.q_dim());
        each_token(1, rotation_seconds * static_cast<double>(heads));
        product(c_.hidden_size, c_.cache_dim());
        each_token(tokens_a_piece, norm_seconds_a_value * static_cast<double>(c_.kv_lora_rank) + rotation_seconds);
        each_token(tokens_a_piece, append_seconds);
        if (T == 1) {
            head_products(c_.qk_nope_head_dim, c_.kv_lora_rank);
            each_token(1, copied_head_seconds * static_cast<double>(heads));
            seconds_ += decode_seconds(heads, L, workers) + (workers > 1 ? loop_seconds : 0.0);
            head_products(c_.kv_lora_rank, c_.v_head_dim);
        } else {
            seconds_ += prefill_seconds(heads, T, L, workers);
        }
        product(heads * c_.v_head_dim, c_.hidden_size);
    }
    [[nodiscard]] double seconds() const { return seconds_; }

  private:
    void each_token(Index together, double each) {
        seconds_ += loop_time(divide_up(T_, together), workers_,
                              [&](Index piece) { return each * static_cast<double>(std::min(together, T_ - piece * together)); });
    }
    /// Of one token a product takes as long as one core reads its weights, of many as its multiply-adds.
    [[nodiscard]] double product_seconds(Index in, Index out) const {
        const auto weights = static_cast<double>(in * out);
        return T_ == 1 ? 2.0 * weights / 14.8e9 : multiply_add_seconds * weights * static_cast<double>(T_);
    }
    void product(Index in, Index out) {
        const detail::ProductItems items(divide_up(out, panel_columns<bf16>), 512 / panel_columns<bf16>, T_, workers_);
        seconds_ += loop_time(items.count(), workers_,
                              [&](Index) { return product_seconds(in, out) / static_cast<double>(items.count()); });
    }
    void head_products(Index in, Index out) {
        const Index cuts = detail::cut_head(c_.num_attention_heads, divide_up(out, panel_columns<bf16>), workers_);
        seconds_ += loop_time(c_.num_attention_heads * cuts, workers_,
                              [&](Index) { return product_seconds(in, out) / static_cast<double>(cuts); });
    }

    Config c_;
    Index T_;
    Index workers_;
    double seconds_ = 0.0;
};

TEST(LayerStepTest, AllLoopsTogetherGainFromEveryWorker) {
    for (const auto& [name, config] : {std::pair("V2-Lite", presets::deepseek_v2_lite()), {"V3", presets::deepseek_v3()}})
        for (const auto& [T, L] : std::vector<std::pair<Index, Index>>{{1, 4096}, {512, 512}, {2048, 2048}})
            for (const Index workers : {4, 8, 16, 32, 64}) {
                const double gain = SimulatedStep(config, T, L, 1).seconds() / SimulatedStep(config, T, L, workers).seconds();
                EXPECT_GE(gain, (T == 1 ? 0.5 : 0.8) * static_cast<double>(workers))
                    << name << ", " << T << " tokens of " << L << ", " << workers << " workers";
            }
}

}  // namespace
}  // namespace mla
