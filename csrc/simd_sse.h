/* simd_sse.h: 4 lanes of SSE2, which every x86-64 has. No fused multiply-add: 2 operations. */
#include <emmintrin.h>
#define VL        4
#define ROWS_WIDE 4
#define ROWS_SLIM 8

typedef __m128 vf;
#include "simd_x86.h"

static inline vf v_set1(float a) { return _mm_set1_ps(a); }
static inline vf v_load(const float *p) { return _mm_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm_storeu_ps(p, a); }
#include "simd_tail.h"
/* fp16 by arithmetic: move exponent and mantissa into place, then scale by 2^112. This is right
 * for subnormals, too; infinities need the exponent set. */
static inline vf v_load_half(const uint16_t *p)
{
    const __m128i h = _mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
    const __m128i sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
    const __m128i body = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x7fff)), 13);
    const vf value = _mm_mul_ps(_mm_castsi128_ps(body), _mm_set1_ps(0x1p112f));
    const vf top = _mm_cmpge_ps(value, _mm_set1_ps(65536.0f));
    const vf inf = _mm_and_ps(top, _mm_castsi128_ps(_mm_set1_epi32(0x7f800000)));
    return _mm_or_ps(_mm_or_ps(value, inf), _mm_castsi128_ps(sign));
}

static inline vf v_sqrt(vf a) { return _mm_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
static inline vf v_max(vf a, vf b) { return _mm_max_ps(a, b); }
static inline vf v_max_nan(vf a, vf b)
{
    return _mm_or_ps(_mm_max_ps(a, b), _mm_cmpunord_ps(a, b));
}
static inline vf v_min(vf a, vf b) { return _mm_min_ps(a, b); }

#define v_fma_lane(acc, w, row, i) v_fma(_mm_set1_ps((row)[i]), w, acc)
