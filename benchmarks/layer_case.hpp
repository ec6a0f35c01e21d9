// A whole layer, from activations to activations.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core_cases.hpp"
#include "mla/attention.hpp"
#include "mla/baselines/grouped_query_attention.hpp"

namespace mla::bench {

/// `queries` tokens appended to a cache that then holds `length`. Layers and caches take turns, so that weights are as cold as in
/// a model of many layers.
template <class Layer, class Cache>
class LayerCase : public Case {
  public:
    using Layers = Ring<Layer>;

    LayerCase(const Work& work, std::shared_ptr<Layers> layers, Ring<Cache> caches, Index queries, Index length)
        : Case(work), layers_(std::move(layers)), caches_(std::move(caches)), length_(length) {
        const Index hidden = config().hidden_size;
        x_.resize(queries, hidden);
        y_.resize(queries, hidden);
        std::copy_n(random_values<float>(x_.size()).get(), x_.size(), x_.data());
        for (Index t = 0; t < queries; ++t) positions_.push_back(length - queries + t);
        counters.emplace_back("cache_bytes_a_token", static_cast<double>(caches_.first().bytes_per_token()));
    }

    void step() override { run(team()); }
    [[nodiscard]] MatrixView<const float> result() const override { return {y_.data(), y_.rows(), y_.cols()}; }

  protected:
    void run(ExecutorRef executor) {
        Cache& cache = caches_.turn();
        cache.truncate(length_ - x_.rows());
        layers_->turn().forward(x_, positions_, cache, y_, executor, workspace_);
    }
    [[nodiscard]] const auto& config() const { return layers_->first().config(); }
    [[nodiscard]] const Cache& cache() const { return caches_.first(); }

  private:
    std::shared_ptr<Layers> layers_;
    Ring<Cache> caches_;
    Index length_;
    RowMatrix<float> x_, y_;
    std::vector<std::int64_t> positions_;
    Workspace workspace_;
};

/// Whose weights a case uses: cases of one model share those of the same kind of attention and type.
struct WeightsName {
    std::string model;
    std::string kind;
    Packing packing = Packing::layer_type;  ///< of the projections of an MLA layer
};

/// Bytes of a projection's weight, with its share of a scale, in a layer of S.
template <Storage S>
[[nodiscard]] double packed_bytes(Packing packing) {
    switch (packing) {
        case Packing::fp8:
        case Packing::int8: return 1.0 + 4.0 / 128.0;
        case Packing::int4: return 0.5 + 4.0 / 32.0;
        default: return sizeof(S);
    }
}

/// Bytes of weights that a decoded token reads. Beside narrow projections kv_b_proj is fp8, as DeepSeek-V3 has it.
template <Storage S>
[[nodiscard]] double layer_bytes(const Config& config, Packing packing) {
    const Packing heads = packing == Packing::layer_type ? packing : Packing::fp8;
    return projection_parameters(config) * packed_bytes<S>(packing) + expansion_parameters(config) * packed_bytes<S>(heads);
}
template <Storage S>
[[nodiscard]] double layer_bytes(const baselines::GroupedQueryConfig& config, Packing /*none*/) {
    return layer_parameters(config) * sizeof(S);
}

/// Layers with the same random weights, packed, so many that none stays in the processor's caches.
template <class Layer, Storage S, class LayerConfig>
[[nodiscard]] std::shared_ptr<Ring<Layer>> make_layers(const WeightsName& name, const LayerConfig& config) {
    return shared_by<Ring<Layer>>(name.model, name.kind, [&] {
        const double bytes = layer_bytes<S>(config, name.packing);
        require_memory(bytes * static_cast<double>(cold_copies(bytes)) + layer_parameters(config) * sizeof(S));
        RandomTensors<S> tensors;
        auto weights = tensors.add(config);
        BlockQuantised heads;
        if constexpr (std::is_same_v<LayerConfig, Config>)
            if (name.packing != Packing::layer_type) {
                heads = BlockQuantised(weights.kv_b_proj);
                weights.kv_b_proj = heads.ref();
            }
        return std::make_shared<Ring<Layer>>(cold_copies(bytes), [&] {
            if constexpr (std::is_same_v<LayerConfig, Config>) {
                return Layer(config, weights, Precision::operand, PackOptions::all(name.packing));
            } else {
                return Layer(config, weights);
            }
        });
    });
}

template <Storage S, class LayerConfig>
[[nodiscard]] Work layer_work(const LayerConfig& config, double cache_bytes, Index queries, Index length, Index threads,
                              Packing packing = Packing::layer_type) {
    return {.flops = layer_flops(config, queries, length),
            .bytes = layer_bytes<S>(config, packing) + cache_bytes,
            .tokens = static_cast<double>(queries),
            .peak = dot_rate<S>,
            .threads = threads};
}

/// An MLA layer with weights of type S and a cache of type C.
template <Storage S, CacheElement C = S>
[[nodiscard]] std::unique_ptr<Case> mla_layer_case(const WeightsName& name, const Config& config, Index queries, Index length,
                                                   Index threads) {
    using Layer = Attention<S>;
    return std::make_unique<LayerCase<Layer, LatentCache<C>>>(
        layer_work<S>(config, cached_bytes<C>(config, length), queries, length, threads, name.packing),
        make_layers<Layer, S>(name, config), latent_caches<C>(config, length), queries, length);
}

/// The same of grouped-query or multi-head attention.
template <Storage S>
[[nodiscard]] std::unique_ptr<Case> grouped_layer_case(const WeightsName& name, const baselines::GroupedQueryConfig& config,
                                                       Index queries, Index length, Index threads) {
    using Layer = baselines::GroupedQueryAttention<S>;
    const double cache_bytes = static_cast<double>(2 * length * config.kv_dim()) * sizeof(S);
    return std::make_unique<LayerCase<Layer, baselines::KvCache<S>>>(layer_work<S>(config, cache_bytes, queries, length, threads),
                                                                     make_layers<Layer, S>(name, config),
                                                                     grouped_caches<S>(config, length), queries, length);
}

}  // namespace mla::bench
