// Lists of types as typed suites take them.
#pragma once

#include <gtest/gtest.h>

#include "mla/core/type_list.hpp"

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

}  // namespace mla
