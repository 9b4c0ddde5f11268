/* matmul.h: y = alpha x z where both are computed, for a stack of matrices: images and rows of the
 * views.
 *
 * Pixels of x are the rows of a matrix, c floats each, and those of y, oc floats each. z has its
 * element (k, o) at k ld + o, or with TF_ACROSS at o ld + k, so that transposing costs nothing.
 * A unit is 2 VL columns of one product: they are packed into scratch, as weights are (gemm.h), and
 * the micro-kernel passes over the rows of x. Tasks own units.
 * Measured on a Zen 3 core (AVX2, peak 45.8 GMAC/s): 31.3 in ViT-Tiny's attention.
 */
static void matmul_pack(const tf_step *s, const float *z, float *w, int64_t n, int64_t wide)
{
    const int64_t ld = s->z.ld;
    const vf by = v_set1(s->alpha);
    if (!(s->flags & TF_ACROSS)) {
        for (int64_t k = 0; k < s->c; k++)
            for (int64_t o = 0; o < wide; o += VL)
                v_store(w + k * wide + o, v_mul(by, v_load_n(z + k * ld + o, n - o)));
        return;
    }
    /* ZIP x ZIP at a time where they are whole */
    const int64_t whole = n / ZIP * ZIP, even = s->c / ZIP * ZIP;
    for (int64_t o = 0; o < whole; o += ZIP)
        for (int64_t k = 0; k < even; k += ZIP) turn(w + k * wide + o, wide, z + o * ld + k, ld);
    for (int64_t o = 0; o < wide; o++)
        for (int64_t k = o < whole ? even : 0; k < s->c; k++)
            w[k * wide + o] = o < n ? z[o * ld + k] : 0.0f;
    for (int64_t i = 0; i < s->c * wide; i += VL) v_store(w + i, v_mul(by, v_load(w + i)));
}

static void matmul_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    const int64_t panels = tf_ceil_div(s->oc, 2 * VL), across = s->flags & TF_ACROSS ? s->z.ld : 1;
    const float **table = scratch;
    float *w = (float *)(void *)(table + TF_MATMUL_TILES * 3 * ROWS_MAX);
    int64_t from, to;
    tf_share(panels * s->n * s->oh, task, s->tasks, &from, &to);
    for (int64_t u = from; u < to; u++) {
        const int64_t i = u / panels / s->oh, row = u / panels % s->oh, col = u % panels * 2 * VL;
        const tf_call rows_of = {
            .s = s, .x = call->x + tf_at(&s->x, i, row, 0), .y = call->y + tf_at(&s->y, i, row, 0)};
        tf_tile t = {.kc = s->c, .taps = 1, .pitch = 3 * ROWS_MAX, .s = s, .bias = call->zero};
        t.ycol = col, t.apart = VL;
        t.n = tf_min(s->oc - col, 2 * VL);
        const int wide = t.n > VL;
        const int64_t most = wide ? ROWS_WIDE : ROWS_SLIM;
        matmul_pack(s, call->z + tf_at(&s->z, i, row, 0) + col * across, w, t.n, (1 + wide) * VL);
        t.w = (const char *)w;
        for (int64_t m = 0, n; m < s->ow; m += n) {
            n = tf_min(TF_MATMUL_TILES * most, s->ow - m);
            const int64_t count = tf_ceil_div(n, most), rows = n / count, more = n % count;
            conv_lines(&rows_of, table, m, count, rows, more);
            tiles_run(&t, table, count, rows, more, tiles[wide][0]);
        }
    }
}
