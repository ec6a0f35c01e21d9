// Lists of types as typed suites take them.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "mla/cache/row_format.hpp"

namespace mla {
namespace detail {

template <class List>
struct AsTestTypes;
template <class... Types>
struct AsTestTypes<TypeList<Types...>> {
    using type = ::testing::Types<Types...>;
};

}  // namespace detail

template <class List>
using TestTypes = typename detail::AsTestTypes<List>::type;

/// Names the cases of a suite after their type: DecodeAbsorbedTest/bf16.
struct TypeNames {
    template <CacheElement C>
    static std::string GetName(int /*index*/) {
        return cache_type_name<C>();
    }
};

}  // namespace mla
