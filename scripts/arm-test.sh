#!/usr/bin/env bash
# Cross-compile the C engine and run its tests under emulation: aarch64 as a Raspberry Pi 4
# (Cortex-A72) and a Pi 3 (A53), armv7 as Cortex-A7.
#
#   scripts/arm-test.sh [CASES]
#
# Needs Debian's qemu-user, gcc-aarch64-linux-gnu and gcc-arm-linux-gnueabihf with their libc
# headers (libc6-dev-arm64-cross, libc6-dev-armhf-cross).
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-36} # -fPIC, so that scripts/arm-python.sh can use the same objects

need() { command -v "$1" >/dev/null || { echo "arm-test: $1 is missing: apt install $2" >&2; exit 2; }; }
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
need arm-linux-gnueabihf-gcc "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"

aarch64() { # one set of kernels for both: the second core gets other cases, and fewer
    local seed=1
    for cpu in cortex-a72 cortex-a53; do
        echo "== aarch64, $cpu"
        CC=aarch64-linux-gnu-gcc CFLAGS="-O2 -fPIC -static" RUN="qemu-aarch64 -cpu $cpu" SEED=$seed \
            scripts/c-tests.sh build/aarch64 "$cases" || return
        cases=$(((cases + 3) / 4)) seed=2
    done
}

armv7() {
    echo "== armv7, cortex-a7"
    CC=arm-linux-gnueabihf-gcc CFLAGS="-O2 -fPIC -static" RUN="qemu-arm -cpu cortex-a7" \
        scripts/c-tests.sh build/armv7 "$cases"
}

mkdir -p build
armv7 >build/arm-test-armv7.log 2>&1 & # beside the other, and shown behind it
other=$! status=0
trap 'kill $other 2>/dev/null || true' EXIT
aarch64 || status=$?
wait $other || status=$?
cat build/arm-test-armv7.log
exit $status
