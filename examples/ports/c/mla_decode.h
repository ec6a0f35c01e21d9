// Absorbed decode of Multi-head Latent Attention over a paged cache, in plain C:
//
//     out[t,h] = softmax(scale · rows · queries[t,h]) · latents        lse[t,h] = log Σ exp(scale · rows · queries[t,h])
//
// A cached token is one row [latent (Dc) | rope key (Dr)] that all heads share: key as a whole, value in its latent part.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What rows are made of, little-endian.
enum mla_row_kind {
    MLA_ROWS_BF16,  ///< Dc + Dr bf16
    MLA_ROWS_FP8,   ///< Dc e4m3, filled up to 4 bytes; a float for each 128 of them, their scale; Dr bf16 (FlashMLA)
};

/// R requests with H heads and T queries together. Arrays are row-major without gaps.
struct mla_decode_args {
    int32_t requests;    ///< R
    int32_t heads;       ///< H
    int32_t latent_dim;  ///< Dc
    int32_t rope_dim;    ///< Dr, 0 or more
    float scale;         ///< of the scores; a model's is (Dn+Dr)^-1/2 with Dn the width of its keys before absorption

    const float* queries;         ///< [T, H, Dc+Dr]: absorbed part, rotated part
    const int32_t* query_begin;   ///< [R + 1]: where each request's queries begin, and the end of the last's
    const int32_t* lengths;       ///< [R]: cached tokens, those of queries the last; none is seen by queries before it
    const int32_t* block_tables;  ///< [R, table_width]: pages in the order of tokens; entries of no token are not read
    int32_t table_width;          ///< entries of a request
    const unsigned char* pool;    ///< [pages, page_size, row_bytes]
    enum mla_row_kind kind;       ///< of the rows
    int32_t page_size;            ///< tokens
    int64_t row_bytes;            ///< from row to row

    float* out;  ///< [T, H, Dc]; 0 where a query sees no key
    float* lse;  ///< [T, H], natural logarithms; -inf where a query sees no key
};

/// Floats of scratch that `mla_decode` needs, however long the requests.
size_t mla_decode_scratch(const struct mla_decode_args* args);

/// `scratch`: [mla_decode_scratch(args)]. Reads each row once a query, for all heads.
void mla_decode(const struct mla_decode_args* args, float* scratch);

#ifdef __cplusplus
}
#endif
