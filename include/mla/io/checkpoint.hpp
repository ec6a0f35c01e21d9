// A published checkpoint: a folder with config.json and one safetensors file, or several and their index.
#pragma once

#include <nlohmann/json.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/checkpoint_files.hpp"
#include "mla/io/hf_config.hpp"
#include "mla/io/quantization.hpp"
#include "mla/io/stored_weight.hpp"
#include "mla/io/tensor_names.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::io {

/// How far a caller has come through a checkpoint.
struct LoadProgress {
    std::string_view tensor;  ///< that is handed out next
    std::uint64_t bytes = 0;  ///< of all tensors handed out before it
    std::uint64_t total = 0;  ///< of all tensors of the checkpoint
};

/// The tensors of a Hugging Face checkpoint, by name, in place: files are mapped and checked when it is opened, and a tensor is
/// read when it is packed. Not to be shared by threads. Tensors may be F64, F32, BF16, F16, or quantised:
///
///     F8_E4M3, I8      with `<name>_scale_inv` or `<name>_scale`, one a block, a channel or a tensor
///     <name>_packed    int4, eight in an I32, with `<name>_scale`, one a group, and `<name>_shape` (compressed-tensors)
///
/// Scales are F32, BF16, F16 or F8_E8M0, taken as they are stored, and weights are values times scales. Which elements share one
/// is what config.json says (`quantization_config`), and must fit the scales' shape.
class Checkpoint {
  public:
    using Progress = std::function<void(const LoadProgress&)>;

    /// Opens `folder`, whose files must stay as they are while this lives. `progress` is called for each tensor asked for. A file
    /// that the index names and that is not there is missed only by who asks for one of its tensors.
    /// @throws std::system_error when a file cannot be read, CheckpointError when one is invalid or lacks a tensor that the index
    /// promises, std::invalid_argument when config.json describes no model that is known here
    explicit Checkpoint(const std::filesystem::path& folder, Progress progress = {})
        : progress_(std::move(progress)),
          json_(read_json(folder / "config.json")),
          layers_(detail::parse_named(json_, (folder / "config.json").string(), parse_hf_layers)),
          quantization_(read_quantization(json_, (folder / "config.json").string())),
          files_(folder),
          total_(files_.bytes()) {
        for (const char* prefix : {"model.", "language_model.model.", "model.language_model.", "language.model."})
            if (files_.lists_below(std::string(prefix) + "layers.")) prefix_ = prefix;
        read_learned_frequencies();
    }

    /// The attention that all layers have, or of a hybrid all those of latent attention.
    /// @throws std::invalid_argument where layers differ: `config(layer)` gives each
    [[nodiscard]] Config config() const { return common_config(layers_); }
    /// The attention of one layer, counted from 0; past num_hidden_layers, where layers for speculation lie, that of all others.
    /// @throws std::invalid_argument where the layer is of another kind, or past the last where layers differ
    [[nodiscard]] Config config(Index layer) const {
        require_at_least("layer", layer, Index{0});
        if (layer >= static_cast<Index>(layers_.size())) return config();
        const std::optional<Config>& own = layers_[static_cast<std::size_t>(layer)];
        if (!own) throw_invalid("layer", layer, "one of latent attention, which by config.json it is not");
        return *own;
    }
    /// Layers by config.json; nothing for those of another kind than latent attention.
    [[nodiscard]] const std::vector<std::optional<Config>>& layers() const noexcept { return layers_; }
    /// config.json, of a multimodal model its `text_config` or `language_config`: what the rest of the model asks for.
    [[nodiscard]] const nlohmann::json& json() const noexcept { return json_; }
    /// What the names of the language model's tensors start with: "model.", or more in a multimodal model.
    [[nodiscard]] const std::string& prefix() const noexcept { return prefix_; }
    /// Bytes of all tensors in the files that are there.
    [[nodiscard]] std::uint64_t bytes() const noexcept { return total_; }

    /// Whether a tensor is listed and its file there.
    [[nodiscard]] bool contains(std::string_view name) const noexcept { return files_.contains(name); }

    /// A tensor of one or two dimensions as a matrix; a vector is one row. It lives until `release` or the end of this.
    /// @throws CheckpointError naming file, tensor, what was found and what it must be
    [[nodiscard]] TensorRef tensor(std::string_view name) { return read(std::string(name)).value; }

    /// The same, which must be [rows, cols].
    [[nodiscard]] TensorRef tensor(std::string_view name, Index rows, Index cols) {
        return read(std::string(name), rows, cols).value;
    }

    /// The attention of one layer (`<prefix>layers.<layer>.self_attn.*`), in the shapes that `config(layer)` calls for. A tensor
    /// there that it does not call for is an error: the layer would be another.
    /// @throws CheckpointError naming file, tensor, what was found and what it must be
    [[nodiscard]] AttentionWeights attention_weights(Index layer) { return attention_weights(layer, config(layer)); }

    /// The same for a config that a caller has changed. One whose `indexer` was cleared, to attend to all keys, leaves the
    /// indexer's tensors unread.
    [[nodiscard]] AttentionWeights attention_weights(Index layer, const Config& config) {
        AttentionWeights weights;
        const std::string start = prefix_ + "layers." + std::to_string(layer) + ".self_attn.";
        std::set<std::string, std::less<>> known = {start + "rotary_emb.inv_freq"};
        for_each_tensor(config, weights, [&](std::string_view name, TensorRef& weight, Index rows, Index cols) {
            const std::string full = start + detail::published_name(name, model_type());
            detail::StoredWeight stored = read(full, rows, cols);
            weight = stored.value;
            known.insert(stored.tensors.begin(), stored.tensors.end());
        });
        const bool skips_indexer = config.indexer.heads == 0 && has_indexer(layer);
        for (const std::string& name : files_.names_below(start)) {
            const bool skipped = skips_indexer && name.starts_with(start + "indexer.");
            if (!known.contains(name) && !skipped)
                detail::throw_checkpoint(files_.catalogue(), "tensor " + detail::printable(name), "there, and read by nothing",
                                         "absent: with it the layer is another than config.json describes");
        }
        return weights;
    }

    /// Gives back the memory behind all tensors handed out so far, which must not be used afterwards; asking for one again reads
    /// the file again. After each layer, this keeps a loading program at the size of what it has packed.
    void release() noexcept { files_.release(); }

  private:
    /// The language model's part of a config.json, with the quantisation that stands beside it.
    static nlohmann::json read_json(const std::filesystem::path& path) {
        const nlohmann::json json = detail::read_json(path);
        if (!json.is_object()) return json;
        for (const char* part : {"text_config", "language_config"}) {
            if (!json.contains(part) || json.at(part).is_null()) continue;
            nlohmann::json text = json.at(part);
            const auto quantization = json.find("quantization_config");
            if (!text.is_object() || quantization == json.end() || quantization->is_null()) return text;
            nlohmann::json& inner = text["quantization_config"];
            if (!inner.is_null() && inner != *quantization)
                detail::throw_checkpoint(path.string(), std::string(part) + ".quantization_config",
                                         "another than quantization_config", "the same, or one of them absent");
            inner = *quantization;
            return text;
        }
        return json;
    }

    static detail::Quantization read_quantization(const nlohmann::json& json, const std::string& file) {
        return detail::parse_named(json, file, [&](const nlohmann::json& model) { return detail::Quantization(model, file); });
    }

    [[nodiscard]] bool has_indexer(Index layer) const noexcept {
        const auto index = static_cast<std::size_t>(layer);
        return index < layers_.size() && layers_[index] && layers_[index]->indexer.heads > 0;
    }

    /// The frequencies that mistral_large4 learns, one set for all layers.
    void read_learned_frequencies() {
        if (model_type() != "mistral_large4_text") return;
        for (std::optional<Config>& layer : layers_) {
            if (!layer || layer->qk_rope_head_dim == 0) continue;
            const TensorRef factors = tensor(prefix_ + "rotary_emb.alpha", 1, layer->qk_rope_head_dim / 2);
            layer->rope.log_factors.resize(static_cast<std::size_t>(factors.cols));
            factors.visit([&](const auto& element) {
                for (Index i = 0; i < factors.cols; ++i)
                    layer->rope.log_factors[static_cast<std::size_t>(i)] = static_cast<double>(element(0, i));
            });
        }
    }

    [[nodiscard]] std::string_view model_type() const { return detail::model_type_of(detail::ConfigFields(json_)).name; }

    [[nodiscard]] detail::StoredWeight read(const std::string& name) {
        detail::StoredWeight stored = detail::WeightReader(files_, quantization_).read(name);
        if (progress_) progress_({name, handed_out_, total_});
        for (const std::string& part : stored.tensors) handed_out_ += files_.file_of(part).bytes(part).size();
        return stored;
    }

    void require_shape(const std::string& name, Index rows, Index cols) const {
        const std::vector<Index>& shape = files_.file_of(name).info(name).shape;
        const bool vector = rows == 1 && shape == std::vector<Index>{cols};
        if (!vector && shape != std::vector<Index>{rows, cols})
            files_.fail(name, detail::list_text(shape), detail::list_text(std::array{rows, cols}));
    }

    [[nodiscard]] detail::StoredWeight read(const std::string& name, Index rows, Index cols) {
        if (files_.contains(name)) require_shape(name, rows, cols);
        detail::StoredWeight stored = read(name);
        if (stored.value.rows != rows || stored.value.cols != cols)
            files_.fail(stored.tensors.front(), detail::list_text(std::array{stored.value.rows, stored.value.cols}),
                        detail::list_text(std::array{rows, cols}));
        return stored;
    }

    Progress progress_;
    nlohmann::json json_;
    std::vector<std::optional<Config>> layers_;
    detail::Quantization quantization_;
    CheckpointFiles files_;
    std::string prefix_ = "model.";
    std::uint64_t handed_out_ = 0;
    std::uint64_t total_;
};

}  // namespace mla::inline MLA_ISA::io
