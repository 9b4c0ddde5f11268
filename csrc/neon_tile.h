/* neon_tile.h: the inner loop of packed.h for aarch64, written out.
 *
 *     acc[r][0..7] = from[r][0..7] + sum over k of x[k][r] * w[k][0..7]    for 12, 8 or 4 rows r
 *
 * 24 accumulators, 4 registers of inputs and 4 of weights are all 32 that there are; compilers run
 * out of them and spill. Each multiplication takes its input from a lane; 64 bytes are loaded at a
 * time, so that of 204 instructions 192 multiply. (A compiler's loop over rows as they lie in
 * memory: 91 instructions for 64 multiplications.)
 *
 * v0..v3: x; v4..v7: w; v8, v9: row 0; v10, v11: row 1; ...
 */
typedef void packed_fn(int64_t k, const float *x, const void *w, const float *from, int64_t step,
                       float *acc);

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

/* clang-format off */
#define PACKED_TILE(name, rows, W)                                                                 \
    static void name(int64_t k, const float *x, const void *w, const float *from, int64_t step,    \
                     float *acc)                                                                   \
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
            ENDS_##rows(TO)                                                                        \
            : [k] "+r"(k), [x] "+r"(x), [w] "+r"(w), [from] "+r"(from), [acc] "+r"(acc)            \
            : [step] "r"(step)                                                                     \
            : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10",   \
              "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22",  \
              "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");                      \
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

/* out[k][0..3] = p[0..3][k], the k `stride` floats apart. A load of four k into one lane each, for
 * four rows, turns a square of 4 x 4 round without shuffles. */
static __attribute__((noinline)) void packed_rows4(float *out, int64_t stride,
                                                   const float *const *p, int64_t kc)
{
    const float *a = p[0], *b = p[1], *c = p[2], *d = p[3];
    int64_t k = 0;
    for (; k + 4 <= kc; k += 4, out += 4 * stride)
        __asm__ volatile(
            "ld4 {v0.s-v3.s}[0], [%[a]], #16\n\t"
            "ld4 {v0.s-v3.s}[1], [%[b]], #16\n\t"
            "ld4 {v0.s-v3.s}[2], [%[c]], #16\n\t"
            "ld4 {v0.s-v3.s}[3], [%[d]], #16\n\t"
            "str q0, [%[out]]\n\t"
            "str q1, [%[out], %[one]]\n\t"
            "str q2, [%[out], %[two]]\n\t"
            "str q3, [%[out], %[three]]\n\t"
            : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d)
            : [out] "r"(out), [one] "r"(4 * stride), [two] "r"(8 * stride), [three] "r"(12 * stride)
            : "memory", "v0", "v1", "v2", "v3");
    for (; k < kc; k++, out += stride) {
        out[0] = *a++;
        out[1] = *b++;
        out[2] = *c++;
        out[3] = *d++;
    }
}
