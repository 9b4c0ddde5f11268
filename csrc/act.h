/* act.h: activations on vectors, and the functions under the smooth ones. */

/* e^x = 2^k * e^r with k whole and |r| <= ln(2)/2, where 1 + r + c2 r^2 + .. + c6 r^6, fitted to
 * the least relative error (Lawson's iteration), errs by 4e-9. x is kept where the result is
 * normal. */
static inline vf v_exp(vf x)
{
    x = v_min(v_set1(88.0f), v_max(v_set1(-87.0f), x));
    const vf magic = v_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    const vf biased = v_fma(x, v_set1(1.44269504f), magic);
    const vf k = v_sub(biased, magic);
    vf r = v_fma(k, v_set1(-0.693359375f), x); /* ln 2 in two parts, the first with few bits */
    r = v_fma(k, v_set1(2.12194440e-4f), r);
    vf p = v_set1(1.38146128e-3f);
    p = v_fma(p, r, v_set1(8.36871006e-3f));
    p = v_fma(p, r, v_set1(4.16683890e-2f));
    p = v_fma(p, r, v_set1(0.166665211f));
    p = v_fma(p, r, v_set1(0.499999940f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_mul(p, v_pow2(biased));
}

/* v sigmoid(by) */
static inline vf v_gate(vf v, vf by)
{
    return v_div(v, v_add(v_set1(1.0f), v_exp(v_sub(v_set1(0.0f), by))));
}

static inline vf v_clip(vf v, float lo, float hi)
{
    return v_min(v_set1(hi), v_max(v_set1(lo), v));
}

/* erf(x) = x P(x^2) / Q(x^2) up to 4, where it is 1 in float. Both of degree 5, fitted to the least
 * error (2e-8; with rounding 6e-7) by Lawson's iteration; P is 2e-7 larger, so that 4 gives 1. */
static inline vf v_erf(vf x)
{
    x = v_clip(x, -4.0f, 4.0f);
    const vf s = v_mul(x, x);
    vf p = v_set1(1.9748306e-6f), q = v_set1(3.748092e-5f);
    p = v_fma(p, s, v_set1(2.8804253e-4f));
    q = v_fma(q, s, v_set1(1.2163675e-3f));
    p = v_fma(p, s, v_set1(4.0036743e-3f));
    q = v_fma(q, s, v_set1(1.5444474e-2f));
    p = v_fma(p, s, v_set1(5.346757e-2f));
    q = v_fma(q, s, v_set1(0.11647667f));
    p = v_fma(p, s, v_set1(0.1962496f));
    q = v_fma(q, s, v_set1(0.5072528f));
    p = v_fma(p, s, v_set1(1.1283792f));
    q = v_fma(q, s, v_set1(1.0f));
    return v_clip(v_div(v_mul(x, p), q), -1.0f, 1.0f);
}

static inline vf v_hswish(vf v)
{
    return v_mul(v, v_clip(v_fma(v, v_set1(1.0f / 6), v_set1(0.5f)), 0.0f, 1.0f));
}

static inline vf v_prelu(vf v, vf slope)
{
    const vf zero = v_set1(0.0f);
    return v_fma(slope, v_min(zero, v), v_max(zero, v));
}

/* Every activation without parameters per channel. */
INLINE vf v_act_of(const int32_t act, vf v, const tf_step *s)
{
    switch (act) {
    case TF_CLIP: return v_clip(v, s->alpha, s->hi);
    case TF_SIGMOID: return v_gate(v_set1(1.0f), v);
    case TF_HSIGMOID: return v_clip(v_fma(v, v_set1(s->alpha), v_set1(s->beta)), 0.0f, 1.0f);
    case TF_HSWISH: return v_hswish(v);
    case TF_SILU: return v_gate(v, v);
    case TF_TANH: { /* 2 sigmoid(2v) - 1 */
        const vf two = v_set1(2.0f);
        return v_fma(two, v_gate(v_set1(1.0f), v_mul(two, v)), v_set1(-1.0f));
    }
    case TF_ERF: return v_erf(v);
    case TF_GELU: {
        const vf half = v_set1(0.5f);
        return v_mul(v, v_fma(half, v_erf(v_mul(v_set1(0.70710678f), v)), half));
    }
    case TF_GELU_TANH: { /* 1.5957691 v + 0.07135482 v^3 */
        const vf steep = v_fma(v_mul(v, v), v_set1(0.071354816f), v_set1(1.5957691f));
        return v_gate(v, v_mul(v, steep));
    }
    case TF_EXP: { /* a square, so that it reaches 0 and infinity */
        const vf root = v_exp(v_mul(v_set1(0.5f), v));
        return v_mul(root, root);
    }
    case TF_SQRT: return v_sqrt(v);
    default: return v;
    }
}

/* v_act_of n floats in place. It asks once which it is: a jump for every vector, and none of the
 * next begun before it, take as long as SiLU itself (Zen 3: 12 cycles a vector, one by one 24). */
static __attribute__((noinline)) void act_floats(float *p, int64_t n, const tf_step *s)
{
    const int64_t whole = n / VL * VL;
#define ACT(act)                                                                                   \
    case act:                                                                                      \
        for (int64_t i = 0; i < whole; i += VL) v_store(p + i, v_act_of(act, v_load(p + i), s));   \
        break;
    switch (s->act) {
        ACT(TF_CLIP)
        ACT(TF_SIGMOID)
        ACT(TF_HSIGMOID)
        ACT(TF_HSWISH)
        ACT(TF_SILU)
        ACT(TF_TANH)
        ACT(TF_ERF)
        ACT(TF_GELU)
        ACT(TF_GELU_TANH)
        ACT(TF_EXP)
        ACT(TF_SQRT)
    default: return;
    }
#undef ACT
    if (whole == n) return;
    v_store_n(p + whole, v_act_of(s->act, v_load_n(p + whole, n - whole), s), n - whole);
}

/* VL floats, of which n exist; part: they may be fewer. */
INLINE vf v_load_part(const int part, const float *p, int64_t n)
{
    return part ? v_load_n(p, n) : v_load(p);
}

INLINE void v_store_part(const int part, float *p, vf v, int64_t n)
{
    if (part)
        v_store_n(p, v, n);
    else
        v_store(p, v);
}

/* The activation of rows x nv vectors, of which n floats a row exist; slope: of PReLU; part: its
 * vectors may be incomplete. The frequent ones stay in registers. */
INLINE void act_rows(const int rows, const int nv, const int part, vf sum[][2], int64_t n,
                     const tf_step *s, const float *slope)
{
    if (s->act == TF_NONE) return;
    if (s->act == TF_CLIP) {
        const vf lo = v_set1(s->alpha), hi = v_set1(s->hi);
        UNROLL (i, rows)
            UNROLL (j, nv) sum[i][j] = v_max(lo, sum[i][j]);
        if (s->hi < INFINITY) /* not for a plain ReLU */
            UNROLL (i, rows)
                UNROLL (j, nv) sum[i][j] = v_min(hi, sum[i][j]);
    } else if (s->act == TF_HSWISH) {
        UNROLL (i, rows)
            UNROLL (j, nv) sum[i][j] = v_hswish(sum[i][j]);
    } else if (s->act == TF_PRELU) {
        UNROLL (j, nv) {
            const vf each = v_load_part(part, slope + j * VL, n);
            UNROLL (i, rows) sum[i][j] = v_prelu(sum[i][j], each);
        }
    } else {
        float all[24 * VL]; /* rows side by side: what one has too many is the next one's place */
        UNROLL (i, rows)
            UNROLL (j, nv) v_store(all + i * n + j * VL, sum[i][j]);
        act_floats(all, rows * n, s);
        UNROLL (i, rows)
            UNROLL (j, nv) sum[i][j] = v_load(all + i * n + j * VL);
    }
}

/* No activation, a clip or PReLU, for loops that have asked in front which it is; smooth ones are
 * not carried out. */
static inline vf v_linear(const int act, vf v, vf lo, vf hi, vf slope)
{
    if (act == TF_PRELU) return v_prelu(v, slope);
    return act == TF_CLIP ? v_min(hi, v_max(lo, v)) : v;
}

/* Every activation; slope: of PReLU. */
static inline vf v_any_act(vf v, const tf_step *s, vf slope)
{
    if (s->act > TF_PRELU) return v_act_of(s->act, v, s);
    return v_linear(s->act, v, v_set1(s->alpha), v_set1(s->hi), slope);
}

/* What a step does to n of its sums: z is added, and the activation. */
static inline vf v_finish(vf v, const tf_step *s, vf slope, const float *z, int64_t n)
{
    if (s->flags & TF_RESIDUAL) v = v_add(v, v_load_n(z, n));
    return v_any_act(v, s, slope);
}
