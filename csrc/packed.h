/* packed.h: convolution whose inputs are first laid side by side, [k][12 pixels], for instruction
 * sets that multiply by a lane.
 *
 * There one load brings the inputs of four rows where rows in their own places need one load each;
 * neon_tile.h has the inner loop. Packing costs about a third of an instruction for every
 * multiplication of one panel, so it pays where some panels share it (tf_packs in engine.h).
 *
 * A task is the same as in conv.h: pixels times panels. Its pixels are taken in chunks whose packed
 * inputs stay in L2. For a panel the sums of a chunk lie in L1, and the taps of the window pass
 * over them one by one: a tap's weights, too, stay in L1 for all tiles of the chunk.
 *
 * Where the map is so small that much of what its windows see is padding (a quarter of all
 * products on a 4x4 map), a tap takes only the pixels whose input exists.
 */
enum { SUMS = 2 * VL, LONG = 384 }; /* products of a job, so that a tile's inputs stay in L1 */

typedef struct {
    const float *x;             /* [k][up4(rows)] */
    int64_t tap, skip, k;       /* first tap; products before it; products of an output */
    int32_t rows;               /* 1 .. 12 */
    int32_t slot[TF_PACK_ROWS]; /* place of each row in the chunk */
} packed_job;
_Static_assert(sizeof(packed_job) <= sizeof(void *) + 80, "tf_scratch_bytes counts on this");

typedef struct { /* where a pixel's window begins, perhaps outside of the map */
    const float *x;
    float *y;
    const float *z;
    int64_t row, col;
    int whole; /* the window has no padding */
} packed_pixel;

typedef struct {
    packed_job *jobs;
    int64_t count, span;  /* jobs; taps per job */
    int64_t pixels, room; /* of this chunk; rounded up to whole tiles */
    int chosen;           /* taps choose their pixels */
    packed_pixel *at;     /* [pixels] */
    float *sums;          /* [room, and one tile][SUMS] */
    float *x;             /* the packed inputs */
} packed_chunk;

/* One panel of weights. */
typedef struct {
    const char *w;
    const float *slope;
    int64_t col, n, row; /* its first output, how many exist; bytes of a row of w */
    int half;
    float from[2 * SUMS]; /* the bias, twice: neon_tile.h starts two rows at a time */
} packed_panel;

static int64_t packed_up4(int64_t rows) { return (rows + 3) / 4 * 4; }

static void packed_locate(const tf_call *call, packed_chunk *c, int64_t m0)
{
    const tf_step *s = call->s;
    const int64_t map = (int64_t)s->oh * s->ow;
    const int64_t high = (int64_t)(s->kh - 1) * s->dh, wide = (int64_t)(s->kw - 1) * s->dw;
    int64_t i = m0 / map, oy = m0 % map / s->ow, ox = m0 % map % s->ow;
    for (packed_pixel *p = c->at, *end = p + c->pixels; p < end; ox = 0) {
        const int64_t row = oy * s->sh - s->pt;
        const int rows = row >= 0 && row + high < s->h;
        int64_t col = ox * s->sw - s->pl;
        const float *x = call->x + (i * s->x.img + row * s->x.row + col * s->x.ld);
        const float *z = call->z ? call->z + tf_at(&s->z, i, oy, ox) : NULL;
        float *y = call->y + tf_at(&s->y, i, oy, ox);
        for (; p < end && ox < s->ow; p++, ox++) {
            *p = (packed_pixel){x, y, z, row, col, rows && col >= 0 && col + wide < s->wd};
            col += s->sw;
            x += s->sw * s->x.ld;
            y += s->y.ld;
            if (z) z += s->z.ld;
        }
        if (++oy == s->oh) oy = 0, i++;
    }
}

/* Where a tap lies in the window. */
typedef struct {
    int64_t dy, dx, off;
} packed_tap;

static packed_tap packed_tap_of(const tf_step *s, int64_t tap)
{
    const int64_t dy = tap / s->kw * s->dh, dx = tap % s->kw * s->dw;
    return (packed_tap){dy, dx, dy * s->x.row + dx * s->x.ld};
}

static int packed_inside(const tf_step *s, const packed_pixel *p, const packed_tap *t)
{
    return p->whole || ((uint64_t)(p->row + t->dy) < (uint64_t)s->h &&
                        (uint64_t)(p->col + t->dx) < (uint64_t)s->wd);
}

/* Makes a job of the pixels in its slots, on `span` taps from job->tap on. */
static void packed_rows(const tf_call *call, const packed_chunk *c, packed_job *job, int64_t kc,
                        float *x)
{
    const int64_t wide = packed_up4(job->rows);
    job->x = x;
    job->k = c->span * kc;
    for (int64_t tap = job->tap; tap < job->tap + c->span; tap++, x += wide * kc) {
        const packed_tap t = packed_tap_of(call->s, tap);
        const float *p[TF_PACK_ROWS];
        for (int64_t r = 0; r < wide; r++) {
            const packed_pixel *at = c->at + job->slot[r < job->rows ? r : 0];
            p[r] = packed_inside(call->s, at, &t) ? at->x + t.off : call->zero;
        }
        for (int64_t r = 0; r < wide; r += 4) packed_rows4(x + r, wide, p + r, kc);
    }
}

/* Packs the pixels of a chunk: the jobs of its first taps, then those of the next. */
static void packed_gather(const tf_call *call, const conv_shape *v, packed_chunk *c)
{
    float *x = c->x;
    packed_job *job = c->jobs;
    for (int64_t tap = 0; tap < v->taps; tap += c->span) {
        const packed_tap t = packed_tap_of(call->s, tap);
        job->rows = 0;
        for (int32_t i = 0; i < c->pixels; i++) {
            if (!c->chosen || packed_inside(call->s, c->at + i, &t)) job->slot[job->rows++] = i;
            const int last = i + 1 == c->pixels;
            if (job->rows == 0 || (job->rows < TF_PACK_ROWS && !last)) continue;
            job->tap = tap;
            job->skip = tap * v->kc;
            packed_rows(call, c, job, v->kc, x);
            x += packed_up4(job->rows) * job->k;
            if (!last) (++job)->rows = 0;
        }
        if (job->rows) job++;
    }
    c->count = job - c->jobs;
}

/* A panel one vector wide: sums[r][0..VL] over four rows at a time. */
static void packed_slim(int64_t kc, const float *x, int64_t wide, const char *w, int half,
                        const float *from, int64_t step, float *sums)
{
    for (int64_t r = 0; r < wide; r += 4) {
        const float *f = from + r * step;
        vf a0 = v_load(f), a1 = v_load(f + step), a2 = v_load(f + 2 * step);
        vf a3 = v_load(f + 3 * step);
        const char *weight = w;
        for (int64_t k = 0; k < kc; k++, weight += VL * (half ? 2 : 4)) {
            const vf b = WEIGHTS(weight);
            const vrow lanes = row_load(x + k * wide + r);
            a0 = v_fma_lane(a0, b, lanes, 0);
            a1 = v_fma_lane(a1, b, lanes, 1);
            a2 = v_fma_lane(a2, b, lanes, 2);
            a3 = v_fma_lane(a3, b, lanes, 3);
        }
        v_store(sums + r * SUMS, a0);
        v_store(sums + (r + 1) * SUMS, a1);
        v_store(sums + (r + 2) * SUMS, a2);
        v_store(sums + (r + 3) * SUMS, a3);
    }
}

/* sums[r] = from[r] + the job's products; step: floats from one row of `from` to the next. */
static inline void packed_sum(const packed_job *job, const packed_panel *panel, const float *from,
                              int64_t step, float *sums)
{
    const int64_t wide = packed_up4(job->rows);
    const char *w = panel->w + job->skip * panel->row;
    if (panel->n <= VL)
        packed_slim(job->k, job->x, wide, w, panel->half, from, step, sums);
    else if (wide == TF_PACK_ROWS && !panel->half)
        packed_12(job->k, job->x, w, from, step * 2 * 4, sums);
    else
        packed_tiles[panel->half][wide / 4 - 1](job->k, job->x, w, from, step * 2 * 4, sums);
}

static inline void packed_copy(float *to, const float *from)
{
    v_store(to, v_load(from));
    v_store(to + VL, v_load(from + VL));
}

/* All products of one panel into the sums of a chunk. */
static void packed_multiply(const packed_chunk *c, const packed_panel *panel)
{
    if (!c->chosen) {
        for (const packed_job *job = c->jobs; job < c->jobs + c->count; job++) {
            float *sums = c->sums + job->slot[0] * SUMS;
            packed_sum(job, panel, job->tap ? sums : panel->from, job->tap ? SUMS : 0, sums);
        }
        return;
    }
    for (int64_t i = 0; i < c->pixels; i++) packed_copy(c->sums + i * SUMS, panel->from);
    float *own = c->sums + c->room * SUMS; /* the job's rows, side by side */
    for (const packed_job *job = c->jobs; job < c->jobs + c->count; job++) {
        for (int32_t r = 0; r < job->rows; r++)
            packed_copy(own + r * SUMS, c->sums + job->slot[r] * SUMS);
        packed_sum(job, panel, own, SUMS, own);
        for (int32_t r = 0; r < job->rows; r++)
            packed_copy(c->sums + job->slot[r] * SUMS, own + r * SUMS);
    }
}

/* One vector of outputs at y + c, of which n exist: whatever a step may ask for. */
static inline void packed_end(const tf_step *s, const packed_pixel *p, int64_t c, vf v, vf slope,
                              int64_t n)
{
    if (s->flags & TF_RESIDUAL) v = v_add(v, v_load_n(p->z + c, n));
    v = s->act == TF_PRELU ? v_prelu(v, slope) : v_act(v, s);
    if (s->flags & TF_RESIDUAL_END) v = v_add(v, v_load_n(p->z + c, n));
    v_store_n(p->y + c, v, n);
}

/* Residual, activation, and out: a and b of each pixel. The common cases have no branches. */
#define PACKED_OUT(act)                                                                            \
    _Pragma("GCC unroll 4") for (int64_t i = 0; i < c->pixels; i++)                                \
    {                                                                                              \
        const packed_pixel *p = c->at + i;                                                         \
        vf a = v_load(c->sums + i * SUMS), b = v_load(c->sums + i * SUMS + VL);                    \
        act v_store(p->y + col, a);                                                                \
        v_store(p->y + col + VL, b);                                                               \
    }
static void packed_finish(const tf_step *s, const packed_chunk *c, const packed_panel *panel)
{
    const int64_t col = panel->col, n = panel->n;
    const vf zero = v_set1(0.0f), lo = v_set1(s->alpha), hi = v_set1(s->hi);
    const vf s0 = panel->slope ? v_load(panel->slope) : zero;
    const vf s1 = panel->slope && n > VL ? v_load(panel->slope + VL) : zero;
    const int add = s->flags == TF_RESIDUAL || s->flags == (TF_RESIDUAL | TF_HALF);
    const int alone = s->flags == 0 || s->flags == TF_HALF;
    if (n == SUMS && alone && s->act == TF_PRELU) {
        PACKED_OUT(a = v_prelu(a, s0); b = v_prelu(b, s1);)
    } else if (n == SUMS && alone && s->act == TF_CLIP) {
        PACKED_OUT(a = v_min(hi, v_max(lo, a)); b = v_min(hi, v_max(lo, b));)
    } else if (n == SUMS && alone && s->act == TF_NONE) {
        PACKED_OUT()
    } else if (n == SUMS && add && s->act == TF_NONE) {
        PACKED_OUT(a = v_add(a, v_load(p->z + col)); b = v_add(b, v_load(p->z + col + VL));)
    } else {
        for (int64_t i = 0; i < c->pixels; i++) {
            packed_end(s, c->at + i, col, v_load(c->sums + i * SUMS), s0, n);
            if (n <= VL) continue;
            packed_end(s, c->at + i, col + VL, v_load(c->sums + i * SUMS + VL), s1, n - VL);
        }
    }
}

static void packed_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    const conv_shape v = conv_shape_of(s);
    const int64_t pixels = (int64_t)s->n * s->oh * s->ow, blocks = tf_ceil_div(pixels, s->block);
    const int64_t m0 = task % blocks * s->block, m1 = tf_min(m0 + s->block, pixels);
    const int64_t p0 = task / blocks * s->panels, p1 = tf_min(p0 + s->panels, v.panels);
    const int64_t most = tf_pack_chunk(s), tiles = most / TF_PACK_ROWS;
    packed_chunk c = {.chosen = tf_pack_chooses(s), .jobs = scratch, .room = most};
    c.span = c.chosen ? 1 : v.taps * v.kc <= LONG ? v.taps : s->kw * v.kc <= LONG ? s->kw : 1;
    c.at = (packed_pixel *)(void *)(c.jobs + tiles * v.taps);
    c.sums = (float *)(void *)(c.at + most);
    c.x = c.sums + (most + TF_PACK_ROWS) * SUMS;
    for (int64_t m = m0; m < m1; m += most) {
        c.pixels = tf_min(most, m1 - m);
        packed_locate(call, &c, m);
        packed_gather(call, &v, &c);
        for (int64_t p = p0; p < p1; p++) {
            const int64_t col = p * SUMS;
            packed_panel panel = {.half = (s->flags & TF_HALF) != 0, .col = col};
            panel.n = tf_min(v.oc - col, SUMS);
            panel.row = (panel.n > VL ? SUMS : VL) * v.elem;
            panel.w = (const char *)call->w + col * v.taps * v.kc * v.elem;
            panel.slope = call->slope ? call->slope + col : NULL;
            const int64_t bytes = (int64_t)sizeof(float) * (panel.n > VL ? SUMS : VL);
            memcpy(panel.from, call->bias + col, (size_t)bytes);
            memcpy(panel.from + SUMS, call->bias + col, (size_t)bytes);
            packed_multiply(&c, &panel);
            packed_finish(s, &c, &panel);
        }
    }
}

static void conv_any(const tf_call *call, int32_t task, void *scratch)
{
    if (tf_packs(call->s, 2 * VL))
        packed_run(call, task, scratch);
    else
        conv_run(call, task, scratch);
}
