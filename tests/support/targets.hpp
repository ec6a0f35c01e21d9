// The linked targets that run on this machine, one after the other.
#pragma once

#include <string>
#include <vector>

#include "mla/core/chosen_target.hpp"

namespace mla::testing {

/// Names of all linked targets that run here, natively or emulated.
[[nodiscard]] inline std::vector<std::string> runnable_targets() {
    std::vector<std::string> names;
    for (const abi::Target* target : linked_targets())
        if (runs_here(*target)) names.push_back(mla::detail::full_name(*target));
    return names;
}

/// What the error about an unknown target lists.
[[nodiscard]] inline std::string linked_names() {
    std::string names;
    for (const abi::Target* target : linked_targets()) names += (names.empty() ? "" : ", ") + mla::detail::full_name(*target);
    return names;
}

/// Makes calls run on a target while it lives, and then on the one before.
class OnTarget {
  public:
    explicit OnTarget(const std::string& name) : before_(mla::detail::full_name(chosen_target())) { choose_target(name); }
    OnTarget(const OnTarget&) = delete;
    OnTarget& operator=(const OnTarget&) = delete;
    ~OnTarget() { choose_target(before_); }

  private:
    std::string before_;
};

}  // namespace mla::testing
