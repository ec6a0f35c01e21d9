// Argument checks. A message names the argument, what it was and what it must be; it is built only when a check fails,
// so that a step that passes allocates nothing.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA {

namespace detail {

template <class Was, class Must>
[[nodiscard]] std::string argument_message(const char* argument, const Was& was, const Must& must) {
    std::ostringstream message;
    message << "mla: " << argument << " is " << was << ", must be " << must;
    return message.str();
}

}  // namespace detail

/// @throws std::invalid_argument "mla: <argument> is <was>, must be <must>"
template <class Was, class Must>
[[noreturn]] void throw_invalid(const char* argument, const Was& was, const Must& must) {
    throw std::invalid_argument(detail::argument_message(argument, was, must));
}

/// @throws std::invalid_argument unless `ok`
template <class Was, class Must>
void require(bool ok, const char* argument, const Was& was, const Must& must) {
    if (!ok) [[unlikely]]
        throw_invalid(argument, was, must);
}

/// `value` must equal `expected`, which the message calls `meaning`.
template <class Value, class Expected>
void require_equal(const char* argument, const Value& value, const char* meaning, const Expected& expected) {
    if (value == expected) [[likely]]
        return;
    std::ostringstream must;
    must << meaning << " = " << expected;
    throw_invalid(argument, value, must.str());
}

template <class Value, class Bound>
void require_at_least(const char* argument, const Value& value, const Bound& low) {
    if (value >= low) [[likely]]
        return;
    std::ostringstream must;
    must << "at least " << low;
    throw_invalid(argument, value, must.str());
}

/// `low <= value <= high`.
template <class Value, class Bound>
void require_in_range(const char* argument, const Value& value, const Bound& low, const Bound& high) {
    if (value >= low && value <= high) [[likely]]
        return;
    std::ostringstream must;
    must << "in [" << low << ", " << high << "]";
    throw_invalid(argument, value, must.str());
}

/// @throws std::length_error when `needed` items do not fit the `available` ones
template <class Needed, class Available>
void require_capacity(const char* argument, const Needed& needed, const Available& available) {
    if (needed <= available) [[likely]]
        return;
    std::ostringstream must;
    must << "at most " << available;
    throw std::length_error(detail::argument_message(argument, needed, must.str()));
}

}  // namespace mla::inline MLA_ISA
