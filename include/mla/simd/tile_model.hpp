// Tile registers written out, for machines that have none: what Intel's manual says of TILELOADD, TILESTORED, TILEZERO,
// TDPBF16PS and the four products of bytes. What is a fault there is an assertion here.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "mla/core/float_environment.hpp"
#include "mla/simd/tile_config.hpp"

namespace mla::inline MLA_ISA::simd {

/// The registers of this thread.
class ModelTileRegisters {
  public:
    [[nodiscard]] static TileConfig configuration() noexcept { return config_; }
    /// Zeroes all registers.
    static void configure(const TileConfig& config) noexcept {
        assert(config.is_valid());
        config_ = config;
        std::memset(memory_, 0, sizeof memory_);
        ++configured_;
    }
    static void release() noexcept { config_ = TileConfig::none(); }
    /// How often this thread has configured its registers.
    [[nodiscard]] static Index times_configured() noexcept { return configured_; }

    /// Rows from `first` on, `stride` bytes apart; what the configuration leaves out of a register becomes 0.
    template <int T>
    void load(const void* first, Index stride) noexcept {
        assert(config_.has(T));
        std::memset(memory_[T], 0, sizeof memory_[T]);
        for (Index r = 0; r < config_.rows[T]; ++r)
            std::memcpy(memory_[T][r], static_cast<const std::byte*>(first) + r * stride, config_.row_bytes[T]);
    }
    template <int T>
    void store(void* first, Index stride) const noexcept {
        assert(config_.has(T));
        for (Index r = 0; r < config_.rows[T]; ++r)
            std::memcpy(static_cast<std::byte*>(first) + r * stride, memory_[T][r], config_.row_bytes[T]);
    }
    template <int T>
    void zero() noexcept {
        assert(config_.has(T));
        std::memset(memory_[T], 0, sizeof memory_[T]);
    }

    /// C += A · B of pairs of bf16: the first of all pairs are summed from 0 in the order of k, and the second; the two sums are
    /// added, and then to C. Each step is fused and rounded to nearest even; subnormals are 0, as operands and as results.
    template <int C, int A, int B>
    void dot_bf16() noexcept {
        multiply_bf16(C, A, B);
    }
    /// C += A · B of groups of four bytes, of which either side is signed or not; sums wrap around.
    template <int C, int A, int B, bool SignedA, bool SignedB>
    void dot_bytes() noexcept {
        multiply_bytes<SignedA, SignedB>(C, A, B);
    }

  private:
    using Row = std::byte[static_cast<std::size_t>(tile_row_bytes)];
    /// The columns of a row: of any machine's vectors, so that the model is quick.
    using Floats __attribute__((vector_size(tile_row_bytes))) = float;
    using Numbers __attribute__((vector_size(tile_row_bytes))) = std::uint32_t;

    /// The pairs of a register as floats, and their range of exponents.
    struct Pairs {
        Floats first[static_cast<std::size_t>(tile_rows)];
        Floats second[static_cast<std::size_t>(tile_rows)];
        int lowest = 255;
        int highest = 0;

        explicit Pairs(const Row* rows) noexcept {
            for (Index r = 0; r < tile_rows; ++r)
                for (Index i = 0; i < tile_groups; ++i) {
                    std::uint32_t pair = 0;
                    std::memcpy(&pair, rows[r] + 4 * i, sizeof pair);
                    first[r][i] = value(pair << 16U);
                    second[r][i] = value(pair & 0xffff0000U);
                }
        }

      private:
        [[nodiscard]] float value(std::uint32_t bits) noexcept {
            const int exponent = static_cast<int>(bits >> 23U & 0xffU);
            if (exponent == 0) return std::bit_cast<float>(bits & 0x80000000U);
            lowest = std::min(lowest, exponent);
            highest = std::max(highest, exponent);
            return std::bit_cast<float>(bits);
        }
    };

    /// Whether all products of two registers are floats, so that to round them changes nothing.
    [[nodiscard]] static bool products_are_exact(const Pairs& a, const Pairs& b) noexcept {
        return a.lowest + b.lowest >= 128 && a.highest + b.highest <= 380;
    }

    /// sum[n] + a · b[n], rounded once.
    template <bool Exact>
    static void add_product(float a, const Floats& b, Floats& sum) noexcept {
        if constexpr (Exact) {
            sum = a * b + sum;
        } else {
            for (Index n = 0; n < tile_groups; ++n) sum[n] = std::fma(a, b[n], sum[n]);
        }
    }

    /// sum += row `row` of A · B
    template <bool Exact>
    static void add_row(const Pairs& a, Index row, const Pairs& b, Index depth, Floats& sum) noexcept {
        Floats first = {};
        Floats second = {};
        for (Index k = 0; k < depth; ++k) {
            add_product<Exact>(a.first[row][k], b.first[k], first);
            add_product<Exact>(a.second[row][k], b.second[k], second);
        }
        sum = sum + (first + second);
    }

    void multiply_bf16(int c, int a, int b) noexcept {
        assert(config_.can_multiply(c, a, b));
        const FloatEnvironment environment;
        const Pairs left(memory_[a]);
        const Pairs right(memory_[b]);
        const bool exact = products_are_exact(left, right);
        const Index depth = config_.rows[b];
        for (Index m = 0; m < config_.rows[c]; ++m) {
            Floats sum;
            std::memcpy(&sum, memory_[c][m], sizeof sum);
            exact ? add_row<true>(left, m, right, depth, sum) : add_row<false>(left, m, right, depth, sum);
            std::memcpy(memory_[c][m], &sum, config_.row_bytes[c]);
        }
    }

    /// A byte as a number whose products wrap around.
    template <bool Signed>
    [[nodiscard]] static std::uint32_t number(std::byte byte) noexcept {
        if constexpr (Signed) return static_cast<std::uint32_t>(static_cast<std::int8_t>(byte));
        return static_cast<std::uint32_t>(byte);
    }

    template <bool SignedA, bool SignedB>
    void multiply_bytes(int c, int a, int b) noexcept {
        assert(config_.can_multiply(c, a, b));
        Numbers right[4 * static_cast<std::size_t>(tile_rows)];
        for (Index k = 0; k < config_.row_bytes[a]; ++k)
            for (Index n = 0; n < tile_groups; ++n) right[k][n] = number<SignedB>(memory_[b][k / 4][4 * n + k % 4]);
        for (Index m = 0; m < config_.rows[c]; ++m) {
            Numbers sum;
            std::memcpy(&sum, memory_[c][m], sizeof sum);
            for (Index k = 0; k < config_.row_bytes[a]; ++k) sum += number<SignedA>(memory_[a][m][k]) * right[k];
            std::memcpy(memory_[c][m], &sum, config_.row_bytes[c]);
        }
    }

    static inline constinit thread_local TileConfig config_ = TileConfig::none();
    alignas(64) static inline constinit thread_local Row
        memory_[static_cast<std::size_t>(tile_registers)][static_cast<std::size_t>(tile_rows)] = {};
    static inline constinit thread_local Index configured_ = 0;
};

}  // namespace mla::inline MLA_ISA::simd
