// Models in one GGUF file, of architecture deepseek2 (DeepSeek-V2, V3, Kimi-K2 and others, as llama.cpp converts them).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/config.hpp"
#include "mla/core/memory.hpp"
#include "mla/core/tensor_ref.hpp"
#include "mla/io/gguf_config.hpp"
#include "mla/io/gguf_header.hpp"
#include "mla/io/hf_config.hpp"
#include "mla/io/mapped_file.hpp"
#include "mla/weights.hpp"

namespace mla::inline MLA_ISA::io {

namespace detail {

/// What a GGUF file calls a tensor of a layer.
[[nodiscard]] inline std::optional<std::string> gguf_name(std::string_view name) {
    static constexpr std::pair<std::string_view, std::string_view> names[] = {
        {"q_a_proj", "attn_q_a"},
        {"q_a_layernorm", "attn_q_a_norm"},
        {"q_b_proj", "attn_q_b"},
        {"q_proj", "attn_q"},
        {"kv_a_proj_with_mqa", "attn_kv_a_mqa"},
        {"kv_a_layernorm", "attn_kv_a_norm"},
        {"kv_b_proj", "attn_kv_b"},
        {"o_proj", "attn_output"},
    };
    for (const auto& [ours, published] : names)
        if (name == ours) return std::string(published) + ".weight";
    return std::nullopt;
}

/// Q8_0: an fp16 scale, then the 32 int8 of the row that it is for.
struct GgufQ8Block {
    fp16 scale;
    int8 values[32];
};
static_assert(sizeof(GgufQ8Block) == 34 && alignof(GgufQ8Block) == 2);

/// W_UK and W_UV of all heads, put together in the order of kv_b_proj: a head's Dn rows of W_UK, then its Dv of W_UV. W_UK comes
/// transposed, [H·Dc, Dn]; W_UV as [H·Dv, Dc].
template <Storage S>
void join_heads(const TensorRef& k_b, const TensorRef& v_b, const Config& config, S* to) {
    const Index Dn = config.qk_nope_head_dim, Dv = config.v_head_dim, Dc = config.kv_lora_rank;
    const auto copy = [&](const TensorRef& from, Index first_row, Index rows, auto source) {
        from.visit([&](const auto& element) {
            for (Index h = 0; h < config.num_attention_heads; ++h)
                for (Index r = 0; r < rows; ++r)
                    for (Index c = 0; c < Dc; ++c) {
                        const auto [row, col] = source(h, r, c);
                        to[(h * (Dn + Dv) + first_row + r) * Dc + c] = static_cast<S>(static_cast<float>(element(row, col)));
                    }
        });
    };
    copy(k_b, 0, Dn, [&](Index h, Index r, Index c) { return std::pair(h * Dc + c, r); });
    copy(v_b, Dn, Dv, [&](Index h, Index r, Index c) { return std::pair(h * Dv + r, c); });
}

}  // namespace detail

/// The tensors of a GGUF file by name: mapped and checked when it is opened. F32, F16 and BF16 lie in place; Q8_0 is split, when
/// asked for, into int8 and a scale for each 32 of a row. Not to be shared by threads.
class GgufFile {
  public:
    /// Maps the file, which must stay as it is while this lives.
    /// @throws std::system_error when it cannot be read, GgufError when it is no valid GGUF file
    explicit GgufFile(const std::filesystem::path& path) : name_(path.string()), file_(std::in_place, path) {
        read(file_->bytes());
    }

    /// Reads from the caller's memory, which must outlive this and start at a multiple of 8 bytes. `name` stands for the file in
    /// messages.
    /// @throws GgufError when `bytes` is no valid GGUF file
    explicit GgufFile(std::span<const std::byte> bytes, std::string name = "GGUF data") : name_(std::move(name)) {
        const auto misaligned = reinterpret_cast<std::uintptr_t>(bytes.data()) % 8;
        require(misaligned == 0, "GGUF data address", std::to_string(misaligned) + " past a multiple of 8", "a multiple of 8");
        read(bytes);
    }

    /// All tensors by name, whatever their types.
    [[nodiscard]] const GgufTensorTable& tensors() const noexcept { return header_.tensors; }
    [[nodiscard]] bool contains(std::string_view name) const noexcept { return header_.tensors.contains(name); }

    /// Metadata by key, as GgufHeader holds it.
    [[nodiscard]] const nlohmann::json& metadata() const noexcept { return header_.metadata; }

    /// The attention that all layers have.
    /// @throws std::invalid_argument naming file and field where the file's model is not known here, GgufError when it is not
    /// whole
    [[nodiscard]] Config config() const {
        const auto parts = header_.metadata.find("split.count");
        if (parts != header_.metadata.end() && *parts != 0 && *parts != 1)
            fail("metadata 'split.count'", detail::ConfigFields::found(*parts), "absent or 1: the model is split into files");
        if (contains("rope_freqs.weight"))
            fail("tensor 'rope_freqs.weight'", "there", "absent: frequencies of its own are not read here");
        return detail::parse_named(header_.metadata, name_, parse_gguf_config);
    }

    /// A tensor of type F32, F16, BF16 or Q8_0 and one or two dimensions as a matrix; a vector is one row. It lives until
    /// `release` or the end of this.
    /// @throws GgufError naming the tensor, what was found and what it must be
    [[nodiscard]] TensorRef tensor(std::string_view name) {
        const std::vector<Index>& shape = info(name).shape;
        if (shape.size() > 2) fail_tensor(name, detail::list_text(shape), "of one or two dimensions");
        return matrix(name);
    }

    /// The attention of one layer (`blk.<layer>.attn_*`). A tensor there that `config()` does not call for is an error. Where
    /// W_UK and W_UV come apart (`attn_k_b`, `attn_v_b`) they are put together in memory, in their type, or as F32 where one is
    /// Q8_0.
    /// @throws GgufError naming the tensor, what was found and what it must be; and as `config` does
    [[nodiscard]] AttentionWeights attention_weights(Index layer) {
        const Config model = config();
        const std::string start = "blk." + std::to_string(layer) + '.';
        AttentionWeights weights;
        std::set<std::string, std::less<>> known = {start + "attn_norm.weight"};  // of the layer's input
        for_each_tensor(model, weights, [&](std::string_view name, TensorRef& weight, Index rows, Index cols) {
            const std::string full = start + detail::gguf_name(name).value();
            if (name == "kv_b_proj" && !contains(full)) {
                weight = joined_heads(start, model);
                known.insert({start + "attn_k_b.weight", start + "attn_v_b.weight"});
                return;
            }
            weight = tensor(full, rows, cols);
            known.insert(full);
        });
        refuse_others(start, known);
        return weights;
    }

    /// Gives back the memory behind all tensors handed out so far, which must not be used afterwards; asking for one again reads
    /// the file again.
    void release() noexcept {
        split_.clear();
        joined_.clear();
        if (file_) file_->release();
    }

  private:
    [[noreturn]] void fail(const std::string& subject, const std::string& was, const std::string& must) const {
        detail::throw_gguf(name_, subject, was, must);
    }
    [[noreturn]] void fail_tensor(std::string_view tensor, const std::string& was, const std::string& must) const {
        fail("tensor " + detail::printable(tensor), was, must);
    }

    void read(std::span<const std::byte> bytes) {
        header_ = read_gguf_header(bytes, name_);
        data_ = bytes.subspan(header_.data_begin);
    }

    [[nodiscard]] const GgufTensor& info(std::string_view name) const {
        const auto found = header_.tensors.find(name);
        if (found == header_.tensors.end()) fail_tensor(name, "missing", "in the file");
        return found->second;
    }

    /// A tensor that must be [rows, cols]; one row may be a vector.
    [[nodiscard]] TensorRef tensor(const std::string& name, Index rows, Index cols) {
        const std::vector<Index>& shape = info(name).shape;
        const bool vector = rows == 1 && shape == std::vector<Index>{cols};
        if (!vector && shape != std::vector<Index>{rows, cols})
            fail_tensor(name, detail::list_text(shape), detail::list_text(std::array{rows, cols}));
        return matrix(name);
    }

    /// A tensor of any number of dimensions, all but the innermost taken together.
    [[nodiscard]] TensorRef matrix(std::string_view name) {
        const GgufTensor& found = info(name);
        const Index cols = found.shape.back();
        Index rows = 1;
        for (std::size_t i = 0; i + 1 < found.shape.size(); ++i) rows *= found.shape[i];
        const void* const data = data_.data() + found.begin;
        const auto in_place = [&](DType type) { return TensorRef(data, type, rows, cols, cols); };
        const bool known = detail::find_gguf_type(found.type) != nullptr;
        if (known && found.bytes == 0) fail_tensor(name, detail::list_text(found.shape), "of dimensions that are not 0");
        switch (found.type) {
            case detail::gguf_f32.id: return in_place(DType::f32);
            case detail::gguf_f16.id: return in_place(DType::f16);
            case detail::gguf_bf16.id: return in_place(DType::bf16);
            case detail::gguf_q8_0.id: return split_q8(name, rows, cols);
            default: fail_tensor(name, detail::gguf_type_name(found.type), "F32, F16, BF16 or Q8_0");
        }
    }

    /// Values and scales of a Q8_0 tensor, apart.
    [[nodiscard]] TensorRef split_q8(std::string_view name, Index rows, Index cols) {
        const Index blocks = rows * (cols / 32);
        const auto [values, is_new] = kept(split_, std::string(name), blocks * 34);
        std::byte* const scales = values + blocks * 32;
        const std::byte* const from = data_.data() + info(name).begin;
        for (Index b = 0; is_new && b < blocks; ++b) {
            detail::GgufQ8Block block;
            std::memcpy(&block, from + b * 34, sizeof block);
            std::memcpy(values + b * 32, block.values, 32);
            std::memcpy(scales + b * 2, &block.scale, 2);
        }
        return {values, DType::i8, rows, cols, cols, BlockScales::per_group(scales, DType::f16, 32, cols / 32)};
    }

    /// kv_b_proj from the two tensors that hold it by head, W_UK transposed.
    [[nodiscard]] TensorRef joined_heads(const std::string& start, const Config& config) {
        const std::string k_name = start + "attn_k_b.weight", v_name = start + "attn_v_b.weight";
        const Index heads = config.num_attention_heads, dim = config.qk_nope_head_dim + config.v_head_dim;
        const TensorRef k_b = by_head(k_name, {heads, config.kv_lora_rank, config.qk_nope_head_dim});
        const TensorRef v_b = by_head(v_name, {heads, config.v_head_dim, config.kv_lora_rank});
        const DType type = k_b.dtype == v_b.dtype && !is_quantised(k_b.dtype) ? k_b.dtype : DType::f32;
        const auto [memory, is_new] = kept(joined_, start, heads * dim * config.kv_lora_rank * bits_of(type) / 8);
        if (is_new) {
            if (type == DType::f32) detail::join_heads(k_b, v_b, config, reinterpret_cast<float*>(memory));
            if (type == DType::f16) detail::join_heads(k_b, v_b, config, reinterpret_cast<fp16*>(memory));
            if (type == DType::bf16) detail::join_heads(k_b, v_b, config, reinterpret_cast<bf16*>(memory));
        }
        return {memory, type, heads * dim, config.kv_lora_rank, config.kv_lora_rank};
    }

    [[nodiscard]] TensorRef by_head(const std::string& name, const std::array<Index, 3>& shape) {
        const std::vector<Index>& found = info(name).shape;
        if (!std::ranges::equal(found, shape)) fail_tensor(name, detail::list_text(found), detail::list_text(shape));
        return matrix(name);
    }

    /// A tensor of the layer's attention that nothing reads.
    void refuse_others(const std::string& start, const std::set<std::string, std::less<>>& known) const {
        for (auto entry = header_.tensors.lower_bound(start); entry != header_.tensors.end() && entry->first.starts_with(start);
             ++entry) {
            const std::string_view rest = std::string_view(entry->first).substr(start.size());
            const bool ours = rest.starts_with("attn_") || rest.starts_with("indexer") || rest.starts_with("rope_");
            if (ours && !known.contains(entry->first))
                fail_tensor(entry->first, "there, and read by nothing", "absent: with it the layer is another than is described");
        }
    }

    using Memory = std::map<std::string, mla::detail::AlignedArray<std::byte>, std::less<>>;

    /// Memory kept under a name until `release`, and whether it is new.
    [[nodiscard]] static std::pair<std::byte*, bool> kept(Memory& memory, const std::string& name, Index bytes) {
        auto& found = memory[name];
        const bool is_new = found == nullptr;
        if (is_new) found = mla::detail::allocate_aligned<std::byte>(bytes);
        return {found.get(), is_new};
    }

    std::string name_;
    std::optional<MappedFile> file_;
    GgufHeader header_;
    std::span<const std::byte> data_;
    Memory split_;   ///< of Q8_0 tensors, by name: values, then scales
    Memory joined_;  ///< kv_b_proj of layers, by what the names of their tensors start with
};

}  // namespace mla::inline MLA_ISA::io
