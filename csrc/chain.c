/* chain.c: steps that run together, band by band of output rows.
 *
 * In expand -> depthwise -> project the maps in the middle are the widest of the network. Run one
 * after the other, each of these steps writes its map to memory and the next reads it back. Here
 * the last step makes `band` rows at a time, and every step before it just the rows that are still
 * missing for that: what is handed on stays in the cache.
 *
 * Every member is an ordinary step whose kernel is called on a part of its rows: a copy of the step
 * with fewer rows and pointers moved down. Each output is summed as it would be without the chain,
 * so the bits are the same. Rows that the next band needs again (the halo of a 3x3 window) are
 * moved to the front of their buffer, not computed twice.
 *
 * Threads share strips, contiguous bands of the last step's rows; only at the borders between
 * strips rows are computed twice.
 */
#include "engine.h"
#include <time.h>

/* Input rows *from .. *to that output rows first .. end of s read, within the map. */
static void rows_under(const tf_step *s, int64_t first, int64_t end, int64_t *from, int64_t *to)
{
    const int64_t reach = (int64_t)(s->kh - 1) * s->dh + 1;
    *from = tf_min(tf_max(first * s->sh - s->pt, 0), s->h);
    *to = tf_max(tf_min((end - 1) * s->sh - s->pt + reach, s->h), *from);
}

/* Rows that each member but the last must keep at a time. */
static void chain_rows(const tf_step *s, int64_t *rows)
{
    int64_t need = s[s->chain - 1].oh < s->band ? s[s->chain - 1].oh : s->band;
    for (int32_t m = s->chain - 1; m > 0; m--) {
        need = tf_min((need - 1) * s[m].sh + (int64_t)(s[m].kh - 1) * s[m].dh + 1, s[m].h);
        rows[m - 1] = need;
    }
    rows[s->chain - 1] = tf_min(s->band, s[s->chain - 1].oh);
}

/* The step on `rows` of its output rows, in one task. */
static tf_step on_rows(const tf_step *s, int64_t rows)
{
    tf_step part = *s;
    part.n = part.tasks = 1;
    part.oh = (int32_t)rows;
    part.block = (int32_t)(rows * s->ow);
    part.panels = s->oc;
    return part;
}

static int64_t rows_bytes(const tf_step *s, int64_t rows)
{
    return tf_ceil_div(rows * s->y.row * (int64_t)sizeof(float), 64) * 64;
}

int64_t tf_chain_bytes(const tf_kernels *k, const tf_step *s)
{
    int64_t rows[TF_CHAIN_MAX], most = 0;
    chain_rows(s, rows);
    int64_t held = 0;
    for (int32_t m = 0; m < s->chain; m++) {
        const tf_step part = on_rows(s + m, rows[m]);
        most = tf_max(most, tf_scratch_bytes(k, &part));
        if (m + 1 < s->chain) held += rows_bytes(s + m, rows[m]);
    }
    return held + most;
}

/* What a thread knows of one member. Its output rows base .. next are there. */
typedef struct {
    tf_step part;
    tf_call call;
    int64_t base, next, end; /* end: of this band */
    int64_t from, to;        /* input rows of this band */
    float *y;                /* row 0 of the last member's output; else the buffer of its rows */
    const float *x, *z;      /* row 0 of the first member's input, of the second operand */
} member;

/* memmove of n floats to a lower address, in pieces: glibc does long moves by `rep movsb`, which is
 * slow where the places overlap (Zen 3: 3 % of CNN-8-DS). */
static void move_down(float *to, const float *from, int64_t n)
{
    enum { PIECE = 256 };
    for (int64_t i = 0; i < n; i += PIECE)
        memmove(to + i, from + i, (size_t)tf_min(PIECE, n - i) * sizeof(float));
}

/* What every member must make for rows next .. end of the last one, from the last to the first. */
static void plan_band(const tf_step *s, member *m, int64_t end)
{
    m[s->chain - 1].end = end;
    for (int32_t j = s->chain - 1; j >= 0; j--) {
        rows_under(s + j, m[j].next, m[j].end, &m[j].from, &m[j].to);
        if (j == 0) break;
        member *before = m + j - 1;
        const int64_t kept = before->next - m[j].from, row = s[j].x.row;
        if (kept > 0 && m[j].from > before->base)
            move_down(before->y, before->y + (m[j].from - before->base) * row, kept * row);
        before->base = m[j].from;
        before->next = tf_max(before->next, m[j].from);
        before->end = tf_max(before->next, m[j].to);
    }
}

static void run_member(const tf_kernels *k, const tf_step *s, member *m, int32_t j, void *scratch)
{
    member *own = m + j;
    const int64_t rows = own->end - own->next;
    if (rows == 0) return;
    own->part.oh = (int32_t)rows;
    own->part.h = (int32_t)(own->to - own->from);
    own->part.pt = (int32_t)(own->from - own->next * s[j].sh + s[j].pt);
    own->part.block = (int32_t)(rows * s[j].ow);
    own->call.x = j == 0 ? own->x + own->from * s[j].x.row : own[-1].y;
    own->call.y = own->y + (own->next - own->base) * s[j].y.row;
    if (own->z) own->call.z = own->z + own->next * s[j].z.row;
    k->run[s[j].op](&own->call, 0, scratch);
    own->next = own->end;
}

/* Task t: strip t of the image's rows. */
static void chain_task(const tf_call *call, int32_t task, void *scratch)
{
    const tf_chain *c = (const tf_chain *)(const void *)call;
    const tf_step *s = call->s;
    const int32_t last = s->chain - 1;
    const int64_t image = task / c->strips;
    int64_t rows[TF_CHAIN_MAX], from, to;
    member m[TF_CHAIN_MAX];
    char *memory = scratch;
    chain_rows(s, rows);
    tf_share(s[last].oh, task % c->strips, c->strips, &from, &to);
    for (int32_t j = 0; j <= last; j++) {
        m[j] = (member){.part = on_rows(s + j, rows[j]), .y = (float *)(void *)memory};
        m[j].call = tf_resolve(s + j, c->buffers);
        m[j].call.s = &m[j].part;
        m[j].x = j == 0 ? m[j].call.x + image * s[j].x.img : NULL;
        m[j].z = m[j].call.z ? m[j].call.z + image * s[j].z.img : NULL;
        if (j < last) memory += rows_bytes(s + j, rows[j]);
    }
    m[last].y = m[last].call.y + image * s[last].y.img;
    m[last].next = from;
    while (m[last].next < to) {
        plan_band(s, m, tf_min(m[last].next + s->band, to));
        for (int32_t j = 0; j <= last; j++) {
            const int64_t start = c->spent && task == 0 ? tf_now() : 0;
            run_member(c->k, s, m, j, memory);
            if (c->spent && task == 0) c->spent[j] += tf_now() - start;
        }
    }
}

void tf_chain_run(tf_chain *c, tf_pool *pool, void *scratch, int64_t stride)
{
    const tf_step *s = c->call.s, *last = s + s->chain - 1;
    c->strips = (int32_t)tf_min(pool ? tf_pool_threads(pool) : 1, last->oh);
    const int32_t tasks = c->strips * last->n;
    if (pool && tasks > 1)
        tf_pool_run(pool, chain_task, &c->call, tasks, scratch, stride);
    else
        for (int32_t t = 0; t < tasks; t++) chain_task(&c->call, t, scratch);
}
