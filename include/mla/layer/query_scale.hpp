// A learned scale of queries that grows with the logarithm of their position.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "mla/layer/projection.hpp"

namespace mla::inline MLA_ISA::detail {

/// scale·ln(position + 1) + bias of each head; without weights 1.
template <Compute A>
class QueryScale {
  public:
    QueryScale() = default;
    QueryScale(const TensorRef& scale, const TensorRef& bias) : scale_(to_vector<A>(scale)), bias_(to_vector<A>(bias)) {}

    [[nodiscard]] A operator()(std::int64_t position, Index head) const noexcept {
        if (scale_.empty()) return A(1);
        const auto h = static_cast<std::size_t>(head);
        return static_cast<A>(static_cast<double>(scale_[h]) * std::log1p(static_cast<double>(position)) +
                              static_cast<double>(bias_[h]));
    }

  private:
    std::vector<A> scale_, bias_;
};

}  // namespace mla::inline MLA_ISA::detail
