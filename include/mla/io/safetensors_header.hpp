// The JSON header of a safetensors file, read as hostile input. Nothing is built that the format does not allow, so
// that memory stays in proportion to the header, and nesting never goes deeper than the format's three levels.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/core/types.hpp"
#include "mla/io/errors.hpp"

namespace mla::inline MLA_ISA::io {

/// One tensor of a file.
struct TensorInfo {
    std::string dtype;         ///< as the format spells it: "F32", "BF16", "I64", "F8_E4M3", …
    std::vector<Index> shape;  ///< row-major; empty for a scalar
    std::size_t begin = 0;     ///< first byte, from the start of the data section
    std::size_t end = 0;       ///< one past the last byte
};

using TensorTable = std::map<std::string, TensorInfo, std::less<>>;

namespace detail {

/// The format's own limit.
inline constexpr std::uint64_t max_header_bytes = 100'000'000;
/// Far above any tensor of a checkpoint.
inline constexpr std::size_t max_tensor_rank = 8;

/// Bytes an element; 0 for a type the format does not have (or one that packs several elements in a byte).
[[nodiscard]] constexpr std::size_t element_bytes(std::string_view dtype) noexcept {
    constexpr std::array<std::pair<std::string_view, std::size_t>, 16> sizes{{{"BOOL", 1},
                                                                              {"U8", 1},
                                                                              {"I8", 1},
                                                                              {"F8_E5M2", 1},
                                                                              {"F8_E4M3", 1},
                                                                              {"F8_E8M0", 1},
                                                                              {"I16", 2},
                                                                              {"U16", 2},
                                                                              {"F16", 2},
                                                                              {"BF16", 2},
                                                                              {"I32", 4},
                                                                              {"U32", 4},
                                                                              {"F32", 4},
                                                                              {"F64", 8},
                                                                              {"I64", 8},
                                                                              {"U64", 8}}};
    for (const auto& [name, bytes] : sizes)
        if (name == dtype) return bytes;
    return 0;
}

/// Receives the header's JSON events and keeps the tensors and the metadata.
class SafetensorsHeaderReader {
  public:
    explicit SafetensorsHeaderReader(const std::string& file) : file_(file) {}

    TensorTable tensors;
    std::map<std::string, std::string> metadata;

    // The events of nlohmann::json_sax; each returns true to go on.

    bool start_object(std::size_t) {
        if (place_ == Place::file) {
            place_ = Place::header;
        } else if (place_ == Place::header) {
            place_ = name_ == "__metadata__" ? Place::metadata : Place::tensor;
            tensor_ = {};
            fields_ = {};
        } else {
            unexpected("an object");
        }
        return true;
    }

    bool key(std::string& text) {
        if (place_ == Place::header) {
            const bool again = text == "__metadata__" ? std::exchange(has_metadata_, true) : tensors.contains(text);
            if (again) throw_safetensors(file_, "name " + printable(text), "given twice", "unique");
            name_ = std::move(text);
        } else if (place_ == Place::metadata) {
            key_ = std::move(text);
            if (metadata.contains(key_)) throw_safetensors(file_, subject(), "given twice", "unique");
        } else {
            key_ = std::move(text);
            bool* seen = key_ == "dtype"          ? &fields_.dtype
                         : key_ == "shape"        ? &fields_.shape
                         : key_ == "data_offsets" ? &fields_.offsets
                                                  : nullptr;
            if (seen == nullptr) throw_safetensors(file_, subject(), "unknown", "dtype, shape or data_offsets");
            if (std::exchange(*seen, true)) throw_safetensors(file_, subject(), "given twice", "unique");
        }
        return true;
    }

    bool string(std::string& text) {
        if (place_ == Place::metadata) {
            metadata.emplace(std::move(key_), std::move(text));
        } else if (place_ == Place::tensor && key_ == "dtype") {
            if (element_bytes(text) == 0) throw_safetensors(file_, subject(), printable(text), "a data type of the format");
            tensor_.dtype = std::move(text);
        } else {
            unexpected("a string");
        }
        return true;
    }

    bool start_array(std::size_t) {
        if (place_ != Place::tensor || key_ == "dtype") unexpected("an array");
        place_ = Place::array;
        numbers_.clear();
        return true;
    }

    bool number_unsigned(std::uint64_t value) {
        if (place_ != Place::array) unexpected("a number");
        const std::size_t most = key_ == "shape" ? max_tensor_rank : 2;
        if (numbers_.size() == most)
            throw_safetensors(file_, subject(), "longer", "at most " + std::to_string(most) + " numbers");
        if (value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
            throw_safetensors(file_, subject(), std::to_string(value), "below 2^63");
        numbers_.push_back(static_cast<Index>(value));
        return true;
    }

    bool end_array() {
        place_ = Place::tensor;
        if (key_ == "shape") {
            tensor_.shape = numbers_;
        } else {
            if (numbers_.size() != 2) throw_safetensors(file_, subject(), list_text(numbers_), "[begin, end]");
            tensor_.begin = static_cast<std::size_t>(numbers_[0]);
            tensor_.end = static_cast<std::size_t>(numbers_[1]);
        }
        return true;
    }

    bool end_object() {
        if (place_ == Place::tensor) {
            const char* missing = !fields_.dtype     ? "dtype"
                                  : !fields_.shape   ? "shape"
                                  : !fields_.offsets ? "data_offsets"
                                                     : nullptr;
            if (missing != nullptr) throw_safetensors(file_, "tensor " + printable(name_) + " " + missing, "missing", "given");
            tensors.emplace(std::move(name_), std::move(tensor_));
        }
        place_ = place_ == Place::header ? Place::file : Place::header;
        return true;
    }

    bool null() { unexpected("null"); }
    bool boolean(bool) { unexpected("a boolean"); }
    bool number_integer(std::int64_t value) { unexpected(std::to_string(value)); }
    bool number_float(double, const std::string& text) { unexpected(printable(text)); }
    bool binary(std::vector<std::uint8_t>&) { unexpected("binary"); }
    bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
        throw_safetensors(file_, "header", "invalid: " + printable(error.what()), "JSON in UTF-8");
    }

  private:
    /// Where in the header the next event lies.
    enum class Place { file, header, metadata, tensor, array };
    struct Fields {
        bool dtype = false, shape = false, offsets = false;
    };

    [[nodiscard]] std::string subject() const {
        if (place_ == Place::file) return "header";
        if (place_ == Place::metadata) return "__metadata__ " + printable(key_);
        const std::string entry = name_ == "__metadata__" ? name_ : "tensor " + printable(name_);
        return place_ == Place::header ? entry : entry + " " + printable(key_);
    }

    [[noreturn]] void unexpected(const std::string& was) const {
        const char* must = place_ == Place::metadata ? "a string"
                           : place_ == Place::array  ? "integers from 0"
                           : place_ != Place::tensor ? "an object"
                           : key_ == "dtype"         ? "a string"
                                                     : "an array of integers";
        throw_safetensors(file_, subject(), was, must);
    }

    const std::string& file_;
    Place place_ = Place::file;
    bool has_metadata_ = false;
    std::string name_, key_;
    TensorInfo tensor_;
    Fields fields_;
    std::vector<Index> numbers_;
};

/// Dtype and shape must fill exactly the bytes between the offsets.
inline void check_tensor_size(const std::string& file, const std::string& name, const TensorInfo& tensor) {
    std::size_t bytes = element_bytes(tensor.dtype);
    for (const Index dim : tensor.shape) {
        const auto extent = static_cast<std::size_t>(dim);
        if (extent != 0 && bytes > std::numeric_limits<std::size_t>::max() / extent)
            throw_safetensors(file, "tensor " + printable(name) + " shape", list_text(tensor.shape), "below 2^64 bytes");
        bytes *= extent;
    }
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes)
        throw_safetensors(file, "tensor " + printable(name) + " data_offsets", list_text(std::array{tensor.begin, tensor.end}),
                          std::to_string(bytes) + " bytes apart for " + tensor.dtype + " " + list_text(tensor.shape));
}

/// The tensors must tile the data section: no gap, no overlap, nothing after the last.
inline void check_tensor_layout(const std::string& file, const TensorTable& tensors, std::size_t data_bytes) {
    std::vector<const TensorTable::value_type*> order;
    for (const auto& entry : tensors) {
        check_tensor_size(file, entry.first, entry.second);
        order.push_back(&entry);
    }
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
        return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
    });
    std::size_t expected = 0;
    for (const auto* entry : order) {
        if (entry->second.begin != expected)
            throw_safetensors(file, "tensor " + printable(entry->first) + " data_offsets[0]", std::to_string(entry->second.begin),
                              std::to_string(expected) + ", where the one before ends");
        expected = entry->second.end;
    }
    if (expected != data_bytes)
        throw_safetensors(file, "data section", std::to_string(data_bytes) + " bytes",
                          std::to_string(expected) + " bytes, where the last tensor ends");
}

}  // namespace detail
}  // namespace mla::inline MLA_ISA::io
