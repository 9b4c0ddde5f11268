#!/usr/bin/env bash
# The C tests under AddressSanitizer and UndefinedBehaviorSanitizer; with "thread" under
# ThreadSanitizer, for what the threads of a pool share. Any finding ends with a non-zero status.
#
#   scripts/asan.sh [thread] [CASES]
set -euo pipefail
cd "$(dirname "$0")/.."
kind=address,undefined cases=40 level=1
# With -O0 threads compile in 12 seconds, with -O1 in a minute and a half. Lines (-g1) are enough for
# a report; variables take 20 seconds.
[ "${1:-}" = thread ] && { kind=thread cases=15 level=0; shift; }
export CFLAGS="-O$level -g1 -fno-omit-frame-pointer -fsanitize=$kind -fno-sanitize-recover=all"
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=0
exec scripts/c-tests.sh "build/$kind" "${1:-$cases}"
