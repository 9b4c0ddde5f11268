#!/usr/bin/env bash
# The C tests as clang compiles them, for the systems whose compiler it is: on aarch64 and on Windows
# they run, emulated; for macOS (on ARM; on x86 it is Windows' code) they are compiled and linked, with
# warnings as errors, and no more.
#
#   scripts/clang-test.sh [CASES]
#
# The compiler is zig's clang, of PyPI's ziglang (tinyface's extra `release`), with headers and
# libraries of its own for all of these. Needs Debian's qemu-user, wine and wine64.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-24}

need() { command -v "$1" >/dev/null || { echo "clang-test: $1 is missing: apt install $2" >&2; exit 2; }; }
need qemu-aarch64 qemu-user
need wine "wine wine64"
python -m ziglang version >/dev/null \
    || { echo "clang-test: no ziglang: pip install 'tinyface[release]'" >&2; exit 2; }

# OUT, zig's name of the platform, what runs the program, flags
on() {
    echo "== $2"
    CC="python -m ziglang cc -target $2 -g0" RUN=$3 CFLAGS="-O2 ${4:-}" \
        scripts/c-tests.sh "build/clang/$1" "$cases"
}

export WINEPREFIX=$PWD/build/clang/wine WINEDEBUG=-all
on aarch64 aarch64-linux-musl "qemu-aarch64 -cpu cortex-a72" -static
on windows x86_64-windows-gnu wine
on macos aarch64-macos : -O0
