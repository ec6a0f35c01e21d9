// A weight of a checkpoint with what belongs to it: plain, or quantised and its scales, in the tensors that hold them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/core/tensor_ref.hpp"
#include "mla/io/checkpoint_files.hpp"
#include "mla/io/errors.hpp"
#include "mla/io/quantization.hpp"
#include "mla/io/safetensors.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// A weight and the names of the tensors that it is stored in.
struct StoredWeight {
    TensorRef value;
    std::vector<std::string> tensors;
};

[[nodiscard]] inline std::optional<DType> scale_type(std::string_view dtype) noexcept {
    if (dtype == "F32") return DType::f32;
    if (dtype == "BF16") return DType::bf16;
    if (dtype == "F16") return DType::f16;
    if (dtype == "F8_E8M0") return DType::f8_e8m0;
    return std::nullopt;
}

/// The scales [blocks down, blocks across] that a matrix has with blocks of one size.
[[nodiscard]] inline std::array<Index, 2> scale_shape(const ScaleBlock& block, const TensorRef& weight) noexcept {
    const auto count = [](Index extent, Index each) { return each == BlockScales::all ? Index{1} : divide_up(extent, each); };
    return {count(weight.rows, block.rows), count(weight.cols, block.cols)};
}

/// Whether scales of a shape are those of the blocks; dimensions of 1 at its end may be left out.
[[nodiscard]] inline bool fits(std::vector<Index> shape, const ScaleBlock& block, const TensorRef& weight) {
    if (block.divides && weight.cols % block.cols != 0) return false;
    if (shape.size() > 2) return false;
    shape.resize(2, 1);
    const auto [down, across] = scale_shape(block, weight);
    return shape[0] == down && shape[1] == across;
}

/// The shape that scales must have, for a message.
[[nodiscard]] inline std::string shape_text(const ScaleBlock& block, const TensorRef& weight) {
    const auto extent = [](Index each) { return each == BlockScales::all ? std::string("all") : std::to_string(each); };
    const std::string blocks = extent(block.rows) + " × " + extent(block.cols);
    if (block.divides && weight.cols % block.cols != 0)
        return "of groups of " + extent(block.cols) + " that divide its weight's " + std::to_string(weight.cols) + " columns";
    return list_text(scale_shape(block, weight)) + " for blocks of " + blocks;
}

/// Tensors beside a weight that are for activations quantised to fixed steps: exact arithmetic, which is what is computed here,
/// has none.
inline constexpr std::string_view activation_scales[] = {"input_scale", "activation_scale"};

/// Reads weights, of any way of storing that is known here.
class WeightReader {
  public:
    WeightReader(const CheckpointFiles& files, const Quantization& quantization) : files_(files), quantization_(quantization) {}

    /// The weight that a model calls `name`.
    /// @throws CheckpointError naming file and tensor, or config.json and field, what was found and what it must be
    [[nodiscard]] StoredWeight read(const std::string& name) const {
        if (!files_.lists(name)) {
            if (files_.lists(name + "_packed")) return read_packed(name);
            quantization_.require_known_method(": tensor " + printable(name) + " is missing");
        }
        StoredWeight weight{files_.file_of(name).tensor(name), {name}};
        if (is_quantised(weight.value.dtype)) add_scales(name, weight);
        return weight;
    }

  private:
    /// Eight int4 in an I32 (compressed-tensors, `pack-quantized`): the first in the lowest four bits, and so as they lie in
    /// memory.
    [[nodiscard]] StoredWeight read_packed(const std::string& name) const {
        const std::string packed = name + "_packed";
        const Safetensors& file = files_.file_of(packed);
        const TensorInfo& info = file.info(packed);
        if (info.dtype != "I32") files_.fail(packed, info.dtype, "I32");
        if (info.shape.size() != 2 || info.begin == info.end)
            files_.fail(packed, list_text(info.shape), "of two dimensions, none of them 0");
        const auto [rows, cols] = shape_of_packed(name + "_shape");
        if (rows != info.shape[0] || cols < 1 || (cols - 1) / 8 + 1 != info.shape[1])
            files_.fail(
                name + "_shape", list_text(std::array{rows, cols}),
                "[out, in] of eight values in each element of " + printable(packed) + ", which is " + list_text(info.shape));
        StoredWeight weight{TensorRef(file.bytes(packed).data(), DType::i4, rows, cols, 8 * info.shape[1]),
                            {packed, name + "_shape"}};
        add_scales(name, weight);
        return weight;
    }

    /// The two integers of a `weight_shape`, which may be any.
    [[nodiscard]] std::array<std::int64_t, 2> shape_of_packed(const std::string& name) const {
        const Safetensors& file = files_.file_of(name);
        const TensorInfo& info = file.info(name);
        if (info.dtype != "I64" && info.dtype != "I32") files_.fail(name, info.dtype, "I64 or I32");
        if (info.shape != std::vector<Index>{2}) files_.fail(name, list_text(info.shape), "[2]");
        if (info.dtype == "I64") return two_integers<std::int64_t>(file.bytes(name));
        return two_integers<std::int32_t>(file.bytes(name));
    }

    template <class T>
    [[nodiscard]] static std::array<std::int64_t, 2> two_integers(std::span<const std::byte> bytes) {
        std::array<T, 2> values;
        std::memcpy(values.data(), bytes.data(), sizeof values);
        return {values[0], values[1]};
    }

    void add_scales(const std::string& name, StoredWeight& weight) const {
        for (const char* end : {"_zero_point", "_g_idx"})
            if (files_.lists(name + end))
                files_.fail(name + end, "there", "absent: only symmetric weights whose groups are in order are read");
        for (const std::string_view end : activation_scales)
            if (const std::string beside = stem_of(name) + std::string(end); files_.lists(beside))
                weight.tensors.push_back(beside);
        const std::string scale = scale_of(name, weight);
        Safetensors& file = files_.file_of(scale);
        const TensorInfo& info = file.info(scale);
        const std::optional<DType> type = scale_type(info.dtype);
        if (!type) files_.fail(scale, info.dtype, "F32, BF16, F16 or F8_E8M0");
        std::string expected;
        for (const ScaleBlock& block : quantization_.blocks_of(weight.value.dtype)) {
            if (fits(info.shape, block, weight.value)) {
                const Index across = scale_shape(block, weight.value)[1];
                weight.value.scales = {file.aligned(scale), *type, block.rows, block.cols, across};
                weight.tensors.push_back(scale);
                return;
            }
            expected += (expected.empty() ? "" : " or ") + shape_text(block, weight.value);
        }
        files_.fail(scale, list_text(info.shape), expected);
    }

    [[nodiscard]] std::string scale_of(const std::string& name, const StoredWeight& weight) const {
        const std::string& stored = weight.tensors.front();
        const std::string inverse = name + "_scale_inv", plain = name + "_scale";
        if (files_.lists(inverse) && files_.lists(plain)) files_.fail(plain, "there", "absent beside " + printable(inverse));
        if (files_.lists(inverse)) return inverse;
        if (files_.lists(plain)) return plain;
        throw_checkpoint(files_.catalogue(), "tensor " + printable(inverse), "missing",
                         "in the checkpoint, or " + printable(plain) + ", beside " + files_.file_of(stored).info(stored).dtype +
                             not_understood(name, weight));
    }

    /// What lies beside a weight without scales: perhaps they have another name.
    [[nodiscard]] std::string not_understood(const std::string& name, const StoredWeight& weight) const {
        if (stem_of(name).empty()) return "";
        std::string others;
        for (const std::string& other : files_.names_below(stem_of(name)))
            if (std::ranges::find(weight.tensors, other) == weight.tensors.end())
                others += "; " + printable(other) + " is not understood";
        return others;
    }

    /// What the names of a module's tensors start with, from the name of its weight.
    [[nodiscard]] static std::string stem_of(const std::string& name) {
        constexpr std::string_view last = "weight";
        return name.ends_with(last) ? name.substr(0, name.size() - last.size()) : name + "_";
    }

    const CheckpointFiles& files_;
    const Quantization& quantization_;
};

}  // namespace mla::inline MLA_ISA::io::detail
