/* move.h: operators that only move numbers: the change of layout at the edges of a graph,
 * channel shuffle, and nearest or bilinear resizing. Tasks own rows of the output. */

static void zero_pixels(float *y, int64_t pixels, int64_t ld, int64_t channels)
{
    for (int64_t k = 0; k < pixels; k++) tf_zero(y + k * ld, channels);
}

/* y[i][k] = x[k][i]: one row of n pixels, channels last, from c planes, or the other way round. A
 * block at a time of the y[i], so that what is written side by side is written at once. */
enum { INTERLEAVED = 64 };
static void interleave(float *y, int64_t ld, const float *x, int64_t plane, int64_t n, int64_t c)
{
    int64_t done = 0;
    if (c == 3 && ld == 3) /* an image */
        for (; done + ZIP <= n; done += ZIP) store_zip3(y + 3 * done, x + done, plane);
    for (int64_t k0 = 0; k0 < c; k0 += INTERLEAVED, x += INTERLEAVED * plane, y += INTERLEAVED) {
        const int64_t end = tf_min(INTERLEAVED, c - k0);
        const int squares = n >= ZIP && end >= ZIP; /* the last ones overlap with others */
        for (int64_t i = done; squares && i < n; i += ZIP)
            for (int64_t k = 0, a = tf_min(i, n - ZIP); k < end; k += ZIP) {
                const int64_t b = tf_min(k, end - ZIP);
                turn(y + a * ld + b, ld, x + b * plane + a, plane);
            }
        for (int64_t i = done; !squares && i < n; i++)
            for (int64_t k = 0; k < end; k++) y[i * ld + k] = x[k * plane + i];
    }
}

/* y (oh x ow, channels last) <- x (planes). Where y is larger than the map the rest, pt rows
 * above and pl columns to the left, becomes zero: the padding of the first convolution. */
static void from_nchw_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const int64_t ld = s->y.ld, end = (int64_t)s->pl + s->wd, iy = oy - s->pt;
    const int inside = iy >= 0 && iy < s->h;
    float *y = call->y + tf_at(&s->y, i, oy, 0);
    zero_pixels(y, inside ? s->pl : s->ow, ld, s->c);
    if (!inside) return;
    interleave(y + s->pl * ld, ld, call->x + i * s->x.img + iy * s->x.row, s->x.ld, s->wd, s->c);
    zero_pixels(y + end * ld, s->ow - end, ld, s->c);
}

static void to_nchw_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    interleave(call->y + tf_at(&s->y, i, oy, 0), s->y.ld, call->x + tf_at(&s->x, i, oy, 0), s->x.ld,
               s->c, s->ow);
}

/* y[k] = x[i * c/g + j] with first + k = j g + i; with z, groups from g/2 on come from z. */
static void shuffle_row(const tf_call *call, int64_t image, int64_t oy)
{
    const tf_step *s = call->s;
    const int64_t g = s->groups, each = s->c / g;
    for (int64_t ox = 0; ox < s->ow; ox++) {
        const float *x = call->x + tf_at(&s->x, image, oy, ox);
        float *y = call->y + tf_at(&s->y, image, oy, ox);
        int64_t i = s->first % g, j = s->first / g, k = 0;
        if (g == 2 && i == 0) /* ShuffleNet's: two halves, zipped */
            for (; k + 2 * ZIP <= s->oc; k += 2 * ZIP, j += ZIP)
                store_zip(y + k, x + j, x + each + j);
        for (; k < s->oc; k++) {
            y[k] = x[i * each + j];
            if (++i == g) i = 0, j++;
        }
    }
}

/* Row o of y is row floor(o alpha) of x, in float as the definition has it; columns: beta, or all
 * of them backwards. */
static void nearest_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const int64_t iy = tf_min((int64_t)((float)oy * s->alpha), s->h - 1);
    for (int64_t ox = 0; ox < s->ow; ox++) {
        const int64_t at = tf_min((int64_t)((float)ox * s->beta), s->wd - 1);
        const int64_t ix = s->flags & TF_MIRRORED ? s->wd - 1 - at : at;
        memcpy(call->y + tf_at(&s->y, i, oy, ox), call->x + tf_at(&s->x, i, iy, ix),
               (size_t)s->c * sizeof(float));
    }
}

/* A step is kept as float, in which a thousand of them are off by 1e-4: where it is the quotient of
 * two sides, rounded, it is that quotient. */
static double bilinear_step(float step, int64_t from, int64_t to)
{
    const double exact = (double)from / (double)tf_max(to, 1);
    return (float)exact == step ? exact : (double)step;
}

/* Neighbours and weight of output o, pixel centres at half: (o + 1/2) step - 1/2; or at 0. */
static void bilinear_at(int64_t o, int64_t side, double step, int32_t corners, int64_t *a,
                        int64_t *b, float *t)
{
    const double half = corners ? 0.0 : 0.5;
    const double last = (double)(side - 1), at = ((double)o + half) * step - half;
    const double inside = at < 0.0 ? 0.0 : at > last ? last : at;
    *a = (int64_t)inside;
    *b = tf_min(*a + 1, side - 1);
    *t = (float)(inside - (double)*a);
}

static void bilinear_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const int32_t corners = s->flags & TF_CORNERS, less = corners != 0;
    const double down = bilinear_step(s->alpha, s->h - less, s->oh - less);
    const double right = bilinear_step(s->beta, s->wd - less, s->ow - less);
    int64_t y0, y1, x0, x1;
    float ty, tx;
    bilinear_at(oy, s->h, down, corners, &y0, &y1, &ty);
    for (int64_t ox = 0; ox < s->ow; ox++) {
        bilinear_at(ox, s->wd, right, corners, &x0, &x1, &tx);
        const float *p00 = call->x + tf_at(&s->x, i, y0, x0);
        const float *p01 = call->x + tf_at(&s->x, i, y0, x1);
        const float *p10 = call->x + tf_at(&s->x, i, y1, x0);
        const float *p11 = call->x + tf_at(&s->x, i, y1, x1);
        float *y = call->y + tf_at(&s->y, i, oy, ox);
        const vf ux = v_set1(tx), uy = v_set1(ty), vx = v_set1(1 - tx), vy = v_set1(1 - ty);
        for (int64_t c = 0; c < s->c; c += VL) {
            const int64_t n = s->c - c;
            const vf top = v_fma(ux, v_load_n(p01 + c, n), v_mul(vx, v_load_n(p00 + c, n)));
            const vf low = v_fma(ux, v_load_n(p11 + c, n), v_mul(vx, v_load_n(p10 + c, n)));
            v_store_n(y + c, v_fma(uy, low, v_mul(vy, top)), n);
        }
    }
}
