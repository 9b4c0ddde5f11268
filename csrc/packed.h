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
 * Whole tiles write their outputs themselves; the sums of the last few pixels of a task, and of
 * narrow panels, go through memory.
 *
 * Where the map is so small that much of what its windows see is padding (a quarter of all
 * products on a 4x4 map), a tap takes only the pixels whose input exists.
 * Counted (make count-arm): FDFaceNet takes 35.1 million instructions with it, 51.3 without.
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

typedef struct { /* chosen, plain, direct: how things are done, not what: the bits are the same */
    packed_job *jobs;
    int64_t count, span;  /* jobs; taps per job */
    int64_t pixels, room; /* of this chunk; rounded up to whole tiles */
    int chosen;           /* taps choose their pixels */
    int plain;            /* 1x1: pixel i of the output is made of pixel i of the input */
    int direct;           /* whole tiles finish their sums and write them: packed_out */
    float limits[2 * VL]; /* of a clip, as packed_out wants them */
    packed_pixel *at;     /* [pixels]; not made for those that nobody asks for */
    float *sums;          /* [room, and one tile][SUMS] */
    float *x;             /* the packed inputs */
} packed_chunk;

/* One panel of weights. */
typedef struct {
    const char *w;
    const float *slope;
    int64_t col, n, row; /* its first output, how many exist; bytes of a row of w */
    int half;
    packed_out out;       /* of the next tile to be finished; y NULL: none is */
    float from[2 * SUMS]; /* the bias, twice: neon_tile.h starts two rows at a time */
} packed_panel;

static int64_t packed_up4(int64_t rows) { return (rows + 3) / 4 * 4; }

/* Pixels of a chunk that begins at output m0, from `first` on. */
static void packed_locate(const tf_call *call, packed_chunk *c, int64_t m0, int64_t first)
{
    const tf_step *s = call->s;
    const int64_t map = (int64_t)s->oh * s->ow;
    const int64_t high = (int64_t)(s->kh - 1) * s->dh, wide = (int64_t)(s->kw - 1) * s->dw;
    const int64_t m = m0 + first;
    int64_t i = m / map, oy = m % map / s->ow, ox = m % map % s->ow;
    for (packed_pixel *p = c->at + first, *end = c->at + c->pixels; p < end; ox = 0) {
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
    const int64_t wide = packed_up4(job->rows), end = job->tap + c->span;
    const packed_pixel *at[TF_PACK_ROWS];
    const float *first[TF_PACK_ROWS], *p[TF_PACK_ROWS];
    int whole = 1; /* does every tap find its input in the map? */
    for (int64_t r = 0; r < wide; r++) {
        at[r] = c->at + job->slot[r < job->rows ? r : 0];
        first[r] = at[r]->x;
        whole &= at[r]->whole | c->chosen;
    }
    job->x = x;
    job->k = c->span * kc;
    for (int64_t tap = job->tap; tap < end; tap++, x += wide * kc) {
        const packed_tap t = packed_tap_of(call->s, tap);
        if (whole) {
            packed_turn(x, wide, first, t.off, kc);
            continue;
        }
        for (int64_t r = 0; r < wide; r++)
            p[r] = packed_inside(call->s, at[r], &t) ? first[r] + t.off : call->zero;
        packed_turn(x, wide, p, 0, kc);
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

/* The same where rows need no looking for: one after the other from x0 on. */
static void packed_gather_plain(const tf_step *s, packed_chunk *c, const float *x0)
{
    float *x = c->x;
    const int64_t ld = s->x.ld;
    packed_job *job = c->jobs;
    for (int64_t i = 0; i < c->pixels; i += TF_PACK_ROWS, job++) {
        const int64_t rows = tf_min(TF_PACK_ROWS, c->pixels - i), wide = packed_up4(rows);
        *job = (packed_job){.x = x, .k = s->c, .rows = (int32_t)rows, .slot = {(int32_t)i}};
        const float *p[TF_PACK_ROWS];
        for (int64_t r = 0; r < wide; r++) p[r] = x0 + (i + tf_min(r, rows - 1)) * ld;
        packed_turn(x, wide, p, 0, s->c);
        x += wide * s->c;
    }
    c->count = job - c->jobs;
}

/* A panel one vector wide: sums[r][0..VL] over four rows at a time. */
static void packed_slim(int64_t kc, const float *x, int64_t wide, const char *w, int half,
                        const float *from, int64_t step, float *sums)
{
    for (int64_t r = 0; r < wide; r += 4) {
        vf sum[4];
        UNROLL (i, 4) sum[i] = v_load(from + (r + i) * step);
        const char *weight = w;
        for (int64_t k = 0; k < kc; k++, weight += VL * (half ? 2 : 4)) {
            const vf b = v_weights(half, weight);
            const vrow lanes = row_load(x + k * wide + r);
            UNROLL (i, 4) sum[i] = v_fma_lane(sum[i], b, lanes, i);
        }
        UNROLL (i, 4) v_store(sums + (r + i) * SUMS, sum[i]);
    }
}

/* sums[r] = from[r] + the job's products, or what `out` makes of them; step: floats from one row of
 * `from` to the next. */
static inline void packed_sum(const packed_job *job, const packed_panel *panel, const float *from,
                              int64_t step, float *sums, packed_out *out)
{
    const int64_t wide = packed_up4(job->rows);
    const char *w = panel->w + job->skip * panel->row;
    if (panel->n <= VL)
        packed_slim(job->k, job->x, wide, w, panel->half, from, step, sums);
    else if (wide == TF_PACK_ROWS && !panel->half)
        packed_12(job->k, job->x, w, from, step * 2 * 4, sums, out);
    else
        packed_tiles[panel->half][wide / 4 - 1](job->k, job->x, w, from, step * 2 * 4, sums, out);
}

/* All products of one panel into the sums of a chunk. Returns how many pixels are finished. */
static int64_t packed_multiply(const packed_chunk *c, packed_panel *panel, int64_t taps)
{
    if (!c->chosen) {
        int64_t done = 0;
        for (const packed_job *job = c->jobs; job < c->jobs + c->count; job++) {
            const int64_t i = job->slot[0];
            const float *from = job->tap ? c->sums + i * SUMS : panel->from;
            const int64_t step = job->tap ? SUMS : 0;
            if (panel->out.y && job->tap + c->span == taps && job->rows % 4 == 0) {
                packed_sum(job, panel, from, step, NULL, &panel->out);
                done = i + job->rows;
            } else {
                packed_sum(job, panel, from, step, c->sums + i * SUMS, NULL);
            }
        }
        return done;
    }
    float *const sums = c->sums, *const own = sums + c->room * SUMS; /* a job's, side by side */
    for (int64_t i = 0; i < c->pixels; i++) packed_copy(sums + i * SUMS, panel->from);
    for (const packed_job *job = c->jobs; job < c->jobs + c->count; job++) {
        const int64_t rows = job->rows;
        for (int64_t r = 0; r < rows; r++) packed_copy(own + r * SUMS, sums + job->slot[r] * SUMS);
        packed_sum(job, panel, own, SUMS, own, NULL);
        for (int64_t r = 0; r < rows; r++) packed_copy(sums + job->slot[r] * SUMS, own + r * SUMS);
    }
    return 0;
}

/* Residual and smooth activation, where sums are. */
static void packed_smooth(const tf_step *s, const packed_chunk *c, const packed_panel *panel,
                          int64_t i)
{
    for (int64_t k = i; s->flags & TF_RESIDUAL && k < c->pixels; k++)
        UNROLL (j, 2) {
            float *sum = c->sums + k * SUMS + j * VL;
            const float *z = c->at[k].z + panel->col + j * VL;
            const int64_t left = panel->n - j * VL;
            if (left > 0) v_store(sum, v_add(v_load(sum), v_load_n(z, left)));
        }
    act_floats(c->sums + i * SUMS, (c->pixels - i) * SUMS, s);
}

/* Residual, activation, and out, for pixels from i on whose sums were kept. */
static void packed_finish(const tf_step *s, const packed_chunk *c, packed_panel *panel, int64_t i)
{
    const int64_t col = panel->col, n = panel->n;
    for (int64_t rows; panel->out.y && i + 4 <= c->pixels; i += rows) { /* tiles, no products */
        rows = tf_min(TF_PACK_ROWS, (c->pixels - i) / 4 * 4);
        packed_tiles[0][rows / 4 - 1](0, NULL, NULL, c->sums + i * SUMS, SUMS * 2 * 4, NULL,
                                      &panel->out);
    }
    vf slope[2];
    UNROLL (j, 2) slope[j] = v_set1(0.0f);
    if (panel->slope) slope[0] = v_load(panel->slope);
    if (panel->slope && n > VL) slope[1] = v_load(panel->slope + VL);
    const int smooth = s->act > TF_PRELU;
    if (smooth) packed_smooth(s, c, panel, i);
    for (; i < c->pixels; i++) {
        const packed_pixel *p = c->at + i;
        if (s->flags & TF_RIVALS) {
            const float *sum = c->sums + i * SUMS;
            v_store(p->y + col / 2, v_max_nan(v_load(sum), v_load(sum + VL)));
            continue;
        }
        UNROLL (j, 2) {
            const int64_t at = col + j * VL, left = n - j * VL;
            const vf sum = v_load(c->sums + i * SUMS + j * VL);
            if (left <= 0) break;
            const vf v = smooth ? sum : v_finish(sum, s, slope[j], p->z + at, left);
            v_store_n(p->y + at, v, left);
        }
    }
}

/* Panel p of a step, for a chunk whose first output is number m. */
static void packed_take(const tf_call *call, const conv_shape *v, const packed_chunk *c, int64_t m,
                        int64_t p, packed_panel *panel)
{
    const tf_step *s = call->s;
    const int64_t col = p * SUMS;
    panel->col = col;
    panel->n = tf_min(v->oc - col, SUMS);
    panel->row = (panel->n > VL ? SUMS : VL) * v->elem;
    panel->w = (const char *)call->w + col * v->taps * v->kc * v->elem;
    panel->slope = call->slope ? call->slope + col : NULL;
    const vf a = v_load(call->bias + col), b = panel->n > VL ? v_load(call->bias + col + VL) : a;
    for (int64_t k = 0; k < 2 * SUMS; k += SUMS) {
        v_store(panel->from + k, a);
        v_store(panel->from + k + VL, b);
    }
    packed_out *out = &panel->out;
    const int64_t to = s->flags & TF_RIVALS ? col / 2 : col;
    out->y = c->direct && panel->n == SUMS ? call->y + m * s->y.ld + to : NULL;
    out->z = s->flags & TF_RESIDUAL ? call->z + m * s->z.ld + col : NULL;
    out->act = s->act == TF_PRELU ? panel->slope : c->limits;
}

static void packed_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s;
    const conv_shape v = conv_shape_of(s);
    const int64_t pixels = (int64_t)s->n * s->oh * s->ow, blocks = tf_ceil_div(pixels, s->block);
    const int64_t m0 = task % blocks * s->block, m1 = tf_min(m0 + s->block, pixels);
    const int64_t p0 = task / blocks * s->panels, p1 = tf_min(p0 + s->panels, v.panels);
    const int64_t most = tf_pack_chunk(s), tiles = most / TF_PACK_ROWS;
    packed_chunk c = {.jobs = scratch, .room = most};
    c.chosen = tf_pack_chooses(s), c.plain = conv_plain(s);
    c.direct = s->act <= TF_PRELU && conv_dense(s);
    for (int64_t i = 0; i < VL; i++) c.limits[i] = s->alpha, c.limits[VL + i] = s->hi;
    c.span = c.chosen ? 1 : v.taps * v.kc <= LONG ? v.taps : s->kw * v.kc <= LONG ? s->kw : 1;
    c.at = (packed_pixel *)(void *)(c.jobs + tiles * v.taps);
    c.sums = (float *)(void *)(c.at + most);
    c.x = c.sums + (most + TF_PACK_ROWS) * SUMS;
    packed_panel panel = {.half = (s->flags & TF_HALF) != 0};
    panel.out.ldy = s->y.ld * (int64_t)sizeof(float);
    panel.out.ldz = s->z.ld * (int64_t)sizeof(float);
    panel.out.kind = s->flags & TF_RIVALS ? LARGER : s->act;
    for (int64_t m = m0; m < m1; m += most) {
        c.pixels = tf_min(most, m1 - m);
        /* nobody asks where the pixels of whole tiles are that have no windows */
        const int64_t known = c.plain && c.direct && v.oc % SUMS == 0 ? c.pixels / 4 * 4 : 0;
        packed_locate(call, &c, m, known);
        if (c.plain)
            packed_gather_plain(s, &c, call->x + m * s->x.ld);
        else
            packed_gather(call, &v, &c);
        for (int64_t p = p0; p < p1; p++) {
            packed_take(call, &v, &c, m, p, &panel);
            packed_finish(s, &c, &panel, packed_multiply(&c, &panel, v.taps));
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
