/* simd_avx512.h: 16 lanes, 32 registers, tails by mask. */
#include <immintrin.h>
#define VL        16
#define ROWS_WIDE 12 /* 24 accumulators + 2 weights + broadcasts of the 32 registers */
#define ROWS_SLIM 12

typedef __m512 vf;
#include "simd_x86.h"

static inline __mmask16 v_mask(int64_t n)
{
    const uint32_t lanes = n < 0 ? 0 : n > 16 ? 16 : (uint32_t)n;
    return (__mmask16)((1u << lanes) - 1u);
}
static inline vf v_set1(float a) { return _mm512_set1_ps(a); }
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
static inline void v_store_n(float *p, vf a, int64_t n) { _mm512_mask_storeu_ps(p, v_mask(n), a); }
static inline vf v_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_max_nan(vf a, vf b)
{
    const __mmask16 unordered = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
    return _mm512_mask_add_ps(_mm512_max_ps(a, b), unordered, a, b);
}
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }

/* Lane l takes lane d of the `depth` neighbours, a power of two, that it is one of. */
typedef __m512i v_order;
static inline v_order v_order_of(int32_t d, int32_t depth)
{
    const v_order lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_add_epi32(_mm512_and_epi32(lane, _mm512_set1_epi32(-depth)),
                            _mm512_set1_epi32(d));
}
#define v_take(a, order) _mm512_permutexvar_ps(order, a)

#define v_fma_lane(acc, w, row, i) v_fma(_mm512_set1_ps((row)[i]), w, acc)
