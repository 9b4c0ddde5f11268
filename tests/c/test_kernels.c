/* test_kernels.c: every kernel of every instruction set against its definition
 * in double.
 *
 * Steps are drawn at random from odd sizes (1, 2, 3, 5, 7, 13, 17, 31), channel
 * counts that are no multiple of the lanes, strides larger than the kernel,
 * one-pixel maps, and views with gaps. Every buffer touches a guard page; gaps
 * must keep their contents; the output starts as NaN. test_kernels [cases per
 * operator] [seed]
 */
#include "draw.h"
#include "pack.h"
#include "reference.h"
#include <float.h>
#include <string.h>

static tf_pool *pool; /* of all tests */
static int32_t threads;

uint64_t draw_state = 1;

/* The shapes that an operator may have, where they are not those of every operator. */
static void random_shape(tf_step *s)
{
    const int32_t op = s->op;
    if (op == TF_CONV || op == TF_DEPTHWISE || op == TF_MAXPOOL || op == TF_AVGPOOL)
        random_window(s);
    if (op == TF_DEPTHWISE && draw(2)) common_depthwise(s);
    if (op == TF_GROUPED) few_a_group(s);
    if (op == TF_CONV) {
        s->groups = draw(2) ? 1 : 1 + (int32_t)draw(4);
        s->c = s->groups * (1 + (int32_t)draw(draw(4) ? 20 : 60));
        s->oc = s->groups * (draw(2) ? odd() : 1 + (int32_t)draw(70));
    }
    if (op == TF_WINOGRAD) {
        s->kh = s->kw = 3, s->oc = odd() + (int32_t)draw(40);
        s->pt = (int32_t)draw(3), s->pl = (int32_t)draw(3);
        s->pb = (int32_t)draw(3), s->pr = (int32_t)draw(3);
        s->tile = 2 + 2 * (int32_t)draw(2), s->sh = s->sw = 1 + (int32_t)draw(2);
        while (s->h + s->pt + s->pb < 3) s->h++;
        while (s->wd + s->pl + s->pr < 3) s->wd++;
        s->oh = (s->h + s->pt + s->pb - 3) / s->sh + 1;
        s->ow = (s->wd + s->pl + s->pr - 3) / s->sh + 1;
    }
    if (op == TF_GEMV) s->n = s->h = s->wd = s->oh = s->ow = 1, s->oc = odd() + (int32_t)draw(90);
    if (op == TF_NEAREST || op == TF_BILINEAR) {
        s->oh = odd(), s->ow = odd(), s->flags = op == TF_NEAREST && draw(2) ? TF_MIRRORED : 0;
        s->alpha = (float)s->h / (float)s->oh, s->beta = (float)s->wd / (float)s->ow;
    }
    if (op == TF_SHUFFLE) {
        s->groups = 2 * (1 + (int32_t)draw(3));
        s->c = s->groups * odd();
        s->first = (int32_t)draw((uint32_t)s->c);
        s->oc = 1 + (int32_t)draw((uint32_t)(s->c - s->first));
    }
    if (op == TF_MATMUL) {
        s->oc = odd() + (int32_t)draw(40);
        s->flags = draw(2) ? TF_ACROSS : 0;
    }
    if ((op == TF_SOFTMAX || op == TF_L2NORM || op == TF_LAYERNORM) && draw(8) == 0) {
        s->c = s->oc = s->c + (int32_t)draw(1500); /* few pixels: the reference takes c squared */
        s->n = s->h = s->oh = 1, s->wd = s->ow = 1 + (int32_t)draw(3);
    }
}

/* Flags, activations, shortcuts, fp16. */
static void random_ending(tf_step *s)
{
    const int32_t op = s->op;
    if (op >= TF_ADD && op <= TF_MAXIMUM && draw(4) == 0) {
        s->flags |= TF_SPREAD;
        if (draw(2)) s->wd = s->ow = 1; /* a row is one span */
    }
    if (op == TF_AVGPOOL && draw(2)) s->flags |= TF_COUNT_PAD;
    const int product = op == TF_CONV || op == TF_GEMV || op == TF_WINOGRAD;
    if (product || (op >= TF_ADD && op <= TF_AFFINE) || op == TF_DEPTHWISE || op == TF_GROUPED)
        s->act = (int32_t)draw(TF_SQRT);
    if (op == TF_AFFINE && draw(8) == 0) s->act = TF_SQRT; /* of x as it is, NaN and all */
    if (op == TF_DIV && s->act == TF_EXP) s->act = TF_NONE;
    if (product && draw(2)) s->flags |= TF_RESIDUAL;
    if ((op == TF_CONV || op == TF_GEMV) && draw(3) == 0) s->flags |= TF_HALF;
}

static tf_step random_step(int32_t op)
{
    tf_step s = {.size = sizeof s,
                 .op = op,
                 .n = 1 + (int32_t)draw(2),
                 .h = odd(),
                 .wd = odd(),
                 .kh = 1,
                 .kw = 1,
                 .sh = 1,
                 .sw = 1,
                 .dh = 1,
                 .dw = 1,
                 .groups = 1,
                 .wbuf = 3,
                 .w = -1,
                 .bias = -1,
                 .slope = -1,
                 .zero = -1,
                 .block = 1,
                 .panels = 1};
    s.c = odd() + (int32_t)(draw(3) == 0 ? draw(60) : 0);
    s.oh = s.h, s.ow = s.wd, s.oc = s.c;
    s.tasks = 1 + (int32_t)draw(5);
    s.z.buf = -1;
    s.hi = draw(2) ? 0.5f : INFINITY;
    s.alpha = 0.25f, s.beta = 0.5f;
    random_shape(&s);
    random_ending(&s);
    return s;
}

typedef struct {
    guarded x, y, z, params;
    float *w, *bias, *slope; /* unpacked */
} problem;

static float *fill(int64_t n)
{
    float *p = malloc((size_t)n * sizeof *p + 4);
    for (int64_t i = 0; i < n; i++) p[i] = real();
    return p;
}

static int64_t put(float *all, int64_t *size, const float *v, int64_t n)
{
    const int64_t offset = *size;
    if (v)
        memcpy(all + offset, v, (size_t)n * sizeof *v);
    else
        memset(all + offset, 0, (size_t)n * sizeof *all);
    *size += n;
    return offset;
}

/* Packs the parameters; they are made exactly as long as the kernel may read.
 */
static void make_params(tf_step *s, problem *p, const tf_isa *isa, int end)
{
    const int64_t taps = (int64_t)s->kh * s->kw, lanes = isa->lanes, g = s->groups;
    const int wino = s->op == TF_WINOGRAD, dw = s->op == TF_DEPTHWISE || s->op == TF_GROUPED;
    const int dense = s->op == TF_CONV || s->op == TF_GEMV || wino;
    const int64_t per = dense || s->op == TF_GROUPED ? s->c / g : 1, o = s->oc / g;
    const int64_t outs = dense ? (o + lanes - 1) / lanes * lanes * g : s->oc;
    float *all =
        calloc((size_t)(outs * (wino ? 36 : taps) * per + 2 * outs + 2 * s->c + 64), sizeof *all);
    int64_t size = 0;
    p->w = p->bias = p->slope = NULL;
    const int affine =
        ((s->op == TF_AFFINE && s->act != TF_SQRT) || s->op == TF_LAYERNORM) && draw(2);
    if (dense || dw || affine) {
        p->w = fill(s->oc * per * taps);
        p->bias = fill(s->oc);
        s->w = 0;
    }
    if (wino) {
        s->flags &= ~TF_HALF;
        size = pack_winograd(all, p->w, s, lanes);
    } else if (dense) {
        if (s->flags & TF_HALF) { /* weights that fp16 holds exactly */
            for (int64_t i = 0; i < s->oc * per * taps; i++)
                p->w[i] = (float)((int)draw(65) - 32) / 32;
        }
        for (int64_t i = 0; i < g; i++)
            size += pack_group(all + size, p->w + i * o * per * taps, taps, per, o, lanes);
        if (s->flags & TF_HALF) {
            uint16_t *half = malloc((size_t)size * 2 + 4);
            pack_half(all, half, size);
            memcpy(all, half, (size_t)size * 2);
            size = (size + 1) / 2;
            free(half);
        }
    } else if (dw) {
        for (int64_t k = 0; k < per * taps; k++)
            for (int64_t c = 0; c < s->c; c++) all[size++] = p->w[c * per * taps + k];
    } else if (affine) {
        put(all, &size, p->w, s->c);
    }
    if (s->act == TF_PRELU) p->slope = fill(s->oc);
    for (int k = 0; k < 2; k++) {
        const float *v = k ? p->slope : p->bias;
        if (!v) continue;
        const int64_t offset = put(all, &size, NULL, outs);
        for (int64_t i = 0; i < s->oc; i++) all[offset + i / o * (outs / g) + i % o] = v[i];
        *(k ? &s->slope : &s->bias) = offset;
    }
    if (dense || dw || s->op == TF_MATMUL)
        s->zero = put(all, &size, NULL, s->c > 2 * lanes ? s->c : 2 * lanes);
    p->params = guard_new(size, end);
    memcpy(p->params.data, all, (size_t)size * sizeof *all);
    free(all);
}

static problem make_problem(tf_step *s, const tf_isa *isa)
{
    problem p = {.z = {.map = NULL}};
    const int end = (int)draw(2);
    const int pair = s->op == TF_SHUFFLE && draw(2);
    const int64_t xc = pair ? s->c / 2 : s->c;
    s->x = gappy(0, s->h, s->wd, xc);
    s->y = gappy(1, s->oh, s->ow, s->oc);
    const int64_t xs = extent(&s->x, s->n, s->h, s->wd, xc);
    p.x = guard_new(xs, end);
    for (int64_t i = 0; i < xs; i++) p.x.data[i] = real();
    p.y = guard_new(extent(&s->y, s->n, s->oh, s->ow, s->oc), end);
    for (int64_t i = 0; i < p.y.count; i++) p.y.data[i] = NAN;
    const int binary = s->op >= TF_ADD && s->op <= TF_MAXIMUM, product = s->op == TF_MATMUL;
    if (product) {
        const int across = (s->flags & TF_ACROSS) != 0;
        const int32_t rows = across ? s->oc : s->c, side = across ? s->c : s->oc;
        s->z = gappy(2, s->oh, rows, side);
        if (draw(3) == 0) s->z.img = 0;
        p.z = guard_new(extent(&s->z, s->n, s->oh, rows, side), end);
        for (int64_t i = 0; i < p.z.count; i++) p.z.data[i] = real();
    } else if (binary || pair || s->flags & TF_RESIDUAL) {
        const int64_t zc = pair ? xc : s->flags & TF_SPREAD ? 1 : s->oc;
        s->z = gappy(2, s->oh, s->ow, zc);
        if (binary && draw(3) == 0) s->z.ld = 0, s->z.row = 0, s->z.img = zc;
        p.z = guard_new(extent(&s->z, s->n, s->oh, s->ow, zc), end);
        for (int64_t i = 0; i < p.z.count; i++) p.z.data[i] = real();
        for (int64_t i = 0; i < p.z.count && s->op == TF_DIV; i++)
            p.z.data[i] += p.z.data[i] < 0 ? -1.0f : 1.0f;
    }
    make_params(s, &p, isa, end);
    if (s->op == TF_CONV) {
        const int64_t panels =
            (s->oc / s->groups + 2 * isa->lanes - 1) / (2 * isa->lanes) * s->groups;
        const int64_t pixels = (int64_t)s->n * s->oh * s->ow;
        s->block = 1 + (int32_t)draw((uint32_t)pixels),
        s->panels = 1 + (int32_t)draw((uint32_t)panels);
        s->tasks =
            (int32_t)((pixels + s->block - 1) / s->block * ((panels + s->panels - 1) / s->panels));
    }
    if (s->op == TF_WINOGRAD) {
        const int64_t tiles = wino_tiles(s),
                      panels = (s->oc + 2 * isa->lanes - 1) / (2 * isa->lanes);
        s->block = 1 + (int32_t)draw((uint32_t)tiles);
        s->panels = 1 + (int32_t)draw((uint32_t)panels);
        s->tasks =
            (int32_t)((tiles + s->block - 1) / s->block * ((panels + s->panels - 1) / s->panels));
    }
    return p;
}

static void describe(const tf_step *s)
{
    printf("  op %d act %d flags %d n %d h %d w %d c %d -> %d %d %d k %dx%d s "
           "%dx%d d %dx%d "
           "p %d %d %d %d groups %d first %d block %d panels %d tile %d tasks %d\n",
           s->op, s->act, s->flags, s->n, s->h, s->wd, s->c, s->oh, s->ow, s->oc, s->kh, s->kw,
           s->sh, s->sw, s->dh, s->dw, s->pt, s->pl, s->pb, s->pr, s->groups, s->first, s->block,
           s->panels, s->tile, s->tasks);
}

/* Every output near its definition, every float between the outputs still NaN.
 */
static int compare(const tf_step *s, const problem *p)
{
    const operands o = {p->x.data, p->z.map ? p->z.data : NULL, p->w, p->bias, p->slope};
    char *seen = calloc((size_t)p->y.count, 1);
    int bad = 0;
    for (int64_t i = 0; i < s->n; i++)
        for (int64_t y = 0; y < s->oh; y++)
            for (int64_t x = 0; x < s->ow; x++)
                for (int64_t c = 0; c < s->oc; c++) {
                    double size, terms;
                    const double want = expected(s, &o, i, c, y, x, &size, &terms);
                    const int64_t k = at(&s->y, i, y, x, c);
                    const double got = (double)p->y.data[k];
                    seen[k] = 1;
                    if (fabs(got - want) <= (terms + 4) * (double)FLT_EPSILON * size ||
                        got == want || (isnan(got) && isnan(want)))
                        continue;
                    if (!bad++) {
                        describe(s);
                        printf("  image %d y %d x %d c %d: %.9g, expected %.9g\n", (int)i, (int)y,
                               (int)x, (int)c, got, want);
                    }
                }
    for (int64_t k = 0; k < p->y.count && !bad; k++)
        if (!seen[k] && !isnan(p->y.data[k])) {
            describe(s);
            printf("  float %d between the outputs was overwritten\n", (int)k);
            bad = 1;
        }
    free(seen);
    return bad;
}

/* The steps once more on all threads: every bit as before. Scratch is full of NaN both times. */
static int same_bits(const tf_kernels *k, const tf_step *s, int32_t steps, const problem *p,
                     void *const *buffers, guarded *room, int64_t stride)
{
    const size_t size = (size_t)p->y.count * sizeof(float);
    float *alone = malloc(size);
    memcpy(alone, p->y.data, size);
    for (int64_t i = 0; i < p->y.count; i++) p->y.data[i] = NAN;
    for (int64_t i = 0; i < room->count; i++) room->data[i] = NAN;
    tf_run(k, s, steps, buffers, room->data, stride, pool, NULL, INT64_MAX);
    const int same = memcmp(alone, p->y.data, size) == 0;
    if (!same) {
        describe(s);
        printf("  %d threads: other bits\n", threads);
    }
    free(alone);
    return same;
}

/* A Winograd step as two, with the transformed input in buffer 4. */
static guarded split(const tf_step *s, tf_step *two)
{
    const int32_t side = (s->tile - 1) * s->sh + 3, tiles = (int32_t)wino_tiles(s);
    two[0] = two[1] = *s;
    two[0].op = TF_WINO_IN;
    two[0].act = two[0].flags = 0, two[0].z.buf = -1;
    two[0].w = two[0].bias = two[0].slope = -1;
    two[0].oh = side * side, two[0].ow = tiles, two[0].oc = s->c;
    two[0].y = gappy(4, two[0].oh, tiles, s->c);
    two[0].y.img = 0;
    two[0].tasks = 1 + (int32_t)draw(5);
    two[1].x = two[0].y;
    two[1].h = two[0].oh, two[1].wd = tiles;
    two[1].flags |= TF_TRANSFORMED;
    guarded v = guard_new(extent(&two[0].y, 1, side * side, tiles, s->c), (int)draw(2));
    for (int64_t i = 0; i < v.count; i++) v.data[i] = NAN;
    return v;
}

static int run_case(const tf_kernels *k, const tf_isa *isa, int32_t op)
{
    tf_step s = random_step(op == TF_WINO_IN ? TF_WINOGRAD : op), two[2];
    problem p = make_problem(&s, isa);
    two[0] = s;
    guarded v = {.map = NULL};
    if (op == TF_WINO_IN) v = split(&s, two);
    const int32_t steps = op == TF_WINO_IN ? 2 : 1;
    const int64_t bytes[5] = {4 * p.x.count, 4 * p.y.count, 4 * p.z.count, 4 * p.params.count,
                              4 * v.count};
    void *buffers[5] = {p.x.data, p.y.data, p.z.map ? p.z.data : NULL, p.params.data, v.data};
    int64_t scratch;
    int32_t where;
    const int32_t status = tf_check(k, two, steps, bytes, 5, &scratch, &where);
    int bad = status != TF_OK;
    if (bad) {
        describe(&s);
        printf("  tf_check: %s\n", tf_strerror(status));
    } else {
        guarded room = guard_new(scratch / 4 * threads, 1);
        for (int64_t i = 0; i < room.count; i++) room.data[i] = NAN;
        tf_run(k, two, steps, buffers, room.data, scratch, NULL, NULL, INT64_MAX);
        bad = compare(&s, &p);
        if (!bad && s.tasks > 1 && draw(4) == 0)
            bad = !same_bits(k, two, steps, &p, buffers, &room, scratch);
        guard_free(&room);
    }
    guard_free(&p.x), guard_free(&p.y), guard_free(&p.params);
    if (p.z.map) guard_free(&p.z);
    if (v.map) guard_free(&v);
    free(p.w), free(p.bias), free(p.slope);
    return bad;
}

/* test_chain.c, test_check.c, test_layout.c */
int chain_case(const tf_kernels *k, const tf_isa *isa);
int check_case(const tf_kernels *k);
int layout_case(const tf_kernels *k, tf_pool *pool, int32_t threads);

int main(int argc, char **argv)
{
    const int cases = argc > 1 ? atoi(argv[1]) : 200;
    draw_state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    guarded place = guard_new(tf_pool_bytes() / 4, 0); /* begins with a page */
    threads = tf_pool_start(pool = (void *)place.data, 3);
    tf_isa isas[8];
    const int32_t count = tf_isa_list(isas, 8);
    int failures = 0;
    for (int32_t i = 0; i < count; i++) {
        const tf_kernels *k = tf_kernels_for(isas[i].name);
        for (int32_t op = 0; op < TF_OPS; op++) {
            if (op == TF_FROM_NCHW || op == TF_TO_NCHW || op >= TF_PEAK) continue;
            if (op == TF_GROUPED && isas[i].lanes < 8) continue; /* check_case: refused */
            int bad = 0;
            for (int c = 0; c < cases && bad < 3; c++) bad += run_case(k, isas + i, op);
            if (bad) printf("%s: operator %d failed\n", isas[i].name, op);
            failures += bad;
        }
        for (int c = 0, bad = 0; c < 4 * cases && bad < 3; c++) {
            bad += chain_case(k, isas + i);
            if (c == 4 * cases - 1 || bad == 3) failures += bad;
        }
        for (int c = 0; c < cases; c++) failures += layout_case(k, pool, threads);
        failures += check_case(k);
        printf("%-7s %s\n", isas[i].name, failures ? "FAILED" : "ok");
    }
    tf_pool_stop(pool);
    guard_free(&place);
    return failures != 0;
}
