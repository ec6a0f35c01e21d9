// Says which targets the tests' kernels were built for, which of them this machine runs and which it chooses: for scripts.
#include <cstdio>
#include <cstring>

#include "mla/core/target_report.hpp"
#include "support/targets.hpp"

int main(int count, char** arguments) {
    const auto runs = mla::testing::runnable_targets();
    const char* const what = count > 1 ? arguments[1] : "list";
    if (std::strcmp(what, "best") == 0) {
        std::printf("%s\n", mla::detail::full_name(mla::chosen_target()).c_str());
        return 0;
    }
    if (std::strcmp(what, "report") == 0) {
        std::printf("%s", mla::target_report().c_str());
        return 0;
    }
    if (std::strcmp(what, "runs") == 0) {
        for (const std::string& name : runs)
            if (count > 2 && name == arguments[2]) return 0;
        return 1;
    }
    for (const std::string& name : runs)
        std::printf("%s %s\n", name.c_str(), name.starts_with("emulated_") ? "emulated" : "native");
    return 0;
}
