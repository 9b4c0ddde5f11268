#!/usr/bin/env bash
# The C tests as clang compiles them, for the systems whose compiler it is: on aarch64 and on Windows
# they run, emulated, and with musl in the place of the GNU C library; for macOS (on ARM; on x86 it
# is Windows' code) they are compiled and linked, with warnings as errors, and no more.
#
#   scripts/clang-test.sh [CASES]
#   scripts/clang-test.sh --prepare      only the C library that zig has to compile for Windows
#
# The compiler is zig's clang, of PyPI's ziglang (tinyface's extra `release`), with headers and
# libraries of its own for all of these. Needs Debian's qemu-user, gcc-aarch64-linux-gnu, musl-tools,
# wine and wine64.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-24}

need() { command -v "$1" >/dev/null || { echo "clang-test: $1 is missing: apt install $2" >&2; exit 2; }; }
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
need musl-gcc musl-tools
need wine "wine wine64"
python -m ziglang version >/dev/null \
    || { echo "clang-test: no ziglang: pip install 'tinyface[release]'" >&2; exit 2; }

# To link a program zig compiles a C library, two minutes or three, and once more with and without -s,
# which scripts/wheels.py has, too. Only Windows' is not Debian's; a program for macOS is not run and
# links without clang's own library.
zig="python -m ziglang cc -s -fno-sanitize=undefined -target"
windows="x86_64-windows-gnu"
if [ "$cases" = --prepare ]; then
    mkdir -p build/clang
    echo 'int main(void) { return 0; }' >build/clang/nothing.c
    # shellcheck disable=SC2086  # a list of words
    exec $zig $windows -O2 build/clang/nothing.c -pthread -lm -o build/clang/nothing.exe
fi

on() { # platform, flags, what runs the program, what links it if not the compiler
    echo "== $1"
    CC="$zig $1" CFLAGS=$2 RUN=$3 LINKER=${4:-} scripts/c-tests.sh "build/clang/$1" "$cases"
}

export WINEPREFIX=$PWD/build/clang/wine WINEDEBUG=-all
on aarch64-linux-gnu -O2 "qemu-aarch64 -cpu cortex-a72" "aarch64-linux-gnu-gcc -static"
on x86_64-linux-musl -O0 "" "musl-gcc -static"
on $windows -O2 wine
on aarch64-macos -O0 : "$zig aarch64-macos -nostdlib -lc"
