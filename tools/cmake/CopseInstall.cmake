# Installing: the library, its headers, and what find_package() and pkg-config look for. Nothing
# that is installed names the place it was installed to, so that the whole tree may be moved.
include(CMakePackageConfigHelpers)
set(copse_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/copse)

install(TARGETS copse copse_sim EXPORT copse-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY runtime/include/copse net/include/copse
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

# find_package(copse): the target copse::copse. Before 1.0 a minor version may change anything.
install(EXPORT copse-targets NAMESPACE copse:: DESTINATION ${copse_package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/copse-config.cmake.in copse-config.cmake
                              INSTALL_DESTINATION ${copse_package_dir}
                              NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(copse-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/copse-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/copse-config-version.cmake
        DESTINATION ${copse_package_dir})

# pkg-config copse. A distribution may have made a directory absolute; such a one cannot move.
file(RELATIVE_PATH copse_pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" copse_pc_prefix "${copse_pc_prefix}")
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(copse_pc_prefix "${CMAKE_INSTALL_PREFIX}")
else()
    set(copse_pc_prefix "\${pcfiledir}/${copse_pc_prefix}")
endif()
foreach(directory LIBDIR INCLUDEDIR)
    if(IS_ABSOLUTE "${CMAKE_INSTALL_${directory}}")
        set(copse_pc_${directory} "${CMAKE_INSTALL_${directory}}")
    else()
        set(copse_pc_${directory} "\${prefix}/${CMAKE_INSTALL_${directory}}")
    endif()
endforeach()
set(copse_pc_cflags "")
if(COPSE_PROBE_STACKS AND COPSE_HAVE_CLASH)
    set(copse_pc_cflags "-fstack-clash-protection")
endif()
set(copse_pc_libs "")
if(APPLE)
    set(copse_pc_libs "-Wl,-U,___cxa_get_globals")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/copse.pc.in copse.pc @ONLY)
configure_file(${CMAKE_CURRENT_LIST_DIR}/copse_sim.pc.in copse_sim.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/copse.pc ${CMAKE_CURRENT_BINARY_DIR}/copse_sim.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
