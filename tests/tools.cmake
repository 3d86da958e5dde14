# The programs of tools/: see tools_test.sh.
if(COPSE_BUILD_TOOLS)
    copse_register_script(tools $<TARGET_FILE:copse-echo> $<TARGET_FILE:copse-load>
                          $<TARGET_FILE:copse-chat> $<TARGET_FILE:copse-sim-demo>
                          $<TARGET_FILE:copse-hello> "${CMAKE_CROSSCOMPILING_EMULATOR}")
endif()
