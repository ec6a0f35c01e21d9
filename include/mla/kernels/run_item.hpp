// An item of work as a target wants it to be called.
#pragma once

#include <type_traits>

#include "mla/core/kernel_table.hpp"

namespace mla::inline MLA_ISA::detail {

/// Calls body() by a target's `run`.
template <class Body>
void run_item(abi::RunItem* run, Body&& body) noexcept {
    using Called = std::remove_reference_t<Body>;
    run([](void* called) noexcept { (*static_cast<Called*>(called))(); }, &body);
}

}  // namespace mla::inline MLA_ISA::detail
