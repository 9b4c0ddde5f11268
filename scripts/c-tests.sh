#!/usr/bin/env bash
# Build the C engine with its own test program and run it.
#
#   scripts/c-tests.sh [OUT] [CASES]       CC, CFLAGS, LINKER (otherwise CC and CFLAGS), RUN (a
#                                          prefix such as "qemu-aarch64") and CSRC (the sources)
#                                          come from the environment
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/c-tests}
cases=${2:-120}
: "${CC:=cc}" "${CFLAGS:=-O2}" "${LINKER:=$CC $CFLAGS}" "${RUN:=}" "${CSRC:=csrc}"
flags="$(<csrc/flags.txt) -Wall -Wextra -Wconversion -Werror -I$CSRC"
mkdir -p "$out"
objects=()
for source in "$CSRC"/*.c tests/c/*.c; do
    object=$out/$(basename "${source%.c}").o
    objects+=("$object")
    newest=$(ls -t "$source" csrc/flags.txt "$CSRC"/*.h tests/c/*.h | head -1)
    # shellcheck disable=SC2086  # the flags are lists
    [ "$object" -nt "$newest" ] || $CC $flags $CFLAGS -c "$source" -o "$object"
done
# shellcheck disable=SC2086
$LINKER -pthread "${objects[@]}" -o "$out/test_kernels" -lm
$RUN "$out/test_kernels" "$cases" "${SEED:-1}"
