#!/usr/bin/env bash
# How near the inner loop of the aarch64 matrix multiplication (csrc/neon_tile.h) comes to what a
# core can multiply at most: llvm-mca schedules the loop's instructions on a model of the core.
#
#   scripts/perf-arm.sh [LEAST]     fails where packed_12 is below LEAST (85) % on A72 or A76
#
# A static figure: every load hits the first cache, every branch is predicted. Peaks are fp32 FLOPs
# a cycle, a multiply-add being two. LLVM's model of the A53 is pessimistic, and its "cortex-a76" is
# a core of half the width; its Neoverse N1, the same core for servers, is right from LLVM 19 on.
#
# Needs Debian's llvm-19 and gcc-aarch64-linux-gnu (libc6-dev-arm64-cross).
set -euo pipefail
cd "$(dirname "$0")/.."
least=${1:-85}

for mca in llvm-mca-{22,21,20,19} llvm-mca; do command -v "$mca" >/dev/null && break; done
version=$("$mca" --version 2>/dev/null | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p') || true
[ "${version:-0}" -ge 19 ] \
    || { echo 'perf-arm: llvm-mca of LLVM 19 or newer is missing: apt install llvm-19' >&2; exit 2; }
command -v aarch64-linux-gnu-gcc >/dev/null \
    || { echo 'perf-arm: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross' >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aarch64-linux-gnu-gcc -std=c11 -O2 -pthread -Icsrc -S -o "$work/neon.s" csrc/isa_neon.c

# The loop of a tile runs from its local label 1 to the branch back to it.
loop() {
    sed -n "/^$1:/,/b\.ge 1b/p" "$work/neon.s" | sed -n '/^1:/,$p' | sed '/^#/d; s/^1://; s/b\.ge 1b/b.ge ./'
}
cycles() { # in the steady state: the difference of two lengths leaves the start and the end out
    local total=()
    for n in 100 300; do
        total+=("$("$mca" -mtriple=aarch64-linux-gnu -mcpu="$1" -iterations=$n "$work/loop.s" \
            | awk '/^Total Cycles:/ {print $3}')")
    done
    echo $((total[1] - total[0])) # of 200 times round
}

printf '%-11s %-15s %12s %10s %12s %11s %7s\n' \
    core loop instructions multiplies cycles/round FLOPs/cycle '% peak'
failed=0
while read -r core model peak gated; do
    for tile in packed_12 packed_8 packed_4 packed_12_half packed_8_half packed_4_half; do
        loop "$tile" >"$work/loop.s"
        all=$(grep -c '[a-z]' "$work/loop.s") || { echo "perf-arm: no loop in $tile" >&2; exit 1; }
        fmla=$(grep -c 'fmla.*\.4s' "$work/loop.s")
        awk -v c="$(cycles "$model")" -v core="$core" -v tile="$tile" -v all="$all" -v n="$fmla" \
            -v peak="$peak" -v least="$([ "$tile$gated" = packed_12yes ] && echo "$least")" 'BEGIN {
                c /= 200; percent = 100 * 8 * n / c / peak
                printf "%-11s %-15s %12d %10d %12.1f %11.2f %7.1f\n",
                    core, tile, all, n, c, 8 * n / c, percent
                exit percent < least + 0 }' \
            || { echo "perf-arm: $tile is below $least % of $core" >&2; failed=1; }
    done
done <<'CORES'
cortex-a72 cortex-a72 8 yes
cortex-a76 neoverse-n1 16 yes
cortex-a53 cortex-a53 8 no
CORES
exit $failed
