/* gemm.h: the micro-kernel of all matrix products.
 *
 * Computes a tile of rows x (nv * VL) outputs, rows being pixels:
 *     y[r][n] = act(bias[n] + sum over tap, k of x[tap][r][k] * w[tap][k][n]  (+ z[r][n]))
 * x is a table of row pointers, so that im2col is never written to memory: padding points to
 * a row of zeros. w is a panel, nv vectors wide, in the order in which it is read.
 *
 * Blocking: all of a tile's outputs stay in registers for the whole reduction, one named
 * variable each (gcc spills arrays of vectors). Each weight is loaded once per tile and used
 * `rows` times; each input is broadcast once and used nv times.
 * `rows`, `nv` and `half` are constants at every place of use, so each combination is
 * compiled to straight code.
 */
#define EACH(M)  M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)
#define ROWS_MAX (ROWS_WIDE > ROWS_SLIM ? ROWS_WIDE : ROWS_SLIM)

typedef struct {
    const float *const *x; /* [taps][ROWS_MAX] */
    float *const *y;       /* [rows] */
    const float *const *z; /* [rows], NULL: no residual */
    const char *w;         /* [taps][kc][nv * VL] floats or halves */
    const float *bias;     /* nv * VL floats */
    const float *slope;    /* nv * VL floats, of PReLU */
    int64_t kc;            /* inputs per tap */
    int64_t taps;
    int64_t xcol, ycol;   /* first channel of this group's input, of this panel's output */
    int64_t apart;        /* floats from the first vector of an output to the second, mostly VL */
    int64_t n;            /* outputs that exist: 1 .. nv * VL */
    const char *next;     /* what to fetch into L2 on the way: share bytes, */
    int64_t share, ahead; /* ahead bytes of them per 4 inputs */
    const tf_step *s;
} tf_tile;

/* Activations that are not worth a place in every tile: a second look at the tile in L1. */
static __attribute__((noinline)) void tile_finish(const tf_tile *t, int64_t rows)
{
    const tf_step *s = t->s;
    for (int64_t r = 0; r < rows; r++) {
        float *y = t->y[r] + t->ycol;
        for (int64_t c = 0; c < t->n; c += VL, y += t->apart - VL) {
            vf v = v_load_n(y + c, t->n - c);
            if (s->act > TF_PRELU) v = v_act(v, s);
            if (s->flags & TF_RESIDUAL_END) v = v_add(v, v_load_n(t->z[r] + t->ycol + c, t->n - c));
            v_store_n(y + c, v, t->n - c);
        }
    }
}

/* The pieces of the micro-kernel, each for one row i of the tile. The accumulators are named
 * variables, a0, a1 .. for the first vector of a panel, b0, b1 .. for the second: gcc spills arrays
 * of them. Rows and vectors beyond the tile are constant conditions, which vanish. */
#define DECLARE(i) vf a##i = bias0, b##i = bias1;
#define WEIGHTS(p)                                                                                 \
    (half ? v_load_half((const uint16_t *)(const void *)(p))                                       \
          : v_load((const float *)(const void *)(p)))
#define POINT(i) const float *p##i = rows > i ? p[i] + t->xcol : NULL;
#define ROW(i)   const vrow r##i = row_load(rows > i ? p##i + k : p0 + k);
#define FMA4(i, lane)                                                                              \
    if (rows > i) {                                                                                \
        a##i = v_fma_lane(a##i, w0, r##i, lane);                                                   \
        if (nv > 1) b##i = v_fma_lane(b##i, w1, r##i, lane);                                       \
    }
#define FMA4_0(i) FMA4(i, 0)
#define FMA4_1(i) FMA4(i, 1)
#define FMA4_2(i) FMA4(i, 2)
#define FMA4_3(i) FMA4(i, 3)
#define LANE(l)                                                                                    \
    {                                                                                              \
        const vf w0 = WEIGHTS(w + (l)*step), w1 = nv > 1 ? WEIGHTS(w + (l)*step + step / 2) : w0;  \
        EACH(FMA4_##l)                                                                             \
    }
#define FMA1(i)                                                                                    \
    if (rows > i) {                                                                                \
        const vf r = v_set1(p##i[k]);                                                              \
        a##i = v_fma(r, w0, a##i);                                                                 \
        if (nv > 1) b##i = v_fma(r, w1, b##i);                                                     \
    }
#define RESIDUAL(i)                                                                                \
    if (rows > i) {                                                                                \
        a##i = v_add(a##i, v_load_n(t->z[i] + c, n0));                                             \
        if (nv > 1) b##i = v_add(b##i, v_load_n(t->z[i] + c + VL, n1));                            \
    }
#define CLIP(i)                                                                                    \
    if (rows > i) {                                                                                \
        a##i = v_min(hi, v_max(lo, a##i));                                                         \
        if (nv > 1) b##i = v_min(hi, v_max(lo, b##i));                                             \
    }
#define PRELU(i)                                                                                   \
    if (rows > i) {                                                                                \
        a##i = v_fma(s0, v_min(zero, a##i), v_max(zero, a##i));                                    \
        if (nv > 1) b##i = v_fma(s1, v_min(zero, b##i), v_max(zero, b##i));                        \
    }
#define STORE(i)                                                                                   \
    if (rows > i) {                                                                                \
        float *to = y[i] + c;                                                                      \
        v_store(to, a##i);                                                                         \
        if (nv > 1) v_store(to + apart, b##i);                                                     \
    }
#define STORE_PART(i)                                                                              \
    if (rows > i) {                                                                                \
        v_store_n(y[i] + c, a##i, n0);                                                             \
        if (nv > 1) v_store_n(y[i] + c + apart, b##i, n1);                                         \
    }

static inline __attribute__((always_inline)) void tile(const int rows, const int nv, const int half,
                                                       const tf_tile *t)
{
    const int32_t act = t->s->act, flags = t->s->flags;
    const vf bias0 = v_load(t->bias), bias1 = nv > 1 ? v_load(t->bias + VL) : bias0;
    EACH(DECLARE)

    const char *w = t->w;
    const int64_t step = (int64_t)nv * VL * (half ? 2 : 4);
    const char *next = t->next;
    const int64_t ahead = t->ahead;
    for (int64_t tap = 0; tap < t->taps; tap++) {
        const float *const *p = t->x + tap * ROWS_MAX;
        EACH(POINT)
        int64_t k = 0;
        for (; k + 4 <= t->kc; k += 4, w += 4 * step) {
            if (ahead) {
                for (int64_t a = 0; a < ahead; a += 64) __builtin_prefetch(next + a, 0, 2);
                next += ahead;
            }
            EACH(ROW)
            LANE(0) LANE(1) LANE(2) LANE(3)
        }
        for (; k < t->kc; k++, w += step) {
            const vf w0 = WEIGHTS(w), w1 = nv > 1 ? WEIGHTS(w + step / 2) : w0;
            EACH(FMA1)
        }
    }

    const int64_t c = t->ycol, n0 = t->n, n1 = t->n - VL, apart = t->apart;
    if (flags & TF_RESIDUAL) {
        EACH(RESIDUAL)
    }
    float *const *y = t->y; /* a copy: as far as gcc knows, stores could change t */
    const vf zero = v_set1(0.0f);
    if (act == TF_PRELU) {
        const vf s0 = v_load(t->slope), s1 = nv > 1 ? v_load(t->slope + VL) : s0;
        EACH(PRELU)
    } else if (act == TF_CLIP) {
        const vf lo = v_set1(t->s->alpha), hi = v_set1(t->s->hi);
        EACH(CLIP)
    }
    if (n0 == nv * VL) {
        EACH(STORE)
    } else {
        EACH(STORE_PART)
    }
    if (act > TF_PRELU || (flags & TF_RESIDUAL_END)) tile_finish(t, rows);
}

/* tiles[nv - 1][half][rows - 1] */
typedef void tile_fn(const tf_tile *t);
#define INSTANCE(name, i, most, nv, half)                                                          \
    static void name##_##i(const tf_tile *t)                                                       \
    {                                                                                              \
        if ((i) < (most)) tile((i) + 1, nv, half, t);                                              \
    }
#define TILE(i)                                                                                    \
    INSTANCE(wide, i, ROWS_WIDE, 2, 0)                                                             \
    INSTANCE(slim, i, ROWS_SLIM, 1, 0)                                                             \
    INSTANCE(wide_half, i, ROWS_WIDE, 2, 1)                                                        \
    INSTANCE(slim_half, i, ROWS_SLIM, 1, 1)
EACH(TILE)
#define WIDE(i)      wide_##i,
#define SLIM(i)      slim_##i,
#define WIDE_HALF(i) wide_half_##i,
#define SLIM_HALF(i) slim_half_##i,
static tile_fn *const tiles[2][2][12] = {{{EACH(SLIM)}, {EACH(SLIM_HALF)}},
                                         {{EACH(WIDE)}, {EACH(WIDE_HALF)}}};
