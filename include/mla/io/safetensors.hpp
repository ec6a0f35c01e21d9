// Reads the safetensors format (https://github.com/huggingface/safetensors): eight bytes of header length, a JSON
// header, then the tensors' bytes, all little-endian. A file is hostile input: whatever is wrong in it, the answer is a
// SafetensorsError, never a crash, and memory stays in proportion to the header.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "mla/core/tensor_ref.hpp"
#include "mla/core/workspace.hpp"
#include "mla/io/mapped_file.hpp"
#include "mla/io/safetensors_header.hpp"

namespace mla::inline MLA_ISA::io {

static_assert(std::endian::native == std::endian::little, "safetensors stores little-endian values");

/// The tensors of one safetensors file, all checked when it is opened.
class Safetensors {
  public:
    /// Maps the file, which must stay as it is while this lives.
    /// @throws std::system_error when it cannot be read, SafetensorsError when it is no valid safetensors file
    explicit Safetensors(const std::filesystem::path& path) : name_(path.string()), file_(std::in_place, path) {
        read(file_->bytes());
    }

    /// Reads from the caller's memory, which must outlive this. `name` stands for the file in messages.
    /// @throws SafetensorsError when `bytes` is no valid safetensors file
    explicit Safetensors(std::span<const std::byte> bytes, std::string name = "safetensors data") : name_(std::move(name)) {
        read(bytes);
    }

    /// What stands for the file in messages.
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

    /// All tensors by name, in the order of names.
    [[nodiscard]] const TensorTable& tensors() const noexcept { return tensors_; }
    [[nodiscard]] bool contains(std::string_view name) const noexcept { return tensors_.find(name) != tensors_.end(); }

    /// The free-form strings of the header's `__metadata__`.
    [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }

    /// @throws SafetensorsError when there is no tensor of that name
    [[nodiscard]] const TensorInfo& info(std::string_view name) const {
        const auto found = tensors_.find(name);
        if (found == tensors_.end()) fail(name, "missing", "in the file");
        return found->second;
    }

    /// The bytes of a tensor of any type as they lie in the file, aligned to nothing.
    /// @throws SafetensorsError when there is no tensor of that name
    [[nodiscard]] std::span<const std::byte> bytes(std::string_view name) const {
        const TensorInfo& tensor = info(name);
        return data_.subspan(tensor.begin, tensor.end - tensor.begin);
    }

    /// A tensor of type F64, F32, BF16, F16, F8_E4M3 or I8 and one or two dimensions as a matrix; a vector is one row. It refers
    /// to what `aligned` gives. The scales of a quantised one are a tensor of their own.
    /// @throws SafetensorsError when it is missing, of another type or rank, or has no elements
    [[nodiscard]] TensorRef tensor(std::string_view name) {
        const TensorInfo& tensor = info(name);
        const std::optional<DType> type = weight_type(tensor.dtype);
        if (!type) fail(name, tensor.dtype, "F64, F32, BF16, F16, F8_E4M3 or I8");
        const std::size_t rank = tensor.shape.size();
        if ((rank != 1 && rank != 2) || tensor.begin == tensor.end)
            fail(name, detail::list_text(tensor.shape), "of one or two dimensions, none of them 0");
        const Index cols = tensor.shape.back();
        return {aligned(name), *type, rank == 2 ? tensor.shape[0] : 1, cols, cols};
    }

    /// The elements of a tensor of any type in the file's memory, or where the file does not align them to their size, in a copy
    /// made here on the first call.
    /// @throws SafetensorsError when there is no tensor of that name
    [[nodiscard]] const void* aligned(std::string_view name) {
        const std::span<const std::byte> found = bytes(name);
        const std::size_t alignment = std::max<std::size_t>(detail::element_bits(info(name).dtype) / 8, 1);
        if (reinterpret_cast<std::uintptr_t>(found.data()) % alignment == 0) return found.data();
        auto copy = copies_.find(name);
        if (copy == copies_.end()) {
            auto memory = mla::detail::allocate_aligned<std::byte>(static_cast<Index>(found.size()));
            std::memcpy(memory.get(), found.data(), found.size());
            copy = copies_.emplace(std::string(name), std::move(memory)).first;
        }
        return copy->second.get();
    }

    /// Gives back the memory behind all tensors handed out so far, which must not be used afterwards; asking for one again reads
    /// the file again. A file that is read tensor by tensor thus never lies in memory as a whole.
    void release() noexcept {
        copies_.clear();
        if (file_) file_->release();
    }

  private:
    [[nodiscard]] static std::optional<DType> weight_type(std::string_view dtype) noexcept {
        if (dtype == "F64") return DType::f64;
        if (dtype == "F32") return DType::f32;
        if (dtype == "BF16") return DType::bf16;
        if (dtype == "F16") return DType::f16;
        if (dtype == "F8_E4M3") return DType::f8_e4m3;
        if (dtype == "I8") return DType::i8;
        return std::nullopt;
    }

    [[noreturn]] void fail(std::string_view tensor, const std::string& was, const std::string& must) const {
        detail::throw_safetensors(name_, "tensor " + detail::printable(tensor), was, must);
    }

    void read(std::span<const std::byte> bytes) {
        constexpr std::size_t prefix = sizeof(std::uint64_t);
        if (bytes.size() < prefix)
            detail::throw_safetensors(name_, "file", std::to_string(bytes.size()) + " bytes", "at least 8 bytes");
        std::uint64_t header_bytes = 0;
        std::memcpy(&header_bytes, bytes.data(), prefix);
        const std::uint64_t most = std::min<std::uint64_t>(bytes.size() - prefix, detail::max_header_bytes);
        if (header_bytes > most)
            detail::throw_safetensors(name_, "header length", std::to_string(header_bytes), "at most " + std::to_string(most));
        data_ = bytes.subspan(prefix + header_bytes);
        read_header({reinterpret_cast<const char*>(bytes.data()) + prefix, header_bytes});
        detail::check_tensor_layout(name_, tensors_, data_.size());
    }

    void read_header(std::string_view text) {
        if (!text.starts_with('{')) detail::throw_safetensors(name_, "header", "no object", "a JSON object");
        // The JSON parser takes a zero byte for the end of its input and would not look at what follows.
        if (text.find('\0') != std::string_view::npos)
            detail::throw_safetensors(name_, "header", "holding a zero byte", "JSON in UTF-8");
        detail::SafetensorsHeaderReader reader(name_);
        nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
        tensors_ = std::move(reader.tensors);
        metadata_ = std::move(reader.metadata);
    }

    std::string name_;
    std::optional<MappedFile> file_;
    std::span<const std::byte> data_;
    TensorTable tensors_;
    std::map<std::string, std::string> metadata_;
    std::map<std::string, mla::detail::AlignedArray<std::byte>, std::less<>> copies_;
};

}  // namespace mla::inline MLA_ISA::io
