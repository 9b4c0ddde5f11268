/* act.h: activations on vectors, and the exponential under the smooth ones. */

/* e^x = 2^k * e^r with k whole and |r| <= ln(2)/2; Taylor's series of e^r to r^7 errs by less
 * than 6e-9 there, under half a unit in the last place. x is kept where the result is normal. */
static inline vf v_exp(vf x)
{
    x = v_min(v_set1(88.0f), v_max(v_set1(-87.0f), x));
    const vf magic = v_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    const vf biased = v_fma(x, v_set1(1.44269504f), magic);
    const vf k = v_sub(biased, magic);
    vf r = v_fma(k, v_set1(-0.693359375f), x); /* ln 2 in two parts, the first with few bits */
    r = v_fma(k, v_set1(2.12194440e-4f), r);
    vf p = v_set1(1.0f / 5040);
    p = v_fma(p, r, v_set1(1.0f / 720));
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_mul(p, v_pow2(biased));
}

static inline vf v_neg(vf v) { return v_sub(v_set1(0.0f), v); }
static inline vf v_abs(vf v) { return v_max(v_neg(v), v); }

static inline vf v_sigmoid(vf v)
{
    const vf one = v_set1(1.0f);
    return v_div(one, v_add(one, v_exp(v_neg(v))));
}

/* erfc(a) = exp(-a^2) t P(t) with t = 1 / (1 + a/2), for a >= 0. P, of degree 8, was fitted to the
 * least relative error (4e-8; with its rounding 3e-7), by Lawson's iteration over 0 .. 9.2. */
static inline vf v_erfc(vf a)
{
    const vf one = v_set1(1.0f), t = v_div(one, v_fma(v_set1(0.5f), a, one));
    vf p = v_set1(-0.058752913f);
    p = v_fma(p, t, v_set1(0.283024054f));
    p = v_fma(p, t, v_set1(-0.483967299f));
    p = v_fma(p, t, v_set1(0.274340722f));
    p = v_fma(p, t, v_set1(-0.0240359201f));
    p = v_fma(p, t, v_set1(0.201579864f));
    p = v_fma(p, t, v_set1(0.243386903f));
    p = v_fma(p, t, v_set1(0.282335842f));
    p = v_fma(p, t, v_set1(0.282088705f));
    return v_mul(v_mul(p, t), v_exp(v_neg(v_mul(a, a))));
}

static inline vf v_clip(vf v, float lo, float hi)
{
    return v_min(v_set1(hi), v_max(v_set1(lo), v));
}

static inline vf v_hswish(vf v)
{
    return v_mul(v, v_clip(v_fma(v, v_set1(1.0f / 6), v_set1(0.5f)), 0.0f, 1.0f));
}

/* Every activation without parameters per channel. */
static inline vf v_act(vf v, const tf_step *s)
{
    switch (s->act) {
    case TF_CLIP: return v_clip(v, s->alpha, s->hi);
    case TF_SIGMOID: return v_sigmoid(v);
    case TF_HSIGMOID: return v_clip(v_fma(v, v_set1(s->alpha), v_set1(s->beta)), 0.0f, 1.0f);
    case TF_HSWISH: return v_hswish(v);
    case TF_SILU: return v_mul(v, v_sigmoid(v));
    case TF_TANH: { /* 2 sigmoid(2v) - 1 */
        const vf two = v_set1(2.0f);
        return v_fma(two, v_sigmoid(v_mul(two, v)), v_set1(-1.0f));
    }
    case TF_ERF: /* 1 - erfc|v| with the sign of v, which v * 2^100 is, cut to -1 .. 1 */
        return v_mul(v_clip(v_mul(v, v_set1(0x1p100f)), -1.0f, 1.0f),
                     v_sub(v_set1(1.0f), v_erfc(v_abs(v))));
    case TF_GELU: { /* max(v, 0) - |v| erfc(|v| / sqrt 2) / 2, the same without cancellation */
        const vf root = v_set1(0.70710678f), a = v_mul(root, v_abs(v));
        return v_sub(v_max(v_set1(0.0f), v), v_mul(v_mul(root, a), v_erfc(a)));
    }
    case TF_EXP: { /* a square, so that it reaches 0 and infinity */
        const vf root = v_exp(v_mul(v_set1(0.5f), v));
        return v_mul(root, root);
    }
    case TF_SQRT: return v_sqrt(v);
    default: return v;
    }
}

static inline vf v_prelu(vf v, vf slope)
{
    const vf zero = v_set1(0.0f);
    return v_fma(slope, v_min(zero, v), v_max(zero, v));
}

/* Every activation; slope: of PReLU. */
static inline vf v_any_act(vf v, const tf_step *s, vf slope)
{
    return s->act == TF_PRELU ? v_prelu(v, slope) : v_act(v, s);
}

/* What a step does to n of its sums: the activation, and z added before or after it. */
static inline vf v_finish(vf v, const tf_step *s, vf slope, const float *z, int64_t n)
{
    if (s->flags & TF_RESIDUAL) v = v_add(v, v_load_n(z, n));
    v = v_any_act(v, s, slope);
    return s->flags & TF_RESIDUAL_END ? v_add(v, v_load_n(z, n)) : v;
}
