/* test_chain.c: steps run as a chain give the same bits as one after the other, for any number of
 * threads, with every buffer against a guard page and scratch full of NaN. */
#include "draw.h"
#include <math.h>
#include <string.h>

enum { PARAMS, SECOND, MAPS }; /* buffers: parameters, z, then the maps from x to y */
enum { ZEROS = 128 };          /* the parameters begin with the zeros that stand for padding */

static int64_t whole(int64_t v, int64_t unit) { return (v + unit - 1) / unit * unit; }

/* Any window that fits the map as it is. */
static void fitting_window(tf_step *s)
{
    const int32_t h = s->h, w = s->wd;
    do {
        s->h = h, s->wd = w;
        random_window(s);
    } while (s->h != h || s->wd != w);
    s->oc = s->op == TF_CONV ? 1 + (int32_t)draw(40) : s->c;
}

/* The first two members where panels are handed on (by_panels of chain.c): rows too long for L1 and
 * a 3x3 whose windows may hang far over the map. */
static void long_rows(tf_step *s, int32_t at)
{
    if (at == 0) {
        s->op = TF_CONV, s->h = 1 + (int32_t)draw(9), s->wd = 104 + (int32_t)draw(30);
        s->kh = s->kw = draw(2) ? 3 : 1, s->pt = s->pl = s->pb = s->pr = s->kh / 2;
        s->oh = s->h, s->ow = s->wd, s->oc = 40 + (int32_t)draw(33);
        return;
    }
    s->op = TF_DEPTHWISE, s->kh = s->kw = 3, s->sh = s->sw = 1 + (int32_t)draw(2);
    s->pt = (int32_t)draw(4), s->pl = (int32_t)draw(4), s->pr = (int32_t)draw(4);
    s->pb = (int32_t)draw(draw(4) ? 4 : 120);
    while (s->h + s->pt + s->pb < 3) s->pb++;
    s->oh = (s->h + s->pt + s->pb - 3) / s->sh + 1;
    s->ow = (s->wd + s->pl + s->pr - 3) / s->sw + 1;
    s->oc = s->c;
}

/* A convolution, depthwise or pooling step whose input is what `before` writes; parameters are
 * drawn from one pool of numbers, because only equality matters here. */
static tf_step member(const tf_step *before, int32_t at, int panels, const tf_isa *isa,
                      int64_t *params)
{
    static const int32_t ops[] = {TF_CONV, TF_CONV, TF_DEPTHWISE, TF_DEPTHWISE, TF_MAXPOOL};
    tf_step s = {.size = sizeof s, .op = ops[draw(5)], .wbuf = PARAMS};
    s.kh = s.kw = s.sh = s.sw = s.dh = s.dw = s.groups = 1;
    s.slope = -1, s.z.buf = TF_NOWHERE, s.hi = 0.5f;
    s.n = before ? before->n : 1 + (int32_t)draw(2);
    s.h = before ? before->oh : odd(), s.wd = before ? before->ow : odd();
    s.c = before ? before->y.ld : 1 + (int32_t)draw(20);
    if (panels && at < 2)
        long_rows(&s, at);
    else if (at == 0 && draw(6) == 0)
        s.op = TF_CONV, picture(&s), s.groups = 1, s.oc = 1 + (int32_t)draw(40);
    else
        fitting_window(&s);
    s.act = s.op == TF_MAXPOOL ? TF_NONE : (int32_t)draw(2) * TF_CLIP;
    if (s.op == TF_CONV && s.act == TF_NONE && draw(2))
        s.flags = TF_RIVALS, s.oc = 2 * isa->lanes * (1 + (int32_t)draw(isa->lanes < 8 ? 7 : 5));
    const int32_t made = channels(&s);
    const int64_t taps = (int64_t)s.kh * s.kw, outs = whole(s.oc, isa->lanes);
    const int64_t weights = s.op == TF_CONV ? outs * taps * s.c : taps * s.c;
    s.bias = ZEROS + draw(50), s.w = s.bias + outs, s.zero = 0;
    *params = weights + s.w > *params ? weights + s.w : *params;
    if (s.op == TF_MAXPOOL) s.bias = s.w = s.zero = -1;
    s.block = draw(2) ? 1 + (int32_t)draw(40) : s.ow * (1 + (int32_t)draw(3)), s.panels = 1,
    s.tasks = 1 + (int32_t)draw(5);
    if (s.op == TF_CONV) {
        const int64_t pixels = (int64_t)s.n * s.oh * s.ow, wide = whole(s.oc, 2 * isa->lanes);
        s.tasks = (int32_t)(whole(pixels, s.block) / s.block * wide / (2 * isa->lanes));
    }
    s.x = before ? before->y : gappy(MAPS, s.h, s.wd, s.c);
    s.y = (tf_view){MAPS + at + 1, made, 0, (int64_t)s.ow * made, (int64_t)s.oh * s.ow * made};
    return s;
}

static int check(const tf_kernels *k, const tf_step *s, int32_t n, const int64_t *bytes,
                 int32_t buffers, int64_t *scratch)
{
    int32_t bad;
    const int32_t status = tf_check(k, s, n, bytes, buffers, scratch, &bad);
    if (status) printf("chain: step %d: %s\n", bad, tf_strerror(status));
    return status;
}

/* One after the other or, with chain set, together; threads of a pool share the work. */
static int run(const tf_kernels *k, const tf_step *s, int32_t n, const guarded *g, int32_t threads)
{
    int64_t bytes[MAPS + TF_CHAIN_MAX + 1], scratch;
    void *data[MAPS + TF_CHAIN_MAX + 1];
    for (int32_t i = 0; i < MAPS + n + 1; i++) bytes[i] = 4 * g[i].count, data[i] = g[i].data;
    if (check(k, s, n, bytes, MAPS + n + 1, &scratch)) return 1;
    guarded room = guard_new(scratch / 4 * threads, 1);
    for (int64_t i = 0; i < room.count; i++) room.data[i] = NAN;
    guarded place = guard_new(tf_pool_bytes() / 4, 0); /* begins with a page */
    tf_pool *pool = threads > 1 ? (void *)place.data : NULL;
    if (pool) threads = tf_pool_start(pool, threads);
    int64_t ticks[TF_CHAIN_MAX + 1];
    int bad = 0;
    memset(ticks, 0x80, sizeof ticks); /* as if left from elsewhere */
    int64_t *const times = draw(2) ? ticks : NULL, ns = draw(2) ? 0 : INT64_MAX;
    for (int32_t i = 0; i < n;) /* in one call, or each step in its own */
        i += tf_run(k, s + i, n - i, data, room.data, scratch, pool, times ? times + i : NULL, ns);
    for (int32_t i = 0; i < n && times; i++) bad |= times[i] <= 0 || times[i] > times[i + 1];
    if (bad) printf("chain: clock readings\n");
    if (pool) tf_pool_stop(pool);
    guard_free(&place);
    guard_free(&room);
    return bad;
}

int chain_case(const tf_kernels *k, const tf_isa *isa)
{
    tf_step s[TF_CHAIN_MAX];
    const int32_t n = 2 + (int32_t)draw(3), last = n - 1;
    /* vectors of fewer floats hand no panels on, and cut such rows into parts at most (roll_run) */
    const int panels = draw(isa->lanes < 8 ? 16 : 4) == 0;
    int64_t params = 300;
    for (int32_t j = 0; j < n; j++) s[j] = member(j ? s + j - 1 : NULL, j, panels, isa, &params);
    if (s[last].op == TF_CONV && draw(2)) {
        s[last].flags = TF_RESIDUAL;
        s[last].z = gappy(SECOND, s[last].oh, s[last].ow, s[last].oc);
    }
    s[last].y = gappy(MAPS + n, s[last].oh, s[last].ow, channels(s + last));
    guarded g[MAPS + TF_CHAIN_MAX + 1];
    g[PARAMS] = guard_new(params, 1);
    g[SECOND] = guard_new(extent(&s[last].z, s->n, s[last].oh, s[last].ow, s[last].oc), 1);
    g[MAPS] = guard_new(extent(&s->x, s->n, s->h, s->wd, s->c), 1);
    for (int32_t j = 0; j < n; j++)
        g[MAPS + 1 + j] = guard_new(extent(&s[j].y, s->n, s[j].oh, s[j].ow, channels(s + j)), 1);
    for (int32_t b = 0; b < MAPS + n + 1; b++)
        for (int64_t i = 0; i < g[b].count; i++) g[b].data[i] = b > MAPS ? NAN : real();
    memset(g[PARAMS].data, 0, ZEROS * sizeof(float)); /* a kernel may also skip padding */

    int bad = run(k, s, n, g, 1);
    const guarded *y = g + MAPS + n;
    float *want = malloc((size_t)y->count * 4);
    memcpy(want, y->data, (size_t)y->count * 4);
    s[0].chain = n, s[0].band = 1 + (int32_t)draw(6);
    for (int32_t j = 0; j < last; j++) s[j].y.buf = s[j + 1].x.buf = TF_BAND;
    for (int32_t threads = 1; threads < 4 && !bad; threads++) {
        for (int32_t b = MAPS + 1; b < MAPS + n + 1; b++)
            for (int64_t i = 0; i < g[b].count; i++) g[b].data[i] = NAN;
        bad = run(k, s, n, g, threads) || memcmp(want, y->data, (size_t)y->count * 4) != 0;
        if (!bad) continue;
        printf("chain of %d, band %d, %d threads: other bits\n", n, s->band, threads);
        for (int32_t j = 0; j < n; j++)
            printf("  op %d h %d w %d c %d oh %d k %d s %d d %d p %d\n", s[j].op, s[j].h, s[j].wd,
                   s[j].c, s[j].oh, s[j].kh, s[j].sh, s[j].dh, s[j].pt);
    }
    free(want);
    for (int32_t b = 0; b < MAPS + n + 1; b++) guard_free(g + b);
    return bad;
}
