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
strict="-std=c11 -Wall -Wextra -Wconversion -Werror -pthread -I$CSRC"
quiet="-fno-math-errno -fno-tree-vectorize -fno-tree-slp-vectorize -ffp-contract=off"
mkdir -p "$out"
objects=()
for source in "$CSRC"/*.c tests/c/*.c; do
    object=$out/$(basename "${source%.c}").o
    objects+=("$object")
    newest=$(ls -t "$source" "$CSRC"/*.h tests/c/*.h | head -1)
    # shellcheck disable=SC2086  # the flags are lists
    [ "$object" -nt "$newest" ] || $CC $strict $quiet $CFLAGS -c "$source" -o "$object"
done
# shellcheck disable=SC2086
$LINKER -pthread "${objects[@]}" -o "$out/test_kernels" -lm
$RUN "$out/test_kernels" "$cases" "${SEED:-1}"
