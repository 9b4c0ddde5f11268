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

/* Input rows *from .. *to that output rows first .. end of s read, within the map. */
static void rows_under(const tf_step *s, int64_t first, int64_t end, int64_t *from, int64_t *to)
{
    const int64_t reach = (int64_t)(s->kh - 1) * s->dh + 1;
    *from = tf_min(tf_max(first * s->sh - s->pt, 0), s->h);
    *to = tf_max(tf_min((end - 1) * s->sh - s->pt + reach, s->h), *from);
}

/* Rows that each member must have at a time. */
static void chain_rows(const tf_step *s, int64_t *rows)
{
    int32_t m = s->chain - 1;
    for (rows[m] = tf_min(s->band, s[m].oh); m > 0; m--) {
        const int64_t reach = (int64_t)(s[m].kh - 1) * s[m].dh + 1;
        rows[m - 1] = tf_min((rows[m] - 1) * s[m].sh + reach, s[m].h);
    }
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

/* Does what step m of a chain makes go on panel by panel? Between a convolution and a depthwise 3x3
 * no whole row is needed, just the channels of one panel: these few stay in L1 and L2, next to each
 * other. Long rows, because some short ones stay in L1 or L2 as well; and vectors of 8 floats (Zen
 * 3) or 16 (a Xeon with AVX-512: .96 of the time of CNN-DS), where it was measured. */
enum { TF_LONG_ROW = 4096 }; /* floats: half of L1 */
static int by_panels(const tf_kernels *k, const tf_step *s, int32_t m)
{
    if (m + 1 >= s->chain || k->isa.lanes < 8 || s[m].y.row < TF_LONG_ROW) return 0;
    const tf_step *a = s + m, *b = a + 1;
    const int window = b->kh == 3 && b->kw == 3 && b->dh * b->dw == 1 && b->sh == b->sw;
    /* a row of padding above, which lies in front of the rows of the first band alone; below as
     * many rows as the last window has, if it begins on the map */
    const int inside = b->pt <= 1 && (int64_t)(b->oh - 1) * b->sh - b->pt < b->h;
    return a->op == TF_CONV && a->groups == 1 && a->z.buf < 0 && !(a->flags & TF_RIVALS) &&
           b->op == TF_DEPTHWISE && window && inside && b->sh <= 2 && b->ow >= 4;
}

/* The panels of such a step, all in one place after each other: for each of their two vectors rows
 * with zeros around them. Behind these what is kept of every vector. */
typedef struct {
    int64_t lanes, row;  /* floats of a pixel, of a row */
    int64_t count, keep; /* vectors; rows of each that the next band may need, too */
    int64_t above;       /* rows of zeros */
    int64_t floats;      /* of all rows of a vector */
} panel_rows;

static panel_rows panel_rows_of(const tf_kernels *k, const tf_step *s, int64_t rows)
{
    const tf_step *dw = s + 1;
    panel_rows v = {.lanes = k->isa.lanes, .keep = dw->kh - dw->sh, .above = dw->pt};
    v.row = v.lanes * tf_max(dw->pl + dw->wd, (int64_t)(dw->ow - 1) * dw->sw + dw->kw);
    v.count = tf_ceil_div(s->oc, v.lanes);
    v.floats = (v.above + rows + dw->kh) * v.row;
    return v;
}

/* Bytes in which member m hands on what it makes. */
static int64_t held_bytes(const tf_kernels *k, const tf_step *s, int32_t m, int64_t rows)
{
    if (!by_panels(k, s, m)) return tf_ceil_div(4 * rows * s[m].y.row, 64) * 64;
    const panel_rows v = panel_rows_of(k, s + m, rows);
    return 4 * (2 * v.floats + v.count * v.keep * v.row);
}

int64_t tf_chain_bytes(const tf_kernels *k, const tf_step *s)
{
    int64_t rows[TF_CHAIN_MAX], most = 0;
    chain_rows(s, rows);
    int64_t held = 0;
    for (int32_t m = 0; m < s->chain; m++) {
        const tf_step part = on_rows(s + m, rows[m]);
        most = tf_max(most, tf_scratch_bytes(k, &part));
        if (m + 1 < s->chain) held += held_bytes(k, s, m, rows[m]);
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
    panel_rows panel;        /* if count: how y is laid out, for one panel at a time */
    int64_t saved;           /* rows of every panel that the last band left behind y */
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
        if (!before->panel.count && kept > 0 && m[j].from > before->base)
            move_down(before->y, before->y + (m[j].from - before->base) * row, kept * row);
        before->base = m[j].from;
        before->next = tf_max(before->next, m[j].from);
        before->end = tf_max(before->next, m[j].to);
    }
}

/* Member j's step and operands for this band. */
static void aim(const tf_step *s, member *m, int32_t j)
{
    member *own = m + j;
    const int64_t rows = own->end - own->next;
    own->part.oh = (int32_t)rows;
    own->part.h = (int32_t)(own->to - own->from);
    own->part.pt = (int32_t)(own->from - own->next * s[j].sh + s[j].pt);
    own->part.block = (int32_t)(rows * s[j].ow);
    own->call.x = j == 0 ? own->x + own->from * s[j].x.row : own[-1].y;
    own->call.y = own->y + (own->next - own->base) * own->part.y.row;
    if (own->z) own->call.z = own->z + own->next * s[j].z.row;
}

/* A convolution and its reader while panels go from one to the other. */
typedef struct {
    const tf_kernels *k;
    member *conv, *dw;
    int64_t *spent; /* by the reader; NULL: not wanted */
} handing;

/* Row 0 of a panel's first vector as if all rows of this band followed each other; the new ones
 * begin at next. */
static float *new_rows(const member *conv)
{
    const panel_rows *v = &conv->panel;
    return conv->y + (v->above - conv->next) * v->row;
}

/* The reader takes a panel's channels, and rows that the next band needs, too, are kept. */
static void panel_ready(void *reader, int64_t panel)
{
    const handing *h = reader;
    const member *conv = h->conv, *dw = h->dw;
    const panel_rows *v = &conv->panel;
    const int64_t begin = h->spent ? tf_now() : 0, wide = 2 * v->lanes, c = panel * wide;
    const int64_t oldest = conv->next - conv->saved, apart = v->keep * v->row;
    const int64_t top = dw->next * dw->part.sh - v->above; /* first row under the windows */
    float *new = new_rows(conv), *kept = conv->y + 2 * (v->floats + panel * apart);
    const float *old = kept - oldest * v->row; /* where row 0 would be */
    tf_step part = dw->part;
    part.c = (int32_t)tf_min(wide, part.oc - c);
    part.x.row = v->row, part.x.img = v->floats, part.z.img = apart; /* from vector to vector */
    part.first = (int32_t)(conv->saved > 0 ? conv->next - top : 0);
    tf_call call = dw->call;
    call.s = &part;
    call.x = new + top * v->row;
    call.z = old + top * v->row;
    call.y += c, call.w += c, call.bias += c;
    if (call.slope) call.slope += c;
    h->k->flat(&call, 0, NULL);
    const int64_t keep = tf_min(v->keep, conv->end - oldest);
    for (int64_t j = 0; j * v->lanes < part.c; j++, new += v->floats, old += apart, kept += apart)
        for (int64_t r = conv->end - keep, i = 0; i < keep; r++, i++)
            move_down(kept + i * v->row, (r < conv->next ? old : new) + r * v->row, v->row);
    /* the next panel's outputs are far apart: no prefetcher sees them */
    for (int64_t r = 0; r < dw->part.oh && c + wide < part.oc; r++)
        for (int64_t x = 0; x < dw->part.ow; x++)
            __builtin_prefetch(call.y + wide + r * part.y.row + x * part.y.ld, 1, 2);
    if (h->spent) *h->spent += tf_now() - begin;
}

/* Members j and j + 1 of this band, panel by panel. */
static void run_panels(const tf_chain *c, member *m, int32_t j, int64_t *spent, void *scratch)
{
    const tf_step *s = c->call.s + j;
    member *conv = m + j, *dw = conv + 1;
    const panel_rows *v = &conv->panel;
    handing h = {c->k, conv, dw, spent};
    if (dw->end == dw->next) return;
    aim(c->call.s, m, j + 1);
    const int64_t below = (dw->end - 1) * s[1].sh - s[1].pt + s[1].kh - s->oh;
    if (below > 0)
        for (int64_t i = 0; i < 2; i++)
            tf_zero(new_rows(conv) + i * v->floats + s->oh * v->row, below * v->row);
    if (conv->end > conv->next) {
        aim(c->call.s, m, j);
        conv->call.y = new_rows(conv) + conv->next * v->row + s[1].pl * v->lanes;
        conv->call.ready = panel_ready, conv->call.reader = &h, conv->call.apart = v->floats;
        c->k->run[s->op](&conv->call, 0, scratch);
    } else
        for (int64_t p = 0; 2 * p < v->count; p++) panel_ready(&h, p);
    conv->saved = tf_min(v->keep, conv->end - conv->next + conv->saved);
    conv->next = conv->end;
    dw->next = dw->end;
}

static void run_band(const tf_chain *c, member *m, int64_t *spent, void *scratch)
{
    const tf_step *s = c->call.s;
    for (int32_t j = 0; j < s->chain; j++) {
        const int64_t start = spent ? tf_now() : 0;
        member *own = m + j;
        if (own->panel.count) {
            int64_t reader = 0;
            run_panels(c, m, j, spent ? &reader : NULL, scratch);
            if (spent) spent[j] -= reader, spent[j + 1] += reader;
        } else if (own->end > own->next) {
            aim(s, m, j);
            c->k->run[s[j].op](&own->call, 0, scratch);
            own->next = own->end;
        }
        if (spent) spent[j] += tf_now() - start;
        j += own->panel.count > 0;
    }
}

/* Zeros above and beside the rows of both vectors. */
static void clear_edges(const tf_step *dw, const panel_rows *v, float *y)
{
    const int64_t left = dw->pl * v->lanes, right = left + dw->wd * v->lanes;
    tf_zero(y, v->above * v->row);
    tf_zero(y + v->floats, v->above * v->row);
    for (float *end = y + 2 * v->floats; y < end; y += v->row) {
        tf_zero(y, left);
        tf_zero(y + right, v->row - right);
    }
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
        if (by_panels(c->k, s, j)) {
            m[j].panel = panel_rows_of(c->k, s + j, rows[j]);
            m[j].part.y.ld = (int32_t)m[j].panel.lanes;
            m[j].part.y.row = m[j].panel.row;
            clear_edges(s + j + 1, &m[j].panel, m[j].y);
        }
        if (j < last) memory += held_bytes(c->k, s, j, rows[j]);
    }
    m[last].y = m[last].call.y + image * s[last].y.img;
    m[last].next = from;
    while (m[last].next < to) {
        plan_band(s, m, tf_min(m[last].next + s->band, to));
        run_band(c, m, task == 0 ? c->spent : NULL, memory);
    }
}

void tf_chain_run(tf_chain *c, tf_pool *pool, void *scratch, int64_t stride)
{
    const tf_step *s = c->call.s, *last = s + s->chain - 1;
    c->strips = (int32_t)tf_min(pool ? tf_pool_threads(pool) : 1, last->oh);
    tf_pool_run(pool, chain_task, &c->call, c->strips * last->n, scratch, stride);
}
