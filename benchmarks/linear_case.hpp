// A projection of a layer alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mla/linear/linear.hpp"
#include "support.hpp"
#include "work.hpp"

namespace mla::bench {

/// `heads` matrices [in, out]; one for a projection of all heads together.
struct Shape {
    const char* name;
    Index heads;
    Index in;
    Index out;
};

[[nodiscard]] inline std::vector<Shape> shapes(const Config& c) {
    std::vector<Shape> all;
    if (c.q_lora_rank > 0) {
        all.push_back({"q_a_proj", 1, c.hidden_size, c.q_lora_rank});
        all.push_back({"q_b_proj", 1, c.q_lora_rank, c.q_dim()});
    } else {
        all.push_back({"q_proj", 1, c.hidden_size, c.q_dim()});
    }
    all.push_back({"kv_a_proj_with_mqa", 1, c.hidden_size, c.cache_dim()});
    all.push_back({"w_uk", c.num_attention_heads, c.qk_nope_head_dim, c.kv_lora_rank});
    all.push_back({"w_uv", c.num_attention_heads, c.kv_lora_rank, c.v_head_dim});
    all.push_back({"o_proj", 1, c.o_dim(), c.hidden_size});
    return all;
}

/// Bytes of a packed matrix of S, with its scales.
template <Weight S>
[[nodiscard]] double weight_bytes(const Shape& shape) {
    double bytes = static_cast<double>(sizeof(S)) / static_cast<double>(Format<S>::panel_values);
    if constexpr (QuantisedWeight<S>) bytes += sizeof(float) / static_cast<double>(Format<S>::made_scale_step);
    return static_cast<double>(shape.heads * shape.in * shape.out) * bytes;
}

/// As many packed copies as make the weights cold.
template <Weight S>
[[nodiscard]] std::shared_ptr<Ring<PackedMatrix<S>>> packed_weights(const std::string& name, const Shape& shape) {
    return shared_by<Ring<PackedMatrix<S>>>(name, name, [&] {
        RandomTensors<std::conditional_t<QuantisedWeight<S>, bf16, S>> tensors;
        const TensorRef weight = tensors.add(shape.heads * shape.out, shape.in);
        return std::make_shared<Ring<PackedMatrix<S>>>(cold_copies(weight_bytes<S>(shape)), [&] {
            if (shape.heads == 1) return PackedMatrix<S>(weight);
            PackedMatrix<S> packed(shape.heads, shape.in, shape.out);
            for (Index h = 0; h < shape.heads; ++h) packed.pack(h, weight.row_range(h * shape.out, shape.out));
            return packed;
        });
    });
}

/// What multiplying `tokens` rows with a matrix of S amounts to.
template <Weight S>
[[nodiscard]] Work linear_work(const Shape& shape, Index tokens, Index threads) {
    return {.flops = 2.0 * static_cast<double>(tokens * shape.heads * shape.in * shape.out),
            .bytes = weight_bytes<S>(shape),
            .peak = dot_rate<std::conditional_t<QuantisedWeight<S>, bf16, S>>,
            .threads = threads};
}

template <Weight S>
class LinearCase : public Case {
  public:
    LinearCase(const std::string& weights, const Shape& shape, Index tokens, Index threads)
        : Case(linear_work<S>(shape, tokens, threads)),
          weights_(packed_weights<S>(weights, shape)),
          x_values_(random_values<float>(tokens * shape.heads * shape.in)),
          y_values_(mla::detail::allocate_aligned<float>(tokens * shape.heads * shape.out)),
          x_(x_values_.get(), tokens, shape.heads, shape.in),
          y_(y_values_.get(), tokens, shape.heads, shape.out) {}

    void step() override {
        const PackedMatrix<S>& weight = weights_->turn();
        if (x_.heads > 1)
            linear_heads<float>(x_, weight, y_, team());
        else
            linear<float>(x_.head(0), weight, nullptr, y_.head(0), team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return {y_.data, y_.tokens * y_.heads, y_.dim}; }

  private:
    std::shared_ptr<Ring<PackedMatrix<S>>> weights_;
    mla::detail::AlignedArray<float> x_values_, y_values_;
    HeadsView<const float> x_;
    HeadsView<float> y_;
};

}  // namespace mla::bench
