/* isa_avx512.c: the kernels for AVX-512 (Skylake-SP, Zen 4 and later). */
#include "engine.h"
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c"))),                   \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#endif
#define ISA_NAME avx512
#include "simd_avx512.h"
#include "family.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int tf_no_avx512;
#endif
