// What is wrong with a checkpoint, in words: every message names the file, what was found in it and what it must be.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA::io {

/// A checkpoint whose files do not fit together, or that lacks what was asked for. The message names the file, the tensor or
/// field, what was found and what it must be.
class CheckpointError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// A file that is no valid safetensors file, or a tensor of it that is not what was asked for.
class SafetensorsError : public CheckpointError {
  public:
    using CheckpointError::CheckpointError;
};

namespace detail {

/// Text from the file, fit for a message: short, on one line.
[[nodiscard]] inline std::string printable(std::string_view text) {
    constexpr std::size_t longest = 200;
    std::string shown = "'";
    for (const char c : text.substr(0, longest)) shown += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    return shown + (text.size() > longest ? "…'" : "'");
}

template <class Values>
[[nodiscard]] std::string list_text(const Values& values) {
    std::string text;
    for (const auto value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
    return "[" + text + "]";
}

/// "mla: <file>: <subject> is <was>, must be <must>".
template <class Error>
[[noreturn]] void throw_file_error(const std::string& file, const std::string& subject, const std::string& was,
                                   const std::string& must) {
    throw Error("mla: " + file + ": " + subject + " is " + was + ", must be " + must);
}

[[noreturn]] inline void throw_safetensors(const std::string& file, const std::string& subject, const std::string& was,
                                           const std::string& must) {
    throw_file_error<SafetensorsError>(file, subject, was, must);
}

[[noreturn]] inline void throw_checkpoint(const std::string& file, const std::string& subject, const std::string& was,
                                          const std::string& must) {
    throw_file_error<CheckpointError>(file, subject, was, must);
}

}  // namespace detail
}  // namespace mla::inline MLA_ISA::io
