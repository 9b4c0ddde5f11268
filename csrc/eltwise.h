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

/* Vectors a stride apart in each operand; n floats of each exist, of z perhaps one. */
typedef struct {
    const float *x, *z;
    float *y;
    int64_t ldx, ldz, ldy, n;
} elt_operands;

/* `count` times nv vectors. Smooth activations are elt_row's. What the step says is asked for in
 * front of the loop, since a store of y might change it. */
INLINE void elt_vectors(const int op, const int nv, const tf_call *call, const elt_operands *o,
                        int64_t count, const elt_params *p)
{
    const tf_step *s = call->s;
    const int spread = s->flags & TF_SPREAD, act = s->act, part = nv == 1 && o->n < VL;
    const int times = call->w != NULL, plus = call->bias != NULL;
    const vf lo = v_set1(s->alpha), hi = v_set1(s->hi);
    const int64_t ldx = o->ldx, ldz = o->ldz, ldy = o->ldy, n = o->n;
    const elt_params own = *p;
    const float *x = o->x, *z = o->z;
    float *y = o->y;
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

typedef void elt_fn(const tf_call *call, const elt_operands *o, int64_t count, const elt_params *p);
#define ELT(op, nv)                                                                                \
    static void elt_##op##_##nv(const tf_call *call, const elt_operands *o, int64_t count,         \
                                const elt_params *p)                                               \
    {                                                                                              \
        elt_vectors(op, nv, call, o, count, p);                                                    \
    }
#define ELTS(M)  M(TF_ADD) M(TF_SUB) M(TF_MUL) M(TF_DIV) M(TF_MAXIMUM) M(TF_AFFINE)
#define BOTH(op) ELT(op, 1) ELT(op, 2)
ELTS(BOTH)
#define NAMES(op) {elt_##op##_1, elt_##op##_2},
static elt_fn *const elt_fns[][2] = {ELTS(NAMES)}; /* [op - TF_ADD][nv - 1] */

/* A span of n floats, every `step`-th vector of it; parameters are those of one vector. */
static void elt_span(elt_fn *const fn, const tf_call *call, elt_operands o, int64_t n, int64_t step,
                     const elt_params *p)
{
    const int64_t count = n < VL ? 0 : (n - VL) / (step * VL) + 1, at = count * step * VL;
    o.ldx = o.ldy = step * VL, o.ldz = step * o.ldz, o.n = VL;
    fn(call, &o, count, p);
    if (at >= n) return;
    o.x += at, o.y += at, o.n = n - at;
    if (o.z) o.z += count * o.ldz;
    fn(call, &o, 1, p);
}

/* Neighbouring pixels of a row, but for a smooth activation. */
static void elt_pixels(const tf_call *call, const float *x, const float *z, float *y,
                       int64_t pixels)
{
    const tf_step *s = call->s;
    elt_fn *const *const fn = elt_fns[s->op - TF_ADD];
    const int64_t c = s->c, each = s->flags & TF_SPREAD ? 0 : 1; /* floats of z a channel */
    const int dense = s->x.ld == c && s->y.ld == c && (!z || s->z.ld == c);
    const int whole = !call->w && !call->bias && !call->slope && (s->ow == 1 || (dense && each));
    elt_params p = {0};
    elt_operands o = {x, z, y, VL, each * VL, VL, VL};
    if (whole) {
        elt_span(fn[0], call, o, pixels * c, 1, &p);
        return;
    }
    if (dense && each && c < VL && s->ow >= 4 * c) { /* worth the repeating */
        for (int64_t k = 0, at = 0; k < c && at < pixels * c; k++, at += VL) {
            p.w[0] = elt_repeated(call->w, c, k, 1.0f);
            p.bias[0] = elt_repeated(call->bias, c, k, 0.0f);
            p.slope[0] = elt_repeated(call->slope, c, k, 0.0f);
            o.x = x + at, o.z = z ? z + at : NULL, o.y = y + at;
            elt_span(fn[0], call, o, pixels * c - at, c, &p);
        }
        return;
    }
    o.ldx = s->x.ld, o.ldz = s->z.ld, o.ldy = s->y.ld;
    for (int64_t at = 0, nv; at < c; at += nv * VL) {
        nv = c - at >= 2 * VL ? 2 : 1; /* two are a cache line, mostly */
        for (int64_t j = 0, to = at; j < nv; j++, to += VL) {
            if (call->w) p.w[j] = v_load_n(call->w + to, c - to);
            if (call->bias) p.bias[j] = v_load_n(call->bias + to, c - to);
            if (call->slope) p.slope[j] = v_load_n(call->slope + to, c - to);
        }
        o.x = x + at, o.z = z ? z + each * at : NULL, o.y = y + at, o.n = c - at;
        fn[nv - 1](call, &o, pixels, &p);
    }
}

enum { ELT_FLOATS = 2048 }; /* that a smooth activation finds in L1 */

static void elt_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const int smooth = s->act > TF_PRELU, dense = s->y.ld == s->c;
    const int64_t most = smooth ? tf_max(ELT_FLOATS / s->c, 1) : s->ow;
    const float *x = call->x + tf_at(&s->x, i, oy, 0);
    const float *z = call->z ? call->z + tf_at(&s->z, i, oy, 0) : NULL;
    float *y = call->y + tf_at(&s->y, i, oy, 0);
    for (int64_t ox = 0, n; ox < s->ow; ox += n, x += n * s->x.ld, y += n * s->y.ld) {
        n = tf_min(most, s->ow - ox);
        elt_pixels(call, x, z ? z + ox * s->z.ld : NULL, y, n);
        for (int64_t k = 0; smooth && k < n; k += dense ? n : 1)
            act_floats(y + k * s->y.ld, dense ? n * s->c : s->c, s);
    }
}
