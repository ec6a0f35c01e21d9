// Whatever the text, the reader of a checkpoint's index answers with names of files beside it, or with a CheckpointError.
#include "fuzz.hpp"
#include "mla/io/checkpoint_index.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const auto map = mla::io::parse_checkpoint_index({reinterpret_cast<const char*>(data), size}, "fuzz");
        for (const auto& [tensor, file] : map)
            mla::fuzz::require(!file.empty() && file != "." && file != ".." && file.find('/') == std::string::npos);
    } catch (const mla::io::CheckpointError&) {
        return 0;
    }
    return 0;
}
