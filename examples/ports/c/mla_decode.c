#include "mla_decode.h"

#include <math.h>
#include <string.h>

enum { scale_group = 128 };  // latent values that share a scale

static float bf16_at(const unsigned char* from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;  // bf16 is the upper half of a float
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float float_at(const unsigned char* from) {
    float value;
    memcpy(&value, from, sizeof value);
    return value;
}

/// One sign bit, four of exponent, three of mantissa; no infinities, all ones for NaN.
static float e4m3_value(unsigned bits) {
    const int exponent = (int)(bits >> 3 & 15U), mantissa = (int)(bits & 7U);
    float magnitude = exponent > 0 ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    if (exponent == 15 && mantissa == 7) magnitude = NAN;
    return bits & 128U ? -magnitude : magnitude;
}

/// The values [Dc+Dr] of a row.
static void read_row(const struct mla_decode_args* args, const unsigned char* row, float* values) {
    const int32_t Dc = args->latent_dim, Dr = args->rope_dim;
    const unsigned char* rope;
    if (args->kind == MLA_ROWS_FP8) {
        const unsigned char* const scales = row + (Dc + 3) / 4 * 4;
        for (int32_t i = 0; i < Dc; ++i) values[i] = e4m3_value(row[i]) * float_at(scales + 4 * (i / scale_group));
        rope = scales + 4 * ((Dc + scale_group - 1) / scale_group);
    } else {
        for (int32_t i = 0; i < Dc; ++i) values[i] = bf16_at(row + 2 * i);
        rope = row + 2 * Dc;
    }
    for (int32_t i = 0; i < Dr; ++i) values[Dc + i] = bf16_at(rope + 2 * i);
}

static float dot(const float* a, const float* b, int32_t size) {
    float sum = 0.0F;
    for (int32_t i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

/// One more key of a query and head. Exponentials are of scores less the largest so far, so that none overflows: when a larger
/// one comes, what has been added up shrinks.
static void add_key(float score, const float* latent, int32_t Dc, float* largest, float* sum, float* out) {
    if (score > *largest) {
        const float kept = expf(*largest - score);  // 0 at the first key
        *largest = score;
        *sum *= kept;
        for (int32_t i = 0; i < Dc; ++i) out[i] *= kept;
    }
    const float weight = expf(score - *largest);
    *sum += weight;
    for (int32_t i = 0; i < Dc; ++i) out[i] += weight * latent[i];
}

/// Shows a row [Dc+Dr] to all heads of a query. Until the last row `lse` holds largest scores, `out` sums of weighted latents.
static void add_row(const struct mla_decode_args* args, int64_t query, const float* row, float* sums) {
    const int32_t Dc = args->latent_dim, dim = Dc + args->rope_dim;
    for (int32_t h = 0; h < args->heads; ++h) {
        const int64_t place = query * args->heads + h;
        const float score = args->scale * dot(args->queries + place * dim, row, dim);
        add_key(score, row, Dc, args->lse + place, sums + h, args->out + place * Dc);
    }
}

static void begin_query(const struct mla_decode_args* args, int64_t query, float* sums) {
    const int64_t first = query * args->heads;
    for (int64_t i = 0; i < (int64_t)args->heads * args->latent_dim; ++i) args->out[first * args->latent_dim + i] = 0.0F;
    for (int32_t h = 0; h < args->heads; ++h) {
        args->lse[first + h] = -INFINITY;
        sums[h] = 0.0F;
    }
}

static void end_query(const struct mla_decode_args* args, int64_t query, const float* sums) {
    for (int32_t h = 0; h < args->heads; ++h) {
        const int64_t place = query * args->heads + h;
        for (int32_t i = 0; i < args->latent_dim; ++i) args->out[place * args->latent_dim + i] /= sums[h];
        args->lse[place] += logf(sums[h]);
    }
}

static void attend(const struct mla_decode_args* args, int32_t request, int64_t query, float* scratch) {
    float* const row = scratch;
    float* const sums = scratch + args->latent_dim + args->rope_dim;
    const int32_t* const table = args->block_tables + (int64_t)request * args->table_width;
    // The last query sees every token, the one before it one token less, and so on.
    const int64_t seen = args->lengths[request] - (args->query_begin[request + 1] - 1 - query);
    begin_query(args, query, sums);
    for (int64_t begin = 0; begin < seen; begin += args->page_size) {
        const int64_t page = table[begin / args->page_size];
        const unsigned char* const rows = args->pool + page * args->page_size * args->row_bytes;
        for (int64_t i = 0; i < args->page_size && begin + i < seen; ++i) {
            read_row(args, rows + i * args->row_bytes, row);
            add_row(args, query, row, sums);
        }
    }
    if (seen > 0) end_query(args, query, sums);
}

size_t mla_decode_scratch(const struct mla_decode_args* args) {
    return (size_t)args->latent_dim + (size_t)args->rope_dim + (size_t)args->heads;
}

void mla_decode(const struct mla_decode_args* args, float* scratch) {
    for (int32_t r = 0; r < args->requests; ++r)
        for (int32_t t = args->query_begin[r]; t < args->query_begin[r + 1]; ++t) attend(args, r, t, scratch);
}
