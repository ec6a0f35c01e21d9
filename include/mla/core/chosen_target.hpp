// Which of the linked targets this machine runs. Only where kernels are compiled (mla_add_compiled_kernels); header-only, the
// target is the best that the compiler's flags allow.
#pragma once

#include "mla/core/kernel_table.hpp"
#include "mla/core/types.hpp"

#if MLA_IS_COMPILED
#include <atomic>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#if MLA_HAS_X86
#include <cpuid.h>
#if MLA_IS_LINUX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif
#if MLA_HAS_AUXILIARY_VECTOR
#include <sys/auxv.h>
#endif

/// The linked targets, the simplest first; defined by the source that mla_add_compiled_kernels generates.
extern "C" const mla::abi::Target* const* mla_linked_targets(int* count) noexcept;

namespace mla::inline MLA_ISA {

/// The targets that this program links, the simplest first.
[[nodiscard]] inline std::span<const abi::Target* const> linked_targets() noexcept {
    int count = 0;
    const abi::Target* const* const first = mla_linked_targets(&count);
    return {first, static_cast<std::size_t>(count)};
}

namespace detail {

/// Asks Linux to let this process use tile registers, whose state of 8 KiB it saves for threads that do; asked again it says the
/// same. It refuses where the kernel is too old (before 5.16) or a thread's alternate signal stack too small for that state.
[[nodiscard]] inline bool tile_registers_permitted() noexcept {
#if MLA_HAS_X86 && MLA_IS_LINUX
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

}  // namespace detail

/// Whether this processor and its operating system have the instructions of a target. To find out, a process whose processor has
/// tile registers asks for them.
[[nodiscard]] inline bool runs_here(const abi::Target& target) noexcept {
    const std::string_view name = target.name;
    if (target.is_emulated != 0 || name == "generic") return true;
#if MLA_HAS_X86
    if (name == "avx2")
        return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 && __builtin_cpu_supports("bmi2") != 0;
    const bool avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                        __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
    if (name == "avx512") return avx512;
    if (name == "avx512_vnni") return avx512 && __builtin_cpu_supports("avx512vnni") != 0;
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool bf16_products = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5U & 1U) != 0;
    if (name == "avx512_bf16") return avx512 && __builtin_cpu_supports("avx512vnni") != 0 && bf16_products;
    const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22U & 7U) == 7U;  // bf16, tiles, int8
    if (name == "amx")
        return avx512 && __builtin_cpu_supports("avx512vnni") != 0 && bf16_products && tiles &&
               detail::tile_registers_permitted();
#endif
#if MLA_HAS_NEON
    if (name == "neon") return true;
#endif
#if MLA_HAS_AUXILIARY_VECTOR
    if (name == "neon_bf16") return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#endif
    return false;
}

namespace detail {

/// Whether a target is chosen only when it is asked for: emulated ones, and bf16 products where FMA is faster (compiler.hpp).
[[nodiscard]] inline bool is_second_choice(const abi::Target& target) noexcept {
    if (target.is_emulated != 0) return true;
#if MLA_HAS_X86
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool fp16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 23U & 1U) != 0;
    if (std::string_view(target.name) == "avx512_bf16") return fp16;
#endif
    return false;
}

[[nodiscard]] inline std::string full_name(const abi::Target& target) {
    return target.is_emulated != 0 ? std::string("emulated_") + target.name : target.name;
}

/// name == full_name(target), without allocating: a step may be the first call.
[[nodiscard]] inline bool is_called(const abi::Target& target, std::string_view name) noexcept {
    constexpr std::string_view prefix = "emulated_";
    if (target.is_emulated == 0) return name == target.name;
    return name.starts_with(prefix) && name.substr(prefix.size()) == target.name;
}

[[nodiscard]] inline const abi::Target& find_target(std::string_view name) {
    for (const abi::Target* target : linked_targets()) {
        if (!is_called(*target, name)) continue;
        if (!runs_here(*target))
            throw std::invalid_argument("mla: target " + std::string(name) + " does not run on this machine");
        return *target;
    }
    std::string known;
    for (const abi::Target* target : linked_targets()) known += (known.empty() ? "" : ", ") + full_name(*target);
    throw std::invalid_argument("mla: target is " + std::string(name) + ", must be one of " + known);
}

/// What MLA_TARGET asks for; empty: nothing.
[[nodiscard]] inline std::string_view forced_target() noexcept {
    const char* const name = std::getenv("MLA_TARGET");
    return name == nullptr ? std::string_view() : name;
}

[[nodiscard]] inline const abi::Target& best_target() {
    const abi::Target* best = linked_targets().front();
    for (const abi::Target* target : linked_targets()) {
        if (target->bytes != sizeof(abi::Target))
            throw std::invalid_argument("mla: a linked target is of another version of the library");
        if (runs_here(*target) && !is_second_choice(*target)) best = target;
    }
    return *best;
}

inline std::atomic<const abi::Target*> current_target{nullptr};

}  // namespace detail

/// The target that calls run on: the best that is linked and that this machine has, or the one that MLA_TARGET names.
/// @throws std::invalid_argument when MLA_TARGET names none that is linked and runs here: so does every call that needs a target
[[nodiscard]] inline const abi::Target& chosen_target() {
    const abi::Target* target = detail::current_target.load(std::memory_order_acquire);
    if (target == nullptr) [[unlikely]] {
        const std::string_view forced = detail::forced_target();
        target = forced.empty() ? &detail::best_target() : &detail::find_target(forced);
        detail::current_target.store(target, std::memory_order_release);
    }
    return *target;
}

/// Makes calls that begin from now on run on a target; what was packed or cached stays valid, scratch may have to grow.
/// @throws std::invalid_argument when no target of this name is linked or it does not run here
inline void choose_target(std::string_view name) {
    detail::current_target.store(&detail::find_target(name), std::memory_order_release);
}

namespace detail {

template <Compute A>
[[nodiscard]] const abi::Kernels<A>& chosen_kernels() {
    const abi::Target& target = chosen_target();
    if constexpr (std::is_same_v<A, float>)
        return target.of_float;
    else
        return target.of_double;
}

/// Asks for the target before anything that may not throw does.
inline void require_target() { static_cast<void>(chosen_target()); }

}  // namespace detail
}  // namespace mla::inline MLA_ISA
#else
namespace mla::inline MLA_ISA::detail {

inline void require_target() noexcept {}

}  // namespace mla::inline MLA_ISA::detail
#endif
