// Whatever the text, the readers of configurations answer with one that is valid, or with an error that says what is wrong.
#include <cmath>

#include "fuzz.hpp"
#include "mla/io/hf_config.hpp"

namespace {

template <class Parse>
void read(const nlohmann::json& json, Parse parse) {
    try {
        const mla::Config config = parse(json);
        mla::validate(config);
        mla::fuzz::touch(config.softmax_scale());
    } catch (const std::invalid_argument& error) {
        mla::fuzz::require(error.what()[0] != '\0');
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const nlohmann::json json = mla::io::detail::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
        read(json, mla::io::parse_hf_config);
        read(json, mla::io::parse_mistral_params);
    } catch (const mla::io::CheckpointError&) {
        return 0;
    }
    return 0;
}
