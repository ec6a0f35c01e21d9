# The install rules: headers, the CMake package and the pkg-config file, all relocatable.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(mla_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/mla)

install(
    TARGETS mla mla_io
    EXPORT mlaTargets
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILE_SET openmp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
)
install(EXPORT mlaTargets NAMESPACE mla:: DESTINATION ${mla_package_dir})

configure_package_config_file(
    cmake/mlaConfig.cmake.in ${PROJECT_BINARY_DIR}/package/mlaConfig.cmake
    INSTALL_DESTINATION ${mla_package_dir}
    NO_SET_AND_CHECK_MACRO
)
write_basic_package_version_file(
    ${PROJECT_BINARY_DIR}/package/mlaConfigVersion.cmake
    COMPATIBILITY SameMinorVersion
    ARCH_INDEPENDENT
)
install(
    FILES ${PROJECT_BINARY_DIR}/package/mlaConfig.cmake
          ${PROJECT_BINARY_DIR}/package/mlaConfigVersion.cmake
          cmake/MlaCompiledKernels.cmake
          cmake/MlaRepairXsimd.cmake
    DESTINATION ${mla_package_dir}
)

# The file finds the headers from where it lies, so that the installed tree can be moved.
set(mla_pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
cmake_path(
    RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR
    BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX}/${mla_pkgconfig_dir}
    OUTPUT_VARIABLE mla_include_from_pkgconfig
)
configure_file(cmake/mla.pc.in package/mla.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/package/mla.pc DESTINATION ${mla_pkgconfig_dir})

install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
