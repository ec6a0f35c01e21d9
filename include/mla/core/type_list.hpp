// Lists of types. What a kernel exists for stands in a list, so that tests and benchmarks go over all of it.
#pragma once

#include <type_traits>

#include "mla/core/compiler.hpp"

namespace mla::inline MLA_ISA {

template <class... Types>
struct TypeList {};

/// Whether a list names T.
template <class T, class List>
inline constexpr bool is_listed = false;
template <class T, class... Types>
inline constexpr bool is_listed<T, TypeList<Types...>> = (std::is_same_v<T, Types> || ...);

/// The place of T in a list, from 0; the list's length where it does not name T.
template <class T, class List>
inline constexpr int index_of = 0;
template <class T, class First, class... Rest>
inline constexpr int index_of<T, TypeList<First, Rest...>> = std::is_same_v<T, First> ? 0 : 1 + index_of<T, TypeList<Rest...>>;

template <class List>
inline constexpr int length_of = 0;
template <class... Types>
inline constexpr int length_of<TypeList<Types...>> = sizeof...(Types);

namespace detail {

template <class... Lists>
struct Join {
    using type = TypeList<>;
};
template <class... Types>
struct Join<TypeList<Types...>> {
    using type = TypeList<Types...>;
};
template <class... First, class... Second, class... Rest>
struct Join<TypeList<First...>, TypeList<Second...>, Rest...> : Join<TypeList<First..., Second...>, Rest...> {};

template <class T, class List>
struct Remove;
template <class T, class... Types>
struct Remove<T, TypeList<Types...>> : Join<std::conditional_t<std::is_same_v<T, Types>, TypeList<>, TypeList<Types>>...> {};

}  // namespace detail

/// One list after the other.
template <class... Lists>
using Joined = typename detail::Join<Lists...>::type;

/// What a list names besides T.
template <class T, class List>
using Without = typename detail::Remove<T, List>::type;

/// Calls `f.template operator()<T>()` for every T of a list, in its order.
template <class... Types, class F>
constexpr void for_each_type(TypeList<Types...> /*list*/, F&& f) {
    (f.template operator()<Types>(), ...);
}

}  // namespace mla::inline MLA_ISA
