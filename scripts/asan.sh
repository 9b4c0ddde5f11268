#!/usr/bin/env bash
# The C tests under AddressSanitizer and UndefinedBehaviorSanitizer; with "thread" under
# ThreadSanitizer, for what the threads of a pool share. Any finding ends with a non-zero status.
#
#   scripts/asan.sh [thread] [CASES]
set -euo pipefail
cd "$(dirname "$0")/.."
kind=address,undefined cases=40
# -O0 compiles in a minute and runs in another, -O1 takes two minutes and a half to compile. Lines
# (-g1) are enough for a report.
[ "${1:-}" = thread ] && { kind=thread cases=15; shift; }
export CFLAGS="-O0 -g1 -fno-omit-frame-pointer -fsanitize=$kind -fno-sanitize-recover=all"
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=0
exec scripts/c-tests.sh "build/$kind" "${1:-$cases}"
