// The index of a checkpoint of several files (model.safetensors.index.json): which file holds which tensor. Read as hostile
// input: what is not needed is skipped without being built, so that memory stays in proportion to the map.
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/io/errors.hpp"

namespace mla::inline MLA_ISA::io {

/// Name of a tensor -> name of the file that holds it, a plain name of a file in the index's folder.
using WeightMap = std::map<std::string, std::string, std::less<>>;

namespace detail {

/// As long as a safetensors header may be; the index of DeepSeek-V3 has 9 MB.
inline constexpr std::size_t max_index_bytes = 100'000'000;

/// Receives the index's JSON events and keeps the entries of weight_map.
class CheckpointIndexReader {
  public:
    explicit CheckpointIndexReader(const std::string& file) : file_(file) {}

    WeightMap weight_map;
    bool found = false;  ///< weight_map was there

    // The events of nlohmann::json_sax; each returns true to go on.

    bool start_object(std::size_t) {
        enter("an object");
        if (depth_ == 2 && key_ == "weight_map") {
            if (std::exchange(found, true)) throw_checkpoint(file_, "weight_map", "given twice", "unique");
            in_map_ = true;
        }
        return true;
    }

    bool start_array(std::size_t) {
        if (depth_ == 0) throw_checkpoint(file_, "index", "an array", "an object");
        enter("an array");
        return true;
    }

    bool end_object() {
        if (--depth_ == 1) in_map_ = false;
        return true;
    }

    bool end_array() {
        --depth_;
        return true;
    }

    bool key(std::string& text) {
        if (depth_ == 1 || in_map_) key_ = std::move(text);
        return true;
    }

    bool string(std::string& text) {
        if (!in_map_) return scalar("a string");
        const bool plain = !text.empty() && text.size() <= 255 && text != "." && text != ".." &&
                           text.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
        if (!plain)
            throw_checkpoint(file_, "file of tensor " + printable(key_), printable(text), "the name of a file beside the index");
        if (!weight_map.emplace(key_, std::move(text)).second)
            throw_checkpoint(file_, "tensor " + printable(key_), "given twice", "unique");
        return true;
    }

    bool null() { return scalar("null"); }
    bool boolean(bool) { return scalar("a boolean"); }
    bool number_integer(std::int64_t) { return scalar("a number"); }
    bool number_unsigned(std::uint64_t) { return scalar("a number"); }
    bool number_float(double, const std::string&) { return scalar("a number"); }
    bool binary(std::vector<std::uint8_t>&) { return scalar("binary"); }
    bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
        throw_checkpoint(file_, "index", "invalid: " + printable(error.what()), "JSON in UTF-8");
    }

  private:
    static constexpr int deepest = 32;

    void enter(const char* what) {
        if (in_map_) throw_checkpoint(file_, "file of tensor " + printable(key_), what, "a string");
        if (depth_ == deepest) throw_checkpoint(file_, "nesting", "deeper", "at most " + std::to_string(deepest) + " deep");
        ++depth_;
    }

    /// A value that is not a file's name: nothing that matters, unless it stands where one of those is called for.
    bool scalar(const char* what) {
        if (depth_ == 0) throw_checkpoint(file_, "index", what, "an object");
        if (depth_ == 1 && key_ == "weight_map") throw_checkpoint(file_, "weight_map", what, "an object");
        if (in_map_) throw_checkpoint(file_, "file of tensor " + printable(key_), what, "a string");
        return true;
    }

    const std::string& file_;
    int depth_ = 0;
    bool in_map_ = false;
    std::string key_;
};

}  // namespace detail

/// The weight_map of an index. `file` stands for it in messages.
/// @throws CheckpointError when the text is no JSON, lacks the map, or the map holds anything but names of files
[[nodiscard]] inline WeightMap parse_checkpoint_index(std::string_view text, const std::string& file) {
    if (text.size() > detail::max_index_bytes)
        detail::throw_checkpoint(file, "size", std::to_string(text.size()) + " bytes",
                                 "at most " + std::to_string(detail::max_index_bytes));
    // The JSON parser takes a zero byte for the end of its input and would not look at what follows.
    if (text.find('\0') != std::string_view::npos)
        detail::throw_checkpoint(file, "index", "holding a zero byte", "JSON in UTF-8");
    detail::CheckpointIndexReader reader(file);
    nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
    if (!reader.found) detail::throw_checkpoint(file, "weight_map", "missing", "an object");
    return std::move(reader.weight_map);
}

}  // namespace mla::inline MLA_ISA::io
