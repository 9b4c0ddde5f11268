/* depthwise.h: convolution with one filter per channel, vectorised over the channels.
 *
 * Blocking: 4 neighbouring outputs times 2 vectors of channels are accumulated together, so an
 * input that several windows share is loaded once (3x3 stride 1: 18 instead of 36 loads) and a
 * weight serves 4 outputs. Inputs come through a table of pixel pointers, one row of it per
 * kernel row, in which padding points to zeros; a row of the table is made once and used by all
 * output rows whose windows touch it.
 * Kernels as large as the map (GDC) and other shapes take one output and 4 vectors at a time.
 */
enum { STRIP = 4 };

#define DW_EACH(M) M(0) M(1) M(2) M(3)

/* acc += x * w for the kernel column under which input column `col` lies of output `i`. */
#define DW_TAP(i)                                                                                  \
    if (col - (i)*sw >= 0 && col - (i)*sw < kw) {                                                  \
        const int tap = col - (i)*sw;                                                              \
        a##i = v_fma(x0, flat ? filter[at_row + tap] : DW_LOAD(w + tap * ldw), a##i);              \
        if (nv > 1) b##i = v_fma(x1, v_load(w + (col - (i)*sw) * ldw + VL), b##i);                 \
    }
#define DW_COLUMN(k)                                                                               \
    if ((k) < (STRIP - 1) * sw + kw) {                                                             \
        const int col = (k);                                                                       \
        const float *at = (flat ? row + (k)*VL : p[k]) + c;                                        \
        const vf x0 = DW_LOAD(at), x1 = nv > 1 ? v_load(at + VL) : x0;                             \
        DW_EACH(DW_TAP)                                                                            \
    }

#define DW_ROW(ky)                                                                                 \
    {                                                                                              \
        const float *const *p = table + (ky)*pitch;                                                \
        const float *row = flat ? table[ky] + pitch : NULL;                                        \
        const float *w = call->w + c + (ky)*kw * ldw;                                              \
        const int64_t at_row = (ky)*kw;                                                            \
        DW_COLUMN(0)                                                                               \
        DW_COLUMN(1)                                                                               \
        DW_COLUMN(2)                                                                               \
        DW_COLUMN(3)                                                                               \
        DW_COLUMN(4)                                                                               \
        DW_COLUMN(5)                                                                               \
        DW_COLUMN(6)                                                                               \
        DW_COLUMN(7)                                                                               \
        DW_COLUMN(8)                                                                               \
        DW_COLUMN(9)                                                                               \
        DW_COLUMN(10)                                                                              \
    }

#define DW_PRELU(i)                                                                                \
    a##i = v_prelu(a##i, s0);                                                                      \
    if (nv > 1) b##i = v_prelu(b##i, s1);
#define DW_LOW(i)                                                                                  \
    a##i = v_max(lo, a##i);                                                                        \
    if (nv > 1) b##i = v_max(lo, b##i);
#define DW_HIGH(i)                                                                                 \
    a##i = v_min(hi, a##i);                                                                        \
    if (nv > 1) b##i = v_min(hi, b##i);
#define DW_ACT(i)                                                                                  \
    a##i = v_act(a##i, s);                                                                         \
    if (nv > 1) b##i = v_act(b##i, s);
#define DW_STORE(i)                                                                                \
    if (part)                                                                                      \
        v_store_n(y + (i)*ldy + c, a##i, s->c - c);                                                \
    else                                                                                           \
        v_store(y + (i)*ldy + c, a##i);                                                            \
    if (nv > 1) v_store(y + (i)*ldy + c + VL, b##i);

#define DW_LOAD(p) (part ? v_load_n(p, s->c - c) : v_load(p))

static inline vf dw_act(vf v, const tf_call *call, int64_t c)
{
    const tf_step *s = call->s;
    if (s->act == TF_NONE) return v;
    if (s->act == TF_PRELU) return v_prelu(v, v_load_n(call->slope + c, s->c - c));
    return v_act(v, s);
}

/* STRIP outputs x nv vectors of channels from c on; part: the last, incomplete vector. flat:
 * pixels are VL floats apart, the table points to rows and pitch is where the window begins in
 * them, filter has the weights. kh (0: any), kw, sw, flat, nv and part are constants at the call.
 */
static inline __attribute__((always_inline)) void
dw_strip(const int kh, const int kw, const int sw, const int flat, const int nv, const int part,
         const vf *filter, const tf_call *call, const float *const *table, int64_t pitch, float *y,
         int64_t c)
{
    const tf_step *s = call->s;
    const int64_t ldw = s->oc, ldy = s->y.ld;
    const vf bias0 = DW_LOAD(call->bias + c), bias1 = nv > 1 ? v_load(call->bias + c + VL) : bias0;
    vf a0 = bias0, a1 = bias0, a2 = bias0, a3 = bias0;
    vf b0 = bias1, b1 = bias1, b2 = bias1, b3 = bias1;
    if (kh == 3) { /* no loop: 0.85 times the time (AVX2) */
        DW_ROW(0)
        DW_ROW(1)
        DW_ROW(2)
    } else {
        for (int32_t ky = 0; ky < s->kh; ky++) {
            DW_ROW(ky)
        }
    }
    if (s->act == TF_PRELU) {
        const vf s0 = DW_LOAD(call->slope + c), s1 = nv > 1 ? v_load(call->slope + c + VL) : s0;
        DW_EACH(DW_PRELU)
    } else if (s->act == TF_CLIP) {
        const vf lo = v_set1(s->alpha), hi = v_set1(s->hi);
        DW_EACH(DW_LOW)
        if (s->hi < INFINITY) { /* not for a plain ReLU */
            DW_EACH(DW_HIGH)
        }
    } else if (s->act != TF_NONE) {
        DW_EACH(DW_ACT)
    }
    DW_EACH(DW_STORE)
}

#define DW_STRIPS(name, kh, kw, sw)                                                                \
    static void name(const tf_call *call, const float *const *table, int64_t pitch, float *y)      \
    {                                                                                              \
        const int64_t n = call->s->c;                                                              \
        int64_t c = 0;                                                                             \
        for (; c + 2 * VL <= n; c += 2 * VL)                                                       \
            dw_strip(kh, kw, sw, 0, 2, 0, NULL, call, table, pitch, y, c);                         \
        for (; c + VL <= n; c += VL)                                                               \
            dw_strip(kh, kw, sw, 0, 1, 0, NULL, call, table, pitch, y, c);                         \
        if (c < n) dw_strip(kh, kw, sw, 0, 1, 1, NULL, call, table, pitch, y, c);                  \
    }
DW_STRIPS(dw_3x3x1, 3, 3, 1)
DW_STRIPS(dw_3x3x2, 3, 3, 2)
DW_STRIPS(dw_3x1, 0, 3, 1)
DW_STRIPS(dw_3x2, 0, 3, 2)
DW_STRIPS(dw_5x1, 0, 5, 1)
DW_STRIPS(dw_5x2, 0, 5, 2)
DW_STRIPS(dw_7x1, 0, 7, 1)

/* 3x3 on one vector of channels that a panel of a convolution made (chain.c), with zeros around the
 * map; the first rows stand in z. Pixels follow each other without a gap: loads of lower halves of
 * cache lines alone seem to wait for one bank (Zen 3: 6.8 and 9.8 cycles a vector at stride 1 and
 * 2, like this 6.0 and 8.2). The nine weights stay in registers. */
static inline __attribute__((always_inline)) void dw_flat(const int sw, const int part,
                                                          const tf_call *call)
{
    const tf_step *s = call->s;
    const int64_t c = 0;
    vf filter[9];
    for (int k = 0; k < 9; k++) filter[k] = DW_LOAD(call->w + k * s->oc);
    for (int64_t oy = 0; oy < s->oh; oy++) {
        const float *rows[3];
        for (int64_t r = oy * sw, ky = 0; ky < 3; r++, ky++)
            rows[ky] = (r < s->first ? call->z : call->x) + r * s->x.row;
        for (int64_t k = 0; k < s->ow; k += STRIP) {
            const int64_t ox = tf_min(k, s->ow - STRIP);
            dw_strip(3, 3, sw, 1, 1, part, filter, call, rows, ox * sw * VL,
                     call->y + oy * s->y.row + ox * s->y.ld, c);
        }
    }
}

static void depthwise_flat(const tf_call *call, int32_t task, void *scratch)
{
    (void)task, (void)scratch;
    if (call->s->c < VL)
        call->s->sw == 1 ? dw_flat(1, 1, call) : dw_flat(2, 1, call);
    else
        call->s->sw == 1 ? dw_flat(1, 0, call) : dw_flat(2, 0, call);
}

/* One output pixel, any window. 4 vectors run side by side because a single sum would wait for
 * the latency of every addition. */
static void dw_pixel(const tf_call *call, const float *const *table, int64_t pitch, float *y)
{
    const tf_step *s = call->s;
    int64_t c = 0;
    for (; c + 4 * VL <= s->c; c += 4 * VL) {
        vf a0 = v_load(call->bias + c), a1 = v_load(call->bias + c + VL);
        vf a2 = v_load(call->bias + c + 2 * VL), a3 = v_load(call->bias + c + 3 * VL);
        const float *w = call->w + c;
        for (int64_t ky = 0; ky < s->kh; ky++)
            for (int64_t kx = 0; kx < s->kw; kx++, w += s->c) {
                const float *x = table[ky * pitch + kx * s->dw] + c;
                a0 = v_fma(v_load(x), v_load(w), a0);
                a1 = v_fma(v_load(x + VL), v_load(w + VL), a1);
                a2 = v_fma(v_load(x + 2 * VL), v_load(w + 2 * VL), a2);
                a3 = v_fma(v_load(x + 3 * VL), v_load(w + 3 * VL), a3);
            }
        v_store(y + c, dw_act(a0, call, c));
        v_store(y + c + VL, dw_act(a1, call, c + VL));
        v_store(y + c + 2 * VL, dw_act(a2, call, c + 2 * VL));
        v_store(y + c + 3 * VL, dw_act(a3, call, c + 3 * VL));
    }
    for (; c < s->c; c += VL) {
        const int64_t n = s->c - c;
        vf a = v_load_n(call->bias + c, n);
        const float *w = call->w + c;
        for (int64_t ky = 0; ky < s->kh; ky++)
            for (int64_t kx = 0; kx < s->kw; kx++, w += s->c)
                a = v_fma(v_load_n(table[ky * pitch + kx * s->dw] + c, n), v_load_n(w, n), a);
        if (s->act == TF_PRELU)
            a = v_prelu(a, v_load_n(call->slope + c, n));
        else
            a = v_act(a, s);
        v_store_n(y + c, a, n);
    }
}

/* Pointers to the pixels of input row iy, from column -pl on; zeros outside of the map. */
static void dw_point(const tf_call *call, const float **row, int64_t i, int64_t iy, int64_t pitch)
{
    const tf_step *s = call->s;
    const int inside = iy >= 0 && iy < s->h;
    int64_t at = tf_at(&s->x, i, iy, 0);
    for (int64_t k = 0; k < pitch; k++) {
        const int64_t ix = k - s->pl;
        const int there = inside && ix >= 0 && ix < s->wd;
        row[k] = there ? call->x + at : call->zero;
        if (there) at += s->x.ld;
    }
}

static void depthwise_run(const tf_call *call, int32_t task, void *scratch)
{
    typedef void strip_fn(const tf_call *, const float *const *, int64_t, float *);
    const tf_step *s = call->s;
    int64_t from, to;
    tf_share((int64_t)s->n * s->oh, task, s->tasks, &from, &to);
#ifdef ROLL
    if (rolls(s)) {
        roll_run(call, from, to);
        return;
    }
#endif
    strip_fn *strip = NULL;
    if (s->dw == 1 && s->sw == 1)
        strip = s->kw == 3 ? dw_3x1 : s->kw == 5 ? dw_5x1 : s->kw == 7 ? dw_7x1 : NULL;
    if (s->dw == 1 && s->sw == 2) strip = s->kw == 3 ? dw_3x2 : s->kw == 5 ? dw_5x2 : NULL;
    if (s->kh == 3) strip = strip == dw_3x1 ? dw_3x3x1 : strip == dw_3x2 ? dw_3x3x2 : strip;

    const int64_t pitch = (int64_t)(s->ow - 1) * s->sw + (int64_t)(s->kw - 1) * s->dw + 1;
    const float **table = scratch; /* [kh][pitch]: the pixels under the current windows */
    const int64_t shift = s->sh % s->dh == 0 ? tf_min(s->sh / s->dh, s->kh) : s->kh;
    for (int64_t u = from; u < to; u++) {
        const int64_t i = u / s->oh, oy = u % s->oh;
        /* going down one output row, the windows' lower rows become their upper ones */
        const int64_t keep = u > from && oy > 0 ? s->kh - shift : 0;
        memmove(table, table + shift * pitch, (size_t)(keep * pitch) * sizeof *table);
        for (int64_t ky = keep; ky < s->kh; ky++)
            dw_point(call, table + ky * pitch, i, oy * s->sh - s->pt + ky * s->dh, pitch);
        float *y = call->y + tf_at(&s->y, i, oy, 0);
        if (!strip || s->ow < STRIP) {
            for (int64_t ox = 0; ox < s->ow; ox++)
                dw_pixel(call, table + ox * s->sw, pitch, y + ox * s->y.ld);
            continue;
        }
        for (int64_t k = 0; k < s->ow; k += STRIP) { /* the last strip may overlap the one before */
            const int64_t ox = tf_min(k, s->ow - STRIP);
            strip(call, table + ox * s->sw, pitch, y + ox * s->y.ld);
        }
    }
}
