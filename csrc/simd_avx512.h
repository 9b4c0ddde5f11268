/* simd_avx512.h: 16 lanes, 32 registers, tails by mask. */
#include <immintrin.h>
#include "simd_zip3.h"
#define VL        16
#define ROWS_WIDE 12 /* 24 accumulators + 2 weights + broadcasts of the 32 registers */
#define ROWS_SLIM 12

typedef __m512 vf;

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
static inline void v_store_zip3(float *p, vf a, vf b, vf c)
{
    ZIP3(vf, _mm512_unpacklo_ps, _mm512_unpackhi_ps, _mm512_shuffle_ps)
#define ZIP3_GROUP(g)                                                                              \
    _mm_storeu_ps(p + 12 * (g), _mm512_extractf32x4_ps(q0, g));                                    \
    _mm_storeu_ps(p + 12 * (g) + 4, _mm512_extractf32x4_ps(q1, g));                                \
    _mm_storeu_ps(p + 12 * (g) + 8, _mm512_extractf32x4_ps(q2, g));
    ZIP3_GROUP(0) ZIP3_GROUP(1) ZIP3_GROUP(2) ZIP3_GROUP(3)
}
static inline void v_store_zip(float *p, vf a, vf b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    v_store(p, _mm512_permutex2var_ps(a, low, b));
    v_store(p + 16, _mm512_permutex2var_ps(a, high, b));
}
static inline vf v_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_max_nan(vf a, vf b)
{
    const __mmask16 unordered = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
    return _mm512_mask_add_ps(_mm512_max_ps(a, b), unordered, a, b);
}
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_pow2(vf magic)
{
    const __m512i k = _mm512_add_epi32(_mm512_castps_si512(magic), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(k, 23));
}

typedef const float *vrow;
static inline vrow row_load(const float *p) { return p; }
#define v_fma_lane(acc, w, row, i) v_fma(_mm512_set1_ps((row)[i]), w, acc)
