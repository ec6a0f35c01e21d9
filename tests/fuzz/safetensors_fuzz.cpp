// Whatever the bytes, the safetensors reader answers with tensors that lie within them, or with a SafetensorsError.
#include "fuzz.hpp"
#include "mla/io/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    try {
        mla::io::Safetensors file(bytes, "fuzz");
        for (const auto& [name, info] : file.tensors()) {
            const auto inside = file.bytes(name);
            mla::fuzz::require(inside.empty() ||
                               (inside.data() >= bytes.data() && inside.data() + inside.size() <= bytes.data() + bytes.size()));
            try {
                const mla::TensorRef tensor = file.tensor(name);
                if (mla::is_quantised(tensor.dtype)) {  // nothing without scales, which are a tensor of their own
                    mla::fuzz::touch(tensor.quantised(0, 0));
                    mla::fuzz::touch(tensor.quantised(tensor.rows - 1, tensor.cols - 1));
                    continue;
                }
                tensor.visit([&](const auto& element) {
                    mla::fuzz::touch(element(0, 0));
                    mla::fuzz::touch(element(tensor.rows - 1, tensor.cols - 1));
                });
            } catch (const mla::io::SafetensorsError&) {
                mla::fuzz::touch(info.begin);  // of a type or rank that is no weight's
            }
        }
    } catch (const mla::io::SafetensorsError&) {
        return 0;
    }
    return 0;
}
