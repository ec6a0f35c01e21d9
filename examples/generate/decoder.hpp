// A whole DeepSeek-V3 decoder on mla::Attention: embedding, layers, final norm, logits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "feed_forward.hpp"
#include "matrix.hpp"
#include "mla/attention.hpp"
#include "mla/io/checkpoint.hpp"

namespace generate {

using Token = std::int32_t;

/// One request's caches, a layer each, whose rows are stored as C.
template <class C>
using Caches = std::vector<mla::LatentCache<C>>;

/// x ← x + attention(norm(x));  x ← x + feed_forward(norm(x))
class Layer {
  public:
    Layer(mla::io::Checkpoint& checkpoint, Index index, mla::Precision precision)
        : attention_(checkpoint.config(), checkpoint.attention_weights(index), precision),
          feed_forward_(load_feed_forward(checkpoint, index)),
          attention_norm_(norm(checkpoint, name(checkpoint, index) + "input_layernorm.weight")),
          feed_forward_norm_(norm(checkpoint, name(checkpoint, index) + "post_attention_layernorm.weight")) {}

    template <class C>
    void forward(Matrix& x, std::span<const std::int64_t> positions, mla::LatentCache<C>& cache, mla::ExecutorRef executor,
                 mla::Workspace& workspace, mla::Form form) const {
        Matrix step = attention_norm_(x);
        attention_.forward(step, positions, cache, step, executor, workspace, form);
        x += step;
        const Matrix normalised = feed_forward_norm_(x);
        x += std::visit(
            [&](const auto& feed_forward) {
                return feed_forward(normalised, Products{executor, attention_.precision()});
            },
            feed_forward_);
    }

    static Norm norm(mla::io::Checkpoint& checkpoint, const std::string& tensor) {
        const double eps = checkpoint.json().at("rms_norm_eps");
        return {to_vector(checkpoint.tensor(tensor, 1, checkpoint.config().hidden_size)), eps};
    }

  private:
    using FeedForward = std::variant<DenseFeedForward, ExpertFeedForward>;

    static std::string name(const mla::io::Checkpoint& checkpoint, Index index) {
        return checkpoint.prefix() + "layers." + std::to_string(index) + ".";
    }

    static FeedForward load_feed_forward(mla::io::Checkpoint& checkpoint, Index index) {
        const std::string mlp = name(checkpoint, index) + "mlp";
        const Index hidden = checkpoint.config().hidden_size;
        if (index >= checkpoint.json().at("first_k_dense_replace").get<Index>())
            return ExpertFeedForward(checkpoint, mlp, hidden);
        return DenseFeedForward(checkpoint, mlp, hidden, checkpoint.json().at("intermediate_size"));
    }

    mla::Attention<mla::bf16> attention_;
    FeedForward feed_forward_;
    Norm attention_norm_, feed_forward_norm_;
};

/// Holds weights and nothing else: any number of requests may use it, each with caches of its own.
class Decoder {
  public:
    /// @throws what mla::io::Checkpoint throws, or an exception of nlohmann::json where config.json lacks a field
    explicit Decoder(const std::filesystem::path& folder, mla::io::Checkpoint::Progress progress = {},
                     mla::Precision precision = mla::Precision::operand)
        : precision_(precision) {
        mla::io::Checkpoint checkpoint(folder, std::move(progress));
        config_ = checkpoint.config();
        vocabulary_ = checkpoint.json().at("vocab_size");
        const std::string embedding_name = checkpoint.prefix() + "embed_tokens.weight";
        embedding_ = widened(checkpoint.tensor(embedding_name, vocabulary_, config_.hidden_size));
        const Index layers = checkpoint.json().at("num_hidden_layers");
        for (Index index = 0; index < layers; ++index) {
            layers_.emplace_back(checkpoint, index, precision);
            checkpoint.release();  // what has been packed needs its file no more
        }
        norm_ = Layer::norm(checkpoint, checkpoint.prefix() + "norm.weight");
        const bool tied = checkpoint.json().value("tie_word_embeddings", false);
        head_ = Weight(checkpoint.tensor(tied ? embedding_name : "lm_head.weight", vocabulary_, config_.hidden_size));
    }

    [[nodiscard]] Index vocabulary() const { return vocabulary_; }
    [[nodiscard]] Index layers() const { return static_cast<Index>(layers_.size()); }

    /// Empty caches with room for `capacity` tokens.
    template <class C>
    [[nodiscard]] Caches<C> make_caches(Index capacity) const {
        Caches<C> caches;
        for (Index layer = 0; layer < layers(); ++layer) caches.emplace_back(config_, capacity);
        return caches;
    }

    /// Runs tokens that follow those in the caches, a whole prompt or the next one, through all layers: [T, hidden].
    template <class C>
    [[nodiscard]] Matrix forward(std::span<const Token> tokens, Caches<C>& caches, mla::ExecutorRef executor,
                                 mla::Workspace& workspace, mla::Form form = mla::Form::automatic) const {
        std::vector<std::int64_t> positions(tokens.size());
        std::iota(positions.begin(), positions.end(), caches.front().size());
        Matrix x(static_cast<Index>(tokens.size()), config_.hidden_size);
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            mla::require_in_range("token", Index{tokens[t]}, Index{0}, vocabulary_ - 1);
            x.row(static_cast<Index>(t)) = embedding_.row(tokens[t]);
        }
        for (std::size_t layer = 0; layer < layers_.size(); ++layer)
            layers_[layer].forward(x, positions, caches[layer], executor, workspace, form);
        return x;
    }

    /// What `forward` gave, or the rows of it that matter, as scores of every token that could come next: [T, vocabulary].
    [[nodiscard]] Matrix logits(const Matrix& x, mla::ExecutorRef executor) const {
        return multiply(norm_(x), head_, {executor, precision_});
    }

  private:
    static Matrix widened(const mla::TensorRef& tensor) {
        Matrix values(tensor.rows, tensor.cols);
        tensor.visit([&](const auto& element) {
            for (Index r = 0; r < tensor.rows; ++r)
                for (Index c = 0; c < tensor.cols; ++c) values(r, c) = static_cast<float>(element(r, c));
        });
        return values;
    }

    mla::Precision precision_;
    mla::Config config_;
    Index vocabulary_ = 0;
    Matrix embedding_;  // [vocabulary, hidden]
    std::vector<Layer> layers_;
    Norm norm_;
    Weight head_;
};

/// Bytes that all caches hold for the tokens that are in them.
template <class C>
[[nodiscard]] Index cached_bytes(const Caches<C>& caches) {
    Index bytes = 0;
    for (const auto& cache : caches) bytes += cache.size() * cache.bytes_per_token();
    return bytes;
}

}  // namespace generate
