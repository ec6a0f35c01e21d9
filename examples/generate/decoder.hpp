// A whole decoder on mla::Attention, of DeepSeek-V3 and of models that differ from it in their attention: embedding, layers,
// final norm, logits.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "feed_forward.hpp"
#include "layer_cache.hpp"
#include "matrix.hpp"
#include "mla/attention.hpp"
#include "mla/io/checkpoint.hpp"

namespace generate {

using Token = std::int32_t;

/// One request's caches, a layer each, whose rows are stored as C.
template <class C>
using Caches = std::vector<LayerCache<C>>;

/// What a step hands from layer to layer, beside its activations: the tokens that the last layer with an indexer selected.
struct Step {
    std::span<const std::int64_t> positions;
    mla::ExecutorRef executor;
    mla::Workspace& workspace;
    mla::Form form = mla::Form::automatic;
    std::vector<std::int32_t> selection = {};  ///< [T, top_k]
};

/// x ← x + attention(norm(x));  x ← x + feed_forward(norm(x))
class Layer {
  public:
    /// @throws std::invalid_argument where the layer needs the cache of another, which this decoder does not keep for it
    Layer(mla::io::Checkpoint& checkpoint, Index index, mla::Precision precision, const mla::PackOptions& packing)
        : attention_(checked(checkpoint.config(index)), checkpoint.attention_weights(index), precision, packing),
          feed_forward_(load_feed_forward(checkpoint, index)),
          attention_norm_(norm(checkpoint, name(checkpoint, index) + "input_layernorm.weight")),
          feed_forward_norm_(norm(checkpoint, name(checkpoint, index) + "post_attention_layernorm.weight")) {}

    template <class C>
    void forward(Matrix& x, LayerCache<C>& cache, Step& step) const {
        Matrix y = attention_norm_(x);
        cache.visit([&](auto& rows) { attend(y, rows, step); });
        x += y;
        const Matrix normalised = feed_forward_norm_(x);
        x += std::visit(
            [&](const auto& feed_forward) {
                return feed_forward(normalised, Products{step.executor, attention_.precision()});
            },
            feed_forward_);
    }

    [[nodiscard]] const mla::Config& config() const { return attention_.config(); }

    static Norm norm(mla::io::Checkpoint& checkpoint, const std::string& tensor) {
        const double eps = checkpoint.json().at("rms_norm_eps");
        return {to_vector(checkpoint.tensor(tensor, 1, hidden_size(checkpoint))), eps};
    }
    static Index hidden_size(const mla::io::Checkpoint& checkpoint) { return checkpoint.json().at("hidden_size"); }

  private:
    static const mla::Config& checked(const mla::Config& config) {
        if (config.shares_cache) throw std::invalid_argument("config.json: a layer that shares a cache has none here");
        return config;
    }

    template <class Cache>
    void attend(Matrix& y, Cache& cache, Step& step) const {
        const mla::IndexerConfig& indexer = attention_.config().indexer;
        mla::ForwardOptions<float> options{.form = step.form};
        if (indexer.heads > 0) step.selection.resize(static_cast<std::size_t>(y.rows() * indexer.top_k));
        const mla::MatrixView<std::int32_t> selection(step.selection.data(), y.rows(), indexer.top_k);
        if (indexer.heads > 0) options.selected = selection;
        if (indexer.heads == 0 && indexer.top_k > 0) options.selection = selection;
        const std::array<mla::Request<Cache>, 1> requests{{{&cache, y.rows()}}};
        attention_.forward(y, step.positions, requests, y, step.executor, step.workspace, options);
    }

    using FeedForward = std::variant<DenseFeedForward, ExpertFeedForward>;

    static std::string name(const mla::io::Checkpoint& checkpoint, Index index) {
        return checkpoint.prefix() + "layers." + std::to_string(index) + ".";
    }

    static FeedForward load_feed_forward(mla::io::Checkpoint& checkpoint, Index index) {
        const std::string mlp = name(checkpoint, index) + "mlp";
        const Index hidden = hidden_size(checkpoint);
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
    /// `packing`: what the projections of attention are kept as.
    explicit Decoder(const std::filesystem::path& folder, mla::io::Checkpoint::Progress progress = {},
                     mla::Precision precision = mla::Precision::operand, const mla::PackOptions& packing = {})
        : precision_(precision) {
        mla::io::Checkpoint checkpoint(folder, std::move(progress));
        hidden_ = Layer::hidden_size(checkpoint);
        vocabulary_ = checkpoint.json().at("vocab_size");
        const std::string embedding_name = checkpoint.prefix() + "embed_tokens.weight";
        embedding_ = widened(checkpoint.tensor(embedding_name, vocabulary_, hidden_));
        const Index layers = checkpoint.json().at("num_hidden_layers");
        for (Index index = 0; index < layers; ++index) {
            layers_.emplace_back(checkpoint, index, precision, packing);
            checkpoint.release();  // what has been packed needs its file no more
        }
        norm_ = Layer::norm(checkpoint, checkpoint.prefix() + "norm.weight");
        const bool tied = checkpoint.json().value("tie_word_embeddings", false);
        head_ = Weight(checkpoint.tensor(tied ? embedding_name : "lm_head.weight", vocabulary_, hidden_));
    }

    [[nodiscard]] Index vocabulary() const { return vocabulary_; }
    [[nodiscard]] Index layers() const { return static_cast<Index>(layers_.size()); }

    /// Empty caches with room for `capacity` tokens.
    template <class C>
    [[nodiscard]] Caches<C> make_caches(Index capacity) const {
        Caches<C> caches;
        for (const Layer& layer : layers_) caches.emplace_back(layer.config(), capacity);
        return caches;
    }

    /// Runs tokens that follow those in the caches, a whole prompt or the next one, through all layers: [T, hidden].
    template <class C>
    [[nodiscard]] Matrix forward(std::span<const Token> tokens, Caches<C>& caches, mla::ExecutorRef executor,
                                 mla::Workspace& workspace, mla::Form form = mla::Form::automatic) const {
        std::vector<std::int64_t> positions(tokens.size());
        std::iota(positions.begin(), positions.end(), caches.front().size());
        Matrix x(static_cast<Index>(tokens.size()), hidden_);
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            mla::require_in_range("token", Index{tokens[t]}, Index{0}, vocabulary_ - 1);
            x.row(static_cast<Index>(t)) = embedding_.row(tokens[t]);
        }
        Step step{positions, executor, workspace, form};
        for (std::size_t layer = 0; layer < layers_.size(); ++layer) layers_[layer].forward(x, caches[layer], step);
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
    Index hidden_ = 0;
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
