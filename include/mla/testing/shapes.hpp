// Sizes of attention problems, odd ones above all, chosen so that every pair (or triple) of sizes meets in one of them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <ostream>
#include <set>
#include <vector>

#include "mla/core/types.hpp"
#include "mla/testing/random.hpp"

namespace mla::inline MLA_ISA::testing {

/// How the scores of a problem are distributed.
enum class Scores : std::uint8_t {
    gaussian,  ///< N(0, 1): every key counts
    peaked,    ///< N(0, 30²): a key or two take all
    large,     ///< ±10⁴ for all keys of a row, and about N(0, 1) on top
};

inline constexpr double peaked_sigma = 30.0;

[[nodiscard]] constexpr const char* name(Scores scores) noexcept {
    switch (scores) {
        case Scores::gaussian: return "gaussian";
        case Scores::peaked: return "peaked";
        case Scores::large: return "large";
    }
    return "unknown";
}

/// T queries of H heads over L cached tokens of Dc + Dr values. The expanded form has Dn and Dv too.
struct AttentionShape {
    Index T = 1;
    Index H = 1;
    Index L = 1;
    Index Dc = 32;
    Index Dr = 0;
    Index Dn = 0;
    Index Dv = 0;
    Scores scores = Scores::gaussian;
    Index padding = 0;  ///< elements between one cache row and the next

    [[nodiscard]] std::array<Index, 7> axes() const { return {T, H, L, Dc, Dr, Dn, Dv}; }

    /// Multiply-adds of the reference; an exponential counts as 40.
    [[nodiscard]] double cost() const {
        const Index pair = Dv == 0 ? 2 * Dc + Dr : Dn + Dr + Dv;
        return static_cast<double>(H * L) * static_cast<double>(T * (pair + 40) + (Dn + Dv) * Dc);
    }
};

inline std::ostream& operator<<(std::ostream& stream, const AttentionShape& shape) {
    stream << "T " << shape.T << ", H " << shape.H << ", L " << shape.L << ", Dc " << shape.Dc << ", Dr " << shape.Dr;
    if (shape.Dv > 0) stream << ", Dn " << shape.Dn << ", Dv " << shape.Dv;
    return stream << ", padding " << shape.padding << ", " << name(shape.scores);
}

namespace detail {

/// Multiply-adds that nobody waits for.
inline constexpr double cheap = 4e6;

/// Of `candidates` as many as are needed for every `strength` values of different axes that meet in one of them to meet in
/// one that is kept. Candidates are tried in a random order, the cheap ones first.
[[nodiscard]] inline std::vector<AttentionShape> covering(std::vector<AttentionShape> candidates, int strength) {
    Generator generator(20);
    shuffle(generator, candidates);
    std::stable_sort(candidates.begin(), candidates.end(), [](const AttentionShape& a, const AttentionShape& b) {
        return std::max(a.cost(), cheap) < std::max(b.cost(), cheap);
    });
    std::vector<AttentionShape> kept;
    std::set<std::array<Index, 7>> met;  // the values of some axes, and −1 for the others
    for (AttentionShape& shape : candidates) {
        bool news = false;
        for (unsigned mask = 0; mask < 1U << 7U; ++mask) {
            if (std::popcount(mask) != strength) continue;
            auto values = shape.axes();
            for (unsigned axis = 0; axis < values.size(); ++axis)
                if ((mask >> axis & 1U) == 0) values[axis] = -1;
            news = met.insert(values).second || news;
        }
        if (!news) continue;
        shape.padding = kept.size() % 3 == 0 ? 3 : 0;
        kept.push_back(shape);
    }
    return kept;
}

}  // namespace detail

/// Problems of absorbed attention: heads, queries, contexts around the multiples of 12, 96 and 384 tokens, and latents whole
/// and not whole in vectors, so that every `strength` sizes meet (2: seconds in all; 3: minutes); then sizes large enough
/// for several groups of rows and ranges of tokens, fewer keys than queries, and scores peaked and large.
[[nodiscard]] inline std::vector<AttentionShape> absorbed_shapes(int strength = 2) {
    std::vector<AttentionShape> product;
    for (const Index T : {1, 2, 3, 4, 5, 8, 13, 17})
        for (const Index H : {1, 3, 16, 22, 63, 128})
            for (const Index L : {1, 2, 5, 12, 13, 64, 95, 96, 97, 192, 193, 384, 385, 500, 700})
                for (const Index Dc : {32, 33, 96, 256, 512})
                    for (const Index Dr : {0, 8, 64}) product.push_back({T, H, L, Dc, Dr});
    std::vector<AttentionShape> shapes = detail::covering(std::move(product), strength);
    for (AttentionShape shape : std::vector<AttentionShape>{{1, 128, 700, 512, 64},
                                                            {1, 16, 3100, 512, 64},
                                                            {2, 16, 1100, 512, 64},
                                                            {1, 1, 4099, 512, 64},
                                                            {2, 3, 3075, 96, 8},
                                                            {1, 3, 200, 48, 0},
                                                            {1, 16, 200, 48, 0},
                                                            {17, 22, 500, 96, 8},
                                                            {9, 63, 450, 33, 0},
                                                            {17, 128, 385, 32, 8},
                                                            {300, 1, 300, 32, 8},
                                                            {5, 3, 0, 32, 8},
                                                            {17, 22, 3, 96, 8}}) {
        shapes.push_back(shape);
        shape.padding = 5;
        shape.scores = Scores::peaked;
        if (shape.T * shape.H < 100) shapes.push_back(shape);
        shape.scores = Scores::large;
        if (shape.T * shape.H < 100 && shape.Dr > 0) shapes.push_back(shape);
    }
    return shapes;
}

/// Problems of expanded attention, chosen likewise.
[[nodiscard]] inline std::vector<AttentionShape> expanded_shapes(int strength = 2) {
    struct HeadDims {
        Index nope, rope, value;
    };
    std::vector<AttentionShape> product;
    for (const Index T : {1, 2, 3, 4, 5, 8, 13, 17})
        for (const Index H : {1, 3, 16, 22, 63, 128})
            for (const Index L : {1, 2, 12, 13, 95, 96, 97, 193, 385, 700})
                for (const Index Dc : {32, 33, 96, 256, 512})
                    for (const HeadDims d : {HeadDims{13, 10, 11}, {16, 0, 16}, {1, 8, 9}, {33, 64, 35}, {128, 64, 128}})
                        product.push_back({T, H, L, Dc, d.rope, d.nope, d.value});
    std::vector<AttentionShape> shapes = detail::covering(std::move(product), strength);
    for (AttentionShape shape : std::vector<AttentionShape>{{700, 1, 700, 64, 64, 192, 33},
                                                            {130, 9, 400, 32, 6, 10, 12},
                                                            {70, 2, 200, 96, 64, 192, 256},
                                                            {3, 2, 200, 96, 64, 192, 16},
                                                            {5, 3, 0, 32, 8, 12, 10},
                                                            {17, 22, 3, 96, 8, 12, 10}}) {
        shapes.push_back(shape);
        shape.padding = 5;
        shape.scores = Scores::peaked;
        shapes.push_back(shape);
        shape.scores = Scores::large;
        if (shape.Dn + shape.Dr == 256) shapes.push_back(shape);
    }
    return shapes;
}

}  // namespace mla::inline MLA_ISA::testing
