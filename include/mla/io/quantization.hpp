// What a config.json says of its quantised weights (`quantization_config`): which elements share a scale.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mla/core/tensor_ref.hpp"
#include "mla/core/types.hpp"
#include "mla/io/config_fields.hpp"
#include "mla/io/errors.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// The rows and columns of a matrix that share a scale; BlockScales::all where a block is as long as the matrix.
struct ScaleBlock {
    Index rows = BlockScales::all;
    Index cols = BlockScales::all;
    bool divides = false;  ///< whether the columns of a matrix must be a multiple of the block's
};

/// Weights of one kind that a configuration of compressed-tensors describes; without a type or block where they are none that is
/// read here.
struct QuantisedGroup {
    std::optional<DType> type;
    std::optional<ScaleBlock> block;
    bool symmetric = true;
    std::string described;  ///< for messages
};

/// Two positive integers: rows, then columns.
[[nodiscard]] inline ScaleBlock read_block(const ConfigFields& fields, const char* key) {
    const std::vector<double> extents = fields.numbers(key, 2);
    for (const double extent : extents)
        if (!(extent >= 1.0 && extent <= 0x1p53) || extent != std::floor(extent)) fields.fail(key, "two positive integers");
    return {static_cast<Index>(extents[0]), static_cast<Index>(extents[1])};
}

/// By `strategy`, or where there is none by the size of a group.
[[nodiscard]] inline std::optional<ScaleBlock> block_of_strategy(const ConfigFields& weights) {
    const Index group = weights.integer_or("group_size", -1, -1);
    if (group == 0) weights.fail("group_size", "-1 or a positive integer");
    const std::string otherwise = group > 0 ? "group" : weights.has("group_size") ? "channel" : "tensor";
    const std::string strategy = weights.has("strategy") ? weights.string("strategy") : otherwise;
    if (strategy == "tensor") return ScaleBlock{};
    if (strategy == "channel") return ScaleBlock{1, BlockScales::all};
    if (strategy == "group") return ScaleBlock{1, weights.integer("group_size"), true};
    if (strategy == "block") return read_block(weights, "block_structure");
    return std::nullopt;
}

/// The type of weights of a kind and width in a format of compressed-tensors.
[[nodiscard]] inline std::optional<DType> type_of_weights(const std::string& kind, Index bits, const std::string& format) {
    const bool any = format.empty() || format == "mixed-precision";
    const bool plain = any || format == "naive-quantized";
    if (kind == "float" && bits == 8 && (plain || format == "float-quantized")) return DType::f8_e4m3;
    if (kind == "int" && bits == 8 && (plain || format == "int-quantized")) return DType::i8;
    if (kind == "int" && bits == 4 && (any || format == "pack-quantized")) return DType::i4;
    return std::nullopt;
}

[[nodiscard]] inline QuantisedGroup read_group(const ConfigFields& weights, const std::string& format) {
    const std::string kind = weights.has("type") ? weights.string("type") : "int";
    const Index bits = weights.integer_or("num_bits", 8);
    QuantisedGroup group{type_of_weights(kind, bits, format), block_of_strategy(weights), weights.boolean("symmetric", true), ""};
    group.described = kind + std::to_string(bits) + (group.symmetric ? "" : ", asymmetric");
    if (!format.empty()) group.described += ", " + format;
    if (weights.has("strategy")) group.described += ", strategy " + weights.string("strategy");
    return group;
}

/// The groups of a configuration of compressed-tensors that have weights.
[[nodiscard]] inline std::vector<QuantisedGroup> read_groups(const ConfigFields& config) {
    std::vector<QuantisedGroup> groups;
    const std::string format = config.has("format") ? config.string("format") : "";
    const ConfigFields listed = config.object("config_groups");
    for (const auto& [name, value] : listed.json().items()) {
        const ConfigFields group = listed.object(name.c_str());
        if (!group.has("weights")) continue;
        groups.push_back(read_group(group.object("weights"), group.has("format") ? group.string("format") : format));
    }
    return groups;
}

/// The quantisation of a checkpoint's weights.
class Quantization {
  public:
    /// Of a whole config.json, which `file` stands for in messages.
    /// @throws std::invalid_argument naming a field of a wrong type or value
    Quantization(const nlohmann::json& json, std::string file) : file_(std::move(file)) {
        const ConfigFields model(json);
        if (!model.has("quantization_config")) return;
        const ConfigFields config = model.object("quantization_config");
        if (config.has("quant_method")) method_ = config.string("quant_method");
        if (method_ == "compressed-tensors") groups_ = read_groups(config);
        if (config.has("weight_block_size")) block_ = read_block(config, "weight_block_size");
        // Rotations at run time, without which the weights are another model's.
        if (config.has("transform_config") && !config.json()["transform_config"].empty())
            config.fail("transform_config", "absent or empty");
    }

    /// The blocks that weights of a type may come in, one of which the shape of a scale tensor must fit. Where nothing is said
    /// they are DeepSeek-V3's 128 × 128, or channels, or the whole matrix.
    /// @throws CheckpointError when the configuration is of a method that is not known here, or describes no such weights
    [[nodiscard]] std::vector<ScaleBlock> blocks_of(DType type) const {
        require_known_method("");
        if (method_ == "compressed-tensors") return blocks_of_groups(type);
        if (block_) return {*block_};
        return {{128, 128}, {1, BlockScales::all}, {}};
    }

    /// @throws CheckpointError naming the method, and `why` it matters, when it is not known here
    void require_known_method(const std::string& why) const {
        constexpr std::string_view known[] = {"",    "blockwise_int8", "compressed-tensors", "fbgemm_fp8",
                                              "fp8", "w8a8_fp8",       "w8a8_int8"};
        if (std::ranges::find(known, method_) != std::end(known)) return;
        throw_checkpoint(file_, "quantization_config.quant_method", printable(method_),
                         "absent, blockwise_int8, compressed-tensors, fbgemm_fp8, fp8, w8a8_fp8 or w8a8_int8" + why);
    }

  private:
    [[nodiscard]] std::vector<ScaleBlock> blocks_of_groups(DType type) const {
        std::vector<ScaleBlock> blocks;
        std::string described;
        for (const QuantisedGroup& group : groups_) {
            if (group.type == type && group.block && group.symmetric) blocks.push_back(*group.block);
            described += (described.empty() ? "" : "; ") + group.described;
        }
        if (blocks.empty())
            throw_checkpoint(file_, "quantization_config.config_groups", described.empty() ? "empty" : printable(described),
                             std::string("one with symmetric weights of ") + name(type) + ", by tensor, channel, group or block");
        return blocks;
    }

    std::string file_;
    std::string method_;
    std::vector<QuantisedGroup> groups_;
    std::optional<ScaleBlock> block_;
};

}  // namespace mla::inline MLA_ISA::io::detail
