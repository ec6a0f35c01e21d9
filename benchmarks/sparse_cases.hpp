// Sparse attention: what an indexer costs, what attending to the keys that it chooses costs, and dense attention beside them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "core_cases.hpp"
#include "mla/kernels/decode_sparse.hpp"
#include "mla/kernels/select_keys.hpp"
#include "support.hpp"

namespace mla::bench {

/// Pages of memory: scattered rows miss the TLB of small ones.
enum class MemoryPages : std::uint8_t { small, large };

[[nodiscard]] inline const char* name(MemoryPages pages) { return pages == MemoryPages::small ? "4k" : "2m"; }

/// `tokens` random rows of a format in memory of one kind of pages, as far as the system gives it.
template <CacheElement C>
class MappedRows {
  public:
    MappedRows(const RowFormat<C>& format, Index tokens, MemoryPages pages)
        : format_(format), stride_(round_up(format.elements(), elements_of_16_bytes)), tokens_(tokens) {
        bytes_ = static_cast<std::size_t>(tokens * stride_) * sizeof(C);
        void* const memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        ::madvise(memory, bytes_, pages == MemoryPages::large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        data_ = static_cast<C*>(memory);
        for (Index t = 0; t < tokens; t += tokens_at_a_time) {
            const Index count = std::min(tokens_at_a_time, tokens - t);
            append(MatrixView<const float>(next_gaussians(count * format.values()), count, format.values()), format,
                   MatrixView<C>(data_ + t * stride_, count, format.elements(), stride_));
        }
    }
    MappedRows(const MappedRows&) = delete;
    MappedRows& operator=(const MappedRows&) = delete;
    ~MappedRows() { ::munmap(data_, bytes_); }

    [[nodiscard]] LatentView<C> view() const { return {data_, tokens_, format_.latent_dim, format_.rope_dim, stride_}; }

  private:
    static constexpr Index elements_of_16_bytes = 16 / static_cast<Index>(sizeof(C));

    RowFormat<C> format_;
    Index stride_;
    Index tokens_;
    std::size_t bytes_ = 0;
    C* data_ = nullptr;
};

/// Random selections of `count` of `tokens` tokens, ascending as an indexer's are; another each step.
class Selections {
  public:
    Selections(Index tokens, Index count) : count_(count) {
        testing::Generator generator(20251201);
        std::vector<std::int32_t> all(static_cast<std::size_t>(tokens));
        std::iota(all.begin(), all.end(), 0);
        for (auto& selection : selections_) {
            for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
                std::swap(all[i], all[i + generator() % (all.size() - i)]);
            selection.assign(all.begin(), all.begin() + count);
            std::sort(selection.begin(), selection.end());
        }
    }
    [[nodiscard]] MatrixView<const std::int32_t> turn() {
        next_ = (next_ + 1) % selections_.size();
        return {selections_[next_].data(), 1, count_};
    }

  private:
    Index count_;
    std::array<std::vector<std::int32_t>, 32> selections_;
    std::size_t next_ = 0;
};

/// One token that attends to `selected` of `length` cached tokens, taking turns with dense attention to as many.
template <CacheElement C>
class SparseCase : public Case {
  public:
    SparseCase(const Config& config, Index selected, Index length, MemoryPages pages, Index threads)
        : Case(decode_work<C>(config, 1, selected, threads)),
          scale_(static_cast<float>(config.softmax_scale())),
          buffers_(1, config.num_attention_heads, config.cache_dim(), config.kv_lora_rank),
          rows_({config.kv_lora_rank, config.qk_rope_head_dim}, length, pages),
          selections_(length, selected),
          dense_(config, 1, selected, threads) {}

    void step() override {
        decode_sparse<float>(buffers_.q, rows_.view(), selections_.turn(), scale_, buffers_.out, {}, buffers_.workspace, team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return buffers_.result(); }
    [[nodiscard]] Case* reference() override { return &dense_; }

  private:
    float scale_;
    CoreBuffers buffers_;
    MappedRows<C> rows_;
    Selections selections_;
    DecodeCase<C> dense_;
};

/// One token for which an indexer chooses among `length` keys.
template <CacheElement K>
class SelectCase : public Case {
  public:
    SelectCase(const Config& config, Index length, Index threads)
        : Case({.flops = 2.0 * static_cast<double>(config.indexer.heads * config.indexer.head_dim * length),
                .bytes = static_cast<double>(length * RowFormat<K>{config.indexer.head_dim, 0}.elements()) * sizeof(K),
                .peak = dot_rate<K>,
                .threads = threads}),
          heads_(config.indexer.heads),
          queries_(random_values<float>(heads_ * config.indexer.head_dim)),
          weights_(random_values<float>(heads_)),
          keys_(cold_copies(work().bytes),
                [&] {
                    return std::make_unique<MappedRows<K>>(RowFormat<K>{config.indexer.head_dim, 0}, length, MemoryPages::large);
                }),
          selection_(static_cast<std::size_t>(config.indexer.top_k)),
          chosen_(selection_.size()) {}

    void step() override {
        const std::array<LatentView<K>, 1> keys{keys_.turn()->view()};
        const std::array<std::int32_t, 2> query_begin{0, 1};
        select_keys<float>(HeadsView<const float>(queries_.get(), 1, heads_, keys[0].latent_dim),
                           MatrixView<const float>(weights_.get(), 1, heads_), keys, query_begin,
                           MatrixView<std::int32_t>(selection_.data(), 1, static_cast<Index>(selection_.size())), workspace_,
                           team());
    }
    [[nodiscard]] MatrixView<const float> result() const override {
        std::transform(selection_.begin(), selection_.end(), chosen_.begin(),
                       [](std::int32_t key) { return 1.0F + static_cast<float>(key); });
        return {chosen_.data(), 1, static_cast<Index>(chosen_.size())};
    }

  private:
    Index heads_;
    detail::AlignedArray<float> queries_, weights_;
    Ring<std::unique_ptr<MappedRows<K>>> keys_;
    std::vector<std::int32_t> selection_;
    mutable std::vector<float> chosen_;
    Workspace workspace_;
};

}  // namespace mla::bench
