include(CheckCXXCompilerFlag)

# mla_add_compiled_kernels(<target> [TARGETS <name>...] [EMULATED <name>...] [OPTIONS <option>...])
#
# A static library <target> with the kernels of each named target, one small source compiled for its instruction set, and the choice
# between them at run time. What links it is compiled for any machine and runs on the best that this one has; MLA_TARGET in the
# environment forces one. TARGETS: all that machines of this processor's family would choose, unless named. EMULATED: targets whose
# instructions are written out, for machines that lack them; chosen only when asked for, as emulated_<name>. OPTIONS: of the
# compiler, for these sources. TARGETS native: the one that the library's own flags allow, to compile its kernels once for several
# programs.
function(mla_add_compiled_kernels library)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "TARGETS;EMULATED;OPTIONS")
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        set(flags_avx2 -mavx2 -mfma -mf16c -mbmi2)
        set(flags_avx512 ${flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
        set(flags_avx512_vnni ${flags_avx512} -mavx512vnni)
        set(flags_avx512_bf16 ${flags_avx512_vnni} -mavx512bf16)
        set(flags_amx ${flags_avx512_bf16} -mamx-tile -mamx-bf16 -mamx-int8)
        set(known generic avx2 avx512 avx512_vnni avx512_bf16)
        check_cxx_compiler_flag(-mamx-bf16 MLA_COMPILER_HAS_AMX)
        if(MLA_COMPILER_HAS_AMX)
            list(APPEND known amx)
        endif()
        set(linked ${known})
    elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
        set(flags_neon -march=armv8-a)
        set(flags_neon_bf16 -march=armv8.2-a+bf16)
        set(known generic neon neon_bf16)
        set(linked neon neon_bf16) # all have NEON, so that none would choose generic
    else()
        set(known generic)
        set(linked generic)
    endif()
    if(NOT arg_TARGETS)
        set(arg_TARGETS ${linked})
    endif()
    set(declarations "")
    set(pointers "")
    add_library(${library} STATIC)
    foreach(kind IN ITEMS TARGETS EMULATED)
        foreach(name IN LISTS arg_${kind})
            if(kind STREQUAL "EMULATED")
                set(symbol mla_emulated_${name})
                set(type "mla::targets::emulated<mla::targets::${name}>")
                set(flags -O1) # written out, at -O2 they take GCC minutes
            elseif(name IN_LIST known OR name STREQUAL "native")
                set(symbol mla_target_${name})
                set(type "mla::targets::${name}")
                set(flags ${flags_${name}})
            else()
                message(FATAL_ERROR "mla_add_compiled_kernels: ${name} is none of the targets native;${known}")
            endif()
            set(source ${CMAKE_CURRENT_BINARY_DIR}/${library}/${symbol}.cpp)
            file(
                CONFIGURE OUTPUT ${source}
                CONTENT [[
#include "mla/kernels/engine/table.hpp"
extern "C" const mla::abi::Target @symbol@;
constinit const mla::abi::Target @symbol@ = mla::detail::table_of<@type@>();
]]
                @ONLY
            )
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${arg_OPTIONS};${flags}")
            target_sources(${library} PRIVATE ${source})
            string(APPEND declarations "extern \"C\" const mla::abi::Target ${symbol};\n")
            string(APPEND pointers "    &${symbol},\n")
        endforeach()
    endforeach()
    set(source ${CMAKE_CURRENT_BINARY_DIR}/${library}/linked_targets.cpp)
    file(
        CONFIGURE OUTPUT ${source}
        CONTENT [[
#include "mla/core/kernel_table.hpp"
@declarations@
static const mla::abi::Target* const linked[] = {
@pointers@};
extern "C" const mla::abi::Target* const* mla_linked_targets(int* count) noexcept;
extern "C" const mla::abi::Target* const* mla_linked_targets(int* count) noexcept {
    *count = static_cast<int>(sizeof(linked) / sizeof(linked[0]));
    return linked;
}
]]
        @ONLY
    )
    target_sources(${library} PRIVATE ${source})
    target_link_libraries(${library} PUBLIC mla::mla)
    target_compile_definitions(${library} INTERFACE MLA_COMPILED_KERNELS)
endfunction()
