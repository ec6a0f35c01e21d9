// A layer whose projections are stored quantised, in any type and blocks, with what they stand for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/core/float8.hpp"
#include "mla/core/tensor_ref.hpp"
#include "mla/testing/random.hpp"
#include "mla/weights.hpp"
#include "support/checkpoint_folder.hpp"

namespace mla::testing {

/// A way to store a matrix.
struct Quantisation {
    const char* dtype = "F8_E4M3";  ///< F8_E4M3, I8, or I32 for eight int4
    const char* scale_dtype = "F32";
    Index block_rows = 128;
    Index block_cols = 128;
    const char* scale_name = "_scale_inv";
    std::size_t scale_rank = 2;  ///< dimensions of 1 are left out at the end

    [[nodiscard]] DType type() const {
        return std::string_view(dtype) == "I32" ? DType::i4 : std::string_view(dtype) == "I8" ? DType::i8 : DType::f8_e4m3;
    }
};

/// Numbers of a type that holds scales, near to 0.001 and up.
class StoredScales {
  public:
    StoredScales(std::string_view dtype, Index count) {
        for (Index i = 0; i < count; ++i) {
            const float scale = 0.001F + 0.0003F * static_cast<float>(i % 1000);
            if (dtype == "F32") add(scale);
            if (dtype == "BF16") add(bf16(scale));
            if (dtype == "F16") add(fp16(scale));
            if (dtype == "F8_E8M0") add(ue8m0::at_least(scale));
        }
    }
    std::vector<double> values;
    std::string bytes;

  private:
    template <class S>
    void add(S scale) {
        bytes += as_bytes(&scale, 1);
        values.push_back(static_cast<double>(static_cast<float>(scale)));
    }
};

/// Layer 0: norms in bf16, all else quantised, as tensors of a file and as the values that they mean.
class QuantisedLayer {
  public:
    std::vector<StoredTensor> tensors;
    std::map<std::string, std::vector<double>> values;  ///< of each quantised tensor, by its name in AttentionWeights

    QuantisedLayer(const Config& config, const Quantisation& how) : config_(config), source_(config, 11) {
        for (StoredTensor& tensor : stored_layer(config, source_.refs(), 0))
            if (tensor.name.ends_with("norm.weight")) tensors.push_back(std::move(tensor));
        AttentionWeights weights;
        for_each_tensor(config, weights, [&](const std::string& name, TensorRef&, Index rows, Index cols) {
            if (!name.ends_with("norm")) quantise(name, rows, cols, how);
        });
        for (const auto& [name, meant] : values) floats_[name].assign(meant.begin(), meant.end());
    }

    [[nodiscard]] StoredTensor& named(std::string_view end) {
        return *std::ranges::find_if(tensors, [&](const StoredTensor& tensor) { return tensor.name.ends_with(end); });
    }

    /// The same layer in float.
    [[nodiscard]] AttentionWeights expected() const {
        AttentionWeights weights = source_.refs();
        for_each_tensor(config_, weights, [&](const std::string& name, TensorRef& tensor, Index rows, Index cols) {
            if (const auto meant = floats_.find(name); meant != floats_.end())
                tensor = TensorRef(meant->second.data(), rows, cols);
        });
        return weights;
    }

  private:
    void quantise(const std::string& name, Index rows, Index cols, const Quantisation& how) {
        const Index down = how.block_rows == BlockScales::all ? 1 : divide_up(rows, how.block_rows);
        const Index across = how.block_cols == BlockScales::all ? 1 : divide_up(cols, how.block_cols);
        const StoredScales scales(how.scale_dtype, down * across);
        std::vector<int> steps(static_cast<std::size_t>(rows * cols));  // of [-8, 7], which all three types have
        for (int& step : steps) step = static_cast<int>(generator_() % 16) - 8;
        for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < cols; ++c) {
                const Index block = r / how.block_rows * across + c / how.block_cols;
                values[name].push_back(steps[static_cast<std::size_t>(r * cols + c)] *
                                       scales.values[static_cast<std::size_t>(block)]);
            }
        const std::string full = "model.layers.0.self_attn." + name + ".weight";
        store(full, steps, rows, cols, how);
        std::vector<Index> shape = {down, across};
        shape.resize(how.scale_rank);
        tensors.push_back({full + how.scale_name, how.scale_dtype, shape, scales.bytes});
    }

    void store(const std::string& full, const std::vector<int>& steps, Index rows, Index cols, const Quantisation& how) {
        if (how.type() == DType::i4) {
            const std::int64_t shape[] = {rows, cols};
            tensors.push_back({full + "_packed", "I32", {rows, divide_up(cols, 8)}, packed(steps, rows, cols)});
            tensors.push_back({full + "_shape", "I64", {2}, as_bytes(shape, 2)});
            return;
        }
        std::string bytes;
        for (const int step : steps)
            bytes +=
                static_cast<char>(how.type() == DType::i8 ? static_cast<std::uint8_t>(step) : fp8(static_cast<float>(step)).bits);
        tensors.push_back({full, how.dtype, {rows, cols}, bytes});
    }

    /// Eight to a word, the first in its lowest bits, each 8 more than it means.
    [[nodiscard]] static std::string packed(const std::vector<int>& steps, Index rows, Index cols) {
        std::vector<std::uint32_t> words(static_cast<std::size_t>(rows * divide_up(cols, 8)));
        for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < cols; ++c)
                words[static_cast<std::size_t>(r * divide_up(cols, 8) + c / 8)] |=
                    static_cast<std::uint32_t>(steps[static_cast<std::size_t>(r * cols + c)] + 8) << (4 * (c % 8));
        return as_bytes(words.data(), static_cast<Index>(words.size()));
    }

    Config config_;
    RandomWeights<bf16> source_;
    Generator generator_{7};
    std::map<std::string, std::vector<float>> floats_;
};

}  // namespace mla::testing
