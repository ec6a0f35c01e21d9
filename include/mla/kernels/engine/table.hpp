// The whole table of a target: what mla_add_compiled_kernels builds, one source a target.
#pragma once

#include "mla/formats/row_kernels.hpp"
#include "mla/kernels/engine/attend.hpp"
#include "mla/kernels/engine/index_score.hpp"
#include "mla/linear/multiply.hpp"
#include "mla/math/gate.hpp"
#include "mla/math/rms_norm.hpp"

namespace mla::inline MLA_ISA::detail {

template <class Target, Compute A, class C>
constexpr void add_cache_format(abi::Kernels<A>& kernels) noexcept {
    constexpr int index = index_of<C, CacheTypes>;
    kernels.attention[index][0] = attention_of<Target, A, C, Precision::operand>;
    kernels.attention[index][1] = attention_of<Target, A, C, Precision::full>;
    kernels.expanded[index][0] = expanded_of<Target, A, C, Precision::operand>;
    kernels.expanded[index][1] = expanded_of<Target, A, C, Precision::full>;
    kernels.index[index][0] = index_scores_of<Target, A, C, Precision::operand>;
    kernels.index[index][1] = index_scores_of<Target, A, C, Precision::full>;
    kernels.rows[index] = rows_of<Target, A, C>;
}

template <class Target, Compute A, Weight S>
constexpr void add_weight_format(abi::Kernels<A>& kernels) noexcept {
    if constexpr (std::is_same_v<compute_t<S>, A>) {
        constexpr int index = index_of<S, WeightTypes>;
        kernels.linear[index][0] = linear_of<Target, S, Precision::operand>;
        kernels.linear[index][1] = linear_of<Target, S, Precision::full>;
    }
}

template <class Target, Compute A>
[[nodiscard]] constexpr abi::Kernels<A> kernels_of() noexcept {
    abi::Kernels<A> kernels{};
    kernels.shape = shape_of<Target, A>;
    kernels.norm = norm_of<Target, A>;
    kernels.gate = gate_of<Target, A>;
    for_each_type(CacheTypes{}, [&]<class C>() { add_cache_format<Target, A, C>(kernels); });
    for_each_type(WeightTypes{}, [&]<class S>() { add_weight_format<Target, A, S>(kernels); });
    return kernels;
}

template <class Target>
inline constexpr bool is_emulated = false;
template <class Model>
inline constexpr bool is_emulated<targets::emulated<Model>> = true;

template <class Target>
[[nodiscard]] constexpr abi::Target table_of() noexcept {
    return {sizeof(abi::Target), Target::name, is_emulated<Target> ? 1 : 0, kernels_of<Target, float>(),
            kernels_of<Target, double>()};
}

}  // namespace mla::inline MLA_ISA::detail
