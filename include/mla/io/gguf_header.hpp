// The header of a GGUF file (ggml's docs/gguf.md, versions 2 and 3), read as hostile input: metadata, and where tensors lie.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
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
#include "mla/io/gguf_cursor.hpp"
#include "mla/io/gguf_types.hpp"

namespace mla::inline MLA_ISA::io {

/// One tensor of a GGUF file.
struct GgufTensor {
    std::uint32_t type = 0;    ///< as ggml numbers them
    std::vector<Index> shape;  ///< row-major: the file lists the innermost dimension first, this the outermost
    std::uint64_t begin = 0;   ///< first byte, from the start of the data section
    std::uint64_t bytes = 0;   ///< 0 for a type that is not known
};

using GgufTensorTable = std::map<std::string, GgufTensor, std::less<>>;

struct GgufHeader {
    /// By key. An array is an object of its `array_of` (a type) and `count`: nothing that is read here needs its elements.
    nlohmann::json metadata = nlohmann::json::object();
    GgufTensorTable tensors;
    std::size_t data_begin = 0;
};

namespace detail {

static_assert(std::endian::native == std::endian::little, "GGUF files are read that store little-endian values");

/// The decimal number of fewest digits that is stored as this float, which is what its writer meant: 1e-6, not 9.99999997e-7.
[[nodiscard]] inline double shortest_decimal(float value) {
    std::array<char, 32> text{};
    const char* const end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    double decimal = 0.0;
    std::from_chars(text.data(), end, decimal);
    return decimal;
}

/// Types of metadata, in the order of their numbers: names, and bytes a value; 0 where they vary.
inline constexpr std::pair<const char*, std::size_t> gguf_value_types[] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};
inline constexpr std::uint32_t gguf_string = 8;
inline constexpr std::uint32_t gguf_array = 9;

[[nodiscard]] inline std::uint32_t read_value_type(GgufCursor& cursor, const std::string& subject) {
    const auto type = cursor.number<std::uint32_t>("type of " + subject);
    if (type >= std::size(gguf_value_types)) throw_gguf(cursor.file(), "type of " + subject, std::to_string(type), "at most 12");
    return type;
}

/// Passes over an array, of arrays too, and says of what it is.
inline nlohmann::json skip_array(GgufCursor& cursor, const std::string& subject, int depth = 1) {
    constexpr int deepest = 4;
    if (depth > deepest) throw_gguf(cursor.file(), subject, "nested deeper", "arrays at most 4 deep");
    const std::uint32_t type = read_value_type(cursor, "elements of " + subject);
    const auto& [name, size] = gguf_value_types[type];
    const std::size_t least = type == gguf_string ? 8 : type == gguf_array ? 12 : size;
    const std::uint64_t count = cursor.count("length of " + subject, least);
    if (size > 0) cursor.skip(count * size, subject);
    for (std::uint64_t i = 0; size == 0 && i < count; ++i) {
        if (type == gguf_array)
            skip_array(cursor, subject, depth + 1);
        else
            cursor.skip(cursor.count("length of a string of " + subject, 1), subject);
    }
    return {{"array_of", name}, {"count", count}};
}

[[nodiscard]] inline bool read_bool(GgufCursor& cursor, const std::string& subject) {
    const auto value = cursor.number<std::uint8_t>(subject);
    if (value > 1) throw_gguf(cursor.file(), subject, std::to_string(value), "0 or 1, being a bool");
    return value == 1;
}

[[nodiscard]] inline nlohmann::json read_value(GgufCursor& cursor, const std::string& subject) {
    switch (read_value_type(cursor, subject)) {
        case 0: return cursor.number<std::uint8_t>(subject);
        case 1: return cursor.number<std::int8_t>(subject);
        case 2: return cursor.number<std::uint16_t>(subject);
        case 3: return cursor.number<std::int16_t>(subject);
        case 4: return cursor.number<std::uint32_t>(subject);
        case 5: return cursor.number<std::int32_t>(subject);
        case 6: return shortest_decimal(cursor.number<float>(subject));
        case 7: return read_bool(cursor, subject);
        case gguf_string: return cursor.string(subject);
        case gguf_array: return skip_array(cursor, subject);
        case 10: return cursor.number<std::uint64_t>(subject);
        case 11: return cursor.number<std::int64_t>(subject);
        default: return cursor.number<double>(subject);
    }
}

/// The name of something, which no other has.
template <class Table>
[[nodiscard]] std::string read_unique_name(GgufCursor& cursor, const char* what, const Table& table) {
    constexpr std::size_t longest = 65535;
    std::string name = cursor.string(what);
    if (name.size() > longest)
        throw_gguf(cursor.file(), "length of " + std::string(what), std::to_string(name.size()), "at most 65535");
    if (table.contains(name)) throw_gguf(cursor.file(), what + (' ' + printable(name)), "given twice", "unique");
    return name;
}

inline void read_metadata(GgufCursor& cursor, std::uint64_t count, nlohmann::json& metadata) {
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::string key = read_unique_name(cursor, "metadata key", metadata);
        metadata[key] = read_value(cursor, "metadata " + printable(key));
    }
}

/// Bytes of a tensor; its rows must be whole blocks.
[[nodiscard]] inline std::uint64_t tensor_bytes(const std::string& file, const std::string& subject, const GgufTensor& tensor) {
    const GgufType* const type = find_gguf_type(tensor.type);
    if (type == nullptr) return 0;
    if (tensor.shape.back() % type->elements != 0)
        throw_gguf(file, subject + " row", std::to_string(tensor.shape.back()) + " long",
                   "a multiple of " + std::to_string(type->elements) + ", for " + type->name);
    auto bytes = static_cast<std::uint64_t>(type->bytes);
    std::vector<Index> extents = tensor.shape;
    extents.back() /= type->elements;
    for (const Index dim : extents) {
        const auto extent = static_cast<std::uint64_t>(dim);
        if (extent != 0 && bytes > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()) / extent)
            throw_gguf(file, subject + " shape", list_text(tensor.shape), "below 2^63 bytes");
        bytes *= extent;
    }
    return bytes;
}

[[nodiscard]] inline GgufTensor read_tensor(GgufCursor& cursor, const std::string& subject) {
    constexpr std::uint32_t most_dims = 4;
    const auto dims = cursor.number<std::uint32_t>(subject + " dimensions");
    if (dims == 0 || dims > most_dims) throw_gguf(cursor.file(), subject + " dimensions", std::to_string(dims), "1 to 4");
    GgufTensor tensor;
    for (std::uint32_t i = 0; i < dims; ++i) {
        const auto extent = cursor.number<std::uint64_t>(subject + " shape");
        if (extent > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
            throw_gguf(cursor.file(), subject + " shape", std::to_string(extent), "below 2^63");
        tensor.shape.insert(tensor.shape.begin(), static_cast<Index>(extent));
    }
    tensor.type = cursor.number<std::uint32_t>(subject + " type");
    tensor.begin = cursor.number<std::uint64_t>(subject + " offset");
    tensor.bytes = tensor_bytes(cursor.file(), subject, tensor);
    return tensor;
}

/// `general.alignment`, where tensors start.
[[nodiscard]] inline std::uint64_t read_alignment(const std::string& file, const nlohmann::json& metadata) {
    const auto given = metadata.find("general.alignment");
    if (given == metadata.end()) return 32;
    const std::uint64_t alignment = given->is_number_unsigned() ? given->get<std::uint64_t>() : 0;
    if (alignment < 8 || alignment > 1U << 30U || !std::has_single_bit(alignment))
        throw_gguf(file, "metadata 'general.alignment'",
                   given->is_number_unsigned() ? std::to_string(alignment) : "no such number",
                   "an unsigned power of two in [8, 2^30]");
    return alignment;
}

/// Tensors must start at multiples of `alignment`, lie within the data section and not over each other.
inline void check_tensor_places(const std::string& file, const GgufTensorTable& tensors, std::uint64_t alignment,
                                std::uint64_t data_bytes) {
    std::vector<const GgufTensorTable::value_type*> order;
    for (const auto& entry : tensors) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
        return std::pair(a->second.begin, a->second.bytes) < std::pair(b->second.begin, b->second.bytes);
    });
    std::uint64_t free = 0;
    for (const auto* entry : order) {
        const auto& [name, tensor] = *entry;
        const std::string subject = "tensor " + printable(name) + " offset";
        if (tensor.begin % alignment != 0)
            throw_gguf(file, subject, std::to_string(tensor.begin), "a multiple of " + std::to_string(alignment));
        if (tensor.begin < free)
            throw_gguf(file, subject, std::to_string(tensor.begin),
                       "at least " + std::to_string(free) + ", where the one before ends");
        if (tensor.begin > data_bytes || tensor.bytes > data_bytes - tensor.begin)
            throw_gguf(file, subject, std::to_string(tensor.begin) + ", " + std::to_string(tensor.bytes) + " bytes long",
                       "within the " + std::to_string(data_bytes) + " bytes of the data section");
        free = tensor.begin + tensor.bytes;
    }
}

}  // namespace detail

/// The header of a file; `file` stands for it in messages.
/// @throws GgufError when `bytes` is no valid GGUF file
[[nodiscard]] inline GgufHeader read_gguf_header(std::span<const std::byte> bytes, const std::string& file) {
    detail::GgufCursor cursor(bytes, file);
    if (cursor.number<std::uint32_t>("magic") != 0x46554747U) detail::throw_gguf(file, "magic", "another", "'GGUF'");
    const auto version = cursor.number<std::uint32_t>("version");
    if (version != 2 && version != 3) detail::throw_gguf(file, "version", std::to_string(version), "2 or 3, little-endian");
    constexpr std::size_t least_tensor = 8 + 4 + 8 + 4 + 8, least_metadata = 8 + 4 + 1;
    const std::uint64_t tensor_count = cursor.count("tensor count", least_tensor);
    const std::uint64_t metadata_count = cursor.count("metadata count", least_metadata);
    GgufHeader header;
    detail::read_metadata(cursor, metadata_count, header.metadata);
    for (std::uint64_t i = 0; i < tensor_count; ++i) {
        const std::string name = detail::read_unique_name(cursor, "tensor", header.tensors);
        header.tensors.emplace(name, detail::read_tensor(cursor, "tensor " + detail::printable(name)));
    }
    const std::uint64_t alignment = detail::read_alignment(file, header.metadata);
    const std::size_t padding = (alignment - cursor.position() % alignment) % alignment;
    // A file without tensors may end with its header.
    header.data_begin = cursor.position() + std::min(padding, cursor.left());
    detail::check_tensor_places(file, header.tensors, alignment, bytes.size() - header.data_begin);
    return header;
}

}  // namespace mla::inline MLA_ISA::io
