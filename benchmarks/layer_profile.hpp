// Where the time of a layer's decode step goes, seen from outside: the layer's loops come in a known order, and the executor that
// runs them knows when each begins and ends.
#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "layer_case.hpp"

namespace mla::bench {

/// A team that remembers when its loops began and ended.
class TimedTeam {
  public:
    struct Loop {
        Clock::time_point begin, end;
    };

    explicit TimedTeam(ThreadTeam& team) : team_(&team) {}

    /// At least 2: loops for a single worker would not come here.
    [[nodiscard]] Index concurrency() const noexcept { return std::max(team_->concurrency(), Index{2}); }

    void parallel_for(Index n, IndexFunctionRef body) {
        const auto begin = Clock::now();
        team_->parallel_for(n, body);
        loops_.push_back({begin, Clock::now()});
    }

    void forget() noexcept { loops_.clear(); }
    [[nodiscard]] const std::vector<Loop>& loops() const noexcept { return loops_; }

  private:
    ThreadTeam* team_;
    std::vector<Loop> loops_;
};

/// Seconds of a step.
struct StepTimes {
    double total = 0.0;
    double projections = 0.0;  ///< q_a, q_b or q, kv_a, W_UK, W_UV and o, as loops
    double attention = 0.0;    ///< from the end of W_UK to the beginning of W_UV
};

/// One token appended to a cache that then holds `length`. Counters `projections_pct`, `attention_pct` and `rest_pct` (norms,
/// rope, append) are those of the step of median time.
template <Storage S>
class ProfiledDecodeCase final : public LayerCase<Attention<S>, LatentCache<S>> {
    using Base = LayerCase<Attention<S>, LatentCache<S>>;

  public:
    ProfiledDecodeCase(const Work& work, std::shared_ptr<typename Base::Layers> layers, Ring<LatentCache<S>> caches, Index length)
        : Base(work, std::move(layers), std::move(caches), 1, length),
          team_(Base::team()),
          loops_before_(this->config().q_lora_rank > 0 ? 4 : 3),
          loops_(loops_before_ + attention_loops() + 2) {}

    void step() override {
        team_.forget();
        const auto start = Clock::now();
        this->run(team_);
        steps_.push_back(times(seconds_since(start)));
    }

    [[nodiscard]] Counters step_counters() const override {
        std::vector<StepTimes> steps = steps_;
        const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2);
        std::nth_element(steps.begin(), middle, steps.end(), [](const auto& a, const auto& b) { return a.total < b.total; });
        const auto percent = [&](double seconds) { return 100.0 * seconds / middle->total; };
        return {{"projections_pct", percent(middle->projections)},
                {"attention_pct", percent(middle->attention)},
                {"rest_pct", percent(middle->total - middle->projections - middle->attention)}};
    }

  private:
    /// How many loops the attention of a step has: some of its loops are of a single item at some lengths.
    [[nodiscard]] std::size_t attention_loops() {
        const Config& c = this->config();
        CoreBuffers buffers(1, c.num_attention_heads, c.cache_dim(), c.kv_lora_rank);
        team_.forget();
        decode_absorbed(buffers.q, this->cache().view(), 1.0F, buffers.out, {}, buffers.workspace, team_);
        return team_.loops().size();
    }

    /// @throws std::runtime_error when the step had other loops than these times are told by
    [[nodiscard]] StepTimes times(double total) const {
        const auto& loops = team_.loops();
        if (loops.size() != loops_)
            throw std::runtime_error("a step had " + std::to_string(loops.size()) + " loops, must be " + std::to_string(loops_));
        const auto seconds = [](Clock::time_point begin, Clock::time_point end) {
            return std::chrono::duration<double>(end - begin).count();
        };
        StepTimes step{.total = total, .attention = seconds(loops[loops_before_ - 1].end, loops[loops_ - 2].begin)};
        for (std::size_t i = 0; i < loops_; ++i)
            if (i < loops_before_ || i >= loops_ - 2) step.projections += seconds(loops[i].begin, loops[i].end);
        return step;
    }

    TimedTeam team_;
    std::size_t loops_before_;  ///< the attention
    std::size_t loops_;
    std::vector<StepTimes> steps_;
};

/// A decode step of an MLA layer with weights and a cache of type S.
template <Storage S>
[[nodiscard]] std::unique_ptr<Case> profiled_decode_case(const WeightsName& name, const Config& config, Index length,
                                                         Index threads) {
    return std::make_unique<ProfiledDecodeCase<S>>(
        layer_work<S>(config, cached_bytes<S>(config, length), 1, length, threads, name.packing),
        make_layers<Attention<S>, S>(name, config), latent_caches<S>(config, length), length);
}

}  // namespace mla::bench
