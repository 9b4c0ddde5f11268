/* simd_avx2.h: 8 lanes, fused multiply-add, fp16 widened by F16C. */
#include <immintrin.h>
#define VL        8
#define ROWS_WIDE 6 /* 12 accumulators + 2 weights + 1 broadcast of the 16 registers */
#define ROWS_SLIM 12

typedef __m256 vf;
#include "simd_x86.h"

static inline __m256i v_mask(int64_t n)
{
    static const int32_t edge[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const int64_t lanes = n < 0 ? 0 : n > 8 ? 8 : n;
    return _mm256_loadu_si256((const __m256i *)(edge + 8 - lanes));
}
static inline vf v_set1(float a) { return _mm256_set1_ps(a); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf v_load_n(const float *p, int64_t n)
{
    /* a hint for gcc's layout: most are whole */
    return __builtin_expect(n >= VL, 1) ? v_load(p) : _mm256_maskload_ps(p, v_mask(n));
}
static inline void v_store_n(float *p, vf a, int64_t n)
{
    if (n >= VL) {
        v_store(p, a);
        return;
    }
    /* no masked store: it takes 12 cycles on Zen 2 to 4, whatever its mask */
    __m128 rest = _mm256_castps256_ps128(a);
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        rest = _mm256_extractf128_ps(a, 1);
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(p + (n & 4)), rest);
        rest = _mm_movehl_ps(rest, rest);
    }
    if (n & 1) _mm_store_ss(p + (n & 6), rest);
}
static inline vf v_load_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_max_nan(vf a, vf b)
{
    return _mm256_or_ps(_mm256_max_ps(a, b), _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
}
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }

/* Lane l takes lane d of the `depth` neighbours, a power of two, that it is one of. */
typedef __m256i v_order;
static inline v_order v_order_of(int32_t d, int32_t depth)
{
    const v_order lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_add_epi32(_mm256_and_si256(lane, _mm256_set1_epi32(-depth)),
                            _mm256_set1_epi32(d));
}
#define v_take(a, order) _mm256_permutevar8x32_ps(a, order)

/* In place, by order: left to choose, gcc lets sums change registers in the inner loop, runs out of
 * them, and takes a tenth longer. */
static inline vf v_fma_in_place(vf acc, vf w, float x)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(w), "x"(_mm256_set1_ps(x)));
    return acc;
}
#define v_fma_lane(acc, w, row, i) v_fma_in_place(acc, w, (row)[i])
