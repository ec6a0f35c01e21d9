// A published checkpoint: a folder with config.json and one safetensors file, or several and their index.
#pragma once

#include <nlohmann/json.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/checkpoint_index.hpp"
#include "mla/io/hf_config.hpp"
#include "mla/io/safetensors.hpp"
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
/// read when it is packed. Tensors may be F64, F32, BF16, F16, or F8_E4M3 with `<name>_scale_inv` (F32, one a block of 128 ×
/// 128). Not to be shared by threads.
class Checkpoint {
  public:
    using Progress = std::function<void(const LoadProgress&)>;

    /// Opens `folder`, whose files must stay as they are while this lives. `progress` is called for each tensor asked for. A file
    /// that the index names and that is not there is missed only by who asks for one of its tensors.
    /// @throws std::system_error when a file cannot be read, CheckpointError when one is invalid or lacks a tensor that the index
    /// promises, std::invalid_argument when config.json describes no model that is known here
    explicit Checkpoint(const std::filesystem::path& folder, Progress progress = {})
        : folder_(folder), progress_(std::move(progress)), json_(read_json(folder / "config.json")) {
        layers_ = detail::parse_named(json_, (folder / "config.json").string(), parse_hf_layers);
        open_files();
        for (const auto& [name, file] : places_) {
            if (!file->second) continue;
            const TensorInfo& info = file->second->info(name);
            total_ += info.end - info.begin;
        }
        for (const char* prefix : {"model.", "language_model.model.", "model.language_model.", "language.model."})
            if (has_prefix(std::string(prefix) + "layers.")) prefix_ = prefix;
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
    [[nodiscard]] bool contains(std::string_view name) const noexcept {
        const auto place = places_.find(name);
        return place != places_.end() && place->second->second.has_value();
    }

    /// A tensor of one or two dimensions as a matrix; a vector is one row. It lives until `release` or the end of this.
    /// @throws CheckpointError naming file, tensor, what was found and what it must be
    [[nodiscard]] TensorRef tensor(std::string_view name) {
        Safetensors& file = file_of(name);
        TensorRef found = file.tensor(name);
        if (found.dtype == DType::f8_e4m3) found.scales = scales_of(name, found);
        if (progress_) progress_({name, handed_out_, total_});
        handed_out_ += file.bytes(name).size();
        return found;
    }

    /// The same, which must be [rows, cols].
    [[nodiscard]] TensorRef tensor(std::string_view name, Index rows, Index cols) {
        const Safetensors& file = file_of(name);
        const TensorInfo& info = file.info(name);
        const bool vector = rows == 1 && info.shape == std::vector<Index>{cols};
        if (!vector && info.shape != std::vector<Index>{rows, cols})
            fail(file, name, detail::list_text(info.shape), detail::list_text(std::array{rows, cols}));
        return tensor(name);
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
        const bool skips_indexer = config.indexer.heads == 0 && has_indexer(layer);
        std::set<std::string, std::less<>> read;
        for_each_tensor(config, weights, [&](std::string_view name, TensorRef& weight, Index rows, Index cols) {
            const std::string published = detail::published_name(name, model_type());
            weight = tensor(start + published, rows, cols);
            read.insert(published);
            if (weight.scales.data != nullptr) read.insert(published + "_scale_inv");
        });
        for (auto place = places_.lower_bound(start); place != places_.end() && place->first.starts_with(start); ++place) {
            const std::string_view name = std::string_view(place->first).substr(start.size());
            const bool unused = name == "rotary_emb.inv_freq" || (skips_indexer && name.starts_with("indexer."));
            if (!read.contains(name) && !unused)
                detail::throw_checkpoint(catalogue_, "tensor " + detail::printable(place->first), "there, and read by nothing",
                                         "absent: with it the layer is another than config.json describes");
        }
        return weights;
    }

    /// Gives back the memory behind all tensors handed out so far, which must not be used afterwards; asking for one again reads
    /// the file again. After each layer, this keeps a loading program at the size of what it has packed.
    void release() noexcept {
        for (auto& [name, file] : files_)
            if (file) file->release();
    }

  private:
    /// Of the folder, by name; without a value where it is not there.
    using File = std::pair<const std::string, std::optional<Safetensors>>;

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

    void open_files() {
        const std::filesystem::path index = folder_ / "model.safetensors.index.json";
        if (!std::filesystem::exists(index)) {
            File& only = *files_.emplace("model.safetensors", Safetensors(folder_ / "model.safetensors")).first;
            for (const auto& [name, info] : only.second->tensors()) places_.emplace(name, &only);
            catalogue_ = (folder_ / "model.safetensors").string();
            return;
        }
        catalogue_ = index.string();
        const MappedFile text(index);
        const WeightMap map =
            parse_checkpoint_index({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()}, catalogue_);
        for (const auto& [name, file_name] : map) {
            File& file = open(file_name);
            if (file.second && !file.second->contains(name))
                fail(*file.second, name, "missing", "in the file, as the index says");
            places_.emplace(name, &file);
        }
    }

    File& open(const std::string& file_name) {
        const auto [file, is_new] = files_.try_emplace(file_name);
        if (is_new && std::filesystem::exists(folder_ / file_name)) file->second.emplace(folder_ / file_name);
        return *file;
    }

    [[nodiscard]] bool has_prefix(std::string_view start) const {
        const auto first = places_.lower_bound(start);
        return first != places_.end() && first->first.starts_with(start);
    }

    [[nodiscard]] Safetensors& file_of(std::string_view name) const {
        const auto place = places_.find(name);
        if (place == places_.end())
            detail::throw_checkpoint(catalogue_, "tensor " + detail::printable(name), "missing", "in the checkpoint");
        auto& [file_name, file] = *place->second;
        if (!file)
            detail::throw_checkpoint((folder_ / file_name).string(), "the file", "missing",
                                     "there: the index places tensor " + detail::printable(name) + " in it");
        return *file;
    }

    [[nodiscard]] BlockScales scales_of(std::string_view name, const TensorRef& weight) {
        constexpr Index block = 128;
        require_block_size(block);
        const std::string scale_name = std::string(name) + "_scale_inv";
        const Safetensors& file = file_of(scale_name);
        const TensorInfo& info = file.info(scale_name);
        const std::vector<Index> shape = {divide_up(weight.rows, block), divide_up(weight.cols, block)};
        if (info.dtype != "F32") fail(file, scale_name, info.dtype, "F32");
        if (info.shape != shape) fail(file, scale_name, detail::list_text(info.shape), detail::list_text(shape));
        return {static_cast<const float*>(file_of(scale_name).tensor(scale_name).data), shape[1]};
    }

    /// A config.json may say how large the blocks of scales are.
    void require_block_size(Index block) const {
        const auto quantization = json_.find("quantization_config");
        if (quantization == json_.end() || !quantization->is_object() || !quantization->contains("weight_block_size")) return;
        const nlohmann::json& size = quantization->at("weight_block_size");
        if (size != nlohmann::json::array({block, block}))
            detail::throw_checkpoint((folder_ / "config.json").string(), "quantization_config.weight_block_size",
                                     detail::printable(size.dump()), detail::list_text(std::array{block, block}));
    }

    [[noreturn]] static void fail(const Safetensors& file, std::string_view tensor, const std::string& was,
                                  const std::string& must) {
        detail::throw_checkpoint(file.name(), "tensor " + detail::printable(tensor), was, must);
    }

    std::filesystem::path folder_;
    Progress progress_;
    nlohmann::json json_;
    std::vector<std::optional<Config>> layers_;
    std::string catalogue_;  ///< the file that lists all tensors: the index, or the only safetensors file
    std::map<std::string, std::optional<Safetensors>> files_;
    std::map<std::string, File*, std::less<>> places_;  ///< tensor -> the file that holds it
    std::string prefix_ = "model.";
    std::uint64_t handed_out_ = 0;
    std::uint64_t total_ = 0;
};

}  // namespace mla::inline MLA_ISA::io
