// Which way a request's tokens attend in a call of a layer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mla/config.hpp"
#include "mla/core/views.hpp"
#include "mla/kernels/plan.hpp"
#include "mla/layer/call_rows.hpp"
#include "mla/layer/selection.hpp"
#include "mla/requests.hpp"

namespace mla::inline MLA_ISA::detail {

enum class Way : std::uint8_t { absorbed, expanded, sparse };

/// How request `r`, the first token of which is row `first` of the call, attends.
template <Compute A>
[[nodiscard]] Way way_of(const Config& config, const CallRows& requests, std::size_t r,
                         const MatrixView<const std::int32_t>& selection, Index first,
                         const ForwardOptions<A>& options) noexcept {
    const Index tokens = requests.tokens[r];
    const Index length = requests.latents[r].length;
    if (selection.data != nullptr && !selects_all(selection.row_range(first, tokens), length)) return Way::sparse;
    if (!options.trees.empty() && options.trees[r].data != nullptr) return Way::absorbed;
    if (config.sliding_window > 0 && config.sliding_window < length) return Way::absorbed;
    const Form form = options.form == Form::automatic ? choose_form(config, tokens, length) : options.form;
    return form == Form::expanded ? Way::expanded : Way::absorbed;
}

}  // namespace mla::inline MLA_ISA::detail
