#include "mla_decode.hpp"

#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>

namespace mla_cuda {
namespace {

constexpr int warp = 32;           // threads
constexpr int warps_of_block = 8;  // at most, a head each
constexpr int tile_tokens = 16;    // rows in shared memory, 36 KiB at most
constexpr int scale_group = 128;   // latent values that share a scale
constexpr int lane_values = max_row_values / warp;
constexpr int most_threads = warp * warps_of_block;

__device__ float bf16_at(const unsigned char* from) {
    return __uint_as_float(static_cast<std::uint32_t>(*reinterpret_cast<const std::uint16_t*>(from)) << 16);
}

__device__ float e4m3_value(unsigned char bits) {
    __nv_fp8_e4m3 value;
    value.__x = bits;
    return static_cast<float>(value);
}

/// Value `i` of a row [Dc+Dr].
__device__ float row_value(const DecodeArgs& args, const unsigned char* row, int i) {
    const int Dc = args.latent_dim;
    if (args.kind == RowKind::bf16) return bf16_at(row + 2 * i);
    const unsigned char* const scales = row + (Dc + 3) / 4 * 4;
    if (i < Dc) return e4m3_value(row[i]) * reinterpret_cast<const float*>(scales)[i / scale_group];
    const unsigned char* const rope = scales + 4 * ((Dc + scale_group - 1) / scale_group);
    return bf16_at(rope + 2 * (i - Dc));
}

__device__ const unsigned char* row_of(const DecodeArgs& args, int request, std::int64_t token) {
    const std::int32_t* const table = args.block_tables + static_cast<std::int64_t>(request) * args.table_width;
    const std::int64_t page = table[token / args.page_size];
    return args.pool + (page * args.page_size + token % args.page_size) * args.row_bytes;
}

__device__ int request_of(const DecodeArgs& args, int query) {
    int request = 0;
    while (args.query_begin[request + 1] <= query) ++request;
    return request;
}

/// All threads of a block: rows [begin, begin + tokens) of a request into shared memory, [tokens, Dc+Dr] floats.
__device__ void stage_rows(const DecodeArgs& args, int request, std::int64_t begin, int tokens, float* tile) {
    const int dim = args.latent_dim + args.rope_dim;
    for (int i = static_cast<int>(threadIdx.x); i < tokens * dim; i += static_cast<int>(blockDim.x))
        tile[i] = row_value(args, row_of(args, request, begin + i / dim), i % dim);
}

/// The sum over a warp, in each of its threads.
__device__ float warp_sum(float value) {
    for (int distance = warp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffU, value, distance);
    return value;
}

/// A query's head, held by a warp: thread `lane` has values lane, lane + 32, … of the query and of the output.
struct Head {
    float query[lane_values];
    float out[lane_values];     ///< latents, each times the exponential of its score less the largest
    float sum = 0.0F;           ///< of these exponentials
    float largest = -INFINITY;  ///< score so far

    __device__ Head(const float* from, int dim, int lane) {
#pragma unroll
        for (int j = 0; j < lane_values; ++j) {
            query[j] = lane + warp * j < dim ? from[lane + warp * j] : 0.0F;
            out[j] = 0.0F;
        }
    }

    __device__ float score(const float* row, float scale, int dim, int lane) const {
        float product = 0.0F;
#pragma unroll
        for (int j = 0; j < lane_values; ++j)
            if (lane + warp * j < dim) product += query[j] * row[lane + warp * j];
        return scale * warp_sum(product);
    }

    /// One more key. When its score is the largest so far, what has been added up shrinks.
    __device__ void add_key(float score, const float* latent, int Dc, int lane) {
        const float most = fmaxf(largest, score);
        const float kept = expf(largest - most);  // 0 at the first key
        const float weight = expf(score - most);
        largest = most;
        sum = sum * kept + weight;
#pragma unroll
        for (int j = 0; j < lane_values; ++j)
            if (lane + warp * j < Dc) out[j] = out[j] * kept + weight * latent[lane + warp * j];
    }

    __device__ void write(float* to, float* lse, int Dc, int lane) const {
#pragma unroll
        for (int j = 0; j < lane_values; ++j)
            if (lane + warp * j < Dc) to[lane + warp * j] = out[j] / sum;
        if (lane == 0) *lse = largest + logf(sum);
    }

    __device__ static void write_without_keys(float* to, float* lse, int Dc, int lane) {
        for (int i = lane; i < Dc; i += warp) to[i] = 0.0F;
        if (lane == 0) *lse = -INFINITY;
    }
};

/// Grid [T, groups of heads]: a block computes the heads of a group for a query, a warp each, on rows that it reads once.
__global__ void __launch_bounds__(most_threads) decode_kernel(const DecodeArgs args) {
    extern __shared__ float tile[];  // [tile_tokens, Dc+Dr]
    const int Dc = args.latent_dim, dim = Dc + args.rope_dim;
    const int query = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x % warp);
    // Warps beyond the last head compute it again, as all threads must reach __syncthreads.
    const int h = min(static_cast<int>((blockIdx.y * blockDim.x + threadIdx.x) / warp), args.heads - 1);
    const std::int64_t place = static_cast<std::int64_t>(query) * args.heads + h;
    const int request = request_of(args, query);
    // The last query sees every token, the one before it one token less, and so on.
    const std::int64_t seen = args.lengths[request] - (args.query_begin[request + 1] - 1 - query);
    Head head(args.queries + place * dim, dim, lane);
    for (std::int64_t begin = 0; begin < seen; begin += tile_tokens) {
        const int tokens = static_cast<int>(min(static_cast<std::int64_t>(tile_tokens), seen - begin));
        stage_rows(args, request, begin, tokens, tile);
        __syncthreads();
        for (int i = 0; i < tokens; ++i)
            head.add_key(head.score(tile + i * dim, args.scale, dim, lane), tile + i * dim, Dc, lane);
        __syncthreads();  // before the next rows overwrite these
    }
    if (seen > 0)
        head.write(args.out + place * Dc, args.lse + place, Dc, lane);
    else
        Head::write_without_keys(args.out + place * Dc, args.lse + place, Dc, lane);
}

void check(cudaError_t status, const char* call) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
}

/// An array in the GPU's memory.
template <class T>
class DeviceArray {
  public:
    explicit DeviceArray(std::int64_t count) : bytes_(static_cast<std::size_t>(count) * sizeof(T)) {
        check(cudaMalloc(&data_, std::max<std::size_t>(bytes_, 1)), "cudaMalloc");
    }
    DeviceArray(const T* host, std::int64_t count) : DeviceArray(count) {
        check(cudaMemcpy(data_, host, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy to the device");
    }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;
    ~DeviceArray() { cudaFree(data_); }

    void copy_to(T* host) const { check(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy to the host"); }
    [[nodiscard]] T* data() const noexcept { return static_cast<T*>(data_); }

  private:
    void* data_ = nullptr;
    std::size_t bytes_;
};

/// Of arrays in the GPU's memory.
void launch(const DecodeArgs& args) {
    const int warps = std::min(args.heads, warps_of_block);
    const dim3 grid(static_cast<unsigned>(args.query_count), static_cast<unsigned>((args.heads + warps - 1) / warps));
    const std::size_t tile_bytes = sizeof(float) * static_cast<std::size_t>(tile_tokens * (args.latent_dim + args.rope_dim));
    decode_kernel<<<grid, static_cast<unsigned>(warps * warp), tile_bytes>>>(args);
    check(cudaGetLastError(), "launch of decode_kernel");
    check(cudaDeviceSynchronize(), "decode_kernel");
}

}  // namespace

int device_count() noexcept {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void decode(const DecodeArgs& args) {
    if (args.latent_dim + args.rope_dim > max_row_values)
        throw std::invalid_argument("rows of " + std::to_string(args.latent_dim + args.rope_dim) + " values, more than " +
                                    std::to_string(max_row_values));
    if (args.query_count == 0 || args.heads == 0) return;
    const std::int64_t rows = std::int64_t{args.query_count} * args.heads;
    const DeviceArray<float> queries(args.queries, rows * (args.latent_dim + args.rope_dim));
    const DeviceArray<std::int32_t> query_begin(args.query_begin, args.requests + 1);
    const DeviceArray<std::int32_t> lengths(args.lengths, args.requests);
    const DeviceArray<std::int32_t> tables(args.block_tables, std::int64_t{args.requests} * args.table_width);
    const DeviceArray<unsigned char> pool(args.pool, std::int64_t{args.pages} * args.page_size * args.row_bytes);
    const DeviceArray<float> out(rows * args.latent_dim);
    const DeviceArray<float> lse(rows);
    DecodeArgs on_device = args;
    on_device.queries = queries.data();
    on_device.query_begin = query_begin.data();
    on_device.lengths = lengths.data();
    on_device.block_tables = tables.data();
    on_device.pool = pool.data();
    on_device.out = out.data();
    on_device.lse = lse.data();
    launch(on_device);
    out.copy_to(args.out);
    lse.copy_to(args.lse);
}

}  // namespace mla_cuda
