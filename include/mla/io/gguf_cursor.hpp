// Reads a GGUF file's header value by value, as hostile input: nothing past the end, and no count that the bytes left cannot
// hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "mla/io/errors.hpp"

namespace mla::inline MLA_ISA::io {

/// A file that is no valid GGUF file, or a tensor of it that is not what was asked for.
class GgufError : public CheckpointError {
  public:
    using CheckpointError::CheckpointError;
};

namespace detail {

[[noreturn]] inline void throw_gguf(const std::string& file, const std::string& subject, const std::string& was,
                                    const std::string& must) {
    throw_file_error<GgufError>(file, subject, was, must);
}

class GgufCursor {
  public:
    GgufCursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

    [[nodiscard]] const std::string& file() const noexcept { return file_; }
    [[nodiscard]] std::size_t position() const noexcept { return position_; }
    [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - position_; }

    template <class T>
    [[nodiscard]] T number(const std::string& subject) {
        T value;
        std::memcpy(&value, take(sizeof value, subject), sizeof value);
        return value;
    }

    /// How many things of at least `least` bytes follow.
    [[nodiscard]] std::uint64_t count(const std::string& subject, std::size_t least) {
        const auto value = number<std::uint64_t>(subject);
        if (value > left() / least)
            throw_gguf(file_, subject, std::to_string(value),
                       "at most " + std::to_string(left() / least) + " for the " + std::to_string(left()) + " bytes that follow");
        return value;
    }

    [[nodiscard]] std::string string(const std::string& subject) {
        const std::uint64_t length = count("length of " + subject, 1);
        return {reinterpret_cast<const char*>(take(length, subject)), length};
    }

    void skip(std::size_t bytes, const std::string& subject) { static_cast<void>(take(bytes, subject)); }

  private:
    [[nodiscard]] const std::byte* take(std::size_t bytes, const std::string& subject) {
        if (bytes > left())
            throw_gguf(file_, "file", std::to_string(bytes_.size()) + " bytes", "longer: it ends within " + subject);
        return bytes_.data() + std::exchange(position_, position_ + bytes);
    }

    std::span<const std::byte> bytes_;
    const std::string& file_;
    std::size_t position_ = 0;
};

}  // namespace detail
}  // namespace mla::inline MLA_ISA::io
