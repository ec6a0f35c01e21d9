# What mla and its programs stand on: a target that exists already, else an installed package, else a pinned download.
include(FetchContent)

# mla_find_or_fetch_headers(<package> <target> REPOSITORY <url> COMMIT <hash> INCLUDE_DIR <dir> [VERSION <version>])
#
# Of a downloaded header-only package only the headers are used, not its build: no options, no tests, no install rules.
function(mla_find_or_fetch_headers package target)
    cmake_parse_arguments(PARSE_ARGV 2 arg "" "REPOSITORY;COMMIT;INCLUDE_DIR;VERSION" "")
    if(NOT TARGET ${target})
        find_package(${package} ${arg_VERSION} CONFIG QUIET GLOBAL)
    endif()
    if(TARGET ${target})
        set(${package}_VERSION "${${package}_VERSION}" PARENT_SCOPE)
        return()
    endif()
    message(STATUS "mla: ${package} ${arg_VERSION} is not installed, downloading it")
    FetchContent_Declare(
        ${package}
        GIT_REPOSITORY ${arg_REPOSITORY}
        GIT_TAG ${arg_COMMIT}
        SOURCE_SUBDIR headers-only # names no folder, so that the package's own build is left alone
        SYSTEM
    )
    FetchContent_MakeAvailable(${package})
    FetchContent_GetProperties(${package} SOURCE_DIR source_dir)
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${target} INTERFACE ${source_dir}/${arg_INCLUDE_DIR})
endfunction()

# Of Eigen and xsimd without VERSION: their version files accept one major version only, and several will do.
mla_find_or_fetch_headers(
    Eigen3
    Eigen3::Eigen
    REPOSITORY https://gitlab.com/libeigen/eigen.git
    COMMIT 3147391d946bb4b6c68edd901f2add6ac1f31f8c # 3.4.0
    INCLUDE_DIR .
)
if(Eigen3_VERSION AND Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "mla needs Eigen 3.4 or newer and found ${Eigen3_VERSION}. "
                        "With -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON a newer one is downloaded.")
endif()

mla_find_or_fetch_headers(
    xsimd
    xsimd
    REPOSITORY https://github.com/xtensor-stack/xsimd.git
    COMMIT e88a72831858123924f7118f345dfe5d70d95991 # 14.3.0
    INCLUDE_DIR include
)
if(xsimd_VERSION AND xsimd_VERSION VERSION_LESS 8.1)
    message(FATAL_ERROR "mla needs xsimd 8.1 or newer and found ${xsimd_VERSION}. "
                        "With -DCMAKE_DISABLE_FIND_PACKAGE_xsimd=ON a newer one is downloaded.")
endif()
include(${CMAKE_CURRENT_LIST_DIR}/MlaRepairXsimd.cmake)

# mla::io alone needs it: a consumer without it can still use mla::mla.
if(MLA_BUILD_TESTS OR MLA_BUILD_BENCHMARKS OR MLA_BUILD_EXAMPLES OR MLA_BUILD_TOOLS)
    mla_find_or_fetch_headers(
        nlohmann_json
        nlohmann_json::nlohmann_json
        VERSION 3.11
        REPOSITORY https://github.com/nlohmann/json.git
        COMMIT 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03 # 3.11.3
        INCLUDE_DIR single_include
    )
elseif(NOT TARGET nlohmann_json::nlohmann_json)
    find_package(nlohmann_json 3.11 CONFIG QUIET GLOBAL)
endif()

if(MLA_BUILD_TESTS)
    find_package(GTest CONFIG QUIET)
    if(NOT TARGET GTest::gtest_main)
        message(STATUS "mla: GoogleTest is not installed, downloading it")
        set(INSTALL_GTEST OFF)
        set(BUILD_GMOCK OFF)
        FetchContent_Declare(
            googletest
            GIT_REPOSITORY https://github.com/google/googletest.git
            GIT_TAG 52eb8108c5bdec04579160ae17225d66034bd723 # 1.17.0
            SYSTEM
        )
        FetchContent_MakeAvailable(googletest)
    endif()
endif()

if(MLA_BUILD_BENCHMARKS)
    find_package(benchmark CONFIG QUIET)
    if(NOT TARGET benchmark::benchmark)
        message(STATUS "mla: Google Benchmark is not installed, downloading it")
        set(BENCHMARK_ENABLE_TESTING OFF)
        set(BENCHMARK_ENABLE_INSTALL OFF)
        FetchContent_Declare(
            benchmark
            GIT_REPOSITORY https://github.com/google/benchmark.git
            GIT_TAG eddb0241389718a23a42db6af5f0164b6e0139af # 1.9.4
            SYSTEM
        )
        FetchContent_MakeAvailable(benchmark)
    endif()
endif()

if(MLA_BUILD_TESTS OR MLA_BUILD_BENCHMARKS OR MLA_BUILD_EXAMPLES)
    find_package(Threads REQUIRED)
    find_package(OpenMP QUIET COMPONENTS CXX)
endif()
