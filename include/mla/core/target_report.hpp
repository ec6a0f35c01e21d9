// What is linked, what of it runs here, and which of it calls run on: for a host's log. Only where kernels are compiled.
#pragma once

#include "mla/core/chosen_target.hpp"

#if MLA_IS_COMPILED
namespace mla::inline MLA_ISA {
namespace detail {

/// Why a target is, or is not, the one that calls run on.
[[nodiscard]] inline const char* standing(const abi::Target& target, const abi::Target* chosen) {
    if (!runs_here(target)) return "not this processor's";
    if (&target != chosen) return is_second_choice(target) ? "runs, only when asked for" : "runs";
    if (is_called(target, forced_target())) return "chosen, MLA_TARGET asks for it";
    return chosen == &best_target() ? "chosen, the best that runs" : "chosen by choose_target";
}

}  // namespace detail

/// A line for each linked target, "name: what it is to this processor", and one that says what is wrong where MLA_TARGET asks
/// for what is not there. Makes the choice if no call has.
[[nodiscard]] inline std::string target_report() {
    const abi::Target* chosen = nullptr;
    std::string report;
    try {
        chosen = &chosen_target();
    } catch (const std::invalid_argument& error) {
        report = std::string("none is chosen: ") + error.what() + '\n';
    }
    for (const abi::Target* target : linked_targets())
        report += detail::full_name(*target) + ": " + detail::standing(*target, chosen) + '\n';
    return report;
}

}  // namespace mla::inline MLA_ISA
#endif
