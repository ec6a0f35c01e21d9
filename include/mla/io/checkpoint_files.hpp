// The safetensors files of a checkpoint's folder, one or several and their index, as one table of tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/io/checkpoint_index.hpp"
#include "mla/io/errors.hpp"
#include "mla/io/mapped_file.hpp"
#include "mla/io/safetensors.hpp"

namespace mla::inline MLA_ISA::io {

/// Files are mapped and checked when this is made. One that the index names and that is not there is missed only by who asks for
/// one of its tensors.
class CheckpointFiles {
  public:
    /// @throws std::system_error when a file cannot be read, CheckpointError when one is invalid or lacks a tensor that the index
    /// promises
    explicit CheckpointFiles(std::filesystem::path folder) : folder_(std::move(folder)) {
        const std::filesystem::path index = folder_ / "model.safetensors.index.json";
        if (std::filesystem::exists(index))
            open_listed(index);
        else
            open_only(folder_ / "model.safetensors");
    }

    /// Whether the files, or their index, list a tensor.
    [[nodiscard]] bool lists(std::string_view name) const noexcept { return places_.find(name) != places_.end(); }

    /// Whether a tensor is listed and its file there.
    [[nodiscard]] bool contains(std::string_view name) const noexcept {
        const auto place = places_.find(name);
        return place != places_.end() && place->second->second.has_value();
    }

    /// The file that holds a tensor.
    /// @throws CheckpointError when the tensor is not listed or its file not there
    [[nodiscard]] Safetensors& file_of(std::string_view name) const {
        const auto place = places_.find(name);
        if (place == places_.end())
            detail::throw_checkpoint(catalogue_, "tensor " + detail::printable(name), "missing", "in the checkpoint");
        auto& [file_name, file] = *place->second;
        if (!file)
            detail::throw_checkpoint((folder_ / file_name).string(), "the file", "missing",
                                     "there: the index places tensor " + detail::printable(name) + " in it");
        return *file;
    }

    /// Whether the name of any tensor starts with `start`.
    [[nodiscard]] bool lists_below(std::string_view start) const {
        const auto first = places_.lower_bound(start);
        return first != places_.end() && first->first.starts_with(start);
    }

    /// The names of all tensors that start with `start`, in order.
    [[nodiscard]] std::vector<std::string> names_below(std::string_view start) const {
        std::vector<std::string> names;
        for (auto place = places_.lower_bound(start); place != places_.end() && place->first.starts_with(start); ++place)
            names.push_back(place->first);
        return names;
    }

    /// What lists all tensors, for messages: the index, or the only file.
    [[nodiscard]] const std::string& catalogue() const noexcept { return catalogue_; }

    /// Bytes of all tensors in the files that are there.
    [[nodiscard]] std::uint64_t bytes() const {
        std::uint64_t total = 0;
        for (const auto& [name, file] : places_)
            if (file->second) total += file->second->bytes(name).size();
        return total;
    }

    /// Gives back the memory behind all tensors handed out so far, which must not be used afterwards.
    void release() noexcept {
        for (auto& [name, file] : files_)
            if (file) file->release();
    }

    /// The tensor is not as it must be.
    [[noreturn]] void fail(std::string_view tensor, const std::string& was, const std::string& must) const {
        detail::throw_checkpoint(file_of(tensor).name(), "tensor " + detail::printable(tensor), was, must);
    }

  private:
    /// Of the folder, by name; without a value where it is not there.
    using File = std::pair<const std::string, std::optional<Safetensors>>;

    void open_only(const std::filesystem::path& path) {
        File& only = *files_.emplace(path.filename().string(), Safetensors(path)).first;
        for (const auto& [name, info] : only.second->tensors()) places_.emplace(name, &only);
        catalogue_ = path.string();
    }

    void open_listed(const std::filesystem::path& index) {
        catalogue_ = index.string();
        const MappedFile text(index);
        const WeightMap map =
            parse_checkpoint_index({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()}, catalogue_);
        for (const auto& [name, file_name] : map) {
            File& file = open(file_name);
            places_.emplace(name, &file);
            if (file.second && !file.second->contains(name)) fail(name, "missing", "in the file, as the index says");
        }
    }

    File& open(const std::string& file_name) {
        const auto [file, is_new] = files_.try_emplace(file_name);
        if (is_new && std::filesystem::exists(folder_ / file_name)) file->second.emplace(folder_ / file_name);
        return *file;
    }

    std::filesystem::path folder_;
    std::string catalogue_;
    std::map<std::string, std::optional<Safetensors>> files_;
    std::map<std::string, File*, std::less<>> places_;  ///< tensor -> the file that holds it
};

}  // namespace mla::inline MLA_ISA::io
