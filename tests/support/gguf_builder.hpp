// Writes small GGUF files, sound ones and others.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "mla/config.hpp"
#include "mla/io/gguf_types.hpp"
#include "mla/io/safetensors_writer.hpp"
#include "mla/weights.hpp"

namespace mla::testing {

using io::as_bytes;

template <class T>
[[nodiscard]] std::string number_bytes(T value) {
    return as_bytes(&value, 1);
}

[[nodiscard]] inline std::string gguf_string(const std::string& text) {
    return number_bytes(static_cast<std::uint64_t>(text.size())) + text;
}

/// The parts of a file, put together by `bytes`.
class GgufBuilder {
  public:
    std::uint32_t version = 3;
    std::uint64_t alignment = 32;  ///< of the data; `general.alignment` is set by who wants it

    /// Metadata of any type, with its value as it is stored.
    void raw(const std::string& key, std::uint32_t type, const std::string& value) {
        metadata_ += gguf_string(key) + number_bytes(type) + value;
        ++metadata_count_;
    }
    void set(const std::string& key, std::uint32_t value) { raw(key, 4, number_bytes(value)); }
    void set(const std::string& key, float value) { raw(key, 6, number_bytes(value)); }
    void set(const std::string& key, const char* value) { raw(key, 8, gguf_string(value)); }

    /// A tensor of a row-major shape behind those before it.
    void add(const std::string& name, std::uint32_t type, const std::vector<Index>& shape, const std::string& values) {
        add(name, type, shape, static_cast<std::uint64_t>(data_.size()));
        data_ += values;
        data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    }
    /// A tensor said to lie at an offset.
    void add(const std::string& name, std::uint32_t type, const std::vector<Index>& shape, std::uint64_t offset) {
        infos_ += gguf_string(name) + number_bytes(static_cast<std::uint32_t>(shape.size()));
        for (std::size_t i = shape.size(); i > 0; --i) infos_ += number_bytes(static_cast<std::uint64_t>(shape[i - 1]));
        infos_ += number_bytes(type) + number_bytes(offset);
        ++tensor_count_;
    }

    [[nodiscard]] std::string header() const {
        std::string text = "GGUF" + number_bytes(version) + number_bytes(tensor_count_) + number_bytes(metadata_count_);
        text += metadata_ + infos_;
        text.resize((text.size() + alignment - 1) / alignment * alignment);
        return text;
    }
    [[nodiscard]] std::string bytes() const { return header() + data_; }

  private:
    std::string metadata_, infos_, data_;
    std::uint64_t metadata_count_ = 0, tensor_count_ = 0;
};

/// Which tensors hold W_UK and W_UV.
enum class GgufHeads { together, apart };

/// The metadata that llama.cpp's converter writes of a model's attention.
inline void set_gguf_config(GgufBuilder& file, const Config& config, GgufHeads heads) {
    const auto integer = [&](const char* key, Index value) {
        file.set(std::string("deepseek2.") + key, static_cast<std::uint32_t>(value));
    };
    const auto number = [&](const char* key, double value) {
        file.set(std::string("deepseek2.") + key, static_cast<float>(value));
    };
    file.set("general.architecture", "deepseek2");
    integer("block_count", 2);
    integer("embedding_length", config.hidden_size);
    integer("attention.head_count", config.num_attention_heads);
    integer("attention.head_count_kv", heads == GgufHeads::apart ? 1 : config.num_attention_heads);
    if (config.q_lora_rank > 0) integer("attention.q_lora_rank", config.q_lora_rank);
    integer("attention.kv_lora_rank", config.kv_lora_rank);
    const bool apart = heads == GgufHeads::apart;
    integer("attention.key_length", apart ? config.cache_dim() : config.qk_head_dim());
    integer("attention.value_length", apart ? config.kv_lora_rank : config.v_head_dim);
    if (apart) {
        integer("attention.key_length_mla", config.qk_head_dim());
        integer("attention.value_length_mla", config.v_head_dim);
    }
    number("attention.layer_norm_rms_epsilon", config.latent_norm_eps);
    integer("rope.dimension_count", config.qk_rope_head_dim);
    number("rope.freq_base", config.rope.base);
    if (const auto* yarn = std::get_if<Yarn>(&config.rope.scaling)) {
        file.set("deepseek2.rope.scaling.type", "yarn");
        number("rope.scaling.factor", yarn->factor);
        integer("rope.scaling.original_context_length", yarn->original_max_position);
        number("rope.scaling.yarn_log_multiplier", 0.1 * yarn->mscale_all_dim.value());
    }
}

/// The rows of a matrix in blocks of 32: an fp16 scale, then int8.
[[nodiscard]] inline std::string q8_0_bytes(const TensorRef& tensor) {
    std::string bytes;
    tensor.visit([&](const auto& element) {
        for (Index r = 0; r < tensor.rows; ++r)
            for (Index c = 0; c < tensor.cols; c += 32) {
                double largest = 1e-3;
                for (Index i = 0; i < 32; ++i) largest = std::max(largest, std::abs(static_cast<double>(element(r, c + i))));
                const fp16 scale(static_cast<float>(largest / 127.0));
                bytes += number_bytes(scale);
                for (Index i = 0; i < 32; ++i) {
                    const double steps = static_cast<double>(element(r, c + i)) / static_cast<double>(static_cast<float>(scale));
                    bytes += static_cast<char>(std::clamp<int>(static_cast<int>(std::nearbyint(steps)), -127, 127));
                }
            }
    });
    return bytes;
}

/// A matrix, its rows adjacent, in its own type or as Q8_0.
inline void add_gguf_tensor(GgufBuilder& file, const std::string& name, const TensorRef& tensor, bool q8_0,
                            std::vector<Index> shape = {}) {
    if (shape.empty()) shape = tensor.rows == 1 ? std::vector<Index>{tensor.cols} : std::vector<Index>{tensor.rows, tensor.cols};
    if (q8_0 && tensor.rows > 1) return file.add(name, io::detail::gguf_q8_0.id, shape, q8_0_bytes(tensor));
    const std::uint32_t type = tensor.dtype == DType::f32   ? io::detail::gguf_f32.id
                               : tensor.dtype == DType::f16 ? io::detail::gguf_f16.id
                                                            : io::detail::gguf_bf16.id;
    const auto bytes = static_cast<std::size_t>(tensor.rows * tensor.cols * bits_of(tensor.dtype) / 8);
    file.add(name, type, shape, std::string(static_cast<const char*>(tensor.data), bytes));
}

/// W_UK [H, Dc, Dn], transposed, and W_UV [H, Dv, Dc] from kv_b_proj.
template <Storage S>
void add_gguf_heads(GgufBuilder& file, const std::string& start, const Config& config, const TensorRef& kv_b, bool q8_0) {
    const Index H = config.num_attention_heads, Dn = config.qk_nope_head_dim, Dv = config.v_head_dim, Dc = config.kv_lora_rank;
    const auto element = [&](Index head, Index row, Index col) {
        return static_cast<const S*>(kv_b.data)[(head * (Dn + Dv) + row) * Dc + col];
    };
    std::vector<S> k, v;
    for (Index h = 0; h < H; ++h) {
        for (Index c = 0; c < Dc; ++c)
            for (Index i = 0; i < Dn; ++i) k.push_back(element(h, i, c));
        for (Index j = 0; j < Dv; ++j)
            for (Index c = 0; c < Dc; ++c) v.push_back(element(h, Dn + j, c));
    }
    add_gguf_tensor(file, start + "attn_k_b.weight", TensorRef(k.data(), H * Dc, Dn), q8_0, {H, Dc, Dn});
    add_gguf_tensor(file, start + "attn_v_b.weight", TensorRef(v.data(), H * Dv, Dc), q8_0, {H, Dv, Dc});
}

/// The attention of a layer of storage type S under llama.cpp's names.
template <Storage S>
void add_gguf_layer(GgufBuilder& file, const Config& config, AttentionWeights weights, Index layer, GgufHeads heads,
                    bool q8_0 = false) {
    const std::string start = "blk." + std::to_string(layer) + '.';
    const std::pair<std::string_view, const char*> names[] = {
        {"q_a_proj", "attn_q_a"},
        {"q_a_layernorm", "attn_q_a_norm"},
        {"q_b_proj", "attn_q_b"},
        {"q_proj", "attn_q"},
        {"kv_a_proj_with_mqa", "attn_kv_a_mqa"},
        {"kv_a_layernorm", "attn_kv_a_norm"},
        {"kv_b_proj", "attn_kv_b"},
        {"o_proj", "attn_output"},
    };
    for_each_tensor(config, weights, [&](std::string_view name, const TensorRef& tensor, Index, Index) {
        if (name == "kv_b_proj" && heads == GgufHeads::apart) return add_gguf_heads<S>(file, start, config, tensor, q8_0);
        for (const auto& [ours, theirs] : names)
            if (name == ours) add_gguf_tensor(file, start + theirs + ".weight", tensor, q8_0);
    });
}

}  // namespace mla::testing
