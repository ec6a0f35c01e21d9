// oneDNN's matrix product, in fp32 and bf16.
#pragma once

#include <omp.h>

#include <dnnl.hpp>

#include "library_product.hpp"

namespace mla::bench {

/// The primitive and its memory objects are made once; a step sets their addresses.
template <Storage S>
class OneDnnProduct {
  public:
    using Element = S;
    using Right = dnnl::memory;
    static constexpr const char* library = "onednn";

    [[nodiscard]] static bool use_threads(Index threads) {
        omp_set_num_threads(static_cast<int>(threads));
        return DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP;
    }
    [[nodiscard]] static bool on_openmp() { return true; }

    explicit OneDnnProduct(const ProductShape& shape)
        : b_constant_(shape.b_constant),
          a_format_({shape.rows, shape.depth}, type, dnnl::memory::format_tag::ab),
          b_format_({shape.depth, shape.cols}, type, b_strides(shape)),
          y_format_({shape.rows, shape.cols}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab),
          description_(describe(shape)),
          primitive_(description_),
          a_(a_format_, engine_, nullptr),
          y_(y_format_, engine_, nullptr) {}

    [[nodiscard]] Right prepare(const S* b) {
        dnnl::memory plain(b_format_, engine_, const_cast<S*>(b));
        if (!b_constant_) return plain;
        dnnl::memory packed(description_.weights_desc(), engine_);
        dnnl::reorder(plain, packed).execute(stream_, plain, packed);
        stream_.wait();
        return packed;
    }

    void multiply(const S* a, const Right& b, float* y) {
        a_.set_data_handle(const_cast<S*>(a));
        y_.set_data_handle(y);
        primitive_.execute(stream_, {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, y_}});
        stream_.wait();
    }

  private:
    static constexpr auto type = std::is_same_v<S, bf16> ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;

    [[nodiscard]] static dnnl::memory::dims b_strides(const ProductShape& shape) {
        return shape.b_transposed ? dnnl::memory::dims{1, shape.b_stride} : dnnl::memory::dims{shape.b_stride, 1};
    }

    [[nodiscard]] dnnl::matmul::primitive_desc describe(const ProductShape& shape) const {
        const dnnl::memory::desc any({shape.depth, shape.cols}, type, dnnl::memory::format_tag::any);
        const dnnl::memory::desc& b = b_constant_ ? any : b_format_;
#if DNNL_VERSION_MAJOR >= 3
        return {engine_, a_format_, b, y_format_};
#else
        return {{a_format_, b, y_format_}, engine_};
#endif
    }

    bool b_constant_;
    dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream_{engine_};
    dnnl::memory::desc a_format_, b_format_, y_format_;
    dnnl::matmul::primitive_desc description_;
    dnnl::matmul primitive_;
    dnnl::memory a_, y_;
};

}  // namespace mla::bench
