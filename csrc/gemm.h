/* gemm.h: the micro-kernel of all matrix products.
 *
 * Computes a tile of rows x (nv * VL) outputs, rows being pixels:
 *     y[r][n] = act(bias[n] + sum over tap, k of x[tap][r][k] * w[tap][k][n]  (+ z[r][n]))
 * x is a table of row pointers, so that im2col is never written to memory: padding points to
 * a row of zeros. w is a panel, nv vectors wide, in the order in which it is read.
 *
 * Blocking: all of a tile's outputs stay in registers for the whole reduction: sum[rows][nv],
 * whose loops are unrolled (UNROLL in engine.h) so that no element lives in memory. Each weight
 * is loaded once per tile and used `rows` times; each input is broadcast once and used nv times.
 * `rows`, `nv` and `half` are constants at every place of use, so each combination is
 * compiled to straight code.
 * Measured on a Zen 3 core (AVX2, peak 45.8 GMAC/s): 42.8 in MobileFaceNet, 32.6 in FDFaceNet.
 */
/* clang-format off */
#define EACH(M, v, h)                                                                              \
    M(0, v, h) M(1, v, h) M(2, v, h) M(3, v, h) M(4, v, h) M(5, v, h)                              \
    M(6, v, h) M(7, v, h) M(8, v, h) M(9, v, h) M(10, v, h) M(11, v, h)
/* clang-format on */
#define ROWS_MAX (ROWS_WIDE > ROWS_SLIM ? ROWS_WIDE : ROWS_SLIM)
_Static_assert(2 * ROWS_WIDE <= 24 && ROWS_SLIM <= 24, "act_rows has room for so many vectors");

typedef struct {
    /* of each tile [taps + 2][ROWS_MAX]: under the taps, into y, and of a residual into z */
    const float *const *table;
    int64_t count, pitch; /* tiles; pointers of the table from one to the next */
    int64_t step;         /* floats from row to row, of which the table has the first; 0: has all */
    const char *w;        /* [taps][kc][nv * VL] floats or halves */
    const float *bias;    /* nv * VL floats */
    const float *slope;   /* nv * VL floats, of PReLU */
    int64_t kc;           /* inputs per tap */
    int64_t taps;
    int64_t xcol, ycol;   /* first channel of this group's input, of this panel's output */
    int64_t apart;        /* floats from the first vector of an output to the second, mostly VL */
    int64_t n;            /* outputs that exist: 1 .. nv * VL */
    const char *next;     /* what to fetch into L2 on the way: share bytes, */
    int64_t share, ahead; /* ahead bytes of them per 4 inputs */
    const tf_step *s;
} tf_tile;

/* VL weights at p: floats, or halves to be widened. */
static inline vf v_weights(const int half, const char *p)
{
    return half ? v_load_half((const uint16_t *)(const void *)p)
                : v_load((const float *)(const void *)p);
}

/* Keeps compilers from adding up in front of a loop what its instructions add up anyway. */
#define HIDE(p) __asm__("" : "+r"(p))

/* sum[rows][nv] += x w, over all taps of a tile. Returns what is to be fetched next. even: rows lie
 * t->step apart, and three of them share a pointer. Counters are as wide as pointers: in 64 bits
 * they took a seventh of a 32-bit ARM's instructions. */
INLINE const char *tile_sums(const int rows, const int nv, const int half, const int even,
                             const tf_tile *t, const float *const *table, const char *next,
                             vf sum[ROWS_MAX][2])
{
    const ptrdiff_t vector = VL * (half ? 2 : 4), step = nv * vector;
    const ptrdiff_t kc = (ptrdiff_t)t->kc, ahead = (ptrdiff_t)t->ahead;
    const int pointers = even ? (rows + 2) / 3 : rows;
    const char *w = t->w;
    vf weight[2];
    for (int64_t tap = 0; tap < t->taps; tap++) {
        const float *x[ROWS_MAX];
        UNROLL (i, pointers)
            x[i] = table[tap * ROWS_MAX + (even ? 0 : i)] + t->xcol + (even ? 3 * i * t->step : 0);
#define ROW(i) (even ? x[(i) / 3] + (i) % 3 * t->step : x[i] + k)
#define ON(n)                                                                                      \
    if (even)                                                                                      \
        UNROLL (i, pointers) {                                                                     \
            x[i] += n;                                                                             \
            HIDE(x[i]);                                                                            \
        }
        ptrdiff_t k = 0;
        for (; k + 4 <= kc; k += 4, w += 4 * step) {
            if (ahead) {
                for (ptrdiff_t a = 0; a < ahead; a += 64) __builtin_prefetch(next + a, 0, 2);
                next += ahead;
            }
            vrow row[ROWS_MAX];
            UNROLL (i, rows) row[i] = row_load(ROW(i));
            UNROLL (lane, 4) {
                UNROLL (j, nv) weight[j] = v_weights(half, w + lane * step + j * vector);
                UNROLL (i, rows)
                    UNROLL (j, nv) sum[i][j] = v_fma_lane(sum[i][j], weight[j], row[i], lane);
            }
            ON(4)
        }
        for (; k < kc; k++, w += step) {
            UNROLL (j, nv) weight[j] = v_weights(half, w + j * vector);
            UNROLL (i, rows)
                UNROLL (j, nv) sum[i][j] = v_fma(v_set1(*ROW(i)), weight[j], sum[i][j]);
            ON(1)
        }
#undef ROW
#undef ON
    }
    return next;
}

/* The first n < VL floats of each row's vector. One for all shapes of tiles: with such stores of
 * their own they were a quarter larger. */
static __attribute__((noinline)) void store_parts(int64_t rows, float *const *y, int64_t at,
                                                  const float *sum, int64_t n)
{
#define PART(size)                                                                                 \
    if (n & (size)) {                                                                              \
        for (int64_t i = 0; i < rows; i++) memcpy(y[i] + at, sum + i * VL, (size) * sizeof *sum);  \
        at += (size);                                                                              \
        sum += (size);                                                                             \
    }
    PART(8)
    PART(4)
    PART(2)
    PART(1)
#undef PART
}

/* Residual, activation, and out. The last vector may be a part of one. */
INLINE void tile_finish(const int rows, const int nv, const tf_tile *t, float *const *y,
                        vf sum[ROWS_MAX][2])
{
    const tf_step *s = t->s;
    const int64_t c = t->ycol, n = t->n, last = n - (nv - 1) * VL;
    if (nv == 2 && s->flags & TF_RIVALS) {
        UNROLL (i, rows) v_store(y[i] + c / 2, v_max_nan(sum[i][0], sum[i][1]));
        return;
    }
    if (s->flags & TF_RESIDUAL) {
        const float *const *z = (const float *const *)(y + ROWS_MAX);
        UNROLL (i, rows) {
            if (nv == 2) sum[i][0] = v_add(sum[i][0], v_load(z[i] + c));
            sum[i][nv - 1] = v_add(sum[i][nv - 1], v_load_n(z[i] + c + (nv - 1) * VL, last));
        }
    }
    act_rows(rows, nv, 0, sum, n, s, t->slope);
    const int64_t at = c + (nv - 1) * t->apart;
    if (nv == 2)
        UNROLL (i, rows) v_store(y[i] + c, sum[i][0]);
    if (last == VL) {
        UNROLL (i, rows) v_store(y[i] + at, sum[i][nv - 1]);
    } else {
        float parts[ROWS_MAX * VL];
        UNROLL (i, rows) v_store(parts + i * VL, sum[i][nv - 1]);
        store_parts(rows, y, at, parts, last);
    }
}

/* All tiles in one call, which costs as much as 20 cycles of a tile: the next one begins while
 * the last one's sums are finished. */
INLINE void tile(const int rows, const int nv, const int half, const int even, const tf_tile *t)
{
    const float *const *table = t->table;
    const char *next = t->next;
    for (int64_t left = t->count; left > 0; left--, table += t->pitch) {
        vf sum[ROWS_MAX][2];
        UNROLL (i, rows)
            UNROLL (j, nv) sum[i][j] = v_load(t->bias + j * VL);
        next = tile_sums(rows, nv, half, even, t, table, next, sum);
        tile_finish(rows, nv, t, (float *const *)(uintptr_t)(table + t->taps * ROWS_MAX), sum);
    }
}

/* Even tiles have as many rows as registers allow for, or one less (conv_cut_of). */
#define EVEN_ROWS(n)                                                                               \
    ((n) == ROWS_WIDE || (n) == ROWS_WIDE - 1 || (n) == ROWS_SLIM || (n) == ROWS_SLIM - 1)

/* tiles[nv - 1][kind][rows - 1]; kind 0: fp32, 1: weights are halves, 2: fp32, even */
typedef void tile_fn(const tf_tile *t);
#define TILE(i, nv, kind)                                                                          \
    static void tile_##nv##kind##_##i(const tf_tile *t)                                            \
    {                                                                                              \
        if ((i) < ((nv) == 2 ? ROWS_WIDE : ROWS_SLIM) && ((kind) < 2 || EVEN_ROWS((i) + 1)))       \
            tile((i) + 1, nv, (kind) == 1, (kind) == 2, t);                                        \
    }
EACH(TILE, 1, 0)
EACH(TILE, 1, 1)
EACH(TILE, 1, 2)
EACH(TILE, 2, 0)
EACH(TILE, 2, 1)
EACH(TILE, 2, 2)
#define NAME(i, nv, kind) tile_##nv##kind##_##i,
static tile_fn *const tiles[2][3][12] = {
    {{EACH(NAME, 1, 0)}, {EACH(NAME, 1, 1)}, {EACH(NAME, 1, 2)}},
    {{EACH(NAME, 2, 0)}, {EACH(NAME, 2, 1)}, {EACH(NAME, 2, 2)}}};

/* `count` tiles, the first `more` of which have rows + 1. fn: of tiles above. */
static void tiles_run(tf_tile *t, const float *const *table, int64_t count, int64_t rows,
                      int64_t more, tile_fn *const *fn)
{
    t->table = table;
    t->count = more;
    if (more) fn[rows](t);
    t->table += more * t->pitch;
    t->next += more * t->share;
    t->count = count - more;
    fn[rows - 1](t);
}
