/* simd_scalar.h: one lane. The honest baseline (built with the auto-vectoriser off) and the
 * place to look up what every operation of the other simd_*.h headers means. */
#define VL        1  /* floats per vector */
#define ROWS_WIDE 6  /* pixels per tile where panels are two vectors wide */
#define ROWS_SLIM 12 /* pixels per tile where panels are one vector wide */

typedef float vf;

static inline vf v_set1(float a) { return a; }
static inline vf v_load(const float *p) { return *p; }
static inline void v_store(float *p, vf a) { *p = a; }
#include "simd_tail.h"
/* a[0] b[0] a[1] b[1] .. ZIP of each; x[0] x[plane] x[2 plane] x[1] ..; and a square, transposed:
 * y[i ld + k] = x[k plane + i], ZIP of both. */
#define ZIP 1
static inline void store_zip(float *y, const float *a, const float *b) { y[0] = *a, y[1] = *b; }
static inline void store_zip3(float *y, const float *x, int64_t plane)
{
    y[0] = x[0], y[1] = x[plane], y[2] = x[2 * plane];
}
static inline void turn(float *y, int64_t ld, const float *x, int64_t plane)
{
    (void)ld, (void)plane;
    *y = *x;
}
/* fp16, all cases */
static inline vf v_load_half(const uint16_t *p)
{
    uint32_t bits = (uint32_t)(*p & 0x7fffu) << 13;
    float value;
    memcpy(&value, &bits, 4);
    value *= 0x1p112f; /* rebias the exponent; exact, subnormals included */
    memcpy(&bits, &value, 4);
    if (value >= 65536.0f) bits |= 0x7f800000u; /* infinities and NaN */
    bits |= (uint32_t)(*p & 0x8000u) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_sub(vf a, vf b) { return a - b; }
static inline vf v_mul(vf a, vf b) { return a * b; }
static inline vf v_div(vf a, vf b) { return a / b; }
static inline vf v_sqrt(vf a) { return sqrtf(a); }
static inline vf v_fma(vf a, vf b, vf c) { return a * b + c; } /* fused where the CPU can */
/* Where one operand of max or min is NaN the second one is returned: put the data there to pass
 * NaN on. v_max_nan is NaN if either operand is. */
static inline vf v_max(vf a, vf b) { return a > b ? a : b; }
static inline vf v_max_nan(vf a, vf b) { return a > b || a != a ? a : b; }
static inline vf v_min(vf a, vf b) { return a < b ? a : b; }
/* 2^k for a whole k in -126..127, given as k + 1.5 * 2^23 */
static inline vf v_pow2(vf magic)
{
    uint32_t bits;
    memcpy(&bits, &magic, 4);
    bits = (bits + 127u) << 23;
    memcpy(&magic, &bits, 4);
    return magic;
}

/* Four consecutive inputs of a tile's row; v_fma_lane(acc, w, row, i) = acc + w * row[i]. */
typedef const float *vrow;
static inline vrow row_load(const float *p) { return p; }
#define v_fma_lane(acc, w, row, i) ((acc) + (w) * (row)[i])
