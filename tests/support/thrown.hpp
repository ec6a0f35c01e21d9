// What a call throws.
#pragma once

#include <gtest/gtest.h>

#include <string>

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

}  // namespace mla::testing
