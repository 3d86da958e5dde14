# The kqueue backend on Linux: built against the shim in this folder. See kevent.cpp.
if(poller STREQUAL "kqueue" AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
    target_sources(copse_objects PRIVATE ${CMAKE_CURRENT_LIST_DIR}/kevent.cpp)
    target_include_directories(copse_objects PRIVATE ${CMAKE_CURRENT_LIST_DIR})
endif()
