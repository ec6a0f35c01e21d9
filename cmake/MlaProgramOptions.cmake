# How our own tests, benchmarks and examples are compiled. Nothing here reaches a consumer.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    message(STATUS "mla: no build type given, Release it is")
    set(CMAKE_BUILD_TYPE Release)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)

# GCC 12 warns of its own headers: of the deliberately undefined operands in its AVX-512 intrinsics (GCC bug 105593) and of
# adding a literal and a std::string (105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    set(mla_mistaken_warnings -Wno-free-nonheap-object -Wno-maybe-uninitialized -Wno-uninitialized -Wno-restrict)
endif()

add_library(mla_program_options INTERFACE)
target_link_libraries(mla_program_options INTERFACE mla::mla Threads::Threads)
target_compile_options(
    mla_program_options
    INTERFACE
        -Wall
        -Wextra
        -Wpedantic
        -Wshadow
        -Wconversion
        -Wsign-conversion
        ${mla_mistaken_warnings}
        $<$<BOOL:${MLA_WERROR}>:-Werror>
        "$<$<BOOL:${MLA_ARCH}>:-march=${MLA_ARCH}>"
)

if(MLA_SANITIZE)
    list(JOIN MLA_SANITIZE "," mla_sanitizers)
    # Undefined behaviour is reported and ends the program: a report alone would let a test pass.
    # Left out: what whole programs do on purpose (a float beyond a narrower type), and two checks of addresses that double the
    # time to compile unrolled tiles; the address sanitizer still sees an access that such an address leads to.
    set(mla_sanitizer_flags
        -fsanitize=${mla_sanitizers}
        -fno-sanitize=float-cast-overflow,pointer-overflow,object-size
        -fno-sanitize-recover=all
    )
    target_compile_options(mla_program_options INTERFACE ${mla_sanitizer_flags} -fno-omit-frame-pointer)
    target_link_options(mla_program_options INTERFACE ${mla_sanitizer_flags})
endif()
