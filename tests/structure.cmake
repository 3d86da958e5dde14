# What the house rules say of sources and objects: see structure_test.sh. Sanitizers add symbols of
# their own to every object.
if(NOT COPSE_SANITIZE)
    copse_register_script(structure ${PROJECT_SOURCE_DIR} ${CMAKE_NM} ${CMAKE_CXX_COMPILER}
                          $<TARGET_OBJECTS:copse_objects> $<TARGET_OBJECTS:copse_sim_objects>)
endif()
