# The ports of arch/, each asked the same questions at every optimisation level. They are compiled
# here from their own files, not taken from the library: all that this machine can run are tested,
# not only the one that the library switches with, and before there is a library.
include(CheckSymbolExists)
include(CheckCXXCompilerFlag)

set(abi_processor "")
if(triple MATCHES "^(x86_64|amd64)" AND NOT triple MATCHES "x32" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
    set(abi_processor x86_64)
    set(abi_registers rbx rbp r12 r13 r14 r15)
    set(abi_property "feature: IBT")
elseif(triple MATCHES "^(aarch64|arm64)" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
    set(abi_processor aarch64)
    set(abi_registers x19 x20 x21 x22 x23 x24 x25 x26 x27 x28 x29 d8 d9 d10 d11 d12 d13 d14 d15)
    set(abi_property "feature: BTI")
endif()
if(abi_processor)
    set(abi_port ${PROJECT_SOURCE_DIR}/arch/${abi_processor}.S)
    set(abi_assembly ${CMAKE_CURRENT_SOURCE_DIR}/abi_${abi_processor}.S)
else()
    set(abi_assembly "")
endif()

function(abi_executable target)
    add_executable(${target} ${ARGN} ${abi_assembly})
    set_target_properties(${target} PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
    target_link_libraries(${target} PRIVATE Threads::Threads m)
endfunction()

# abi_test(<target> <port's file> <definition> [options ...])
function(abi_test target port definition)
    set(sources abi_test.cpp)
    if(abi_processor)
        list(APPEND sources abi_registers_test.cpp)
    endif()
    if(definition STREQUAL ABI_PROCESSOR)
        list(APPEND sources abi_processor_test.cpp)
        if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/abi_${abi_processor}_test.cpp)
            list(APPEND sources abi_${abi_processor}_test.cpp)
        endif()
    endif()
    abi_executable(${target} ${sources} ${port})
    target_compile_definitions(${target} PRIVATE ${definition})
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${ARGN}>)
    foreach(source ${sources})
        copse_register(${target} ${target} ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    endforeach()
endfunction()

# With libc's own checks of longjmp and the like wherever it has them: not without optimising.
function(abi_test_levels name port definition)
    abi_test(abi_${name}_o0 ${port} ${definition} -O0 -U_FORTIFY_SOURCE)
    foreach(level 1 2 3)
        abi_test(abi_${name}_o${level} ${port} ${definition} -O${level} -U_FORTIFY_SOURCE
                 -D_FORTIFY_SOURCE=3)
    endforeach()
endfunction()

abi_test_levels(sigaltstack ${PROJECT_SOURCE_DIR}/arch/sigaltstack.cpp ABI_SIGALTSTACK)
check_symbol_exists(makecontext "ucontext.h" ABI_HAVE_UCONTEXT)
if(ABI_HAVE_UCONTEXT)
    abi_test_levels(ucontext ${PROJECT_SOURCE_DIR}/arch/ucontext.cpp ABI_UCONTEXT)
endif()

if(abi_processor)
    abi_test_levels(${abi_processor} ${abi_port} ABI_PROCESSOR)

    # Callers that sign their return addresses; emulators and newer processors check them.
    if(abi_processor STREQUAL aarch64)
        check_cxx_compiler_flag(-mbranch-protection=standard ABI_HAVE_BRANCH_PROTECTION)
        if(ABI_HAVE_BRANCH_PROTECTION)
            abi_test(abi_aarch64_signed ${abi_port} ABI_PROCESSOR -O2
                     -mbranch-protection=standard)
        endif()
    endif()

    # The mutants: in each copy the switch stores a scratch register in place of one that it must
    # keep. The copies are made anew whenever the port changes.
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${abi_port})
    file(READ ${abi_port} abi_text)
    set(abi_mutants "")
    foreach(register ${abi_registers})
        if(abi_processor STREQUAL x86_64)
            set(scratch rax)
        elseif(register MATCHES "^d")
            set(scratch d0)
        else()
            set(scratch x9)
        endif()
        string(REGEX REPLACE "(\n *keep [^\n]*)${register}([, \n])" "\\1${scratch}\\2" text
               "${abi_text}")
        if(text STREQUAL abi_text)
            message(FATAL_ERROR "abi: ${abi_port} does not keep ${register}")
        endif()
        string(REPLACE "SYMBOL(copse" "SYMBOL(mutant_${register}" text "${text}")
        set(file ${CMAKE_CURRENT_BINARY_DIR}/mutant_${register}.S)
        file(CONFIGURE OUTPUT ${file} CONTENT "${text}" @ONLY)
        list(APPEND abi_mutants ${file})
    endforeach()
    abi_executable(abi_mutants abi_mutants_test.cpp ${abi_mutants})
    copse_register(abi_mutants abi_mutants ${CMAKE_CURRENT_SOURCE_DIR}/abi_mutants_test.cpp)

    if(NOT APPLE)
        add_library(abi_port_object OBJECT ${abi_port})
        add_test(NAME abi_notes.the_port_claims_what_it_keeps_and_no_more
                 COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/abi_notes.sh
                         "${CMAKE_READELF}" "${CMAKE_OBJDUMP}" "${abi_property}"
                         $<TARGET_OBJECTS:abi_port_object>)
        set_tests_properties(abi_notes.the_port_claims_what_it_keeps_and_no_more
                             PROPERTIES SKIP_RETURN_CODE 77)
    endif()
endif()
