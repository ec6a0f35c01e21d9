// Writes the safetensors format, for test data and conformance vectors.
#pragma once

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::io {

/// A tensor on its way into a file.
struct StoredTensor {
    std::string name;
    std::string dtype;  ///< as safetensors calls it: F64, F32, BF16, I32, U8, …
    std::vector<Index> shape;
    std::string bytes;  ///< of its elements, in row-major order, little-endian
};

/// The bytes of `count` values as they lie in memory.
template <class T>
[[nodiscard]] std::string as_bytes(const T* values, Index count) {
    return count == 0 ? std::string()
                      : std::string(reinterpret_cast<const char*>(values), static_cast<std::size_t>(count) * sizeof(T));
}

/// The content of a file of these tensors, in their order, and metadata.
[[nodiscard]] inline std::string safetensors_bytes(const std::vector<StoredTensor>& tensors,
                                                   const std::map<std::string, std::string>& metadata = {}) {
    nlohmann::json header = nlohmann::json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::string data;
    for (const StoredTensor& tensor : tensors) {
        header[tensor.name] = {
            {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
        data += tensor.bytes;
    }
    const std::string text = header.dump();
    const auto length = static_cast<std::uint64_t>(text.size());
    return as_bytes(&length, 1) + text + data;
}

/// @throws std::system_error when the file cannot be written
inline void write_safetensors(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
    const std::string bytes = safetensors_bytes(tensors, metadata);
    std::ofstream file(path, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (!file) throw std::system_error(errno, std::generic_category(), "mla: cannot write " + path.string());
}

}  // namespace mla::inline MLA_ISA::io
