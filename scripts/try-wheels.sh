#!/usr/bin/env bash
# Tries those of the wheels in dist/ for which there is a Python here: this machine's and, where
# scripts/arm-python.sh has prepared them, those of the emulated boards.
#
#   scripts/try-wheels.sh
set -euo pipefail
cd "$(dirname "$0")/.."
emulated=${TINYFACE_ARM_HOME:-$HOME/.cache/tinyface-arm}

try() { # platform, Python
    local wheel
    for wheel in dist/*"manylinux_2_$1.whl"; do
        [ ! -e "$wheel" ] || ! command -v "$2" >/dev/null || "$2" scripts/try_wheel.py "$wheel"
    done
}
try "17_$(uname -m)" python
QEMU_CPU=cortex-a72 try 17_aarch64 "$emulated/arm64/python"
QEMU_CPU=cortex-a7 try 34_armv7l "$emulated/armhf/python"
