// Lists of types. What a kernel exists for stands in a list, so that tests and benchmarks go over all of it.
#pragma once

#include <type_traits>

namespace mla {

template <class... Types>
struct TypeList {};

/// Whether a list names T.
template <class T, class List>
inline constexpr bool is_listed = false;
template <class T, class... Types>
inline constexpr bool is_listed<T, TypeList<Types...>> = (std::is_same_v<T, Types> || ...);

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

}  // namespace mla
