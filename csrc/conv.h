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
    int64_t taps, kc, oc;   /* per group */
    int64_t panels, padded; /* panels per group; outputs of a group rounded up to VL */
    int64_t elem;           /* bytes per weight */
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

/* A position in the output that walks from pixel to pixel without dividing. */
typedef struct {
    int64_t i, oy, ox;
} conv_pixel;

static conv_pixel conv_pixel_of(const tf_step *s, int64_t m)
{
    const int64_t map = (int64_t)s->oh * s->ow;
    return (conv_pixel){m / map, m % map / s->ow, m % map % s->ow};
}

/* Pointers under the window of pixel `at`, which may reach beyond the map. */
static void conv_window(const tf_call *call, const float **p, const conv_pixel *at)
{
    const tf_step *s = call->s;
    const int64_t iy = at->oy * s->sh - s->pt, ix = at->ox * s->sw - s->pl;
    const int64_t first = at->i * s->x.img + iy * s->x.row + ix * s->x.ld;
    for (int64_t ky = 0; ky < s->kh; ky++)
        for (int64_t kx = 0; kx < s->kw; kx++, p += ROWS_MAX) {
            const int64_t y = iy + ky * s->dh, x = ix + kx * s->dw;
            const int inside = y >= 0 && y < s->h && x >= 0 && x < s->wd;
            *p = inside ? call->x + (first + ky * s->dh * s->x.row + kx * s->dw * s->x.ld)
                        : call->zero;
        }
}

/* How many pixels from `at` on, in its row, have their windows inside of the map. */
static int64_t conv_inside(const tf_step *s, const conv_pixel *at)
{
    const int64_t iy = at->oy * s->sh - s->pt, ix = at->ox * s->sw - s->pl;
    const int64_t room = s->wd - 1 - (int64_t)(s->kw - 1) * s->dw - ix; /* for the first window */
    if (iy < 0 || iy + (int64_t)(s->kh - 1) * s->dh >= s->h || ix < 0 || room < 0) return 0;
    return tf_min(s->sw == 1 ? room + 1 : room / s->sw + 1, s->ow - at->ox);
}

static void conv_fill(const float **p, const float *first, int64_t step, int64_t n)
{
    for (int64_t k = 0; k < n; k++) p[k] = first + k * step;
}

/* Are all pixels of a map of n images, w x h, the same distance apart? */
static int conv_even(const tf_view *v, int64_t n, int64_t h, int64_t w)
{
    return (h == 1 || v->row == w * v->ld) && (n == 1 || v->img == h * w * v->ld);
}

/* Is pixel m of the output made of the input just m pixels behind the first one? */
static int conv_plain(const tf_step *s)
{
    return s->kh * s->kw == 1 && s->sh * s->sw == 1 && s->pt + s->pl == 0 && s->oh == s->h &&
           s->ow == s->wd && conv_even(&s->x, s->n, s->h, s->wd);
}

/* Do the pixels of the output and of what is added to it follow each other so? */
static int conv_dense(const tf_step *s)
{
    return conv_even(&s->y, s->n, s->oh, s->ow) &&
           (s->z.buf < 0 || conv_even(&s->z, s->n, s->oh, s->ow));
}

/* Row pointers of one tile: [taps][ROWS_MAX] into x, then [ROWS_MAX] into y, then into z. Windows
 * inside of the map are all alike and done together. */
static void conv_point(const tf_call *call, const float **table, conv_pixel *at, int64_t rows)
{
    const tf_step *s = call->s;
    const int64_t taps = (int64_t)s->kh * s->kw, step = (int64_t)s->sw * s->x.ld;
    for (int64_t r = 0, n; r < rows; r += n) {
        const int64_t inside = conv_inside(s, at);
        conv_window(call, table + r, at);
        n = tf_max(tf_min(inside, rows - r), 1);
        for (const float **p = table + r; n > 1 && p < table + taps * ROWS_MAX; p += ROWS_MAX)
            conv_fill(p, *p, step, n);
        conv_fill(table + taps * ROWS_MAX + r, call->y + tf_at(&s->y, at->i, at->oy, at->ox),
                  s->y.ld, n);
        if (call->z)
            conv_fill(table + (taps + 1) * ROWS_MAX + r,
                      call->z + tf_at(&s->z, at->i, at->oy, at->ox), s->z.ld, n);
        if ((at->ox += n) == s->ow) {
            at->ox = 0;
            if (++at->oy == s->oh) at->oy = 0, at->i++;
        }
    }
}

/* The pointers of tiles whose pixels follow each other: `at` pixels behind the first ones. The
 * first `more` have rows + 1. */
static void conv_lines(const tf_call *call, const float **table, int64_t at, int64_t count,
                       int64_t rows, int64_t more)
{
    const tf_step *s = call->s;
    for (int64_t i = 0, n; i < count; i++, at += n, table += 3 * ROWS_MAX) {
        n = rows + (i < more);
        conv_fill(table, call->x + at * s->x.ld, s->x.ld, n);
        conv_fill(table + ROWS_MAX, call->y + at * s->y.ld, s->y.ld, n);
        if (call->z) conv_fill(table + 2 * ROWS_MAX, call->z + at * s->z.ld, s->z.ld, n);
    }
}

enum { EVEN_WINDOW = 50 }; /* products of an output: 3 x 3 of a picture have 27 */

/* How outputs m0 .. m1 are cut into tiles, `count` of them, the first `more` of rows + 1. */
typedef struct {
    int64_t m0, m1, count, rows, more;
    int even; /* tiles go row by row, and their pixels lie evenly */
} conv_cut;

/* As many tiles as needed, as equal as possible: 49 pixels are 4 x 6 + 5 x 5, not 8 x 6 + 1. Small
 * windows, all in the map, on whole rows that such tiles fill to 12 parts of 13, go row by row:
 * with 27 products an output, pointers to every row took a quarter of the time. */
static conv_cut conv_cut_of(const tf_step *s, int64_t most, int64_t m0, int64_t m1)
{
    const int64_t taps = (int64_t)s->kh * s->kw, ow = s->ow;
    const int64_t high = (s->oh - 1) * (int64_t)s->sh + (s->kh - 1) * (int64_t)s->dh;
    const int64_t wide = (ow - 1) * s->sw + (s->kw - 1) * (int64_t)s->dw;
    const int inside = s->pt == 0 && s->pl == 0 && high < s->h && wide < s->wd;
    const int filled = 13 * ow >= 12 * most * tf_ceil_div(ow, most);
    const int small = taps > 2 && taps * (s->c / s->groups) <= EVEN_WINDOW;
    const int even =
        inside && filled && small && m0 % ow == 0 && m1 % ow == 0 && !(s->flags & TF_HALF);
    const int64_t each = even ? ow : m1 - m0, lines = (m1 - m0) / each;
    const int64_t tiles = tf_ceil_div(each, most);
    return (conv_cut){m0, m1, lines * tiles, each / tiles, lines * (each % tiles), even};
}

/* The pointers of even tiles, of x for the first pixel only. */
static void conv_even_tiles(const tf_call *call, const float **table, const conv_cut *cut)
{
    const tf_step *s = call->s;
    const int64_t taps = (int64_t)s->kh * s->kw, pitch = (taps + 2) * ROWS_MAX;
    const int64_t lines = (cut->m1 - cut->m0) / s->ow, more = cut->more / lines;
    const float **large = table, **small = table + cut->more * pitch;
    for (int64_t u = cut->m0 / s->ow; u < cut->m1 / s->ow; u++) {
        const int64_t i = u / s->oh, oy = u % s->oh;
        for (int64_t j = 0, ox = 0, n; ox < s->ow; j++, ox += n) {
            const float ***next = j < more ? &large : &small, **p = *next;
            const float *x = call->x + tf_at(&s->x, i, oy * s->sh, ox * s->sw);
            n = cut->rows + (j < more);
            *next += pitch;
            for (int64_t ky = 0; ky < s->kh; ky++)
                for (int64_t kx = 0; kx < s->kw; kx++, p += ROWS_MAX)
                    *p = x + (ky * s->dh * s->x.row + kx * s->dw * s->x.ld);
            conv_fill(p, call->y + tf_at(&s->y, i, oy, ox), s->y.ld, n);
            if (call->z) conv_fill(p + ROWS_MAX, call->z + tf_at(&s->z, i, oy, ox), s->z.ld, n);
        }
    }
}

/* The pointers of all tiles. */
static void conv_table(const tf_call *call, const float **table, const conv_cut *cut)
{
    const tf_step *s = call->s;
    conv_pixel at = conv_pixel_of(s, cut->m0);
    if (conv_plain(s) && conv_dense(s))
        conv_lines(call, table, cut->m0, cut->count, cut->rows, cut->more);
    else if (cut->even)
        conv_even_tiles(call, table, cut);
    else
        for (int64_t i = 0; i < cut->count; i++, table += ((int64_t)s->kh * s->kw + 2) * ROWS_MAX)
            conv_point(call, table, &at, cut->rows + (i < cut->more));
}

static void conv_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    const conv_shape v = conv_shape_of(s);
    const int64_t pixels = (int64_t)s->n * s->oh * s->ow;
    const int64_t blocks = tf_ceil_div(pixels, s->block), all = v.panels * s->groups;
    const int64_t m0 = task % blocks * s->block, m1 = tf_min(m0 + s->block, pixels);
    const int64_t p0 = task / blocks * s->panels, p1 = tf_min(p0 + s->panels, all);
    const int64_t ahead = blocks == 1 ? all : p1; /* the next task is mostly the same thread's */
    const int member = s->x.buf == TF_BAND || s->y.buf == TF_BAND; /* whose weights stay in L2 */
    const conv_cut cut = conv_cut_of(s, v.oc > VL ? ROWS_WIDE : ROWS_SLIM, m0, m1);
    const int kind = cut.even ? 2 : (s->flags & TF_HALF) != 0; /* of tiles */
    conv_table(call, scratch, &cut);

    for (int64_t p = p0; p < p1; p++) {
        const int64_t group = p / v.panels, col = p % v.panels * 2 * VL;
        const int64_t first = group * v.padded + col; /* of the padded parameter vectors */
        tf_tile t = {.kc = v.kc, .taps = v.taps, .pitch = (v.taps + 2) * ROWS_MAX, .s = s};
        if (cut.even) t.step = (int64_t)s->sw * s->x.ld;
        t.n = tf_min(v.oc - col, 2 * VL);
        t.w = (const char *)call->w + first * v.taps * v.kc * v.elem;
        const int64_t bytes = tf_ceil_div(t.n, VL) * VL * v.taps * v.kc * v.elem;
        t.next = t.w + (p + 1 < ahead ? bytes : 0);
        t.share = cut.count < 16 && p + 1 < ahead && !member ? bytes / cut.count : 0;
        if (p + 1 == p1 && s->x.buf >= 0 && s->y.buf == TF_BAND) { /* the next band's input */
            t.next = (const char *)(call->x + s->h * s->x.row);
            /* limited, because nothing bounds the pitch of a map's only row */
            t.share = tf_min(s->x.row, 1 << 18) * s->oh * s->sh * 4 / cut.count;
        }
        t.ahead = t.share * 4 / (v.taps * v.kc);
        t.bias = call->bias + first;
        t.slope = call->slope ? call->slope + first : NULL;
        t.xcol = group * v.kc;
        t.ycol = call->ready ? 0 : group * v.oc + col;
        t.apart = call->ready ? call->apart : VL;
        tiles_run(&t, scratch, cut.count, cut.rows, cut.more, tiles[t.n > VL][kind]);
        if (call->ready) call->ready(call->reader, p);
    }
}
