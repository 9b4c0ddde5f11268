/* eltwise.h: add, subtract, multiply, divide, maximum, and y = x * w[c] + bias[c], each followed by
 * an activation.
 *
 * Bound by memory. Where no operand depends on the channel and the pixels lie side by side, a
 * row is one span; otherwise a vector of channels is followed through the pixels of a row, with
 * what belongs to its channels in registers. Pixels of less than a vector, of an image say, are
 * taken several at a time, with what belongs to their channels as often. A second operand with
 * stride 0 is broadcast (the gate of squeeze-and-excitation), with TF_SPREAD one float of it to all
 * channels of a pixel. In place: y may be x or z. Tasks own rows. Measured on a Zen 3 core (AVX2,
 * L2 74 GB/s): 44 to 55 GB/s in GhostFaceNet-v2.
 */
typedef struct {
    vf w, bias, slope; /* of one vector of channels */
} elt_params;

INLINE vf elt_one(const int op, const tf_call *call, vf v, vf z, const elt_params *p)
{
    if (op == TF_AFFINE) {
        if (call->w) v = v_mul(v, p->w);
        if (call->bias) v = v_add(v, p->bias);
    } else {
        v = op == TF_ADD   ? v_add(v, z)
            : op == TF_SUB ? v_sub(v, z)
            : op == TF_MUL ? v_mul(v, z)
            : op == TF_DIV ? v_div(v, z)
                           : v_max_nan(v, z);
    }
    return v_any_act(v, call->s, p->slope);
}

/* `count` vectors, a stride apart in each operand; n floats of each exist, of z perhaps one. */
INLINE void elt_vectors(const int op, const tf_call *call, const float *x, const float *z, float *y,
                        int64_t count, int64_t ldx, int64_t ldz, int64_t ldy, int64_t n,
                        const elt_params *p)
{
    const int spread = call->s->flags & TF_SPREAD;
    vf second = v_set1(0.0f);
    if (n >= VL)
        for (int64_t k = 0; k < count; k++, x += ldx, y += ldy) {
            if (z) second = spread ? v_set1(z[k * ldz]) : v_load(z + k * ldz);
            v_store(y, elt_one(op, call, v_load(x), second, p));
        }
    else
        for (int64_t k = 0; k < count; k++, x += ldx, y += ldy) {
            if (z) second = spread ? v_set1(z[k * ldz]) : v_load_n(z + k * ldz, n);
            v_store_n(y, elt_one(op, call, v_load_n(x, n), second, p), n);
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

/* A row of pixels of c < VL channels side by side. */
INLINE void elt_narrow(const int op, const tf_call *call, const float *x, const float *z, float *y)
{
    const tf_step *s = call->s;
    const int64_t c = s->c, n = s->ow * c;
    for (int64_t k = 0; k < c; k++) {
        const elt_params p = {elt_repeated(call->w, c, k, 1.0f),
                              elt_repeated(call->bias, c, k, 0.0f),
                              elt_repeated(call->slope, c, k, 0.0f)};
        for (int64_t at = k * VL; at < n; at += c * VL)
            elt_vectors(op, call, x + at, z ? z + at : NULL, y + at, 1, 0, 0, 0, n - at, &p);
    }
}

INLINE void elt_row(const int op, const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const float *x = call->x + tf_at(&s->x, i, oy, 0);
    const float *z = call->z ? call->z + tf_at(&s->z, i, oy, 0) : NULL;
    float *y = call->y + tf_at(&s->y, i, oy, 0);
    const int64_t each = s->flags & TF_SPREAD ? 0 : 1; /* floats of z a channel */
    const int dense = s->x.ld == s->c && s->y.ld == s->c && (!call->z || s->z.ld == s->c);
    const int whole = !call->w && !call->bias && !call->slope && (s->ow == 1 || (dense && each));
    elt_params p = {v_set1(1.0f), v_set1(0.0f), v_set1(0.0f)};
    if (whole) {
        const int64_t n = (int64_t)s->ow * s->c, full = n / VL, at = full * VL;
        elt_vectors(op, call, x, z, y, full, VL, each * VL, VL, VL, &p);
        if (at < n)
            elt_vectors(op, call, x + at, z ? z + each * at : NULL, y + at, 1, 0, 0, 0, n - at, &p);
        return;
    }
    if (dense && each && s->c < VL && s->ow >= 4 * s->c) { /* worth the repeating */
        elt_narrow(op, call, x, z, y);
        return;
    }
    for (int64_t c = 0; c < s->c; c += VL) {
        const int64_t n = s->c - c;
        if (call->w) p.w = v_load_n(call->w + c, n);
        if (call->bias) p.bias = v_load_n(call->bias + c, n);
        if (call->slope) p.slope = v_load_n(call->slope + c, n);
        elt_vectors(op, call, x + c, z ? z + each * c : NULL, y + c, s->ow, s->x.ld, s->z.ld,
                    s->y.ld, n, &p);
    }
}
