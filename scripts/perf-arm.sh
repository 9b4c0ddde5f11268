#!/usr/bin/env bash
# How near the inner loops of the two hottest kernels on aarch64 come to what a core can multiply at
# most: the matrix multiplication (csrc/neon_tile.h) and the 3x3 depthwise convolution
# (csrc/neon_roll.h). llvm-mca schedules the loop's instructions on a model of the core.
#
#   scripts/perf-arm.sh [LEAST]     fails where A72 or A76 is below LEAST (85) %: in FLOPs for
#                                   packed_12 and roll_1_none, in the work of its busiest unit for a
#                                   roll_1 that ends in an activation
#
# A static figure: every load hits the first cache, every branch is predicted. Peaks are fp32 FLOPs
# a cycle, a multiply-add being two. "busy" is the share of cycles in which the busiest unit of the
# core has work: on A72 and A76 the vector pipes, which multiply, but also clip, widen and, on the
# A76, store. LLVM's model of the A53 is pessimistic, and its "cortex-a76" is a core of half the
# width; its Neoverse N1, the same core for servers, is right from LLVM 19 on.
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

loop() { # name label: from the local label to the branch back to it
    sed -n "/^$1:/,/b\.ge ${2}b/p" "$work/neon.s" \
        | sed -n "/^$2:/,\$p" | sed "/^#/d; s/^$2://; s/b\.ge ${2}b/b.ge ./"
}
schedule() { # core times: what llvm-mca says of so many rounds
    "$mca" -mtriple=aarch64-linux-gnu -mcpu="$1" -iterations="$2" "$work/loop.s"
}
cycles() { awk '/^Total Cycles:/ {print $3}'; }
busiest() { # cycles a round of the unit with most work
    awk '/^Resource pressure per iteration/ {getline; getline
             for (i = 1; i <= NF; i++) if ($i > most) most = $i
             print most; exit}'
}

printf '%-11s %-15s %12s %10s %12s %11s %7s %7s\n' \
    core loop instructions multiplies cycles/round FLOPs/cycle '% peak' '% busy'
failed=0
while read -r core model peak gated; do
    while read -r name label gate; do
        loop "$name" "$label" >"$work/loop.s"
        all=$(grep -c '[a-z]' "$work/loop.s") || { echo "perf-arm: no loop in $name" >&2; exit 1; }
        [ "$gated" = yes ] || gate=-
        # The difference of two lengths leaves the start and the end out.
        schedule "$model" 300 >"$work/long"
        awk -v c=$(($(cycles <"$work/long") - $(schedule "$model" 100 | cycles))) \
            -v b="$(busiest <"$work/long")" -v core="$core" -v name="$name" -v all="$all" \
            -v n="$(grep -c 'fmla.*\.4s' "$work/loop.s")" -v peak="$peak" -v least="$least" \
            -v gate="$gate" 'BEGIN {
                c /= 200; percent = 100 * 8 * n / c / peak; busy = 100 * b / c
                printf "%-11s %-15s %12d %10d %12.1f %11.2f %7.1f %7.1f\n",
                    core, name, all, n, c, 8 * n / c, percent, busy
                exit (gate == "peak" && percent < least) || (gate == "busy" && busy < least) }' \
            || { echo "perf-arm: $name is below $least % of $core" >&2; failed=1; }
    done <<'LOOPS'
packed_12 1 peak
packed_8 1 -
packed_4 1 -
packed_12_half 1 -
packed_8_half 1 -
packed_4_half 1 -
roll_1_none 2 peak
roll_1_clip 2 busy
roll_1_prelu 2 busy
roll_2_none 2 -
roll_2_clip 2 -
roll_2_prelu 2 -
LOOPS
done <<'CORES'
cortex-a72 cortex-a72 8 yes
cortex-a76 neoverse-n1 16 yes
cortex-a53 cortex-a53 8 no
CORES
exit $failed
