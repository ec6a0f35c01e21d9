// Absorbed decode of Multi-head Latent Attention over a paged cache, in CUDA:
//
//     out[t,h] = softmax(scale · rows · queries[t,h]) · latents        lse[t,h] = log Σ exp(scale · rows · queries[t,h])
//
// A cached token is one row [latent (Dc) | rope key (Dr)] that all heads share: key as a whole, value in its latent part.
#pragma once

#include <cstdint>

namespace mla_cuda {

/// The most values of a row: what the threads of a warp hold of a query in registers.
inline constexpr std::int32_t max_row_values = 576;

enum class RowKind : std::int32_t {
    bf16,  ///< Dc + Dr bf16
    fp8,   ///< Dc e4m3, filled up to 4 bytes; a float for each 128 of them, their scale; Dr bf16 (FlashMLA)
};

/// R requests with H heads and T queries together. Arrays are row-major without gaps.
struct DecodeArgs {
    std::int32_t requests;     ///< R
    std::int32_t query_count;  ///< T
    std::int32_t heads;        ///< H
    std::int32_t latent_dim;   ///< Dc
    std::int32_t rope_dim;     ///< Dr, 0 or more; Dc + Dr ≤ max_row_values
    float scale;               ///< of the scores; a model's is (Dn+Dr)^-1/2 with Dn the width of its keys before absorption

    const float* queries;              ///< [T, H, Dc+Dr]: absorbed part, rotated part
    const std::int32_t* query_begin;   ///< [R + 1]: where each request's queries begin, and the end of the last's
    const std::int32_t* lengths;       ///< [R]: cached tokens, those of queries the last; none is seen by queries before it
    const std::int32_t* block_tables;  ///< [R, table_width]: pages in the order of tokens; entries of no token are not read
    std::int32_t table_width;          ///< entries of a request
    const unsigned char* pool;         ///< [pages, page_size, row_bytes]
    RowKind kind;                      ///< of the rows
    std::int32_t pages;
    std::int32_t page_size;  ///< tokens
    std::int64_t row_bytes;  ///< from row to row, a multiple of 4

    float* out;  ///< [T, H, Dc]; 0 where a query sees no key
    float* lse;  ///< [T, H], natural logarithms; -inf where a query sees no key
};

/// GPUs that can run it; 0 without a driver.
[[nodiscard]] int device_count() noexcept;

/// Of arrays in host memory: copies them to the GPU, computes, copies results back.
/// @throws std::invalid_argument where a row has more than max_row_values; std::runtime_error where a call of CUDA fails
void decode(const DecodeArgs& args);

}  // namespace mla_cuda
