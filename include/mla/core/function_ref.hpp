// References to callables, so that what takes one is compiled once.
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include "mla/core/types.hpp"

namespace mla::inline MLA_ISA {

template <class Signature>
class FunctionRef;

/// A non-owning reference to a callable `R(Arguments...)`; it must not outlive the callable.
template <class R, class... Arguments>
class FunctionRef<R(Arguments...)> {
  public:
    template <class F>
        requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<R, F&, Arguments...>)
    FunctionRef(F&& f)
    noexcept  // NOLINT(bugprone-forwarding-reference-overload): excluded by the constraint
        : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
          call_([](void* object, Arguments... arguments) -> R {
              return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Arguments>(arguments)...);
          }) {}

    R operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

  private:
    void* object_;
    R (*call_)(void*, Arguments...);
};

}  // namespace mla::inline MLA_ISA
