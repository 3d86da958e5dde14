# copse_sim: the simulated world, a second system table. A program links it besides copse; copse
# itself is the same as without.

file(GLOB copse_sim_sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR}
     ${CMAKE_CURRENT_SOURCE_DIR}/net/sim/*.cpp)
add_library(copse_sim_objects OBJECT ${copse_sim_sources})
set_target_properties(copse_sim_objects PROPERTIES POSITION_INDEPENDENT_CODE ON
                      CXX_VISIBILITY_PRESET hidden
                      VISIBILITY_INLINES_HIDDEN ON
                      CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
target_include_directories(copse_sim_objects PUBLIC
    $<TARGET_PROPERTY:copse_objects,INTERFACE_INCLUDE_DIRECTORIES>)
target_compile_options(copse_sim_objects PRIVATE
    $<TARGET_PROPERTY:copse_objects,COMPILE_OPTIONS>)

add_library(copse_sim $<TARGET_OBJECTS:copse_sim_objects>)
add_library(copse::copse_sim ALIAS copse_sim)
# A shared one finds copse beside it, wherever both are moved.
set_target_properties(copse_sim PROPERTIES LINKER_LANGUAGE C VERSION ${PROJECT_VERSION} SOVERSION 0
                      INSTALL_RPATH "$<IF:$<PLATFORM_ID:Darwin>,@loader_path,$ORIGIN>")
target_link_libraries(copse_sim PUBLIC copse)
