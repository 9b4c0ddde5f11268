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
 * Counted (make count-arm): FDFaceNet takes 34.9 million instructions with it, 51.3 without.
 */
_Static_assert(ROWS_MAX == TF_PACK_ROWS, "conv_point makes the tables of tiles");
enum { SUMS = 2 * VL, LONG = 384 }; /* products of a job, so that a tile's inputs stay in L1 */

typedef struct {
    const float *x;             /* [k][up4(rows)] */
    int64_t tap, k;             /* first tap; products of an output */
    int32_t rows;               /* 1 .. 12 */
    int32_t slot[TF_PACK_ROWS]; /* place of each row in the chunk */
} packed_job;
_Static_assert(sizeof(packed_job) <= 80, "tf_scratch_bytes counts on this");

typedef struct { /* chosen, direct: how things are done, not what: the bits are the same */
    packed_job *jobs;
    int64_t count, span;  /* jobs; taps per job */
    int64_t pixels, room; /* of this chunk; rounded up to whole tiles */
    int chosen;           /* taps choose their pixels */
    int direct;           /* whole tiles finish their sums and write them: packed_out */
    float limits[2 * VL]; /* of a clip, as packed_out wants them */
    const float **table;  /* of each tile [taps + 2][12], as in conv.h */
    int64_t taps;
    float *sums; /* [room, and one tile][SUMS] */
    float *x;    /* the packed inputs */
} packed_chunk;

/* One panel of weights. */
typedef struct {
    const char *w;
    const float *slope;
    int64_t col, n, tap; /* its first output, how many exist; bytes of a tap of w */
    int half;
    packed_out out;       /* of the next tile to be finished; y NULL: none is */
    float from[2 * SUMS]; /* the bias, twice: neon_tile.h starts two rows at a time */
} packed_panel;

static int64_t packed_up4(int64_t rows) { return (rows + 3) / 4 * 4; }

/* Where pixel i of a chunk has its input under a tap; behind the taps, its output and residual. */
static const float **packed_at(const packed_chunk *c, int64_t i, int64_t tap)
{
    return c->table + (i / TF_PACK_ROWS * (c->taps + 2) + tap) * TF_PACK_ROWS + i % TF_PACK_ROWS;
}

/* The pixels of a job, from *i on: a tile of them, or the next whose input exists (`chosen` has
 * room for their pointers). Returns the pointers of its first tap. */
static const float **packed_rows(const tf_call *call, const packed_chunk *c, packed_job *job,
                                 int64_t *i, const float **chosen)
{
    if (!c->chosen) {
        const float **tile = packed_at(c, *i, job->tap);
        job->slot[0] = (int32_t)*i;
        job->rows = (int32_t)tf_min(TF_PACK_ROWS, c->pixels - *i);
        *i += job->rows;
        return tile;
    }
    for (; *i < c->pixels && job->rows < TF_PACK_ROWS; ++*i) {
        const float *x = *packed_at(c, *i, job->tap);
        if (x == call->zero) continue;
        job->slot[job->rows] = (int32_t)*i;
        chosen[job->rows++] = x;
    }
    return chosen;
}

/* Packs the pixels of a chunk: the jobs of its first taps, then those of the next. */
static void packed_gather(const tf_call *call, const conv_shape *v, packed_chunk *c)
{
    float *x = c->x;
    packed_job *job = c->jobs;
    for (int64_t tap = 0; tap < v->taps; tap += c->span)
        for (int64_t i = 0; i < c->pixels; job++) {
            const float *chosen[TF_PACK_ROWS];
            *job = (packed_job){.x = x, .tap = tap, .k = c->span * v->kc};
            const float **p = packed_rows(call, c, job, &i, chosen);
            if (job->rows == 0) break;
            const int64_t wide = packed_up4(job->rows);
            for (int64_t t = 0; t < c->span; t++, x += wide * v->kc, p += TF_PACK_ROWS) {
                for (int64_t r = job->rows; r < wide; r++) p[r] = p[0];
                packed_turn(x, wide, p, v->kc);
            }
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
    const char *w = panel->w + job->tap * panel->tap;
    if (panel->n <= VL)
        packed_slim(job->k, job->x, wide, w, panel->half, from, step, sums);
    else
        packed_tiles[panel->half][wide / 4 - 1](job->k, job->x, w, from, step * 2 * 4, sums, out);
}

/* All products of one panel into the sums of a chunk. Returns how many pixels are finished. */
static int64_t packed_multiply(const packed_chunk *c, packed_panel *panel)
{
    if (!c->chosen) {
        int64_t done = 0;
        for (const packed_job *job = c->jobs; job < c->jobs + c->count; job++) {
            const int64_t i = job->slot[0];
            const float *from = job->tap ? c->sums + i * SUMS : panel->from;
            const int64_t step = job->tap ? SUMS : 0;
            if (panel->out.y && job->tap + c->span == c->taps && job->rows % 4 == 0) {
                packed_sum(job, panel, from, step, NULL, &panel->out);
                done = i + job->rows;
            } else {
                packed_sum(job, panel, from, step, c->sums + i * SUMS, NULL);
            }
        }
        return done;
    }
    float *const sums = c->sums, *const own = sums + c->room * SUMS; /* a job's, side by side */
    for (int64_t i = 0; i < c->pixels; i++)
        memcpy(sums + i * SUMS, panel->from, SUMS * sizeof *sums);
    for (const packed_job *job = c->jobs; job < c->jobs + c->count; job++) {
        const int64_t rows = job->rows;
        for (int64_t r = 0; r < rows; r++)
            memcpy(own + r * SUMS, sums + job->slot[r] * SUMS, SUMS * sizeof *own);
        packed_sum(job, panel, own, SUMS, own, NULL);
        for (int64_t r = 0; r < rows; r++)
            memcpy(sums + job->slot[r] * SUMS, own + r * SUMS, SUMS * sizeof *own);
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
            const float *z = *packed_at(c, k, c->taps + 1) + panel->col + j * VL;
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
        float *y = (float *)(uintptr_t)*packed_at(c, i, c->taps);
        const float *z = s->flags & TF_RESIDUAL ? *packed_at(c, i, c->taps + 1) : y;
        if (s->flags & TF_RIVALS) {
            const float *sum = c->sums + i * SUMS;
            v_store(y + col / 2, v_max_nan(v_load(sum), v_load(sum + VL)));
            continue;
        }
        UNROLL (j, 2) {
            const int64_t at = col + j * VL, left = n - j * VL;
            const vf sum = v_load(c->sums + i * SUMS + j * VL);
            if (left <= 0) break;
            const vf v = smooth ? sum : v_finish(sum, s, slope[j], z + at, left);
            v_store_n(y + at, v, left);
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
    panel->tap = (panel->n > VL ? SUMS : VL) * v->elem * v->kc;
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
    if (!tf_packs(s, SUMS)) {
        conv_run(call, task, scratch);
        return;
    }
    const conv_shape v = conv_shape_of(s);
    const int64_t pixels = (int64_t)s->n * s->oh * s->ow, blocks = tf_ceil_div(pixels, s->block);
    const int64_t m0 = task % blocks * s->block, m1 = tf_min(m0 + s->block, pixels);
    const int64_t p0 = task / blocks * s->panels, p1 = tf_min(p0 + s->panels, v.panels);
    const int64_t most = tf_pack_chunk(s), tiles = most / TF_PACK_ROWS;
    packed_chunk c = {.jobs = scratch, .room = most};
    c.chosen = tf_pack_chooses(s), c.taps = v.taps;
    c.direct = s->act <= TF_PRELU && conv_dense(s);
    for (int64_t i = 0; i < VL; i++) c.limits[i] = s->alpha, c.limits[VL + i] = s->hi;
    c.span = c.chosen ? 1 : v.taps * v.kc <= LONG ? v.taps : s->kw * v.kc <= LONG ? s->kw : 1;
    c.table = (const float **)(void *)(c.jobs + tiles * v.taps);
    c.sums = (float *)(void *)(c.table + (v.taps + 2) * most);
    c.x = c.sums + (most + TF_PACK_ROWS) * SUMS;
    packed_panel panel = {.half = (s->flags & TF_HALF) != 0};
    panel.out.ldy = s->y.ld * (int64_t)sizeof(float);
    panel.out.ldz = s->z.ld * (int64_t)sizeof(float);
    panel.out.kind = s->flags & TF_RIVALS ? LARGER : s->act;
    conv_pixel at = conv_pixel_of(s, m0);
    for (int64_t m = m0; m < m1; m += most) {
        c.pixels = tf_min(most, m1 - m);
        for (int64_t i = 0; i < c.pixels; i += TF_PACK_ROWS)
            conv_point(call, packed_at(&c, i, 0), &at, tf_min(TF_PACK_ROWS, c.pixels - i));
        packed_gather(call, &v, &c);
        for (int64_t p = p0; p < p1; p++) {
            packed_take(call, &v, &c, m, p, &panel);
            packed_finish(s, &c, &panel, packed_multiply(&c, &panel));
        }
    }
}
