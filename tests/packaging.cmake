# copse in other people's projects: see packaging_test.sh. Only where it is built as it ships, and its
# programs run here.
if(COPSE_INSTALL AND COPSE_BUILD_TOOLS AND NOT COPSE_SANITIZE AND NOT CMAKE_CROSSCOMPILING
   AND NOT BUILD_SHARED_LIBS AND CMAKE_SYSTEM_NAME STREQUAL "Linux"
   AND COPSE_POLLER STREQUAL "auto" AND COPSE_SWITCH STREQUAL "auto")
    copse_register_script(packaging ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR} ${CMAKE_COMMAND}
                          ${CMAKE_GENERATOR} ${CMAKE_C_COMPILER} ${CMAKE_CXX_COMPILER})
endif()
