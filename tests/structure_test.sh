#!/usr/bin/env bash
# Structure: what the house rules say of the sources and the objects, and can be read off them. Each
# check is also shown something planted that it has to find.
#
#   structure_test.sh <sentence> <scratch> <source> <nm> <c++> <object> ...
set -euo pipefail
sentence=$1 scratch=$2 source=$3 nm=$4 cxx=$5
shift 5
objects=("$@")

fail() { echo "failed: $*" >&2; exit 1; }

# complain <where> <what>: what a check found. A check fails when it has complained.
complain() { echo "$1: $2" >&2; complaints=$((complaints + 1)); }
clean() { [ "$complaints" -eq 0 ]; }

# finds <check> <words ...>: the check, given something planted, complains.
finds() { ! ("$@") 2>/dev/null || fail "$1 does not find what was planted in $2"; }

# plant <file>: writes standard input to a file in the scratch folder.
plant() { mkdir -p "$(dirname "$scratch/$1")" && cat >"$scratch/$1"; }

# plant_object <name>: compiles standard input to an object.
plant_object() {
    plant "$1.cpp"
    "$cxx" -std=c++20 -O1 -c "$scratch/$1.cpp" -o "$scratch/$1.o"
}

# Includes -----------------------------------------------------------------------------------------

floor_of() {
    case $1 in
        arch/*) echo 0 ;;
        runtime/*) echo 1 ;;
        net/sim/* | net/include/copse/sim.h) echo 3 ;;
        net/*) echo 2 ;;
        *) echo 4 ;;
    esac
}

# includes_point_down <tree>: no file includes one of a floor above its own; what is public includes
# nothing that is not, nor what drags in more of the C++ library than C libraries can bear.
includes_point_down() {
    local complaints=0 file line target
    while IFS=: read -r file line; do
        target=$(sed -E 's/.*[<"](.*)[>"].*/\1/' <<<"$line")
        case $line in
            *'<copse/'*)
                if [ -f "$1/runtime/include/$target" ]; then target=runtime/include/$target
                elif [ -f "$1/net/include/$target" ]; then target=net/include/$target
                else complain "$file" "there is no $target"; fi ;;
            *'<'*)
                case $file:$target in
                    */include/*:chrono | */include/*:atomic) complain "$file" "includes <$target>" ;;
                esac
                continue ;;
            *) [ -f "$1/$target" ] || complain "$file" "there is no $target at the root"
                case $file in */include/*) complain "$file" "is public and includes $target" ;; esac ;;
        esac
        [ "$(floor_of "$target")" -le "$(floor_of "$file")" ] || complain "$file" "includes $target"
    done < <(cd "$1" && grep -rE '^[ \t]*#[ \t]*include[ \t]*[<"]' arch runtime net \
        --include='*.h' --include='*.cpp' --include='*.S')
    clean
}

test_an_include_never_points_up() {
    includes_point_down "$source" || fail "an include points up"

    mkdir -p "$scratch"/{arch,runtime,net}/include/copse
    plant net/include/copse/net.h <<<'// Net.'
    plant runtime/include/copse/thread.h <<<'// Thread.'
    plant runtime/good.cpp <<<'#include <copse/thread.h>'
    includes_point_down "$scratch" || fail "an include that is right was complained of"
    for bad in '#include "net/socket.h"' '#include <copse/net.h>' '# include  "tests/test.h"'; do
        plant net/socket.h <<<'// Socket.'
        plant tests/test.h <<<'// Test.'
        plant runtime/bad.cpp <<<"$bad"
        finds includes_point_down "$scratch"
    done
    plant runtime/bad.cpp </dev/null
    plant runtime/include/copse/thread.h <<<'#include <chrono>'
    finds includes_point_down "$scratch"
}

# Symbols ------------------------------------------------------------------------------------------

# undefined <object>: the names it wants from elsewhere, those that may be missing left out.
undefined() { "$nm" -uC "$1" | sed -n 's/^ *U //p'; }

# needs_no_cxx_runtime <object or archive> ...
needs_no_cxx_runtime() {
    local complaints=0 object name
    for object in "$@"; do
        while read -r name; do
            case $name in
                copse::* | copse_*) ;;
                *std::* | __cxa_* | 'operator new'* | 'operator delete'* | __gxx_* | _Unwind_* | \
                    *__cxxabiv1::* | __dynamic_cast)
                    complain "${object##*/}" "needs $name" ;;
            esac
        done < <(undefined "$object")
    done
    clean
}

test_nothing_needs_a_cxx_runtime() {
    needs_no_cxx_runtime "${objects[@]}" || fail "the library needs a C++ runtime"

    plant_object allocates <<<'int* f() { return new int; }'
    finds needs_no_cxx_runtime "$scratch/allocates.o"
    plant_object throws <<<'void f(int n) { if (n) throw n; }'
    finds needs_no_cxx_runtime "$scratch/throws.o"
    plant_object cuts <<<'#include <string_view>
        std::string_view f(std::string_view s, unsigned n) { return s.substr(n); }'
    finds needs_no_cxx_runtime "$scratch/cuts.o"
}

# What has no effect and tells nothing about the world: may be named anywhere.
pure='memcpy memmove memset memchr memcmp bcmp strlen strnlen strcmp strncmp strchr strerror
    htonl htons ntohl ntohs inet_pton inet_ntop if_nametoindex if_indextoname
    __memcpy_chk __memmove_chk __memset_chk __stack_chk_fail __stack_chk_guard
    __errno_location __error __tls_get_addr _GLOBAL_OFFSET_TABLE_'
# What the portable ways of switching stacks are made of: may be named in arch/.
switching='getcontext makecontext swapcontext setcontext abort
    sigaltstack sigaction sigsuspend sigprocmask pthread_sigmask sigemptyset sigfillset sigdelset
    sigaddset raise kill pthread_kill pthread_self getpid
    setjmp _setjmp longjmp _longjmp sigsetjmp __sigsetjmp siglongjmp __longjmp_chk'

# has_no_effects <allowed names> <object> ...: libgcc's functions (__aarch64_ldadd4, __udivdi3) pass.
has_no_effects() {
    local complaints=0 allowed object name
    allowed=" ${1//$'\n'/ } "
    for object in "${@:2}"; do
        while read -r name; do
            case $name in
                copse::* | copse_* | 'vtable for copse::'* | 'TLS '*' for copse::'*) continue ;;
                __aarch64_* | __aeabi_* | __*[dst]i[234]) continue ;;
            esac
            case $allowed in
                *" $name "*) ;;
                *) complain "${object##*/}" "names $name" ;;
            esac
        done < <(undefined "$object")
    done
    clean
}

test_only_the_system_has_effects() {
    local inside=() arch=() object
    for object in "${objects[@]}"; do
        case $object in
            */runtime/system_* | */runtime/poller_* | */tests/* | */net/sim/*) ;;
            */arch/*) arch+=("$object") ;;
            *) inside+=("$object") ;;
        esac
    done
    [ ${#inside[@]} -ge 10 ] || fail "too few objects: ${#inside[@]}"
    has_no_effects "$pure" "${inside[@]}" || fail "an effect outside the system's files"
    has_no_effects "$pure $switching" "${arch[@]}" || fail "an effect in arch/"

    for call in 'time(nullptr)' 'getpid()' 'write(1, "", 0)' 'malloc(1)' 'rand()'; do
        plant_object effect <<<"#include <stdlib.h>
            #include <time.h>
            #include <unistd.h>
            long f() { return long($call); }"
        finds has_no_effects "$pure" "$scratch/effect.o"
    done
    plant_object pure <<<'#include <string.h>
        size_t f(const char* s) { return strlen(s); }'
    has_no_effects "$pure" "$scratch/pure.o" || fail "an object without effects was complained of"
}

# Headers ------------------------------------------------------------------------------------------

compilers() {
    echo "$cxx"
    if [ "$(basename "$cxx")" != clang++ ]; then command -v clang++ || true; fi
}

# compiles <words for the compiler ...>: standard input, by every compiler, as C++ with and without
# exceptions and RTTI.
compiles() {
    local compiler mode text
    text=$(cat)
    for compiler in $(compilers); do
        for mode in '' '-fno-exceptions -fno-rtti'; do
            # shellcheck disable=SC2086  # mode is words
            "$compiler" -std=c++20 -fsyntax-only -x c++ $mode -I"$source/runtime/include" \
                -I"$source/net/include" "$@" - <<<"$text" || return 1
        done
    done
}

strict=(-Wall -Wextra -Wconversion -Wshadow -Wpedantic -Werror)

test_each_header_compiles_alone() {
    local header
    for header in "$source"/{runtime,net}/include/copse/*.h; do
        compiles "${strict[@]}" <<<"#include <copse/${header##*/}>" || fail "${header##*/}"
    done
    ! compiles "${strict[@]}" <<<'void f(int unused) {}' 2>/dev/null || fail "a warning passed"
}

test_the_headers_templates_compile_without_a_warning() {
    compiles "${strict[@]}" <"$source/tests/packaging/consumer.cpp" || fail "warnings"
}

receives() {
    compiles <<<"#include <copse/copse.h>
        void f(copse::Stream& peer) { char room[8]; (void)room; (void)peer.receive($1); }"
}

test_a_wrong_pattern_does_not_compile() {
    local pattern
    for pattern in '' '"*l"' '"*a"' 8 'sizeof(int)' '-1L' '"*l", "prefix"' 'std::span{room}'; do
        receives "$pattern" || fail "receive($pattern) does not compile"
    done
    for pattern in '"*x"' '"l"' '"*"' '""' '"*l "' '"*L"' true "'a'" 1.5 nullptr; do
        ! receives "$pattern" 2>/dev/null || fail "receive($pattern) compiles"
    done
}

# Words --------------------------------------------------------------------------------------------

# Notes to oneself, spelt so that this file has none.
holds_no_notes() {
    ! grep -rnwE --binary-files=without-match 'TO''DO|FIX''ME|XX''X' "$@"
}

test_nothing_is_left_to_do() {
    holds_no_notes "$source"/{arch,runtime,net,tests,tools,CMakeLists.txt} || fail "notes are left"
    plant left.cpp <<<'// TO''DO: later'
    finds holds_no_notes "$scratch/left.cpp"
}

rm -rf "$scratch" && mkdir -p "$scratch"
"test_$sentence"
