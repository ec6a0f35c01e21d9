// Many requests at once: their caches in pages, and the ways to attend to them.
#pragma once

#include <memory>
#include <numeric>
#include <vector>

#include "core_cases.hpp"
#include "layer_case.hpp"

namespace mla::bench {

/// One request of a batch.
struct RequestShape {
    Index queries;
    Index length;
};

/// Batches of requests in pages that lie in a random order in one pool, so many batches that each is cold when its turn comes.
/// The first `shared` tokens of a batch's requests lie in the same pages.
template <CacheElement C>
class PagedBatches {
  public:
    PagedBatches(const Config& config, const std::vector<RequestShape>& shapes, Index page_size, Index shared = 0)
        : shapes_(shapes), page_size_(page_size), format_{config.kv_lora_rank, config.qk_rope_head_dim} {
        const detail::RowLayout<C> layout(config);
        const Index shared_pages = shared / page_size;
        Index batch_pages = shared_pages;
        for (const RequestShape& shape : shapes) batch_pages += divide_up(shape.length, page_size) - shared_pages;
        const Index copies = cold_copies(cached_bytes<C>(config, batch_pages * page_size));
        stride_ = layout.stride();
        pages_ = copies * batch_pages;
        require_memory(static_cast<double>(pages_ * page_size * stride_) * sizeof(C));
        pool_ = detail::allocate_aligned<C>(pages_ * page_size * stride_);
        for (Index t = 0; t < pages_ * page_size; t += tokens_at_a_time) {
            const Index count = std::min(tokens_at_a_time, pages_ * page_size - t);
            layout.write(MatrixView<const float>(next_gaussians(count * format_.values()), count, format_.values()),
                         pool_.get() + t * stride_);
        }
        std::vector<std::int32_t> order(static_cast<std::size_t>(pages_));
        std::iota(order.begin(), order.end(), 0);
        testing::Generator generator(1);
        for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
        deal(order, copies, shared_pages);
    }

    /// The next batch's views, by request.
    [[nodiscard]] const std::vector<PagedView<C>>& turn() {
        next_ = next_ + 1 == batches_.size() ? 0 : next_ + 1;
        return batches_[next_];
    }

  private:
    void deal(const std::vector<std::int32_t>& order, Index copies, Index shared_pages) {
        auto page = order.begin();
        for (Index copy = 0; copy < copies; ++copy) {
            const std::vector<std::int32_t> common(page, page + shared_pages);
            page += shared_pages;
            std::vector<PagedView<C>> views;
            for (const RequestShape& shape : shapes_) {
                const Index own = divide_up(shape.length, page_size_) - shared_pages;
                tables_.push_back(common);
                tables_.back().insert(tables_.back().end(), page, page + own);
                page += own;
                views.push_back({pool_.get(), pages_, page_size_, page_size_ * stride_, tables_.back().data(), shape.length,
                                 format_.latent_dim, format_.rope_dim, stride_});
            }
            batches_.push_back(std::move(views));
        }
    }

    std::vector<RequestShape> shapes_;
    Index page_size_;
    RowFormat<C> format_;
    Index stride_ = 0;
    Index pages_ = 0;
    detail::AlignedArray<C> pool_;
    std::vector<std::vector<std::int32_t>> tables_;
    std::vector<std::vector<PagedView<C>>> batches_;
    std::size_t next_ = 0;
};

[[nodiscard]] inline std::vector<std::int32_t> query_offsets(const std::vector<RequestShape>& shapes) {
    std::vector<std::int32_t> offsets{0};
    for (const RequestShape& shape : shapes) offsets.push_back(offsets.back() + static_cast<std::int32_t>(shape.queries));
    return offsets;
}

template <CacheElement C>
[[nodiscard]] Work batch_work(const Config& config, const std::vector<RequestShape>& shapes, Index threads) {
    Work work{.tokens = 0.0, .peak = dot_rate<C>, .threads = threads};
    for (const RequestShape& shape : shapes) {
        work.flops += absorbed_flops(config, shape.queries, shape.length);
        work.bytes += cached_bytes<C>(config, shape.length);
        work.tokens += static_cast<double>(shape.queries);
    }
    return work;
}

/// Absorbed attention of a batch, in one call or request by request.
template <CacheElement C>
class BatchCase : public Case {
  public:
    enum class Way : std::uint8_t { together, apart };

    BatchCase(const Config& config, const std::vector<RequestShape>& shapes, std::shared_ptr<PagedBatches<C>> batches,
              Index shared, Way way, Index threads)
        : Case(batch_work<C>(config, shapes, threads)),
          way_(way),
          query_begin_(query_offsets(shapes)),
          batches_(std::move(batches)),
          scale_(static_cast<float>(config.softmax_scale())),
          buffers_(query_begin_.back(), config.num_attention_heads, config.cache_dim(), config.kv_lora_rank) {
        options_.shared_prefix = shared;
    }

    void step() override {
        const auto& views = batches_->turn();
        if (way_ == Way::together) {
            decode_absorbed(buffers_.q, views, query_begin_, scale_, buffers_.out, {}, buffers_.workspace, team(), options_);
            return;
        }
        for (std::size_t r = 0; r < views.size(); ++r) {
            const Index first = query_begin_[r];
            const Index count = query_begin_[r + 1] - first;
            decode_absorbed(buffers_.q.token_range(first, count), views[r], scale_, buffers_.out.token_range(first, count), {},
                            buffers_.workspace, team());
        }
    }
    [[nodiscard]] MatrixView<const float> result() const override { return buffers_.result(); }

  private:
    Way way_;
    std::vector<std::int32_t> query_begin_;
    std::shared_ptr<PagedBatches<C>> batches_;
    float scale_;
    CoreBuffers buffers_;
    BatchOptions<float> options_;
};

/// A case beside the one it is compared with.
class PairedCase : public Case {
  public:
    PairedCase(std::unique_ptr<Case> measured, std::unique_ptr<Case> reference)
        : Case(measured->work()), measured_(std::move(measured)), reference_(std::move(reference)) {
        counters = measured_->counters;
    }
    void step() override { measured_->step(); }
    [[nodiscard]] MatrixView<const float> result() const override { return measured_->result(); }
    [[nodiscard]] Case* reference() override { return reference_.get(); }

  private:
    std::unique_ptr<Case> measured_, reference_;
};

/// A step of a whole layer for a batch of requests in a paged cache, in one call, or for each alone in a contiguous cache.
template <Storage S, CacheElement C>
class LayerBatchCase : public Case {
  public:
    LayerBatchCase(const WeightsName& name, const Config& config, std::vector<RequestShape> shapes, bool together, Index threads)
        : Case(work_of(config, shapes, threads)),
          together_(together),
          shapes_(std::move(shapes)),
          layers_(make_layers<Attention<S>, S>(name, config)) {
        Index pages = 0;
        Index tokens = 0;
        for (const RequestShape& shape : shapes_) {
            pages += divide_up(shape.length, page_size);
            tokens += shape.queries;
        }
        if (together) pool_ = std::make_unique<PagedCache<C>>(config, pages, page_size);
        for (const RequestShape& shape : shapes_) {
            if (together) {
                sequences_.push_back(pool_->sequence(shape.length));
                fill(sequences_.back(), shape.length);
            } else {
                caches_.emplace_back(config, shape.length);
                fill(caches_.back(), shape.length);
            }
            for (Index t = shape.length - shape.queries; t < shape.length; ++t) positions_.push_back(t);
        }
        x_.resize(tokens, config.hidden_size);
        y_.resize(tokens, config.hidden_size);
        std::copy_n(random_values<float>(x_.size()).get(), x_.size(), x_.data());
        for (std::size_t r = 0; r < sequences_.size(); ++r) requests_.push_back({&sequences_[r], shapes_[r].queries});
    }

    void step() override {
        const Attention<S>& layer = layers_->turn();
        if (together_) {
            for (std::size_t r = 0; r < shapes_.size(); ++r) sequences_[r].truncate(shapes_[r].length - shapes_[r].queries);
            layer.forward(x_, positions_, requests_, y_, team(), workspace_);
            return;
        }
        Index first = 0;
        for (std::size_t r = 0; r < shapes_.size(); ++r) {
            const Index count = shapes_[r].queries;
            caches_[r].truncate(shapes_[r].length - count);
            layer.forward(x_.middleRows(first, count),
                          std::span(positions_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                          caches_[r], y_.middleRows(first, count), team(), workspace_);
            first += count;
        }
    }
    [[nodiscard]] MatrixView<const float> result() const override { return {y_.data(), y_.rows(), y_.cols()}; }

  private:
    static constexpr Index page_size = 64;

    static Work work_of(const Config& config, const std::vector<RequestShape>& shapes, Index threads) {
        Work work{.bytes = layer_parameters(config) * sizeof(S), .tokens = 0.0, .peak = dot_rate<S>, .threads = threads};
        for (const RequestShape& shape : shapes) {
            work.flops += layer_flops(config, shape.queries, shape.length);
            work.bytes += cached_bytes<C>(config, shape.length);
            work.tokens += static_cast<double>(shape.queries);
        }
        return work;
    }

    bool together_;
    std::vector<RequestShape> shapes_;
    std::shared_ptr<Ring<Attention<S>>> layers_;
    std::unique_ptr<PagedCache<C>> pool_;
    std::vector<PagedSequence<C>> sequences_;
    std::vector<LatentCache<C>> caches_;
    std::vector<Request<PagedSequence<C>>> requests_;
    RowMatrix<float> x_, y_;
    std::vector<std::int64_t> positions_;
    Workspace workspace_;
};

}  // namespace mla::bench
