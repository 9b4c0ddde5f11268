/* simde_avx512.h: AVX-512 intrinsics in portable C, for scripts/avx512-test.sh. SIMDe has most;
 * below are those that its version 0.7 (Debian 12) lacks. */
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

static inline __m512 simde_load_masked(__mmask16 mask, const float *p)
{
    float lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = mask >> i & 1 ? p[i] : 0.0f;
    return simde_mm512_loadu_ps(lanes);
}
static inline void simde_store_masked(float *p, __mmask16 mask, __m512 a)
{
    float lanes[16];
    simde_mm512_storeu_ps(lanes, a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) p[i] = lanes[i];
}
static inline __m512 simde_widen_halves(__m256i halves)
{
    float lanes[16];
    _mm256_storeu_ps(lanes, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
    _mm256_storeu_ps(lanes + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
    return simde_mm512_loadu_ps(lanes);
}

#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_cvtph_ps
#define _mm512_maskz_loadu_ps simde_load_masked
#define _mm512_mask_storeu_ps simde_store_masked
#define _mm512_cvtph_ps       simde_widen_halves
