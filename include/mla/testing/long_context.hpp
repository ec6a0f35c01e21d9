// Problems of decoding whose answers hang on what rounding loses first: a few large probabilities, or very many small ones. Rows
// are those of a cache of any type; the reference reads them back, so that only the kernel's own rounding shows.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "mla/cache/latent_view.hpp"
#include "mla/formats/row_kernels.hpp"
#include "mla/reference/attention.hpp"
#include "mla/testing/random.hpp"

namespace mla::inline MLA_ISA::testing {

/// How much the keys weigh beside each other. Gaussian queries and latents multiply every weight by about exp(N(0, 1)).
enum class Mass : std::uint8_t {
    even,      ///< all the same
    peaked,    ///< eight keys 1, the others 1e-6
    decaying,  ///< the first 1, the others from 1e-3 down to 1e-5: of 65,536 together nine tenths
    flat,      ///< the first 1, the others 1e-5: of 65,536 together two fifths, one by one below 2^-16
    rising,    ///< the same with the last 1, before which nothing seemed small
};

inline constexpr Mass masses[] = {Mass::even, Mass::peaked, Mass::decaying, Mass::flat, Mass::rising};

[[nodiscard]] constexpr const char* name(Mass mass) noexcept {
    switch (mass) {
        case Mass::even: return "even";
        case Mass::peaked: return "peaked";
        case Mass::decaying: return "decaying";
        case Mass::flat: return "flat";
        case Mass::rising: return "rising";
    }
    return "unknown";
}

/// Whether key s of L is one of the many that weigh little one by one.
[[nodiscard]] constexpr bool in_tail(Mass mass, Index s, Index L) noexcept {
    switch (mass) {
        case Mass::even: return false;
        case Mass::peaked: return s * 8 % L >= 8;
        case Mass::decaying:
        case Mass::flat: return s > 0;
        case Mass::rising: return s + 1 < L;
    }
    return false;
}

/// The logarithm of the weight of key s of L.
[[nodiscard]] inline double log_weight(Mass mass, Index s, Index L) {
    if (!in_tail(mass, s, L)) return 0.0;
    if (mass == Mass::peaked) return std::log(1e-6);
    if (mass != Mass::decaying) return std::log(1e-5);
    return std::log(1e-3) - std::log(1e2) * static_cast<double>(s) / static_cast<double>(L);
}

/// One query token of `heads` heads over `length` cached tokens, in the geometry of DeepSeek.
template <CacheElement C>
class LongContext {
  public:
    static constexpr RowFormat<C> format{512, 64};
    static constexpr float scale = 1.0F / 24.0F;

    LongContext(Mass mass, Index heads, Index length) : heads_(heads), length_(length) {
        Generator generator(static_cast<std::uint64_t>(heads + length));
        const auto direction = gaussian_values<float>(generator, format.rope_dim);
        draw_queries(generator, direction);
        draw_rows(generator, direction, mass);
    }

    [[nodiscard]] HeadsView<const float> q() const { return {queries_.data(), 1, heads_, format.values()}; }
    [[nodiscard]] LatentView<C> cache() const { return {rows_.data(), length_, format.latent_dim, format.rope_dim, stride}; }

    /// The answer over the rows as they read back.
    [[nodiscard]] reference::Attended expected() const {
        reference::Matrix rows(length_, format.values());
        for (Index s = 0; s < length_; ++s) read_row(format, cache().row(s), rows.row(s));
        const auto q = widened(queries_, heads_, format.values());
        return reference::attend_absorbed(q, 1, heads_, rows, format.latent_dim, static_cast<double>(scale));
    }

  private:
    static constexpr Index stride = round_up(format.elements(), divide_up(Format<C>::row_alignment, Index{sizeof(C)}));
    static constexpr float query_length = 2.0F;  ///< of a query's rotary part, in lengths of `direction`
    static constexpr float tail_mean = 0.5F;     ///< of all latents in a heavy tail: where the tail is lost, every value shows it

    /// Values of bf16, which a kernel that rounds queries to it leaves as they are. Rotary parts lie along `direction`.
    void draw_queries(Generator& generator, const std::vector<float>& direction) {
        for (Index h = 0; h < heads_; ++h) {
            for (const bf16 value : gaussian_values<bf16>(generator, format.latent_dim)) queries_.push_back(value);
            for (const float value : direction) queries_.push_back(bf16(query_length * value));
        }
    }

    /// Latents of N(0, 1), and rotary keys along `direction`, as long as makes their scores the logarithms of the weights.
    void draw_rows(Generator& generator, const std::vector<float>& direction, Mass mass) {
        constexpr Index drawn = Index{1} << 18;
        const auto values = gaussian_values<float>(generator, drawn + format.latent_dim);
        double square = 0.0;
        for (const float value : direction) square += static_cast<double>(value * value);
        rows_.resize(static_cast<std::size_t>(length_ * stride));
        std::vector<float> token;
        for (Index s = 0; s < length_; ++s) {
            const float mean = in_tail(mass, s, length_) && mass != Mass::peaked ? tail_mean : 0.0F;
            const auto length = static_cast<float>(log_weight(mass, s, length_) / (query_length * scale * square));
            token.clear();
            const float* latent = values.data() + s * 7919 % drawn;  // a prime step: no two tokens alike
            for (Index i = 0; i < format.latent_dim; ++i) token.push_back(mean + latent[i]);
            for (const float value : direction) token.push_back(length * value);
            write_row(format, token.data(), rows_.data() + s * stride);
        }
    }

    Index heads_;
    Index length_;
    std::vector<float> queries_;  // [H, Dc + Dr]
    std::vector<C> rows_;
};

}  // namespace mla::inline MLA_ISA::testing
