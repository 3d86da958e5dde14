# The campaign of the core, and defects that it has to find.
#
#   copse_mutant(<name> <source> <right> <wrong>)
# compiles a copy of one source in which <right>, found there exactly once, reads <wrong>, and runs
# the campaign on a library with that one object in place of its own. Where the source is a header,
# all that includes it is compiled anew, in one piece. The library itself is never built so. A last
# word NATIVE has the loop go its fast lane, which it does not while it is asked who runs next.
option(COPSE_BUILD_MUTANTS "Build the defects that campaigns must find" OFF)

add_executable(core_campaign core_campaign.cpp)
set_target_properties(core_campaign PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
target_link_libraries(core_campaign PRIVATE copse_sim_internal)
target_compile_options(core_campaign PRIVATE -Wall -Wextra)
add_test(NAME campaign.core COMMAND core_campaign)
set_tests_properties(campaign.core PROPERTIES TIMEOUT 300)
# Once more without a question at each dispatch: the loop's fast lane.
add_test(NAME campaign.core_native COMMAND core_campaign)
set_tests_properties(campaign.core_native PROPERTIES TIMEOUT 300
                     ENVIRONMENT "COPSE_SCHEDULE=native;COPSE_SEEDS=300")

function(copse_mutant name source right wrong)
    if(NOT COPSE_BUILD_MUTANTS)
        return()
    endif()
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${source})
    file(READ ${PROJECT_SOURCE_DIR}/${source} text)
    string(FIND "${text}" "${right}" first)
    string(FIND "${text}" "${right}" last REVERSE)
    if(first EQUAL -1 OR NOT first EQUAL last)
        message(FATAL_ERROR "mutant ${name}: its line is not in ${source}, or more than once")
    endif()
    string(REPLACE "${right}" "${wrong}" text "${text}")
    if(source MATCHES "\\.h$")
        set(folder ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name})
        file(CONFIGURE OUTPUT ${folder}/${source} CONTENT "${text}" @ONLY)
        file(GLOB all RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/runtime/*.cpp
             ${PROJECT_SOURCE_DIR}/net/*.cpp)
        list(FILTER all EXCLUDE REGEX "runtime/(poller|system)_")
        list(TRANSFORM all REPLACE "(.+)" "#include \"\\1\"\n")
        string(JOIN "" text ${all})
        set(copy ${folder}/all.cpp)
    else()
        set(folder "")
        set(copy ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name}.cpp)
    endif()
    file(CONFIGURE OUTPUT ${copy} CONTENT "${text}" @ONLY)
    add_executable(mutant_${name} ${copy} $<TARGET_OBJECTS:core_campaign_object>)
    set_target_properties(mutant_${name} PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
    target_include_directories(mutant_${name} BEFORE PRIVATE ${folder})
    # The object comes before the archive, whose own of the same symbols is then never taken.
    target_link_libraries(mutant_${name} PRIVATE copse_sim_internal)
    target_compile_options(mutant_${name} PRIVATE -w -fno-exceptions -fno-rtti
                           -fno-threadsafe-statics -fno-strict-aliasing)
    add_test(NAME mutant.${name} COMMAND mutant_${name} --must-fail)
    set_tests_properties(mutant.${name} PROPERTIES TIMEOUT 120)
    if("${ARGN}" STREQUAL NATIVE)
        set_tests_properties(mutant.${name} PROPERTIES ENVIRONMENT COPSE_SCHEDULE=native)
    endif()
endfunction()

if(COPSE_BUILD_MUTANTS)
    add_library(core_campaign_object OBJECT core_campaign.cpp)
    set_target_properties(core_campaign_object PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
    target_link_libraries(core_campaign_object PRIVATE copse_sim_internal)
endif()

# Scheduler.
copse_mutant(a_thread_is_made_ready_twice runtime/loop.cpp
    [=[        if (thread->state != State::parked) continue;
]=] "")
copse_mutant(a_turn_never_looks_while_threads_are_ready runtime/loop.cpp
    "if (idle || watched_) {" "if (idle) {")
copse_mutant(an_ended_thread_keeps_its_name runtime/switching.cpp
    [=[    SlotTable<ThreadBlock>::renew(self);
    --live_;]=] "    --live_;")
copse_mutant(joiners_are_forgotten runtime/switching.cpp "    fire_all(self.joiners);\n" "")
copse_mutant(those_who_yield_go_first runtime/loop.h
    "        queue_.append(self);\n        leave(self);"
    "        woken_.append(self);\n        leave(self);")
copse_mutant(the_fast_lane_runs_on_when_nobody_is_left runtime/switching.cpp
    "if (!granted_ || queue_.empty()) [[unlikely]] return leave_to_picked(self);"
    "if (!granted_) [[unlikely]] return leave_to_picked(self);" NATIVE)
copse_mutant(what_was_granted_is_never_used_up runtime/switching.cpp "    --granted_;\n" "" NATIVE)
# Waking.
copse_mutant(a_fired_waiter_stays_in_its_list runtime/loop.h
    "for (Waiter* each = thread.waiters; each; each = each->sibling) each->unlink();"
    "if (thread.waiters) thread.waiters->unlink();")
copse_mutant(room_for_what_is_buffered_is_overlooked runtime/loop.cpp
    "        if (watch.on_writable) queue(*watch.on_writable);\n" "")
copse_mutant(a_permit_is_lost runtime/loop.h
    "        thread.permit = true;\n" "        thread.permit = thread.state == State::parked;\n")
copse_mutant(a_deadline_outlives_its_wait runtime/loop.h "            deadlines_.disarm(self);\n" "")
copse_mutant(the_heap_loses_its_order runtime/deadlines.cpp
    "if (entries_[child].key < entries_[least].key) least = child;" "least = child;")
copse_mutant(a_full_read_is_taken_for_the_last net/receive.cpp
    "if (size_t(got) < asked && is_socket_" "if (size_t(got) <= asked && is_socket_")
# Buffers.
copse_mutant(a_short_write_counts_as_whole net/send.cpp
    "    took(size_t(wrote));\n    return wrote;" "    took(offered);\n    return wrote;")
copse_mutant(the_buffer_is_sent_after_what_follows_it net/send.cpp
    "if (offered) parts[used++] = {out_.data(), offered};"
    "if (offered && !count) parts[used++] = {out_.data(), offered};")
# Closing.
copse_mutant(what_the_peer_still_says_is_left_unread net/closing.cpp
    "        if (is_socket_) discard_input(most);\n" "")
copse_mutant(what_is_unsent_is_dropped net/closing.cpp "        drain_out();\n" "")
copse_mutant(who_waits_on_a_closed_stream_is_forgotten runtime/waiting.cpp
    "    disturb(watch);\n    watch.next_free" "    watch.next_free")
# Canceling.
copse_mutant(a_canceled_thread_sleeps_on runtime/waiting.cpp
    "    thread.canceled = true;\n    if (thread.state == State::parked) make_ready(thread);"
    "    thread.canceled = true;")
copse_mutant(cancellation_is_forgotten_once_told runtime/waiting.cpp
    "        error = Error::canceled;\n" "        error = Error::canceled;\n        self.canceled = false;\n")
copse_mutant(a_scope_binds_only_the_first_wait runtime/loop.h
    "int64_t deadline = wait.deadline < self.scope_end ? wait.deadline : self.scope_end;"
    "int64_t deadline = wait.deadline;")
