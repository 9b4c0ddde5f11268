/* simd_neon.h: 4 lanes, for aarch64 and for armv7 with VFPv4 (Cortex-A7, A15, A17 and later).
 *
 * A row's inputs are loaded four at a time and multiplied by lane: a broadcasting load (ld1r)
 * would take an arithmetic slot on Cortex-A72. 32-bit NEON has no fused multiply by lane, so
 * there the product is rounded before it is added. */
#include <arm_neon.h>
#define VL 4
#ifdef __aarch64__
#define ROWS_WIDE 8 /* 16 accumulators + 8 rows + 2 weights of the 32 registers */
#define ROWS_SLIM 12
#define PACK_ROWS TF_PACK_ROWS
#define ROLL
#else
#define ROWS_WIDE 4 /* 8 accumulators + 4 rows + 2 weights of the 16 registers */
#define ROWS_SLIM 6
#endif

typedef float32x4_t vf;

static inline vf v_set1(float a) { return vdupq_n_f32(a); }
static inline vf v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, vf a) { vst1q_f32(p, a); }
#include "simd_tail.h"
#define ZIP 4
static inline void store_zip(float *y, const float *a, const float *b)
{
    const float32x4x2_t both = {{vld1q_f32(a), vld1q_f32(b)}};
    vst2q_f32(y, both);
}
static inline void store_zip3(float *y, const float *x, int64_t plane)
{
    const float32x4x3_t all = {{vld1q_f32(x), vld1q_f32(x + plane), vld1q_f32(x + 2 * plane)}};
    vst3q_f32(y, all);
}
static inline void turn(float *y, int64_t ld, const float *x, int64_t plane)
{
    const float32x4x2_t a = vtrnq_f32(vld1q_f32(x), vld1q_f32(x + plane));
    const float32x4x2_t b = vtrnq_f32(vld1q_f32(x + 2 * plane), vld1q_f32(x + 3 * plane));
    for (int k = 0; k < 2; k++) {
        vst1q_f32(y + k * ld, vcombine_f32(vget_low_f32(a.val[k]), vget_low_f32(b.val[k])));
        vst1q_f32(y + (k + 2) * ld, vcombine_f32(vget_high_f32(a.val[k]), vget_high_f32(b.val[k])));
    }
}
#ifdef __aarch64__
static inline vf v_load_half(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
#else /* gcc hides vcvt_f32_f16 behind -mfp16-format */
static inline vf v_load_half(const uint16_t *p)
{
    vf wide;
    __asm__("vcvt.f32.f16 %q0, %P1" : "=w"(wide) : "w"(vld1_u16(p)));
    return wide;
}
#endif

static inline vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf v_div(vf a, vf b) { return a / b; } /* 32 bits: one at a time */
static inline vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf v_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf v_max_nan(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf v_min(vf a, vf b) { return vminq_f32(a, b); }
static inline vf v_pow2(vf magic)
{
    const int32x4_t k = vaddq_s32(vreinterpretq_s32_f32(magic), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(k, 23));
}

typedef float32x4_t vrow;
static inline vrow row_load(const float *p) { return vld1q_f32(p); }
#ifdef __aarch64__
static inline vf v_sqrt(vf a) { return vsqrtq_f32(a); }
/* A subscript, which may be a loop's counter; vfmaq_laneq_f32 is the same instruction, but clang
 * has it with a literal alone. */
#define v_fma_lane(acc, w, row, i) vfmaq_n_f32(acc, w, (row)[i])
#else
static inline vf v_sqrt(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
#define v_fma_lane(acc, w, row, i)                                                                 \
    vmlaq_lane_f32(acc, w, (i) < 2 ? vget_low_f32(row) : vget_high_f32(row), (i)&1)
#endif

/* For what is written out in assembler. */
#ifdef __aarch64__
#define OP(op, to, from, by) op " v" #to ".4s, v" #from ".4s, v" #by ".4s\n\t"
/* Two vectors of sums; t, u: two of nobody's; s, r: the slopes. */
#define V_CLIP(a, b, lo, hi)                                                                       \
    OP("fmax", a, a, lo) OP("fmax", b, b, lo) OP("fmin", a, a, hi) OP("fmin", b, b, hi)
#define V_PRELU(a, b, t, u, zero, s, r)                                                            \
    OP("fmin", t, a, zero)                                                                         \
    OP("fmin", u, b, zero)                                                                         \
    OP("fmax", a, a, zero) OP("fmax", b, b, zero) OP("fmla", a, t, s) OP("fmla", b, u, r)
#define ALL_REGISTERS                                                                              \
    "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",      \
        "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", \
        "v25", "v26", "v27", "v28", "v29", "v30", "v31"
#endif
