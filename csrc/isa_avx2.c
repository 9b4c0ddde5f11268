/* isa_avx2.c: the kernels for AVX2, FMA and F16C (Haswell, Zen and later). */
#include "engine.h"
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define ISA_NAME avx2
#include "simd_avx2.h"
#include "family.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int tf_no_avx2;
#endif
