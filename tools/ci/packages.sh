# Packages: has Debian install what is missing. To be sourced by bash.
# shellcheck shell=bash

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# install_packages PACKAGE ...
install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "There is no apt-get here. Please install by hand: $*" >&2
        return 1
    fi
    echo "Installing with apt-get: $*"
    if [ -z "${package_lists_are_new:-}" ]; then
        as_root apt-get -o DPkg::Lock::Timeout=600 -qq update || return
        package_lists_are_new=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 \
        -o Dpkg::Use-Pty=0 -qq -y --no-install-recommends install "$@" </dev/null >/dev/null
}

# need COMMAND PACKAGE [COMMAND PACKAGE ...]: installs the packages whose commands are missing.
need() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# What it takes to build copse.
need_to_build() {
    need g++ g++ cmake cmake
    command -v ninja >/dev/null || command -v make >/dev/null || install_packages ninja-build
    if command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
}
