// The projections: linear/<preset>/<matrix>/<type>/T:<tokens>/threads:<n>. Matrices are named as in a checkpoint; w_uk and w_uv
// are the halves of kv_b_proj as decode uses them, a small product a head.
#include "program.hpp"
#include "support.hpp"
#include "work.hpp"

#include "mla/linear/linear.hpp"

namespace mla::bench {
namespace {

/// `heads` matrices [in, out]; one for a projection of all heads together.
struct Shape {
    const char* name;
    Index heads;
    Index in;
    Index out;
};

[[nodiscard]] std::vector<Shape> shapes(const Config& c) {
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

/// As many packed copies as make the weights cold.
template <Storage S>
[[nodiscard]] std::shared_ptr<Ring<PackedMatrix<S>>> packed_weights(const std::string& name, const Shape& shape) {
    return shared_by<Ring<PackedMatrix<S>>>(name, name, [&] {
        RandomTensors<S> tensors;
        const TensorRef weight = tensors.add(shape.heads * shape.out, shape.in);
        const double bytes = static_cast<double>(shape.heads * shape.in * shape.out) * sizeof(S);
        return std::make_shared<Ring<PackedMatrix<S>>>(cold_copies(bytes), [&] {
            PackedMatrix<S> packed(shape.heads, shape.in, shape.out);
            for (Index h = 0; h < shape.heads; ++h) packed.pack(h, weight.row_range(h * shape.out, shape.out));
            return packed;
        });
    });
}

template <Storage S>
class LinearCase : public Case {
  public:
    LinearCase(const std::string& weights, const Shape& shape, Index tokens, Index threads)
        : Case({.flops = 2.0 * static_cast<double>(tokens * shape.heads * shape.in * shape.out),
                .bytes = static_cast<double>(shape.heads * shape.in * shape.out) * sizeof(S),
                .type = dtype_of<S>,
                .threads = threads}),
          weights_(packed_weights<S>(weights, shape)),
          x_values_(random_values<float>(tokens * shape.heads * shape.in)),
          y_values_(mla::detail::allocate_aligned<float>(tokens * shape.heads * shape.out)),
          x_(x_values_.get(), tokens, shape.heads, shape.in),
          y_(y_values_.get(), tokens, shape.heads, shape.out) {}

    void step() override {
        const PackedMatrix<S>& weight = weights_->turn();
        if (x_.heads > 1)
            linear_heads<Arch, float>(x_, weight, y_, team());
        else
            linear<Arch, float>(x_.head(0), weight, nullptr, y_.head(0), team());
    }
    [[nodiscard]] MatrixView<const float> result() const override { return {y_.data, y_.tokens * y_.heads, y_.dim}; }

  private:
    std::shared_ptr<Ring<PackedMatrix<S>>> weights_;
    mla::detail::AlignedArray<float> x_values_, y_values_;
    HeadsView<const float> x_;
    HeadsView<float> y_;
};

template <Storage S>
void add_linear(const presets::Preset& preset) {
    for (const Shape& shape : shapes(preset.config())) {
        const std::string weights = std::string(preset.name) + "/" + shape.name + "/" + name(dtype_of<S>);
        for (const Index tokens : {Index{1}, Index{8}, Index{64}, Index{512}})
            for (const Index threads : thread_counts())
                add_case("linear/" + weights + part("T", tokens) + part("threads", threads),
                         [=] { return std::make_unique<LinearCase<S>>(weights, shape, tokens, threads); });
    }
}

void add_cases(const Presets& wanted) {
    for (const presets::Preset& preset : wanted) for_each_type(FloatStorageTypes{}, [&]<class S>() { add_linear<S>(preset); });
}

}  // namespace
}  // namespace mla::bench

int main(int argc, char** argv) { return mla::bench::run_program(argc, argv, mla::bench::add_cases); }
