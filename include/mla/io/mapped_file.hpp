// A file as read-only memory.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA::io {

/// A regular file mapped read-only. It must keep its length while this lives: reading past the end of a file that
/// shrank ends the process.
class MappedFile {
  public:
    /// @throws std::system_error naming the path when it cannot be opened or mapped, or is no regular file
    explicit MappedFile(const std::filesystem::path& path) {
        // Non-blocking, so that a pipe in a file's place is refused rather than waited for.
        const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
        if (file.number < 0) fail(errno, "cannot open", path);
        struct stat status {};
        if (::fstat(file.number, &status) != 0) fail(errno, "cannot inspect", path);
        if (!S_ISREG(status.st_mode)) fail(EINVAL, "not a regular file:", path);
        size_ = static_cast<std::size_t>(status.st_size);
        if (size_ == 0) return;
        void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number, 0);
        if (memory == MAP_FAILED) fail(errno, "cannot map", path);
        data_ = static_cast<const std::byte*>(memory);
    }

    MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    MappedFile& operator=(MappedFile&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~MappedFile() {
        if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
    }

    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

    /// Lets go of the pages read so far; what is read again comes from the file again.
    void release() const noexcept {
        if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
    }

  private:
    struct Descriptor {
        int number;
        ~Descriptor() {
            if (number >= 0) ::close(number);
        }
    };

    [[noreturn]] static void fail(int error, const char* what, const std::filesystem::path& path) {
        throw std::system_error(error, std::generic_category(), std::string("mla: ") + what + " " + path.string());
    }

    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace mla::inline MLA_ISA::io
