#!/usr/bin/env bash
# The C tests of the AVX-512 kernels, on any x86-64 CPU with AVX2: SIMDe carries out the 512-bit
# intrinsics. For results only; it says nothing about speed.
#
#   scripts/avx512-test.sh [CASES]
#
# Builds a copy of csrc/ in which the compiler may use no AVX-512, the intrinsics are SIMDe's,
# and tf_isa_list names this one instruction set. Needs Debian's libsimde-dev.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-30} copy=build/avx512/csrc

[ -f /usr/include/simde/x86/avx512.h ] \
    || { echo "avx512-test: SIMDe is missing: apt install libsimde-dev" >&2; exit 2; }
mkdir -p "$copy"
cp -p csrc/*.[ch] "$copy"
sed -i 's/avx512f,avx512vl,avx512dq,avx512bw,//' "$copy/isa_avx512.c"
sed -i 's|#include <immintrin.h>|#include "../../../tests/c/simde_avx512.h"|' "$copy/simd_avx512.h"
sed -i -e 's/const int has = x86_features();/const int has = HAS_AVX512 | (0 \& x86_features());/' \
    -e '/= &tf_scalar;/d' -e '/= &tf_sse;/d' -e '/= &tf_avx2;/d' "$copy/cpu.c"

# -O0: the same results as -O2, in 20 seconds and not 80, nearly all of them the compiler's
said=$(CSRC=$copy CFLAGS="-O0 -Wno-psabi" scripts/c-tests.sh build/avx512 "$cases") \
    || { echo "$said"; exit 1; }
[ "$said" = "avx512  ok" ] || { echo "avx512-test: expected one line, got: $said" >&2; exit 1; }
echo "$said (emulated)"
