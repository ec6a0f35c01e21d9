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

/// Bits an element; 0 for a type that is not known here.
[[nodiscard]] constexpr std::size_t element_bits(std::string_view dtype) noexcept {
    constexpr std::pair<std::string_view, std::size_t> sizes[] = {
        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"BOOL", 8},        {"U8", 8},      {"I8", 8},
        {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"I16", 16},
        {"U16", 16},    {"F16", 16},    {"BF16", 16},       {"I32", 32},        {"U32", 32},    {"F32", 32},
        {"F64", 64},    {"I64", 64},    {"U64", 64},        {"C64", 64}};
    for (const auto& [name, bits] : sizes)
        if (name == dtype) return bits;
    return 0;
}

/// Types that are not known here may be among tensors that nobody asks for.
[[nodiscard]] constexpr bool is_type_name(std::string_view text) noexcept {
    constexpr std::string_view allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    return !text.empty() && text.size() <= 32 && text.find_first_not_of(allowed) == std::string_view::npos;
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
            if (!is_type_name(text))
                throw_safetensors(file_, subject(), printable(text), "a data type's name: letters, digits and _");
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

    bool null() {
        if (place_ != Place::header || name_ != "__metadata__") unexpected("null");
        return true;
    }
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

/// Dtype and shape must fill exactly the bytes between the offsets. Those of a type that is not known may be any.
inline void check_tensor_size(const std::string& file, const std::string& name, const TensorInfo& tensor) {
    const std::size_t each = element_bits(tensor.dtype);
    std::size_t bits = each;
    for (const Index dim : tensor.shape) {
        const auto extent = static_cast<std::size_t>(dim);
        if (extent != 0 && bits > std::numeric_limits<std::size_t>::max() / extent)
            throw_safetensors(file, "tensor " + printable(name) + " shape", list_text(tensor.shape), "below 2^61 bytes");
        bits *= extent;
    }
    const bool whole = bits % 8 == 0;
    if (tensor.end < tensor.begin || !whole || (each != 0 && tensor.end - tensor.begin != bits / 8))
        throw_safetensors(file, "tensor " + printable(name) + " data_offsets", list_text(std::array{tensor.begin, tensor.end}),
                          (each == 0 ? "in order"
                           : whole   ? std::to_string(bits / 8) + " bytes apart"
                                     : "whole bytes apart") +
                              " for " + tensor.dtype + " " + list_text(tensor.shape));
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
