// OpenMP where the tests can run it: MLA_TEST_OPENMP. Not under the thread sanitizer, which does not see the barriers of a
// runtime that was built without it.
#pragma once

#if defined(__SANITIZE_THREAD__)
#define MLA_TEST_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MLA_TEST_THREAD_SANITIZER
#endif
#endif

#if defined(_OPENMP) && !defined(MLA_TEST_THREAD_SANITIZER)
#define MLA_TEST_OPENMP
#include "mla/core/openmp_executor.hpp"
#endif
