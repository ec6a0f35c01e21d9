// A new number format is one header: here eight bits of a half, which no list names. All kernels read it as any other.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "mla/cache/rows.hpp"
#include "mla/kernels/decode_absorbed.hpp"
#include "mla/reference/reference.hpp"
#include "mla/testing/compare.hpp"
#include "mla/testing/random.hpp"
#include "mla/testing/tolerance.hpp"

namespace mla {

/// e5m2: the upper byte of a binary16.
struct e5m2 {
    std::uint8_t bits = 0;
};

template <>
struct Format<e5m2> {
    static constexpr const char* name = "e5m2";
    static constexpr Index row_alignment = 1;

    [[nodiscard]] static constexpr Index elements(Index latent_dim, Index rope_dim) noexcept { return latent_dim + rope_dim; }

    template <class Target, Compute A>
    static void read(const RowFormat<e5m2>& format, const e5m2* row, A* token) noexcept {
        for (Index i = 0; i < format.values(); ++i)
            token[i] = static_cast<A>(detail::fp16_value(static_cast<std::uint16_t>(row[i].bits << 8)));
    }
    template <class Target, Compute A>
    static void write(const RowFormat<e5m2>& format, const A* token, e5m2* row) noexcept {
        for (Index i = 0; i < format.values(); ++i)
            row[i].bits = static_cast<std::uint8_t>(detail::fp16_bits(static_cast<float>(token[i])) >> 8);  // towards zero: a toy
    }

    template <class Target, Compute A, Precision P>
    using Operand =
        std::conditional_t<std::is_same_v<A, float> && P == Precision::operand, operands::Rounded, operands::Plain<A>>;
    template <class Target, Compute A, Precision P>
    using Decompressed = operands::RoundedWhereNarrow<Target, A, P>;
    template <class Target, class Operand>
    static constexpr bool whole_blocks = true;
};

namespace {

TEST(ToyFormatTest, IsDecodedLikeAnyOther) {
    constexpr Index L = 230, Dc = 48, Dr = 8;
    const RowFormat<e5m2> format{Dc, Dr};
    testing::Generator generator(1);
    const auto tokens = testing::gaussian_values<float>(generator, L * format.values());
    std::vector<e5m2> rows(static_cast<std::size_t>(L * format.elements()));
    append(MatrixView<const float>(tokens.data(), L, format.values()), format,
           MatrixView<e5m2>(rows.data(), L, format.elements()));
    reference::Matrix values(L, format.values());
    for (Index t = 0; t < L; ++t) read_row(format, rows.data() + t * format.elements(), values.row(t));

    for (const Index H : {1, 3, 16, 40}) {
        std::vector<float> queries;
        for (const bf16 value : testing::gaussian_values<bf16>(generator, H * format.values())) queries.push_back(value);
        const LatentView<e5m2> cache{rows.data(), L, Dc, Dr, format.elements()};
        std::vector<float> out(static_cast<std::size_t>(H * Dc));
        Workspace workspace;
        for (const Precision precision : {Precision::operand, Precision::full}) {
            decode_absorbed(HeadsView<const float>(queries.data(), 1, H, format.values()), cache, 0.2F,
                            HeadsView<float>(out.data(), 1, H, Dc), MatrixView<float>(), workspace, SerialExecutor{}, precision);
            const auto expected = reference::attend_absorbed(testing::widened(queries, H, format.values()), 1, H, values, Dc,
                                                             static_cast<double>(0.2F));
            const double rounding = precision == Precision::operand ? testing::rounded_probabilities<bf16> : 0.0;
            const auto error = testing::compare(out, expected.output.values);
            EXPECT_TRUE(testing::within(error, testing::sum_tolerance<float>(Dc + Dr + L) + rounding))
                << H << " heads: " << error;
        }
    }
}

}  // namespace
}  // namespace mla
