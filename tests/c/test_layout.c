/* test_layout.c: the two changes of layout, against their definition, with every buffer against a
 * guard page and gaps everywhere; threads give the same bits. */
#include "draw.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static float *at(const guarded *g, const tf_view *v, int64_t i, int64_t y, int64_t x, int64_t c,
                 int planes)
{
    return g->data + i * v->img + y * v->row + (planes ? c * v->ld + x : x * v->ld + c);
}

/* Planes of h rows of w floats, with gaps between rows, planes and images. */
static tf_view planes_view(int32_t buf, int64_t h, int64_t w, int64_t c)
{
    tf_view v = {.buf = buf, .row = w + draw(2) * draw(9)};
    v.ld = (int32_t)(h * v.row + draw(2) * draw(9));
    v.img = c * v.ld + draw(2) * draw(9);
    return v;
}

static int64_t planes_extent(const tf_view *v, int64_t n, int64_t h, int64_t w, int64_t c)
{
    return (n - 1) * v->img + (c - 1) * v->ld + (h - 1) * v->row + w;
}

int layout_case(const tf_kernels *k, tf_pool *pool, int32_t threads)
{
    const int to = (int)draw(2); /* to planes, or from them into a map with zeros around it */
    tf_step s = {.size = sizeof s, .op = to ? TF_TO_NCHW : TF_FROM_NCHW, .wbuf = 2};
    s.n = 1 + (int32_t)draw(3), s.h = s.oh = odd(), s.wd = s.ow = odd();
    s.c = s.oc = draw(2) ? 3 : odd();
    s.kh = s.kw = s.sh = s.sw = s.dh = s.dw = s.groups = 1;
    s.w = s.bias = s.slope = s.zero = -1, s.z.buf = TF_NOWHERE;
    s.tasks = 1 + (int32_t)draw(5);
    if (!to) {
        s.pt = (int32_t)draw(4), s.pl = (int32_t)draw(4);
        s.oh += s.pt + (int32_t)draw(4), s.ow += s.pl + (int32_t)draw(4);
    }
    s.x = to ? gappy(0, s.h, s.wd, s.c) : planes_view(0, s.h, s.wd, s.c);
    s.y = to ? planes_view(1, s.oh, s.ow, s.c) : gappy(1, s.oh, s.ow, s.c);
    const int end = (int)draw(2);
    guarded x = guard_new((to ? extent : planes_extent)(&s.x, s.n, s.h, s.wd, s.c), end);
    guarded y = guard_new((to ? planes_extent : extent)(&s.y, s.n, s.oh, s.ow, s.c), end);
    guarded want = guard_new(y.count, end);
    for (int64_t i = 0; i < x.count; i++) x.data[i] = real();
    for (int64_t i = 0; i < y.count; i++) want.data[i] = NAN;
    for (int64_t i = 0; i < s.n; i++)
        for (int64_t oy = 0; oy < s.oh; oy++)
            for (int64_t ox = 0; ox < s.ow; ox++)
                for (int64_t c = 0; c < s.c; c++) {
                    const int64_t iy = oy - s.pt, ix = ox - s.pl;
                    const int inside = iy >= 0 && iy < s.h && ix >= 0 && ix < s.wd;
                    *at(&want, &s.y, i, oy, ox, c, to) =
                        inside ? *at(&x, &s.x, i, iy, ix, c, !to) : 0.0f;
                }
    const int64_t bytes[3] = {4 * x.count, 4 * y.count, 0};
    void *buffers[3] = {x.data, y.data, NULL};
    int64_t scratch;
    int32_t where;
    int bad = tf_check(k, &s, 1, bytes, 3, &scratch, &where) != TF_OK || scratch != 0;
    for (int pass = 0; pass < 2 && !bad; pass++) {
        for (int64_t i = 0; i < y.count; i++) y.data[i] = NAN;
        tf_run(k, &s, 1, buffers, NULL, 0, pass ? pool : NULL, NULL, INT64_MAX);
        bad = memcmp(y.data, want.data, (size_t)y.count * 4) != 0;
    }
    if (bad)
        printf("layout: op %d n %d h %d w %d c %d pt %d pl %d -> %d %d, %d threads\n", s.op, s.n,
               s.h, s.wd, s.c, s.pt, s.pl, s.oh, s.ow, threads);
    guard_free(&x), guard_free(&y), guard_free(&want);
    return bad;
}
