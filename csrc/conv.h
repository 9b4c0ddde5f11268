/* conv.h: convolution as implicit GEMM over tiles of pixels and panels of output channels.
 *
 * A task is a block of pixels times a range of panels. Within it the panel is the outer loop
 * and the tile the inner one: a panel (kh * kw * c * 2 VL floats) is read from memory once per
 * block and then from L1/L2 for every tile. The planner makes the block as large as the whole
 * map where the weights outgrow the cache, and otherwise small enough that the block's inputs
 * stay in L2 while all panels pass over them.
 */

/* The panel p of group-local outputs starts after p full panels: [taps][kc][2 VL]. */
typedef struct {
    int64_t taps, kc, oc;      /* per group */
    int64_t panels, padded;    /* panels per group; outputs of a group rounded up to VL */
    int64_t elem;              /* bytes per weight */
} conv_shape;

static conv_shape conv_shape_of(const tf_step *s)
{
    conv_shape v;
    v.taps = (int64_t)s->kh * s->kw;
    v.kc = s->c / s->groups;
    v.oc = s->oc / s->groups;
    v.panels = tf_ceil_div(v.oc, 2 * VL);
    v.padded = tf_ceil_div(v.oc, VL) * VL;
    v.elem = s->flags & TF_HALF ? 2 : 4;
    return v;
}

/* Row pointers of one tile: [taps][ROWS_MAX] into x, then [ROWS_MAX] into y, then into z. */
static void conv_point(const tf_call *call, const float **table, int64_t m, int64_t rows)
{
    const tf_step *s = call->s;
    const int64_t taps = (int64_t)s->kh * s->kw, map = (int64_t)s->oh * s->ow;
    for (int64_t r = 0; r < rows; r++, m++) {
        const int64_t i = m / map, oy = m % map / s->ow, ox = m % map % s->ow;
        const float **p = table + r;
        for (int64_t ky = 0; ky < s->kh; ky++) {
            const int64_t iy = oy * s->sh - s->pt + ky * s->dh;
            const int64_t row = tf_at(&s->x, i, iy, 0);
            for (int64_t kx = 0; kx < s->kw; kx++, p += ROWS_MAX) {
                const int64_t ix = ox * s->sw - s->pl + kx * s->dw;
                const int inside = iy >= 0 && iy < s->h && ix >= 0 && ix < s->wd;
                *p = inside ? call->x + (row + ix * s->x.ld) : call->zero;
            }
        }
        table[taps * ROWS_MAX + r] = call->y + tf_at(&s->y, i, oy, ox);
        if (call->z) table[(taps + 1) * ROWS_MAX + r] = call->z + tf_at(&s->z, i, oy, ox);
    }
}

static void conv_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    const conv_shape v = conv_shape_of(s);
    const int64_t pixels = (int64_t)s->n * s->oh * s->ow;
    const int64_t blocks = tf_ceil_div(pixels, s->block), all = v.panels * s->groups;
    const int64_t m0 = task % blocks * s->block, m1 = tf_min(m0 + s->block, pixels);
    const int64_t p0 = task / blocks * s->panels, p1 = tf_min(p0 + s->panels, all);

    /* As many tiles as needed, as equal as possible: 49 pixels are 4 x 6 + 5 x 5, not 8 x 6 + 1. */
    const int64_t most = v.oc > VL ? ROWS_WIDE : ROWS_SLIM, count = tf_ceil_div(m1 - m0, most);
    const int64_t stride = (v.taps + 2) * ROWS_MAX;
    const float **table = scratch;
    for (int64_t i = 0; i < count; i++) {
        int64_t from, to;
        tf_share(m1 - m0, i, count, &from, &to);
        conv_point(call, table + i * stride, m0 + from, to - from);
    }
    for (int64_t p = p0; p < p1; p++) {
        const int64_t group = p / v.panels, col = p % v.panels * 2 * VL;
        const int64_t first = group * v.padded + col; /* of the padded parameter vectors */
        tf_tile t = {.kc = v.kc, .taps = v.taps, .s = s};
        t.n = tf_min(v.oc - col, 2 * VL);
        t.w = (const char *)call->w + first * v.taps * v.kc * v.elem;
        t.bias = call->bias + first;
        t.slope = call->slope ? call->slope + first : NULL;
        t.xcol = group * v.kc;
        t.ycol = group * v.oc + col;
        tile_fn *const *fn = tiles[t.n > VL][(s->flags & TF_HALF) != 0];
        for (int64_t i = 0; i < count; i++) {
            int64_t from, to;
            tf_share(m1 - m0, i, count, &from, &to);
            t.x = table + i * stride;
            t.y = (float *const *)(uintptr_t)(t.x + v.taps * ROWS_MAX);
            t.z = call->z ? t.x + (v.taps + 1) * ROWS_MAX : NULL;
            fn[to - from - 1](&t);
        }
    }
}
