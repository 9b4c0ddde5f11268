/* winograd.h: 3x3 convolution of stride 1 or 2 through Winograd's minimal filtering.
 *
 * A tile of m x m outputs needs T x T inputs. With U = G w G^T (made when weights are packed) and
 * V = B^T x B, Y = A^T [sum over channels of U . V] A (Lavin and Gray 2016, Fast Algorithms for
 * Convolutional Neural Networks). Products for 4 x 4 outputs: 144 the direct way, here
 *     stride 1: T = m + 2.  m = 4: 36.  m = 2: 64, with fewer weights, for small maps.
 *     stride 2: T = 2m + 1. m = 4: 81.  m = 2: 100.
 * Stride 2 splits a filter by the parity of the sample that each tap meets: the outer two taps
 * see the even ones, m outputs of a filter of two taps, the middle one sees the odd ones, one
 * product each. These share their weight, so (m + 2)^2 matrices U serve all T^2 matrices V.
 * Points: 0, +-a, +-b; 0, +-1; 0, +-a, 3/2; 0, 1; and infinity; a = 1/sqrt 2, b = sqrt 2, which
 * err less than whole numbers.
 *
 * Blocking: a task is `block` tiles times a range of panels. For each panel of 2 VL outputs, T^2
 * matrix products by the kernel of gemm.h, whose rows are the tiles, fill M (T^2 x block x 2 VL),
 * which is transformed and written. All of U passes once for every block: where it is small, blocks
 * are so, too, and V and M stay in L2; where U outweighs V, too much to be read again, V is made
 * for the whole map by a step of its own, a block is as large as one matrix of V may be, and panels
 * are shared out.
 * Measured on a Zen 3 core (AVX2, peak 45.8 GMAC/s), as the direct way, m = 4: 167 (VGG-16, 512
 * channels on 28 x 28), which is 91 % of the peak.
 */
static const float WINO_A = 0.70710678118654752f, WINO_B = 1.41421356237309505f;

/* One dimension: in(D, S) reads samples D(0), D(1) .. and passes B^T of them to S(0, v) ..; out(D,
 * S) does the same with A^T. Derived from the points: row k of B^T has the coefficients of the
 * product of (x - p) over all other points p, column k of A^T the powers of p_k. */
#define WINO_IN_4X1(D, S)                                                                          \
    const vf d0 = D(0), d1 = D(1), d2 = D(2), d3 = D(3), d4 = D(4), d5 = D(5);                     \
    const vf two = v_set1(-2.0f), half = v_set1(-0.5f), k = v_set1(-2.5f);                         \
    const vf ea = v_fma(two, d2, d4), oa = v_mul(v_set1(WINO_A), v_fma(two, d1, d3));              \
    const vf eb = v_fma(half, d2, d4), ob = v_mul(v_set1(WINO_B), v_fma(half, d1, d3));            \
    S(0, v_fma(k, d2, v_add(d0, d4)))                                                              \
    S(1, v_add(ea, oa))                                                                            \
    S(2, v_sub(ea, oa))                                                                            \
    S(3, v_add(eb, ob))                                                                            \
    S(4, v_sub(eb, ob))                                                                            \
    S(5, v_fma(k, d3, v_add(d1, d5)))
#define WINO_OUT_4X1(D, S)                                                                         \
    const vf m1 = D(1), m2 = D(2), m3 = D(3), m4 = D(4);                                           \
    const vf sa = v_add(m1, m2), da = v_sub(m1, m2), sb = v_add(m3, m4), db = v_sub(m3, m4);       \
    S(0, v_add(D(0), v_add(sa, sb)))                                                               \
    S(1, v_fma(v_set1(WINO_A), da, v_mul(v_set1(WINO_B), db)))                                     \
    S(2, v_fma(v_set1(0.5f), sa, v_add(sb, sb)))                                                   \
    S(3, v_fma(v_set1(WINO_A / 2), da, v_fma(v_set1(2 * WINO_B), db, D(5))))

#define WINO_IN_2X1(D, S)                                                                          \
    const vf d1 = D(1), d2 = D(2);                                                                 \
    S(0, v_sub(d2, D(0)))                                                                          \
    S(1, v_add(d2, d1))                                                                            \
    S(2, v_sub(d2, d1))                                                                            \
    S(3, v_sub(D(3), d1))
#define WINO_OUT_2X1(D, S)                                                                         \
    const vf m1 = D(1), m2 = D(2);                                                                 \
    S(0, v_add(D(0), v_add(m1, m2)))                                                               \
    S(1, v_add(D(3), v_sub(m1, m2)))

#define WINO_IN_4X2(D, S)                                                                          \
    const vf d2 = D(2), d4 = D(4), d6 = D(6), half = v_set1(-0.5f), b = v_set1(-1.5f);             \
    const vf f = v_fma(half, d2, d6), p = v_fma(b, d4, d6);                                        \
    const vf q = v_mul(v_set1(WINO_A), v_fma(b, d2, d4));                                          \
    S(0, v_fma(b, v_fma(half, D(0), d4), f))                                                       \
    S(1, v_add(p, q))                                                                              \
    S(2, v_sub(p, q))                                                                              \
    S(3, f)                                                                                        \
    S(4, v_fma(b, f, v_fma(half, d4, D(8))))                                                       \
    S(5, D(1))                                                                                     \
    S(6, D(3))                                                                                     \
    S(7, D(5))                                                                                     \
    S(8, D(7))
#define WINO_OUT_4X2(D, S)                                                                         \
    const vf m1 = D(1), m2 = D(2), m3 = D(3);                                                      \
    const vf sum = v_add(m1, m2), dif = v_mul(v_set1(WINO_A), v_sub(m1, m2));                      \
    S(0, v_add(v_add(D(0), D(5)), v_add(sum, m3)))                                                 \
    S(1, v_fma(v_set1(1.5f), m3, v_add(dif, D(6))))                                                \
    S(2, v_fma(v_set1(2.25f), m3, v_fma(v_set1(0.5f), sum, D(7))))                                 \
    S(3, v_fma(v_set1(3.375f), m3, v_fma(v_set1(0.5f), dif, v_add(D(4), D(8)))))

#define WINO_IN_2X2(D, S)                                                                          \
    const vf d2 = D(2);                                                                            \
    S(0, v_sub(d2, D(0)))                                                                          \
    S(1, d2)                                                                                       \
    S(2, v_sub(D(4), d2))                                                                          \
    S(3, D(1))                                                                                     \
    S(4, D(3))
#define WINO_OUT_2X2(D, S)                                                                         \
    const vf m1 = D(1);                                                                            \
    S(0, v_add(D(3), v_add(D(0), m1)))                                                             \
    S(1, v_add(D(4), v_add(D(2), m1)))

#define WINO_MOST 9 /* the largest T */

/* Both dimensions. in: T^2 pixel pointers, all channels -> v[T^2], `stride` floats apart; out:
 * m[T^2], stride floats apart, one vector of channels -> m^2 vectors side by side. */
#define WINO_PIXEL(i)    (whole ? v_load(at[T * (i)] + c) : v_load_n(at[T * (i)] + c, n))
#define WINO_DOWN(i, v)  v_store(mid + ((i)*T + j) * VL, v);
#define WINO_ROW(j)      v_load(mid + (i * T + (j)) * VL)
#define WINO_V(j, value) v_store_n(to + (j)*stride, value, n);
#define WINO_V_ALL(j, v) v_store(to + (j)*stride, v);
#define WINO_M(i)        v_load(m + ((i)*T + j) * stride)
#define WINO_Y(j, v)     v_store(y + (i * side + (j)) * VL, v);
#define WINO_2D(name, tile, t, IN, OUT)                                                            \
    static void wino_in_##name(const float *const *pixel, int64_t channels, float *v,              \
                               int64_t stride)                                                     \
    {                                                                                              \
        enum { T = (t) };                                                                          \
        float mid[T * T * VL];                                                                     \
        for (int64_t c = 0; c < channels; c += VL) {                                               \
            const int64_t n = channels - c, whole = n >= VL;                                       \
            for (int64_t j = 0; j < T; j++) {                                                      \
                const float *const *at = pixel + j;                                                \
                IN(WINO_PIXEL, WINO_DOWN)                                                          \
            }                                                                                      \
            for (int64_t i = 0; i < T; i++) {                                                      \
                float *to = v + i * T * stride + c;                                                \
                if (whole) {                                                                       \
                    IN(WINO_ROW, WINO_V_ALL)                                                       \
                } else {                                                                           \
                    IN(WINO_ROW, WINO_V)                                                           \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void wino_out_##name(const float *m, int64_t stride, float *y)                          \
    {                                                                                              \
        enum { T = (t), side = (tile) };                                                           \
        float mid[side * T * VL];                                                                  \
        for (int64_t j = 0; j < T; j++) {                                                          \
            OUT(WINO_M, WINO_DOWN)                                                                 \
        }                                                                                          \
        for (int64_t i = 0; i < side; i++) {                                                       \
            OUT(WINO_ROW, WINO_Y)                                                                  \
        }                                                                                          \
    }
WINO_2D(4x1, 4, 6, WINO_IN_4X1, WINO_OUT_4X1)
WINO_2D(2x1, 2, 4, WINO_IN_2X1, WINO_OUT_2X1)
WINO_2D(4x2, 4, 9, WINO_IN_4X2, WINO_OUT_4X2)
WINO_2D(2x2, 2, 5, WINO_IN_2X2, WINO_OUT_2X2)

/* What a step needs to know, in numbers. */
typedef struct {
    int64_t m, T, across, map, all; /* tiles in a row, in an image, altogether */
    void (*in)(const float *const *pixel, int64_t channels, float *v, int64_t stride);
    void (*out)(const float *m, int64_t stride, float *y);
} wino_plan;

static wino_plan wino_plan_of(const tf_step *s, int64_t oh, int64_t ow)
{
    static const wino_plan plans[2][2] = {
        {{.in = wino_in_2x1, .out = wino_out_2x1}, {.in = wino_in_4x1, .out = wino_out_4x1}},
        {{.in = wino_in_2x2, .out = wino_out_2x2}, {.in = wino_in_4x2, .out = wino_out_4x2}}};
    wino_plan w = plans[s->sh - 1][s->tile / 2 - 1];
    w.m = s->tile;
    w.T = (w.m - 1) * s->sh + 3;
    w.across = tf_ceil_div(ow, w.m);
    w.map = w.across * tf_ceil_div(oh, w.m);
    w.all = s->n * w.map;
    return w;
}

/* V of tile t: T^2 rows of c floats, stride apart. */
static void wino_gather(const tf_call *call, const wino_plan *w, int64_t t, float *v,
                        int64_t stride)
{
    const tf_step *s = call->s;
    const float *pixel[WINO_MOST * WINO_MOST], **p = pixel;
    const int64_t i = t / w->map, y0 = t % w->map / w->across * w->m * s->sh - s->pt;
    const int64_t x0 = t % w->map % w->across * w->m * s->sw - s->pl;
    for (int64_t y = y0; y < y0 + w->T; y++) {
        const int64_t at = tf_at(&s->x, i, y, x0), inside = y >= 0 && y < s->h;
        for (int64_t x = 0; x < w->T; x++)
            *p++ =
                inside && x0 + x >= 0 && x0 + x < s->wd ? call->x + (at + x * s->x.ld) : call->zero;
    }
    w->in(pixel, s->c, v, stride);
}

/* V of the whole map: y is T^2 rows of tiles of c floats. */
static void wino_input_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    const tf_step *s = call->s;
    const int64_t oh = (s->h + s->pt + s->pb - 3) / s->sh + 1;
    const int64_t ow = (s->wd + s->pl + s->pr - 3) / s->sw + 1;
    const wino_plan w = wino_plan_of(s, oh, ow);
    int64_t from, to;
    tf_share(w.all, task, s->tasks, &from, &to);
    for (int64_t t = from; t < to; t++) wino_gather(call, &w, t, call->y + t * s->y.ld, s->y.row);
}

/* The outputs of tile t, one vector of channels from c on, of which n exist; or the larger of these
 * and the next vector's, TF_RIVALS. What the step says is asked for in front of the loops, since a
 * store of y might change it. */
static void wino_write(const tf_call *call, const wino_plan *w, int64_t t, float *y, int64_t c,
                       int64_t n)
{
    const tf_step *s = call->s;
    const int64_t i = t / w->map, oy = t % w->map / w->across * w->m, m = w->m;
    const int64_t ox = t % w->map % w->across * w->m, ldy = s->y.ld, ldz = s->z.ld;
    const int64_t rows = tf_min(m, s->oh - oy), cols = tf_min(m, s->ow - ox);
    const int act = s->act, smooth = act > TF_PRELU, whole = n >= VL;
    const vf bias = v_load(call->bias + c), slope = call->slope ? v_load(call->slope + c) : bias;
    const vf lo = v_set1(s->alpha), hi = v_set1(s->hi);
    const int rivals = s->flags & TF_RIVALS;
    const int64_t col = rivals ? c / 2 : c;
    const vf other = rivals ? v_load(call->bias + c + VL) : bias;
    for (int64_t k = 0; k < rows; k++) {
        const float *z = s->flags & TF_RESIDUAL ? call->z + tf_at(&s->z, i, oy + k, ox) + c : NULL;
        float *to = smooth ? y + k * m * VL : call->y + tf_at(&s->y, i, oy + k, ox) + col;
        for (int64_t j = 0; j < cols; j++, to += smooth ? VL : ldy) {
            vf v = v_add(v_load(y + (k * m + j) * VL), bias);
            if (z) v = v_add(v, v_load_n(z + j * ldz, n));
            if (rivals) v = v_max_nan(v, v_add(v_load(y + (16 + k * m + j) * VL), other));
            v_store_part(!smooth && !whole, to, v_linear(act, v, lo, hi, slope), n);
        }
    }
    if (!smooth) return;
    act_floats(y, m * m * VL, s);
    for (int64_t k = 0; k < rows; k++)
        for (int64_t j = 0; j < cols; j++)
            v_store_n(call->y + tf_at(&s->y, i, oy + k, ox + j) + c, v_load(y + (k * m + j) * VL),
                      n);
}

/* One panel: M = U V for all T^2 matrices. table: rows of V, `freq` floats from matrix to matrix,
 * and of M. The odd samples of stride 2 share the last row or column of the matrices U. U would be
 * waited for: the tiles of a product fetch the next matrix, except where vectors are short and U
 * is small. */
static void wino_product(const tf_call *call, const wino_plan *w, const float **table,
                         int64_t count, int64_t freq, int64_t first)
{
    static const tf_step plain = {.act = TF_NONE};
    const tf_step *s = call->s;
    const int64_t nv = s->oc - first > VL ? 2 : 1, last = w->m + 1;
    const int64_t most = s->oc > VL ? ROWS_WIDE : ROWS_SLIM, parts = tf_ceil_div(count, most);
    const int64_t rows = count / parts, more = count % parts, bytes = s->c * nv * VL * 4;
    const int fetch = VL >= 8 || s->flags & TF_TRANSFORMED;
    tf_tile t = {.kc = s->c,
                 .taps = 1,
                 .pitch = 2 * ROWS_MAX,
                 .s = &plain,
                 .n = nv * VL,
                 .apart = VL,
                 .bias = call->zero};
    for (int64_t k = 0; k < w->T * w->T; k++) {
        const int64_t u = tf_min(k / w->T, last) * (last + 1) + tf_min(k % w->T, last);
        t.w = (const char *)(call->w + ((last + 1) * (last + 1) * first + u * nv * VL) * s->c);
        t.next = t.w + (k + 1 < w->T * w->T ? bytes : 0);
        t.share = fetch ? bytes / parts : 0;
        t.ahead = t.share * 4 / s->c;
        t.xcol = k * freq;
        t.ycol = k * tf_odd_lines(count * 2 * VL);
        tiles_run(&t, table, parts, rows, more, tiles[nv - 1][0]);
    }
}

static void winograd_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    const wino_plan w = wino_plan_of(s, s->oh, s->ow);
    const int64_t wide = 2 * VL, squares = w.T * w.T;
    const int64_t ranges = tf_ceil_div(tf_ceil_div(s->oc, wide), s->panels);
    const int64_t t0 = task / ranges * s->block, count = tf_min(s->block, w.all - t0);
    const int64_t o0 = task % ranges * s->panels * wide, o1 = tf_min(o0 + s->panels * wide, s->oc);
    const int64_t sums = tf_odd_lines(count * wide);
    float *m = scratch, y[2 * 16 * VL]; /* [T^2][count][2 VL]; of one vector, or of two */
    float *own = m + squares * sums;
    const float *v = own; /* [T^2][count][c] */
    int64_t ld = s->c, freq = tf_odd_lines(count * s->c);
    if (s->flags & TF_TRANSFORMED)
        v = call->x + t0 * s->x.ld, ld = s->x.ld, freq = s->x.row;
    else
        for (int64_t t = 0; t < count; t++) wino_gather(call, &w, t0 + t, own + t * ld, freq);

    const int64_t most = s->oc > VL ? ROWS_WIDE : ROWS_SLIM, parts = tf_ceil_div(count, most);
    const int64_t vectors = s->flags & TF_TRANSFORMED ? 0 : squares * freq;
    const int64_t each = s->flags & TF_RIVALS ? wide : VL;
    const float **table = (const float **)(void *)(own + vectors);
    for (int64_t i = 0, t = 0; i < parts; i++)
        for (int64_t r = 0; r < count / parts + (i < count % parts); r++, t++) {
            table[2 * i * ROWS_MAX + r] = v + t * ld;
            table[(2 * i + 1) * ROWS_MAX + r] = m + t * wide;
        }
    for (int64_t first = o0; first < o1; first += wide) {
        wino_product(call, &w, table, count, freq, first);
        for (int64_t k = 0; k < count; k++)
            for (int64_t c = first; c < tf_min(first + wide, s->oc); c += each) {
                w.out(m + k * wide + c - first, sums, y);
                if (each > VL) w.out(m + k * wide + VL, sums, y + 16 * VL);
                wino_write(call, &w, t0 + k, y, c, s->oc - c);
            }
    }
}
