/* window.h: max and average pooling over any window; the whole map is global pooling.
 *
 * Vectorised over channels, four vectors at a time (a pixel's lines are read one after the other,
 * and sums do not wait for each other), but a mean over neighbours of one channel (a row's, an
 * axis') over the taps. The window is clipped to the map, so padding is never read. Average pooling
 * divides by the pixels inside of the map, or with TF_COUNT_PAD inside of the map and its padding.
 * Tasks own rows of the output, or, where there are fewer rows than tasks (a mean along an axis),
 * ranges of channels.
 *
 * Measured on a Zen 3 core (AVX2): max pooling 24 to 36 GB/s, means of whole maps 20 to 23.
 */
/* nv vectors of channels; of a single one n floats exist. */
INLINE void window_vectors(const int max, const int nv, const tf_step *s, const float *x, float *y,
                           int64_t rows, int64_t cols, float scale, int64_t n)
{
    vf v[4];
    UNROLL (j, nv) v[j] = v_set1(max ? -INFINITY : 0.0f);
    for (int64_t ky = 0; ky < rows; ky++)
        for (int64_t kx = 0; kx < cols; kx++) {
            const float *p = x + ky * s->dh * s->x.row + kx * s->dw * s->x.ld;
            UNROLL (j, nv) {
                const vf in = nv > 1 ? v_load(p + j * VL) : v_load_n(p, n);
                v[j] = max ? v_max_nan(v[j], in) : v_add(v[j], in);
            }
        }
    UNROLL (j, nv) {
        if (!max) v[j] = v_mul(v[j], v_set1(scale));
        v_store_n(y + j * VL, v[j], n - j * VL);
    }
}

INLINE void window_pixel(const int max, const tf_step *s, const float *x, float *y, int64_t rows,
                         int64_t cols, float scale, int64_t c0, int64_t c1)
{
    int64_t c = c0;
    for (; c + 4 * VL <= c1; c += 4 * VL)
        window_vectors(max, 4, s, x + c, y + c, rows, cols, scale, 4 * VL);
    for (; c < c1; c += VL) window_vectors(max, 1, s, x + c, y + c, rows, cols, scale, c1 - c);
}

/* Part of a window of k taps, d apart, that starts at `at` and lies inside 0..side. */
static void window_clip(int64_t at, int64_t k, int64_t d, int64_t side, int64_t *first,
                        int64_t *count)
{
    const int64_t skip = at < 0 ? tf_ceil_div(-at, d) : 0;
    const int64_t fit = at >= side ? 0 : tf_ceil_div(side - at, d);
    *first = at + skip * d;
    *count = tf_max(0, tf_min(k, fit) - skip);
}

/* Taps of the window of one output that lie in the map or its padding. */
static int64_t window_count(const tf_step *s, int64_t oy, int64_t ox)
{
    int64_t at, rows, cols;
    window_clip(oy * s->sh, s->kh, s->dh, (int64_t)s->pt + s->h + s->pb, &at, &rows);
    window_clip(ox * s->sw, s->kw, s->dw, (int64_t)s->pl + s->wd + s->pr, &at, &cols);
    return rows * cols;
}

INLINE void window_rows(const int max, const tf_call *call, int32_t task)
{
    const tf_step *s = call->s;
    const int64_t units = (int64_t)s->n * s->oh;
    const int line = s->c == 1 && s->kw == 1 && s->dh * s->x.row == 1; /* taps side by side */
    int64_t from = 0, to = units, c0 = 0, c1 = s->c;
    if (units >= s->tasks) {
        tf_share(units, task, s->tasks, &from, &to);
    } else {
        tf_share(tf_ceil_div(s->c, VL), task, s->tasks, &c0, &c1);
        c0 *= VL;
        c1 = tf_min(c1 * VL, s->c);
    }
    for (int64_t u = from; u < to; u++) {
        const int64_t i = u / s->oh, oy = u % s->oh;
        int64_t iy, rows;
        window_clip(oy * s->sh - s->pt, s->kh, s->dh, s->h, &iy, &rows);
        for (int64_t ox = 0; ox < s->ow; ox++) {
            int64_t ix, cols;
            window_clip(ox * s->sw - s->pl, s->kw, s->dw, s->wd, &ix, &cols);
            const int64_t inside = rows * cols;
            const int64_t count = s->flags & TF_COUNT_PAD ? window_count(s, oy, ox) : inside;
            const float scale = count ? 1.0f / (float)count : 0.0f;
            const float *x = inside ? call->x + tf_at(&s->x, i, iy, ix) : call->x;
            float *y = call->y + tf_at(&s->y, i, oy, ox);
            if (!max && line && inside && c0 < c1)
                *y = (float)norm_sum(0, x, rows, 0.0f) * scale;
            else
                window_pixel(max, s, x, y, inside ? rows : 0, cols, scale, c0, c1);
        }
    }
}

static void window_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    if (call->s->op == TF_MAXPOOL)
        window_rows(1, call, task);
    else
        window_rows(0, call, task);
}
