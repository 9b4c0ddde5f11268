/* isa_avx2.c: the kernels for AVX2, FMA and F16C (Haswell, Zen and later). */
#include "engine.h"
#if defined(__x86_64__)
TARGET("avx2,fma,f16c")
#define ISA_NAME avx2
#include "simd_avx2.h"
#include "family.h"
TARGET_END
#endif
