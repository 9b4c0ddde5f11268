#!/usr/bin/env bash
# Cross-compile the C engine and run its tests under emulation: aarch64 as a Raspberry Pi 4
# (Cortex-A72) and a Pi 3 (A53), armv7 as Cortex-A7. With "python", also the Python tests, in the
# environments that scripts/arm-env.sh makes.
#
#   scripts/arm-test.sh [c|python|all] [CASES]
#
# Needs Debian's qemu-user, gcc-aarch64-linux-gnu and gcc-arm-linux-gnueabihf with their libc
# headers (libc6-dev-arm64-cross, libc6-dev-armhf-cross).
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-c}
cases=${2:-60}

need() { command -v "$1" >/dev/null || { echo "arm-test: $1 is missing: apt install $2" >&2; exit 2; }; }
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
need arm-linux-gnueabihf-gcc "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"

if [ "$what" != python ]; then
    for cpu in cortex-a72 cortex-a53; do
        echo "== aarch64, $cpu"
        CC=aarch64-linux-gnu-gcc CFLAGS="-O2 -static" RUN="qemu-aarch64 -cpu $cpu" \
            scripts/c-tests.sh build/aarch64 "$cases"
    done
    echo "== armv7, cortex-a7"
    CC=arm-linux-gnueabihf-gcc CFLAGS="-O2 -static" RUN="qemu-arm -cpu cortex-a7" \
        scripts/c-tests.sh build/armv7 "$cases"
fi
if [ "$what" != c ]; then
    for arch in arm64 armhf; do
        scripts/arm-env.sh "$arch"
        echo "== Python tests on $arch"
        run=.arm/$arch/bin/run
        "$run" python setup.py -q build_ext --inplace --build-temp "build/$arch" \
            --build-lib ".arm/$arch/lib" >/dev/null
        "$run" python -m pytest -q -p no:cacheprovider tests/test_c_engine.py
    done
fi
