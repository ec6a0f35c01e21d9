// The element types of GGUF files: names and sizes, of those that are read here and of those that may lie beside them.
#pragma once

#include <cstdint>
#include <string>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// A type as ggml numbers it: `elements` neighbours of a row in `bytes`.
struct GgufType {
    std::uint32_t id;
    const char* name;
    Index elements;
    Index bytes;
};

inline constexpr GgufType gguf_f32{0, "F32", 1, 4};
inline constexpr GgufType gguf_f16{1, "F16", 1, 2};
inline constexpr GgufType gguf_q8_0{8, "Q8_0", 32, 34};
inline constexpr GgufType gguf_bf16{30, "BF16", 1, 2};

inline constexpr GgufType gguf_types[] = {
    gguf_f32,
    gguf_f16,
    {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},
    {7, "Q5_1", 32, 24},
    gguf_q8_0,
    {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144},
    {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},
    {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    gguf_bf16,
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
};

/// Null where the type is not known.
[[nodiscard]] constexpr const GgufType* find_gguf_type(std::uint32_t id) noexcept {
    for (const GgufType& type : gguf_types)
        if (type.id == id) return &type;
    return nullptr;
}

[[nodiscard]] inline std::string gguf_type_name(std::uint32_t id) {
    const GgufType* const type = find_gguf_type(id);
    return type != nullptr ? type->name : "type " + std::to_string(id);
}

}  // namespace mla::inline MLA_ISA::io::detail
