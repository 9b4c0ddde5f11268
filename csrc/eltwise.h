/* eltwise.h: add, subtract, multiply, divide, maximum, and y = x * w[c] + bias[c], each followed by
 * an activation.
 *
 * Bound by memory. Where no operand depends on the channel and the pixels lie side by side, a
 * row is one span; otherwise two vectors of channels are followed through the pixels of a row, with
 * what belongs to its channels in registers. Pixels of less than a vector, of an image say, are
 * taken several at a time, with what belongs to their channels as often. A second operand with
 * stride 0 is broadcast (the gate of squeeze-and-excitation), with TF_SPREAD one float of it to all
 * channels of a pixel. Smooth activations go over some pixels at a time, once these are there. In
 * place: y may be x or z. Tasks own rows. Measured on a Zen 3 core (AVX2, L2 103 GB/s): 3.5 cycles
 * a vector for PReLU of maps in L2 (7.5 with one vector at a time and the step asked for each).
 */
typedef struct {
    vf w[2], bias[2], slope[2]; /* of one or two vectors of channels */
} elt_params;

INLINE vf elt_two(const int op, vf v, vf z)
{
    return op == TF_ADD   ? v_add(v, z)
           : op == TF_SUB ? v_sub(v, z)
           : op == TF_MUL ? v_mul(v, z)
           : op == TF_DIV ? v_div(v, z)
                          : v_max_nan(v, z);
}

/* `count` times nv vectors, a stride apart in each operand; n floats of each exist, of z perhaps
 * one. Smooth activations are elt_row's. What the step says is asked for in front of the loop,
 * since a store of y might change it. */
INLINE void elt_vectors(const int op, const int nv, const tf_call *call, const float *x,
                        const float *z, float *y, int64_t count, int64_t ldx, int64_t ldz,
                        int64_t ldy, int64_t n, const elt_params *p)
{
    const tf_step *s = call->s;
    const int spread = s->flags & TF_SPREAD, act = s->act, part = n < VL;
    const int times = call->w != NULL, plus = call->bias != NULL;
    const vf lo = v_set1(s->alpha), hi = v_set1(s->hi);
    const elt_params own = *p;
    for (int64_t k = 0; k < count; k++, x += ldx, y += ldy)
        UNROLL (j, nv) {
            vf v = part ? v_load_n(x, n) : v_load(x + j * VL);
            if (op == TF_AFFINE) {
                if (times) v = v_mul(v, own.w[j]);
                if (plus) v = v_add(v, own.bias[j]);
            } else {
                const float *second = z + k * ldz + j * VL;
                v = elt_two(op, v,
                            spread ? v_set1(z[k * ldz])
                            : part ? v_load_n(second, n)
                                   : v_load(second));
            }
            v = v_linear(act, v, lo, hi, own.slope[j]);
            if (part)
                v_store_n(y, v, n);
            else
                v_store(y + j * VL, v);
        }
}

/* Vector k of a channel's numbers repeated without end; the same again after c vectors. */
static vf elt_repeated(const float *each, int64_t c, int64_t k, float otherwise)
{
    float t[VL];
    for (int64_t i = 0, at = k * VL % c; i < VL; i++, at = at + 1 < c ? at + 1 : 0)
        t[i] = each ? each[at] : otherwise;
    return v_load(t);
}

/* Pixels of c < VL channels side by side. */
INLINE void elt_narrow(const int op, const tf_call *call, const float *x, const float *z, float *y,
                       int64_t pixels)
{
    const int64_t c = call->s->c, n = pixels * c;
    for (int64_t k = 0; k < c; k++) {
        elt_params p = {0};
        p.w[0] = elt_repeated(call->w, c, k, 1.0f);
        p.bias[0] = elt_repeated(call->bias, c, k, 0.0f);
        p.slope[0] = elt_repeated(call->slope, c, k, 0.0f);
        for (int64_t at = k * VL; at < n; at += c * VL)
            elt_vectors(op, 1, call, x + at, z ? z + at : NULL, y + at, 1, 0, 0, 0, n - at, &p);
    }
}

/* Neighbouring pixels of a row, but for a smooth activation. */
INLINE void elt_pixels(const int op, const tf_call *call, const float *x, const float *z, float *y,
                       int64_t pixels)
{
    const tf_step *s = call->s;
    const int64_t each = s->flags & TF_SPREAD ? 0 : 1; /* floats of z a channel */
    const int dense = s->x.ld == s->c && s->y.ld == s->c && (!z || s->z.ld == s->c);
    const int whole = !call->w && !call->bias && !call->slope && (s->ow == 1 || (dense && each));
    elt_params p = {0};
    if (whole) {
        const int64_t n = pixels * s->c, full = n / VL, at = full * VL;
        elt_vectors(op, 1, call, x, z, y, full, VL, each * VL, VL, VL, &p);
        if (at < n)
            elt_vectors(op, 1, call, x + at, z ? z + each * at : NULL, y + at, 1, 0, 0, 0, n - at,
                        &p);
        return;
    }
    if (dense && each && s->c < VL && s->ow >= 4 * s->c) { /* worth the repeating */
        elt_narrow(op, call, x, z, y, pixels);
        return;
    }
    for (int64_t c = 0, nv; c < s->c; c += nv * VL) {
        const int64_t n = s->c - c;
        const float *second = z ? z + each * c : NULL;
        nv = n >= 2 * VL ? 2 : 1;
        for (int64_t j = 0; j < nv; j++) {
            if (call->w) p.w[j] = v_load_n(call->w + c + j * VL, n - j * VL);
            if (call->bias) p.bias[j] = v_load_n(call->bias + c + j * VL, n - j * VL);
            if (call->slope) p.slope[j] = v_load_n(call->slope + c + j * VL, n - j * VL);
        }
        if (nv == 2) /* of a cache line, mostly */
            elt_vectors(op, 2, call, x + c, second, y + c, pixels, s->x.ld, s->z.ld, s->y.ld, VL,
                        &p);
        else
            elt_vectors(op, 1, call, x + c, second, y + c, pixels, s->x.ld, s->z.ld, s->y.ld, n,
                        &p);
    }
}

enum { ELT_FLOATS = 2048 }; /* that a smooth activation finds in L1 */

INLINE void elt_row(const int op, const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const int smooth = s->act > TF_PRELU, dense = s->y.ld == s->c;
    const int64_t most = smooth ? tf_max(ELT_FLOATS / s->c, 1) : s->ow;
    const float *x = call->x + tf_at(&s->x, i, oy, 0);
    const float *z = call->z ? call->z + tf_at(&s->z, i, oy, 0) : NULL;
    float *y = call->y + tf_at(&s->y, i, oy, 0);
    for (int64_t ox = 0, n; ox < s->ow; ox += n, x += n * s->x.ld, y += n * s->y.ld) {
        n = tf_min(most, s->ow - ox);
        elt_pixels(op, call, x, z ? z + ox * s->z.ld : NULL, y, n);
        for (int64_t k = 0; smooth && k < n; k += dense ? n : 1)
            act_floats(y + k * s->y.ld, dense ? n * s->c : s->c, s);
    }
}
