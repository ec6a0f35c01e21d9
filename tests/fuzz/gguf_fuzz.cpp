// Whatever the bytes, the GGUF reader answers with tensors that lie within them, a config that is valid and the weights it calls
// for, or with an error.
#include <cstring>

#include "fuzz.hpp"
#include "mla/core/memory.hpp"
#include "mla/io/gguf.hpp"

namespace {

void touch_corners(const mla::TensorRef& tensor) {
    tensor.visit([&](const auto& element) {
        mla::fuzz::touch(element(0, 0));
        mla::fuzz::touch(element(tensor.rows - 1, tensor.cols - 1));
    });
}

void read_tensors(mla::io::GgufFile& file) {
    for (const auto& [name, info] : file.tensors()) {
        try {
            touch_corners(file.tensor(name));
        } catch (const mla::io::GgufError&) {
            mla::fuzz::touch(info.begin);  // of a type or rank that is no weight's
        }
    }
}

void read_layer(mla::io::GgufFile& file) {
    try {
        const mla::Config config = file.config();
        mla::AttentionWeights weights = file.attention_weights(0);
        mla::validate(config, weights);
        mla::for_each_tensor(config, weights,
                             [](const char*, const mla::TensorRef& tensor, mla::Index, mla::Index) { touch_corners(tensor); });
    } catch (const std::invalid_argument&) {
        mla::fuzz::touch(0);  // of another model, or with fields that are not known
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto aligned = mla::detail::allocate_aligned<std::byte>(static_cast<mla::Index>(size));
    if (size > 0) std::memcpy(aligned.get(), data, size);
    try {
        mla::io::GgufFile file(std::span<const std::byte>(aligned.get(), size), "fuzz");
        read_tensors(file);
        read_layer(file);
    } catch (const mla::io::GgufError&) {
        return 0;
    }
    return 0;
}
