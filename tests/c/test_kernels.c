/* test_kernels.c: every kernel of every instruction set against its definition
 * in double.
 *
 * Steps are drawn at random from odd sizes (1, 2, 3, 5, 7, 13, 17, 31), channel
 * counts that are no multiple of the lanes, strides larger than the kernel,
 * one-pixel maps, and views with gaps. Every buffer touches a guard page; gaps
 * must keep their contents; the output starts as NaN. test_kernels [cases per
 * operator] [seed]
 */
#include "problem.h"
#include "engine.h"
#include "reference.h"
#include "steps.h"
#include <float.h>
#include <string.h>

static tf_pool *pool; /* of all tests */
static int32_t threads;

uint64_t draw_state = 1;

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
static int compare(const tf_step *s, const problem *p, int64_t lanes)
{
    const operands o = {p->x.data, p->z.map ? p->z.data : NULL, p->w, p->bias, p->slope};
    char *seen = calloc((size_t)p->y.count, 1);
    int bad = 0;
    for (int64_t i = 0; i < s->n; i++)
        for (int64_t y = 0; y < s->oh; y++)
            for (int64_t x = 0; x < s->ow; x++)
                for (int64_t c = 0; c < channels(s); c++) {
                    double size, terms;
                    const double want = wanted(s, &o, lanes, i, c, y, x, &size, &terms);
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

/* Every task alone: what two of them write, threads would write at once. */
static int one_writer(const tf_kernels *k, const tf_step *s, const problem *p, void *const *buffers,
                      const guarded *room)
{
    const tf_call call = tf_resolve(s, buffers);
    char *written = calloc((size_t)p->y.count, 1);
    int bad = 0;
    for (int32_t task = 0; task < s->tasks && !bad; task++) {
        for (int64_t i = 0; i < p->y.count; i++) p->y.data[i] = NAN;
        k->run[s->op](&call, task, room->data);
        for (int64_t i = 0; i < p->y.count; i++) {
            if (isnan(p->y.data[i])) continue;
            bad |= written[i];
            written[i] = 1;
        }
    }
    if (bad) {
        describe(s);
        printf("  two tasks write the same float\n");
    }
    free(written);
    return !bad;
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
        bad = compare(&s, &p, isa->lanes);
        if (!bad && s.tasks > 1 && draw(4) == 0)
            bad = !same_bits(k, two, steps, &p, buffers, &room, scratch);
        if (!bad && s.tasks > 1 && steps == 1) bad = !one_writer(k, two, &p, buffers, &room);
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
    const int most = argc > 1 ? atoi(argv[1]) : 200;
    draw_state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    guarded place = guard_new(tf_pool_bytes() / 4, 0); /* begins with a page */
    threads = tf_pool_start(pool = (void *)place.data, 3);
    tf_isa isas[8];
    const int32_t count = tf_isa_list(isas, 8);
    int failures = 0;
    for (int32_t i = 0; i < count; i++) {
        const tf_kernels *k = tf_kernels_for(isas[i].name);
        /* of its own it has simd_scalar.h alone; emulated it takes two fifths of the time */
        const int cases = strcmp(isas[i].name, "scalar") ? most : (most + 3) / 4;
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
        fflush(stdout);
    }
    tf_pool_stop(pool);
    guard_free(&place);
    return failures != 0;
}
