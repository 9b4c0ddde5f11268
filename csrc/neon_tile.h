/* neon_tile.h: the inner loop of packed.h for aarch64, written out.
 *
 *     acc[r][0..7] = from[r][0..7] + sum over k of x[k][r] * w[k][0..7]    for 12, 8 or 4 rows r
 *
 * 24 accumulators, 4 registers of inputs and 4 of weights are all 32 that there are; compilers run
 * out of them and spill. Each multiplication takes its input from a lane; 64 bytes are loaded at a
 * time, so that of 204 instructions 192 multiply. (A compiler's loop over rows as they lie in
 * memory: 91 instructions for 64 multiplications.)
 *
 * Sums that are whole are finished while they are in registers: residual, activation, and out. That
 * takes 8 instructions a row with PReLU; from memory, 15.
 *
 * v0..v3: x; v4..v7: w; v8, v9: row 0; v10, v11: row 1; ...
 * Scheduled (make perf-arm), 12 rows: 100 % of the peak of A72 and A76, 57 % of the A53's model.
 */
typedef struct {    /* where finished sums go: pixels in a row, ldy bytes apart */
    float *y;       /* y and z move on with every tile */
    const float *z; /* NULL, or added first: ldz bytes apart */
    int64_t ldy, ldz;
    const float *act; /* the slopes of PReLU; a clip's lower limit 4 times, its upper one 4 times */
    int64_t kind;     /* TF_NONE, TF_CLIP, TF_PRELU; LARGER: of a row's two vectors */
} packed_out;
_Static_assert(offsetof(packed_out, ldy) == 16 && offsetof(packed_out, act) == 32, "used below");
enum { LARGER = 4 };
_Static_assert(TF_NONE == 0 && TF_CLIP == 1 && TF_PRELU == 2, "used below");

/* out: NULL where the sums are not finished: they go to acc. */
typedef void packed_fn(int64_t k, const float *x, const void *w, const float *from, int64_t step,
                       float *acc, packed_out *out);

/* Four rows, whose accumulators are a b, c d, e f, g h, from the lanes of x; p q: weights. */
#define FMLA(a, p, x, lane) "fmla v" #a ".4s, v" #p ".4s, v" #x ".s[" #lane "]\n\t"
#define ROWS4(a, b, c, d, e, f, g, h, x, p, q)                                                     \
    FMLA(a, p, x, 0)                                                                               \
    FMLA(b, q, x, 0)                                                                               \
    FMLA(c, p, x, 1)                                                                               \
    FMLA(d, q, x, 1) FMLA(e, p, x, 2) FMLA(f, q, x, 2) FMLA(g, p, x, 3) FMLA(h, q, x, 3)
#define ROWS_0(x, p, q) ROWS4(8, 9, 10, 11, 12, 13, 14, 15, x, p, q)
#define ROWS_4(x, p, q) ROWS4(16, 17, 18, 19, 20, 21, 22, 23, x, p, q)
#define ROWS_8(x, p, q) ROWS4(24, 25, 26, 27, 28, 29, 30, 31, x, p, q)

#define LOAD_X      "ld1 {v0.4s-v3.4s}, [%[x]], #64\n\t"
#define LOAD_W      "ld1 {v4.4s-v7.4s}, [%[w]], #64\n\t" /* 2 k */
#define LOAD_W_LAST "ldp q4, q5, [%[w]], #32\n\t"
#define WIDEN(a, b) "fcvtl v" #a ".4s, v" #b ".4h\n\tfcvtl2 v" #b ".4s, v" #b ".8h\n\t"
#define HALF_W      "ldp q5, q7, [%[w]], #32\n\t" WIDEN(4, 5) WIDEN(6, 7)
#define HALF_W_LAST "ldr q5, [%[w]], #16\n\t" WIDEN(4, 5)

/* Four k of the reduction; the rest, one at a time. */
#define FOUR_12(W)                                                                                 \
    LOAD_X W ROWS_0(0, 4, 5) ROWS_4(1, 4, 5) ROWS_8(2, 4, 5) ROWS_0(3, 6, 7)                       \
        LOAD_X ROWS_4(0, 6, 7) ROWS_8(1, 6, 7) W ROWS_0(2, 4, 5) ROWS_4(3, 4, 5)                   \
            LOAD_X ROWS_8(0, 4, 5) ROWS_0(1, 6, 7) ROWS_4(2, 6, 7) ROWS_8(3, 6, 7)
#define ONE_12(W)                                                                                  \
    "ld1 {v0.4s-v2.4s}, [%[x]], #48\n\t" W ROWS_0(0, 4, 5) ROWS_4(1, 4, 5) ROWS_8(2, 4, 5)
#define TWO_8(W)  LOAD_X W ROWS_0(0, 4, 5) ROWS_4(1, 4, 5) ROWS_0(2, 6, 7) ROWS_4(3, 6, 7)
#define FOUR_8(W) TWO_8(W) TWO_8(W)
#define ONE_8(W)  "ldp q0, q1, [%[x]], #32\n\t" W ROWS_0(0, 4, 5) ROWS_4(1, 4, 5)
#define FOUR_4(W) LOAD_X W ROWS_0(0, 4, 5) ROWS_0(1, 6, 7) W ROWS_0(2, 4, 5) ROWS_0(3, 6, 7)
#define ONE_4(W)  "ldr q0, [%[x]], #16\n\t" W ROWS_0(0, 4, 5)

/* Two rows of accumulators from memory, or to it. */
#define FROM(a, d) "ld1 {v" #a ".4s-v" #d ".4s}, [%[from]], %[step]\n\t"
#define TO(a, d)   "st1 {v" #a ".4s-v" #d ".4s}, [%[acc]], #64\n\t"
#define ENDS_4(M)  M(8, 11) M(12, 15)
#define ENDS_8(M)  ENDS_4(M) M(16, 19) M(20, 23)
#define ENDS_12(M) ENDS_8(M) M(24, 27) M(28, 31)

/* What finishes a row, in registers. */
#define RESIDUAL_Z(a, b)                                                                           \
    "ld1 {v0.4s, v1.4s}, [%[x]], %[w]\n\t" OP("fadd", a, a, 0) OP("fadd", b, b, 1)
#define CLIP_ROW(a, b)   V_CLIP(a, b, 1, 2)
#define PRELU_ROW(a, b)  V_PRELU(a, b, 4, 5, 3, 1, 2)
#define STORE_Y(a, b)    "st1 {v" #a ".4s, v" #b ".4s}, [%[acc]], %[step]\n\t"
#define STORE_MOST(a, b) OP("fmax", a, a, b) "st1 {v" #a ".4s}, [%[acc]], %[step]\n\t"
#define EACH_4(M)        M(8, 9) M(10, 11) M(12, 13) M(14, 15)
#define EACH_8(M)        EACH_4(M) M(16, 17) M(18, 19) M(20, 21) M(22, 23)
#define EACH_12(M)       EACH_8(M) M(24, 25) M(26, 27) M(28, 29) M(30, 31)
/* clang-format off */
#define FINISH(rows)                                                                               \
    "cbz %[out], 9f\n\t"                                                                           \
    "ldp %[acc], %[x], [%[out]]\n\t"                                                               \
    "ldp %[step], %[w], [%[out], #16]\n\t"                                                         \
    "ldp %[from], %[k], [%[out], #32]\n\t"                                                         \
    "cbz %[x], 6f\n\t"                                                                             \
    EACH_##rows(RESIDUAL_Z)                                                                        \
    "6:\n\t"                                                                                       \
    "cbz %[k], 8f\n\t"                                                                             \
    "tbnz %[k], #2, 11f\n\t"                                                                       \
    "ld1 {v1.4s, v2.4s}, [%[from]]\n\t"                                                            \
    "tbz %[k], #0, 7f\n\t"                                                                         \
    EACH_##rows(CLIP_ROW)                                                                          \
    "b 8f\n"                                                                                       \
    "7:\n\t"                                                                                       \
    "movi v3.4s, #0\n\t"                                                                           \
    EACH_##rows(PRELU_ROW)                                                                         \
    "8:\n\t"                                                                                       \
    EACH_##rows(STORE_Y)                                                                           \
    "stp %[acc], %[x], [%[out]]\n\t"                                                               \
    "b 10f\n"                                                                                      \
    "11:\n\t"                                                                                      \
    EACH_##rows(STORE_MOST)                                                                        \
    "stp %[acc], %[x], [%[out]]\n\t"                                                               \
    "b 10f\n"                                                                                      \
    "9:\n\t"                                                                                       \
    ENDS_##rows(TO)                                                                                \
    "10:\n\t"

#define PACKED_TILE(name, rows, W)                                                                 \
    static void name(int64_t k, const float *x, const void *w, const float *from, int64_t step,    \
                     float *acc, packed_out *out)                                                  \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            ENDS_##rows(FROM)                                                                      \
            "subs %[k], %[k], #8\n\t"                                                              \
            "b.lt 2f\n"                                                                            \
            "1:\n\t"                                                                               \
            FOUR_##rows(W)                                                                         \
            FOUR_##rows(W)                                                                         \
            "subs %[k], %[k], #8\n\t"                                                              \
            "b.ge 1b\n"                                                                            \
            "2:\n\t" /* k is now 8 less than what is left: its last three bits are the same */     \
            "tbz %[k], #2, 3f\n\t"                                                                 \
            FOUR_##rows(W)                                                                         \
            "3:\n\t"                                                                               \
            "ands %[k], %[k], #3\n\t"                                                              \
            "b.eq 5f\n"                                                                            \
            "4:\n\t"                                                                               \
            ONE_##rows(W##_LAST)                                                                   \
            "subs %[k], %[k], #1\n\t"                                                              \
            "b.ne 4b\n"                                                                            \
            "5:\n\t"                                                                               \
            FINISH(rows)                                                                           \
            : [k] "+r"(k), [x] "+r"(x), [w] "+r"(w), [from] "+r"(from), [acc] "+r"(acc),           \
              [step] "+r"(step)                                                                    \
            : [out] "r"(out)                                                                       \
            : ALL_REGISTERS);                                                                      \
    }
/* clang-format on */
PACKED_TILE(packed_4, 4, LOAD_W)
PACKED_TILE(packed_8, 8, LOAD_W)
PACKED_TILE(packed_12, 12, LOAD_W)
PACKED_TILE(packed_4_half, 4, HALF_W)
PACKED_TILE(packed_8_half, 8, HALF_W)
PACKED_TILE(packed_12_half, 12, HALF_W)
static packed_fn *const packed_tiles[2][3] = {{packed_4, packed_8, packed_12},
                                              {packed_4_half, packed_8_half, packed_12_half}};

/* out[k][0..rows - 1] = p[0..rows - 1][k]. A load of four k into one lane each, for four
 * rows, turns a square of 4 x 4 round without shuffles. */
#define TURN(a, d, p, lane) "ld4 {v" #a ".s-v" #d ".s}[" #lane "], [%[" #p "]], #16\n\t"
#define TURN_4(a, d, p0, p1, p2, p3)                                                               \
    TURN(a, d, p0, 0) TURN(a, d, p1, 1) TURN(a, d, p2, 2) TURN(a, d, p3, 3)
#define PUT_12(a, b, c, at)                                                                        \
    "stp q" #a ", q" #b ", [%[out], #" #at "]\n\tstr q" #c ", [%[out], #" #at " + 32]\n\t"

static __attribute__((noinline)) void packed_rows12(float *out, const float *const *p, int64_t kc)
{
    const float *a = p[0], *b = p[1], *c = p[2], *d = p[3];
    const float *e = p[4], *f = p[5], *g = p[6], *h = p[7];
    const float *i = p[8], *j = p[9], *l = p[10], *m = p[11];
    int64_t k = kc;
    /* clang-format off */
    __asm__ volatile("subs %[k], %[k], #4\n\t"
                     "b.lt 2f\n"
                     "1:\n\t"
                     TURN_4(0, 3, a, b, c, d)
                     TURN_4(4, 7, e, f, g, h)
                     TURN_4(16, 19, i, j, l, m)
                     PUT_12(0, 4, 16, 0)
                     PUT_12(1, 5, 17, 48)
                     PUT_12(2, 6, 18, 96)
                     PUT_12(3, 7, 19, 144)
                     "add %[out], %[out], #192\n\t"
                     "subs %[k], %[k], #4\n\t"
                     "b.ge 1b\n"
                     "2:\n\t"
                     : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [e] "+r"(e), [f] "+r"(f),
                       [g] "+r"(g), [h] "+r"(h), [i] "+r"(i), [j] "+r"(j), [l] "+r"(l), [m] "+r"(m),
                       [k] "+r"(k), [out] "+r"(out)
                     :
                     : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17",
                       "v18", "v19");
    /* clang-format on */
    for (k += 4; k > 0; k--, out += 12) {
        out[0] = *a++, out[1] = *b++, out[2] = *c++, out[3] = *d++;
        out[4] = *e++, out[5] = *f++, out[6] = *g++, out[7] = *h++;
        out[8] = *i++, out[9] = *j++, out[10] = *l++, out[11] = *m++;
    }
}

/* Four of `stride` rows. */
static __attribute__((noinline)) void packed_rows4(float *out, int64_t stride,
                                                   const float *const *p, int64_t kc)
{
    const float *a = p[0], *b = p[1], *c = p[2], *d = p[3];
    int64_t k = 0;
    /* clang-format off */
    for (; k + 4 <= kc; k += 4, out += 4 * stride)
        __asm__ volatile(
            TURN_4(0, 3, a, b, c, d)
            "str q0, [%[out]]\n\t"
            "str q1, [%[out], %[one]]\n\t"
            "str q2, [%[out], %[two]]\n\t"
            "str q3, [%[out], %[three]]\n\t"
            : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d)
            : [out] "r"(out), [one] "r"(4 * stride), [two] "r"(8 * stride), [three] "r"(12 * stride)
            : "memory", "v0", "v1", "v2", "v3");
    /* clang-format on */
    for (; k < kc; k++, out += stride) out[0] = *a++, out[1] = *b++, out[2] = *c++, out[3] = *d++;
}

/* One tap of `wide` rows: 4, 8 or 12. */
static inline void packed_turn(float *out, int64_t wide, const float *const *p, int64_t kc)
{
    if (wide == TF_PACK_ROWS) {
        packed_rows12(out, p, kc);
        return;
    }
    for (int64_t r = 0; r < wide; r += 4) packed_rows4(out + r, wide, p + r, kc);
}
