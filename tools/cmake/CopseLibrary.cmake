# The library. Its sources are compiled once, as objects; the archive or shared object that ships
# and the tests that look inside are made of the same ones.

if(COPSE_POLLER STREQUAL "auto")
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
        set(poller epoll)
    else()
        set(poller kqueue)
    endif()
else()
    set(poller ${COPSE_POLLER})
endif()
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    set(system linux)
else()
    set(system bsd)
endif()
message(STATUS "copse: polling with ${poller} on ${system}")

file(GLOB copse_sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR}
     ${CMAKE_CURRENT_SOURCE_DIR}/runtime/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/net/*.cpp)
list(FILTER copse_sources EXCLUDE REGEX "runtime/(poller|system)_")
list(APPEND copse_sources ${COPSE_SWITCH_SOURCE} runtime/poller_${poller}.cpp
     runtime/system_posix.cpp runtime/system_os_thread.cpp runtime/system_${system}.cpp)

add_library(copse_objects OBJECT ${copse_sources})
include(${CMAKE_CURRENT_SOURCE_DIR}/tests/kevent/shim.cmake)
set_target_properties(copse_objects PROPERTIES POSITION_INDEPENDENT_CODE ON
                      CXX_VISIBILITY_PRESET hidden
                      VISIBILITY_INLINES_HIDDEN ON
                      CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
target_include_directories(copse_objects PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}
    ${CMAKE_CURRENT_SOURCE_DIR}/runtime/include ${CMAKE_CURRENT_SOURCE_DIR}/net/include)
# Unwind tables stay: a user's exception must be able to cross our frames (ARM, RISC-V and MIPS
# terminate without them). fno-plt, no threadsafe statics: nothing but libc may be referenced.
target_compile_options(copse_objects PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions -fno-rtti -fno-threadsafe-statics
      -funwind-tables -fno-strict-aliasing -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion>)
if(COPSE_WERROR)
    target_compile_options(copse_objects PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
check_cxx_compiler_flag(-fstack-clash-protection COPSE_HAVE_CLASH)
if(COPSE_HAVE_CLASH)
    target_compile_options(copse_objects PRIVATE
        $<$<COMPILE_LANGUAGE:CXX>:-fstack-clash-protection>)
endif()
# An archive may go into a shared object, but seldom into one that dlopen() loads. Only then has the
# dynamic linker to be asked, at each call, where a thread_local is: that makes a hand-off cost a tenth
# more. Who wants just that says CMAKE_POSITION_INDEPENDENT_CODE=ON.
if(NOT BUILD_SHARED_LIBS AND NOT CMAKE_POSITION_INDEPENDENT_CODE AND NOT APPLE)
    check_cxx_compiler_flag(-ftls-model=initial-exec COPSE_HAVE_TLS_MODEL)
    if(COPSE_HAVE_TLS_MODEL)
        target_compile_options(copse_objects PRIVATE
            $<$<COMPILE_LANGUAGE:CXX>:-ftls-model=initial-exec>)
    endif()
endif()
if(COPSE_SANITIZE)
    target_compile_options(copse_objects PUBLIC
        $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${COPSE_SANITIZE} -fno-omit-frame-pointer>)
    target_link_options(copse_objects PUBLIC -fsanitize=${COPSE_SANITIZE})
endif()

set(CMAKE_CXX_IMPLICIT_LINK_LIBRARIES "")  # else CMake names the C++ runtime to the C driver
add_library(copse $<TARGET_OBJECTS:copse_objects>)
add_library(copse::copse ALIAS copse)
set_target_properties(copse PROPERTIES LINKER_LANGUAGE C VERSION ${PROJECT_VERSION} SOVERSION 0)
target_compile_features(copse PUBLIC cxx_std_20)
target_include_directories(copse PUBLIC
    $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/runtime/include>
    $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/net/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_property(TARGET copse PROPERTY COPSE_POLLER ${poller})
find_package(Threads REQUIRED)
target_link_libraries(copse PUBLIC Threads::Threads)
if(COPSE_PROBE_STACKS AND COPSE_HAVE_CLASH)
    target_compile_options(copse PUBLIC
        $<$<COMPILE_LANGUAGE:CXX>:$<BUILD_INTERFACE:-fstack-clash-protection>>
        $<$<COMPILE_LANGUAGE:CXX>:$<INSTALL_INTERFACE:-fstack-clash-protection>>)
endif()
if(COPSE_SANITIZE)
    target_compile_options(copse PUBLIC $<BUILD_INTERFACE:-fsanitize=${COPSE_SANITIZE}>)
    target_link_options(copse PUBLIC -fsanitize=${COPSE_SANITIZE})
endif()
if(APPLE)
    # Only programs with C++ exceptions have it. ELF's linkers take a weak reference's word for that.
    target_link_options(copse PUBLIC LINKER:-U,___cxa_get_globals)
endif()
include(CopseSim)
if(COPSE_INSTALL)
    include(CopseInstall)
endif()
