// Writes small checkpoints as Hugging Face does.
#pragma once

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/safetensors_writer.hpp"
#include "mla/weights.hpp"

namespace mla::testing {

using io::as_bytes;
using io::StoredTensor;

/// A matrix whose rows are adjacent; one of a single row is stored as a vector.
[[nodiscard]] inline StoredTensor stored(std::string name, const TensorRef& tensor) {
    const char* dtype = tensor.dtype == DType::f64    ? "F64"
                        : tensor.dtype == DType::f32  ? "F32"
                        : tensor.dtype == DType::bf16 ? "BF16"
                        : tensor.dtype == DType::f16  ? "F16"
                                                      : "F8_E4M3";
    std::vector<Index> shape = {tensor.cols};
    if (tensor.rows > 1) shape.insert(shape.begin(), tensor.rows);
    const auto* first = static_cast<const char*>(tensor.data);
    return {std::move(name), dtype, shape, as_bytes(first, tensor.rows * tensor.cols * bits_of(tensor.dtype) / 8)};
}

/// The tensors of a layer under the names of published checkpoints.
[[nodiscard]] inline std::vector<StoredTensor> stored_layer(const Config& config, AttentionWeights weights, Index layer,
                                                            const std::string& prefix = "model.") {
    std::vector<StoredTensor> tensors;
    for_each_tensor(config, weights, [&](std::string_view name, const TensorRef& tensor, Index, Index) {
        std::string published = std::string(name) + ".weight";
        if (name == "q_a_bias") published = "q_a_proj.bias";
        if (name == "kv_a_bias") published = "kv_a_proj_with_mqa.bias";
        if (name == "o_bias") published = "o_proj.bias";
        if (name == "gate_proj" && config.output_gate == OutputGate::per_head) published = "g_proj.weight";
        if (name == "k_rope_layernorm") published = "k_rope_only_layernorm.weight";
        if (name == "indexer.k_norm_bias") published = "indexer.k_norm.bias";
        if (name == "sinks") published = "sinks";
        if (name == "query_scale") published = "softmax_scaling.scale";
        if (name == "query_scale_bias") published = "softmax_scaling.bias";
        if (name == "indexer.pool_gate") published = "indexer.index_kpool_compress_gate";
        if (name == "indexer.pool_positions") published = "indexer.index_kpool_compress_ape";
        if (name == "indexer.query_scale") published = "indexer.softmax_scaling.scale";
        if (name == "indexer.query_scale_bias") published = "indexer.softmax_scaling.bias";
        if (name == "indexer.q_input_norm_bias") published = "indexer.q_input_norm.bias";
        tensors.push_back(stored(prefix + "layers." + std::to_string(layer) + ".self_attn." + published, tensor));
    });
    return tensors;
}

/// Heads of 2·(70+66) rows do not fall on blocks of 128, nor do 200 and 150 columns.
[[nodiscard]] inline Config uneven_config(Index q_lora_rank = 150, bool bias = false) {
    Config config;
    config.hidden_size = 200;
    config.num_attention_heads = 3;
    config.q_lora_rank = q_lora_rank;
    config.kv_lora_rank = 140;
    config.qk_nope_head_dim = 70;
    config.qk_rope_head_dim = 10;
    config.v_head_dim = 66;
    config.attention_bias = bias;
    return config;
}

/// config.json for the geometry of `config`, without YaRN.
[[nodiscard]] inline nlohmann::json config_json(const Config& config, const std::string& model_type) {
    return {{"model_type", model_type},
            {"hidden_size", config.hidden_size},
            {"num_attention_heads", config.num_attention_heads},
            {"num_hidden_layers", 2},
            {"q_lora_rank", config.q_lora_rank == 0 ? nlohmann::json() : nlohmann::json(config.q_lora_rank)},
            {"kv_lora_rank", config.kv_lora_rank},
            {"qk_nope_head_dim", config.qk_nope_head_dim},
            {"qk_rope_head_dim", config.qk_rope_head_dim},
            {"v_head_dim", config.v_head_dim},
            {"attention_bias", config.attention_bias},
            {"rope_theta", config.rope.base}};
}

/// A folder in the test's temporary one, removed with this.
class CheckpointFolder {
  public:
    CheckpointFolder() {
        std::string name = (std::filesystem::path(::testing::TempDir()) / "mla_checkpoint_XXXXXX").string();
        path_ = ::mkdtemp(name.data());
    }
    CheckpointFolder(const CheckpointFolder&) = delete;
    CheckpointFolder& operator=(const CheckpointFolder&) = delete;
    ~CheckpointFolder() { std::filesystem::remove_all(path_); }

    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

    void write(const std::string& file, const std::string& text) const {
        std::ofstream(path_ / file, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
    }

    void write(const std::string& file, const std::vector<StoredTensor>& tensors) const {
        io::write_safetensors(path_ / file, tensors);
    }

    /// Every second tensor in the second of two files, and the index.
    void write_in_two(const std::vector<StoredTensor>& tensors) const {
        std::vector<StoredTensor> parts[2];
        nlohmann::json map;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            parts[i % 2].push_back(tensors[i]);
            map[tensors[i].name] = file_name(i % 2);
        }
        for (std::size_t i = 0; i < 2; ++i) write(file_name(i), parts[i]);
        write("model.safetensors.index.json", nlohmann::json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
    }

    [[nodiscard]] static std::string file_name(std::size_t index) {
        return "model-0000" + std::to_string(index + 1) + "-of-00002.safetensors";
    }

  private:
    std::filesystem::path path_;
};

}  // namespace mla::testing
