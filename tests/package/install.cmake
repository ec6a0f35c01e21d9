# Installs to STAGING, moves the tree to PREFIX, and looks at what was installed: every header, the package files and
# nothing else, with no trace of the folders it came from. CONSUMERS is emptied: every consumer starts anew.
file(REMOVE_RECURSE ${STAGING} ${PREFIX} ${CONSUMERS})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${STAGING} COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
file(RENAME ${STAGING} ${PREFIX})

file(GLOB_RECURSE expected RELATIVE ${SOURCE} ${SOURCE}/include/mla/*)
file(GLOB_RECURSE installed RELATIVE ${PREFIX} ${PREFIX}/*)
set(package_files ${installed})
list(FILTER installed INCLUDE REGEX "^include/")
list(FILTER package_files EXCLUDE REGEX "^include/")
set(programs ${package_files})
list(FILTER programs INCLUDE REGEX "^bin/")
list(FILTER package_files EXCLUDE REGEX "^bin/")
list(SORT expected)
list(SORT installed)
if(NOT expected STREQUAL installed)
    message(FATAL_ERROR "installed headers\n  ${installed}\nmust be\n  ${expected}")
endif()

list(SORT package_files)
set(expected_package_files
    share/cmake/mla/MlaCompiledKernels.cmake
    share/cmake/mla/MlaRepairXsimd.cmake
    share/cmake/mla/mlaConfig.cmake
    share/cmake/mla/mlaConfigVersion.cmake
    share/cmake/mla/mlaTargets.cmake
    share/doc/mla/LICENSE
    share/pkgconfig/mla.pc
)
if(NOT package_files STREQUAL expected_package_files)
    message(FATAL_ERROR "installed package files\n  ${package_files}\nmust be\n  ${expected_package_files}")
endif()

if(programs AND NOT programs STREQUAL "bin/mla_vectors")
    message(FATAL_ERROR "installed programs\n  ${programs}\nmust be\n  bin/mla_vectors, or none where tools are not built")
endif()

foreach(package_file IN LISTS package_files)
    file(READ ${PREFIX}/${package_file} text)
    foreach(folder IN ITEMS ${SOURCE} ${BUILD} ${STAGING})
        string(FIND "${text}" "${folder}" position)
        if(NOT position EQUAL -1)
            message(FATAL_ERROR "${package_file} names ${folder}, which the installed package must not need")
        endif()
    endforeach()
endforeach()
