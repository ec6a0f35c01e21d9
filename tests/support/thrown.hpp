// What a call throws.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace mla::testing {

/// The message of the Exception that `f()` throws; a test failure when it throws none. Another exception passes through,
/// which fails the test too.
template <class Exception, class F>
[[nodiscard]] std::string thrown(F&& f) {
    try {
        f();
    } catch (const Exception& exception) {
        return exception.what();
    }
    ADD_FAILURE() << "threw nothing";
    return "";
}

/// A message has all of `parts`.
inline void expect_parts(const std::string& message, std::initializer_list<std::string_view> parts) {
    for (const std::string_view part : parts) EXPECT_NE(message.find(part), std::string::npos) << message << " lacks " << part;
}

}  // namespace mla::testing
