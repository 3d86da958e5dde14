#!/usr/bin/env bash
# Packaging: a program of somebody else's gets copse in every way there is, builds and runs; with
# exceptions and RTTI, and without a C++ runtime, linked by the plain C driver.
#
#   packaging_test.sh <sentence> <scratch> <source> <build> <cmake> <generator> <cc> <c++>
set -euo pipefail
sentence=$1 scratch=$2 source=$3 build=$4 cmake=$5 generator=$6
export CC=$7 CXX=$8
prefix=$scratch/prefix
consumer=$source/tests/packaging

fail() { echo "failed: $*" >&2; exit 1; }
skip() { echo "skipped: $*" >&2; exit 77; }

fresh() { rm -rf "$scratch/${1:?}" && mkdir -p "$scratch/$1"; }

# says <pattern>: whether what comes has it. All of it is read: grep -q would leave at once, and who
# is still writing would end by a signal, which pipefail takes for the answer.
says() { grep "$@" >/dev/null; }

runs() { [ "$("$1")" = ok ] || fail "$1 does not run"; }

# The loader, libc and what the kernel itself maps; and, if a shared one is in question, libcopse.
needs_libc_only() {
    local needed
    needed=$(ldd "$1" | sed -e 's/^[ \t]*//' -e 's/[ ].*//' -e 's|.*/||' |
        grep -v -e '^libc\.' -e '^ld-' -e '^linux-vdso' -e '^linux-gate' -e "^${2:-statically}" || true)
    [ -z "$needed" ] || fail "$1 needs $needed"
}

# build_consumer <folder> [cmake's words ...]: both programs, by CMake.
build_consumer() {
    fresh "$1"
    "$cmake" -S "$consumer" -B "$scratch/$1" -G "$generator" "${@:2}"
    "$cmake" --build "$scratch/$1" --parallel 2
    runs "$scratch/$1/consumer"
    runs "$scratch/$1/bare"
    runs "$scratch/$1/simulated"
}

# compile_consumer <folder> <extra word for pkg-config>: both programs, by the drivers.
compile_consumer() {
    fresh "$1"
    local words=(${2:+"$2"} --cflags --libs copse)
    # shellcheck disable=SC2046  # words are what pkg-config prints
    "$CXX" -std=c++20 -O1 "$consumer/consumer.cpp" -o "$scratch/$1/consumer" \
        $(pkg-config "${words[@]}")
    # shellcheck disable=SC2046
    "$CXX" -std=c++20 -O1 -fno-exceptions -fno-rtti -c "$consumer/consumer.cpp" \
        -o "$scratch/$1/bare.o" $(pkg-config --cflags copse)
    # shellcheck disable=SC2046
    "$CC" "$scratch/$1/bare.o" -o "$scratch/$1/bare" $(pkg-config ${2:+"$2"} --libs copse)
    # shellcheck disable=SC2046
    "$CXX" -std=c++20 -O1 "$consumer/simulated.cpp" -o "$scratch/$1/simulated" \
        $(pkg-config ${2:+"$2"} --cflags --libs copse_sim)
}

install_static() {
    fresh prefix
    "$cmake" --install "$build" --prefix "$prefix" >/dev/null
}

# A second build of the library, shared, installed into prefix_shared.
install_shared() {
    fresh shared
    fresh prefix_shared
    "$cmake" -S "$source" -B "$scratch/shared" -G "$generator" -DBUILD_SHARED_LIBS=ON \
        -DCOPSE_BUILD_TESTS=OFF
    "$cmake" --build "$scratch/shared" --parallel 2
    "$cmake" --install "$scratch/shared" --prefix "$scratch/prefix_shared" >/dev/null
}

# Tests --------------------------------------------------------------------------------------------

test_find_package_finds_it() {
    install_static
    build_consumer by_cmake -DCMAKE_PREFIX_PATH="$prefix"
    needs_libc_only "$scratch/by_cmake/bare"
    ! grep -rqF "$prefix" "$prefix" --include='*.cmake' --include='*.pc' ||
        fail "an installed file names the place it was installed to"
}

test_an_incompatible_version_is_not_found() {
    install_static
    fresh version
    printf '%s\n' 'cmake_minimum_required(VERSION 3.20)' 'project(picky CXX)' \
        'find_package(copse 9.0 REQUIRED)' >"$scratch/version/CMakeLists.txt"
    ! "$cmake" -S "$scratch/version" -B "$scratch/version/build" -G "$generator" \
        -DCMAKE_PREFIX_PATH="$prefix" >/dev/null 2>&1 || fail "version 9.0 was found"
}

test_pkg_config_finds_it_wherever_it_was_moved() {
    command -v pkg-config >/dev/null || skip "there is no pkg-config here"
    install_static
    fresh elsewhere
    mv "$prefix" "$scratch/elsewhere/moved"
    local file
    file=$(find "$scratch/elsewhere" -name copse.pc)
    export PKG_CONFIG_PATH=${file%/*}
    pkg-config --validate copse
    compile_consumer by_pkg_config --static
    runs "$scratch/by_pkg_config/consumer"
    runs "$scratch/by_pkg_config/bare"
    runs "$scratch/by_pkg_config/simulated"
    needs_libc_only "$scratch/by_pkg_config/bare"
}

test_add_subdirectory_builds_the_library_alone() {
    build_consumer as_subdirectory -DCOPSE_SOURCE="$source"
    needs_libc_only "$scratch/as_subdirectory/bare"
    needs_libc_only "$scratch/as_subdirectory/simulated"
}

test_a_shared_library_needs_libc_only() {
    install_shared
    local library
    library=$(find "$scratch/prefix_shared" -name 'libcopse.so')
    [ -n "$library" ] || fail "there is no libcopse.so"
    needs_libc_only "$library"
    needs_libc_only "${library%copse.so}copse_sim.so" libcopse
    readelf -d "$library" | says 'SONAME.*\[libcopse\.so\.[0-9]*\]' || fail "no SONAME"
    # What is not copse's own (weak functions of templates) or was not meant for others.
    local stray
    stray=$(nm -DC --defined-only "$library" | sed 's/^[0-9a-f]* . //' | grep -v 'copse' || true)
    [ -z "$stray" ] || fail "exported: $stray"
    ! nm -DC --defined-only "$library" |
        says -e 'copse::Loop::' -e 'copse::Socket::' -e 'copse_switch' ||
        fail "the library's inside is exported"

    build_consumer with_shared -DCMAKE_PREFIX_PATH="$scratch/prefix_shared"
    ldd "$scratch/with_shared/bare" | says libcopse || fail "bare is not linked to libcopse.so"
    needs_libc_only "$scratch/with_shared/bare" libcopse
    "$scratch/prefix_shared/bin/copse-echo" --help | says usage ||
        fail "an installed program does not find the installed library"
    command -v pkg-config >/dev/null || return 0
    PKG_CONFIG_PATH=$(dirname "$(find "$scratch/prefix_shared" -name copse.pc)")
    export PKG_CONFIG_PATH LD_LIBRARY_PATH="${library%/*}"
    compile_consumer with_shared_by_pkg_config ''
    runs "$scratch/with_shared_by_pkg_config/bare"
}

test_the_archive_may_go_into_a_shared_object() {
    install_static
    fresh plugin
    local archive
    archive=$(find "$prefix" -name libcopse.a)
    "$CXX" -std=c++20 -O1 -fPIC -fno-exceptions -fno-rtti -shared -I"$prefix/include" \
        "$consumer/consumer.cpp" "$archive" -Wl,-z,defs -Wl,-z,text -lpthread \
        -o "$scratch/plugin/libplugin.so" || fail "it does not link"
}

mkdir -p "$scratch"
"test_$sentence"
