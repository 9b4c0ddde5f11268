/* eltwise.h: add, multiply, maximum, and y = x * w[c] + bias[c], each followed by an activation.
 *
 * Bound by memory. Where no operand depends on the channel and the pixels lie side by side, a
 * row is one span; otherwise each pixel is one. A second operand with stride 0 is broadcast
 * (the gate of squeeze-and-excitation). In place: y may be x or z. Tasks own rows.
 */
static inline __attribute__((always_inline)) void
elt_span(const int op, const tf_call *call, const float *x, const float *z, float *y, int64_t n)
{
    const tf_step *s = call->s;
    for (int64_t c = 0; c < n; c += VL) {
        const int64_t left = n - c;
        vf v = left >= VL ? v_load(x + c) : v_load_n(x + c, left);
        if (op == TF_AFFINE) {
            if (call->w) v = v_mul(v, v_load_n(call->w + c, left));
            if (call->bias) v = v_add(v, v_load_n(call->bias + c, left));
        } else {
            const vf o = left >= VL ? v_load(z + c) : v_load_n(z + c, left);
            v = op == TF_ADD ? v_add(v, o) : op == TF_MUL ? v_mul(v, o) : v_max_nan(v, o);
        }
        if (s->act == TF_PRELU)
            v = v_prelu(v, v_load_n(call->slope + c, left));
        else if (s->act != TF_NONE)
            v = v_act(v, s);
        if (left >= VL)
            v_store(y + c, v);
        else
            v_store_n(y + c, v, left);
    }
}

static inline __attribute__((always_inline)) void elt_rows(const int op, const tf_call *call,
                                                           int32_t task)
{
    const tf_step *s = call->s;
    const int whole = !call->w && !call->bias && !call->slope && s->x.ld == s->c &&
                      s->y.ld == s->c && (!call->z || s->z.ld == s->c);
    const int64_t spans = whole ? 1 : s->ow, length = whole ? (int64_t)s->ow * s->c : s->c;
    int64_t from, to;
    tf_share((int64_t)s->n * s->oh, task, s->tasks, &from, &to);
    for (int64_t u = from; u < to; u++)
        for (int64_t k = 0; k < spans; k++) {
            const float *z = call->z ? call->z + tf_at(&s->z, u / s->oh, u % s->oh, k) : NULL;
            elt_span(op, call, call->x + tf_at(&s->x, u / s->oh, u % s->oh, k), z,
                     call->y + tf_at(&s->y, u / s->oh, u % s->oh, k), length);
        }
}

#define ELTWISE(name, op)                                                                          \
    static void name(const tf_call *call, int32_t task, void *scratch)                             \
    {                                                                                              \
        (void)scratch;                                                                             \
        elt_rows(op, call, task);                                                                  \
    }
ELTWISE(add_run, TF_ADD)
ELTWISE(mul_run, TF_MUL)
ELTWISE(maximum_run, TF_MAXIMUM)
ELTWISE(affine_run, TF_AFFINE)
