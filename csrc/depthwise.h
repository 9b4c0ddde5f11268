/* depthwise.h: convolution with one filter per channel, vectorised over the channels; and with few
 * channels per group (TF_GROUPED), several groups to a vector.
 *
 * Blocking: 4 neighbouring outputs times 2 vectors of channels are accumulated together, so an
 * input that several windows share is loaded once (3x3 stride 1: 18 instead of 36 loads) and a
 * weight serves 4 outputs. Inputs come through a table of pixel pointers, one row of it per
 * kernel row, in which padding points to zeros; a row of the table is made once and used by all
 * output rows whose windows touch it. Where channels do not fill the last vector, it begins so much
 * earlier: some are computed twice, which costs less than a part of a vector.
 * A group's d-th input is taken to all its lanes, and then things are as with one filter per
 * channel, for each d: in the tiles of gemm.h groups of 4 would fill a quarter of a vector of 16.
 * Maps of fewer than 4 outputs in a row (GDC) take one output and 4 vectors at a time.
 * What a panel of a convolution hands on (chain.c) has zeros around it and no gaps, so that it
 * needs no table and nine weights stay in registers: a loop of little else than its multiply-adds.
 * Measured on a Zen 3 core (AVX2, peak 51 GMAC/s), in networks: 3x3 20 to 23 at stride 1 and 14 at
 * 2, 7x7 24, 9x9 10 to 15; behind a panel 24 to 31 and 15 to 22. Groups of 2, 4 and 8 on a Xeon
 * with AVX-512 (peak 114 GMAC/s): 44, 50, 48 (as tiles 5, 13, 29).
 */
enum { STRIP = 4 };

#ifdef v_take
#define GROUPED_RUN depthwise_run
#else /* no instruction for it */
#define GROUPED_RUN      NULL
#define v_take(a, order) ((void)(order), (a))
typedef int32_t v_order;
static inline v_order v_order_of(int32_t d, int32_t depth) { return d + depth; }
#endif

/* Row ky of the kernel: each column of inputs goes to all outputs whose windows it is in. p: the
 * pixels under it, w: its first tap, both for n channels from c on. */
INLINE void dw_row(const int kw, const int sw, const int group, const int nv, const int part,
                   v_order order, const float *const *p, const float *w, int64_t ldw, int64_t c,
                   int64_t n, vf sum[STRIP][2])
{
    UNROLL (col, (STRIP - 1) * sw + kw) {
        vf x[2];
        UNROLL (j, nv) x[j] = v_load_part(part, p[col] + c + j * VL, n);
        if (group)
            UNROLL (j, nv) x[j] = v_take(x[j], order);
        UNROLL (i, STRIP) {
            const int tap = col - i * sw;
            if (tap >= 0 && tap < kw)
                UNROLL (j, nv) {
                    const vf weight = v_load_part(part, w + tap * ldw + j * VL, n);
                    sum[i][j] = v_fma(x[j], weight, sum[i][j]);
                }
        }
    }
}

/* All of a kernel of any width, stride and dilation. One loop: from one of two, gcc keeps no sums
 * in registers. */
INLINE void dw_taps(const int nv, const int part, const tf_step *s, const float *const *p,
                    int64_t pitch, const float *w, int64_t c, int64_t n, vf sum[STRIP][2])
{
    const int64_t taps = (int64_t)s->kh * s->kw, wide = (int64_t)s->kw * s->dw;
    for (int64_t tap = 0, x = 0; tap < taps; tap++, w += s->oc) {
        vf weight[2];
        UNROLL (j, nv) weight[j] = v_load_part(part, w + j * VL, n);
        UNROLL (i, STRIP) {
            const float *pixel = p[x + i * s->sw] + c;
            UNROLL (j, nv)
                sum[i][j] = v_fma(v_load_part(part, pixel + j * VL, n), weight[j], sum[i][j]);
        }
        x += s->dw;
        if (x == wide) p += pitch, x = 0;
    }
}

/* STRIP outputs x nv vectors of channels from c on; part: the last, incomplete vector. group:
 * outputs are of several channels. kh and kw (0: any), sw, group, nv and part are constants at the
 * call. */
INLINE void dw_strip(const int kh, const int kw, const int sw, const int group, const int nv,
                     const int part, const tf_call *call, const float *const *table, int64_t pitch,
                     float *y, int64_t c)
{
    const tf_step *s = call->s;
    const int64_t n = s->c - c, ldw = s->oc, ldy = s->y.ld;
    const int32_t depth = group ? s->c / s->groups : 1;
    vf sum[STRIP][2];
    UNROLL (i, STRIP)
        UNROLL (j, nv) sum[i][j] = v_load_part(part, call->bias + c + j * VL, n);
    const float *w = call->w + c;
    for (int32_t d = 0; d < depth; d++) {
        const v_order order = v_order_of(d, depth);
        if (kh == 3) /* no loop: 0.85 times the time (AVX2) */
            UNROLL (ky, 3)
                dw_row(kw, sw, group, nv, part, order, table + ky * pitch,
                       w + (d * 3 + ky) * kw * ldw, ldw, c, n, sum);
        else if (kw == 0)
            dw_taps(nv, part, s, table, pitch, w, c, n, sum);
        else
            for (int64_t ky = 0; ky < s->kh; ky++)
                dw_row(kw, sw, group, nv, part, order, table + ky * pitch, w + ky * kw * ldw, ldw,
                       c, n, sum);
    }
    const float *slope = call->slope ? call->slope + c : NULL;
    act_rows(STRIP, nv, part, sum, tf_min(n, nv * VL), s, slope);
    UNROLL (i, STRIP)
        UNROLL (j, nv) v_store_part(part, y + i * ldy + c + j * VL, sum[i][j], n);
}

#define DW_STRIPS(name, kh, kw, sw, group)                                                         \
    static void name(const tf_call *call, const float *const *table, int64_t pitch, float *y)      \
    {                                                                                              \
        const int64_t n = call->s->c;                                                              \
        int64_t c = 0;                                                                             \
        for (; c + 2 * VL <= n; c += 2 * VL)                                                       \
            dw_strip(kh, kw, sw, group, 2, 0, call, table, pitch, y, c);                           \
        for (; c < n && n >= VL; c += VL)                                                          \
            dw_strip(kh, kw, sw, group, 1, 0, call, table, pitch, y, tf_min(c, n - VL));           \
        if (n < VL) dw_strip(kh, kw, sw, group, 1, 1, call, table, pitch, y, 0);                   \
    }
DW_STRIPS(dw_3x3x1, 3, 3, 1, 0)
DW_STRIPS(dw_3x3x2, 3, 3, 2, 0)
DW_STRIPS(dw_5x1, 0, 5, 1, 0)
DW_STRIPS(dw_5x2, 0, 5, 2, 0)
DW_STRIPS(dw_7x1, 0, 7, 1, 0)
DW_STRIPS(dw_7x2, 0, 7, 2, 0)
DW_STRIPS(dw_any, 0, 0, 0, 0)
DW_STRIPS(dw_group_x1, 3, 3, 1, 1)
DW_STRIPS(dw_group_x2, 3, 3, 2, 1)

/* Row oy of a 3x3 on vector j of the channels that a panel of a convolution made (chain.c), with
 * zeros around the map; the first rows stand in z. Pixels follow each other without a gap: loads of
 * lower halves of cache lines alone seem to wait for one bank. The weights stay in registers. sw
 * and act (-1: any, and of a vector that may be a part of one) are constants at the call. */
INLINE void dw_flat(const int sw, const int act, const tf_call *call, int64_t oy, int64_t j)
{
    const tf_step *s = call->s;
    const int part = act < 0;
    const int64_t c = j * VL, n = s->c - c, ow = s->ow, ldy = s->y.ld;
    const vf bias = v_load_part(part, call->bias + c, n), lo = v_set1(s->alpha), hi = v_set1(s->hi);
    const int kind = part ? s->act : act;
    const vf slope = kind == TF_PRELU ? v_load_part(part, call->slope + c, n) : bias;
    const float *rows[3];
    float *y = call->y + oy * s->y.row + c;
    vf filter[3][3];
    UNROLL (ky, 3) {
        const int64_t r = oy * sw + ky;
        rows[ky] = r * s->x.row + (r < s->first ? call->z + j * s->z.img : call->x + j * s->x.img);
        UNROLL (kx, 3) filter[ky][kx] = v_load_part(part, call->w + (ky * 3 + kx) * s->oc + c, n);
    }
    for (int64_t k = 0; k < ow; k += STRIP) {
        const int64_t ox = tf_min(k, ow - STRIP);
        vf sum[STRIP][2];
        UNROLL (i, STRIP) sum[i][0] = bias;
        UNROLL (ky, 3)
            UNROLL (col, (STRIP - 1) * sw + 3) {
                const vf x = v_load(rows[ky] + (ox * sw + col) * VL);
                UNROLL (i, STRIP) {
                    const int tap = col - i * sw;
                    if (tap >= 0 && tap < 3) sum[i][0] = v_fma(x, filter[ky][tap], sum[i][0]);
                }
            }
        if (kind <= TF_PRELU)
            UNROLL (i, STRIP) sum[i][0] = v_linear(kind, sum[i][0], lo, hi, slope);
        else
            act_rows(STRIP, 1, part, sum, tf_min(n, VL), s, NULL);
        UNROLL (i, STRIP) v_store_part(part, y + (ox + i) * ldy, sum[i][0], n);
    }
}

#define DW_FLAT(act) (s->sw == 1 ? dw_flat(1, act, call, oy, j) : dw_flat(2, act, call, oy, j))

/* The panel's two vectors take turns row by row: they share cache lines of y. */
static void depthwise_flat(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    (void)task, (void)scratch;
    for (int64_t oy = 0; oy < s->oh; oy++)
        for (int64_t j = 0; j * VL < s->c; j++) {
            const int whole = s->c - j * VL >= VL;
            if (whole && s->act == TF_CLIP)
                DW_FLAT(TF_CLIP);
            else if (whole && s->act == TF_PRELU)
                DW_FLAT(TF_PRELU);
            else
                DW_FLAT(-1);
        }
}

/* One output pixel, any window, nv vectors of channels from c on. */
INLINE void dw_vectors(const int nv, const tf_call *call, const float *const *table, int64_t pitch,
                       float *y, int64_t c)
{
    const tf_step *s = call->s;
    const int part = nv == 1;
    const int64_t n = s->c - c;
    vf sum[4];
    UNROLL (j, nv) sum[j] = v_load_part(part, call->bias + c + j * VL, n);
    const float *w = call->w + c;
    for (int64_t ky = 0; ky < s->kh; ky++)
        for (int64_t kx = 0; kx < s->kw; kx++, w += s->c) {
            const float *x = table[ky * pitch + kx * s->dw] + c;
            UNROLL (j, nv)
                sum[j] = v_fma(v_load_part(part, x + j * VL, n), v_load_part(part, w + j * VL, n),
                               sum[j]);
        }
    UNROLL (j, nv) {
        const vf slope = call->slope ? v_load_part(part, call->slope + c + j * VL, n) : sum[j];
        v_store_part(part, y + c + j * VL, v_any_act(sum[j], s, slope), n);
    }
}

/* All channels: 4 vectors side by side, because a single sum would wait for the latency of every
 * addition. */
static void dw_pixel(const tf_call *call, const float *const *table, int64_t pitch, float *y)
{
    int64_t c = 0;
    for (; c + 4 * VL <= call->s->c; c += 4 * VL) dw_vectors(4, call, table, pitch, y, c);
    for (; c < call->s->c; c += VL) dw_vectors(1, call, table, pitch, y, c);
}

/* Pointers to the pixels of input row iy, from column -pl on; zeros outside of the map. */
static void dw_point(const tf_call *call, const float **row, int64_t i, int64_t iy, int64_t pitch)
{
    const tf_step *s = call->s;
    const int inside = iy >= 0 && iy < s->h;
    const int64_t left = inside ? tf_min(s->pl, pitch) : pitch, most = tf_min(s->wd, pitch - left);
    conv_fill(row, call->zero, 0, left);
    conv_fill(row + left, call->x + tf_at(&s->x, i, iy, 0), s->x.ld, most);
    conv_fill(row + left + most, call->zero, 0, pitch - left - most);
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
    static strip_fn *const strips[3][2] = {
        {dw_3x3x1, dw_3x3x2}, {dw_5x1, dw_5x2}, {dw_7x1, dw_7x2}};
    const int listed =
        s->dw == 1 && s->sw <= 2 && ((s->kw == 3 && s->kh == 3) || s->kw == 5 || s->kw == 7);
    strip_fn *strip = listed ? strips[(s->kw - 3) / 2][s->sw - 1] : dw_any;
    if (s->op == TF_GROUPED) strip = s->sw == 1 ? dw_group_x1 : dw_group_x2;

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
        if (s->ow < STRIP) {
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
