/* isa_avx512.c: the kernels for AVX-512 (Skylake-SP, Zen 4 and later). */
#include "engine.h"
#if defined(__x86_64__)
TARGET("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define ISA_NAME avx512
#include "simd_avx512.h"
#include "family.h"
TARGET_END
#endif
