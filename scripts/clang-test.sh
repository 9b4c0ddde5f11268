#!/usr/bin/env bash
# The C tests as clang compiles them, for the systems whose compiler it is: on aarch64 and on Windows
# they run, emulated, and with musl in the place of the GNU C library; for macOS (on ARM; on x86 it
# is Windows' code) they are compiled and linked, with warnings as errors, and no more.
#
#   scripts/clang-test.sh [CASES]
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

# OUT, zig's name of the platform, what runs the program, level, what links it
on() {
    echo "== $2"
    local cc="python -m ziglang cc -target $2"
    CC="$cc -g0 -fno-sanitize=undefined" CFLAGS=-O$4 RUN=$3 LINKER=${5:-$cc} scripts/c-tests.sh "build/clang/$1" "$cases"
}

# To link a program zig compiles a C library, two minutes for each: only Windows' is not Debian's.
# A program for macOS is not run and links without clang's own library.
export WINEPREFIX=$PWD/build/clang/wine WINEDEBUG=-all
on aarch64 aarch64-linux-gnu "qemu-aarch64 -cpu cortex-a72" 2 "aarch64-linux-gnu-gcc -static"
on musl x86_64-linux-musl "" 0 "musl-gcc -static"
on windows x86_64-windows-gnu wine 2
on macos aarch64-macos : 0 "python -m ziglang cc -target aarch64-macos -nostdlib -lc"
