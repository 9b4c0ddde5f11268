/* neon_roll.h: 3x3 depthwise convolution for aarch64, rolling along a row.
 *
 * Eight channels at a time keep their nine weights in 18 registers. Every column of the input is
 * loaded once, and three outputs take their part of it: it ends one, is the middle of the next, and
 * begins a third. For 8 outputs of stride 1 that is 18 multiply-adds, 4 loads, PReLU's 6
 * instructions and a store: 14.5 a vector, where strips of 4 outputs (depthwise.h) need 30. Written
 * out, because gcc keeps four of the weights on the stack and takes 19.5.
 *
 * Products of an output are added column by column. Rows are cut into parts whose inputs and
 * outputs stay in L1: eight channels are half a line, and the next eight come only after the row.
 *
 * v0..v5: three outputs; v6..v9: inputs; v10..v27: weights (ky, kx); v28, v29: the slopes of PReLU
 * or the limits of a clip; v30: zeros.
 * Scheduled (make perf-arm), stride 1: 100 % of the peak of an A72, 90 % of an A76; PReLU 83, 77.
 */
enum { ROLL_CHANNELS = 8, ROLL_BYTES = 40 << 10 };

typedef struct {
    const float *x[3]; /* first column under the outputs, of three rows; zeros beyond the map */
    int64_t step[3];   /* bytes from column to column */
    float *y;
    int64_t ldy; /* bytes from output to output */
    int64_t n;   /* outputs whose windows end inside of the map */
    int left;    /* does the first window begin outside of the map? */
    int over;    /* is there one more output, whose window ends outside? */
} roll_row;

#define ROLL_LOAD(a, b, p, by) "ld1 {v" #a ".4s, v" #b ".4s}, [%[" #p "]]" by "\n\t"
#define ROLL_BIAS(a, b)        ROLL_LOAD(a, b, bias, "")
#define ROLL_STORE(a, b)       "st1 {v" #a ".4s, v" #b ".4s}, [%[y]], %[ldy]\n\t"
/* acc += x w, both halves of 8 channels; v and w: the first of two neighbouring registers. */
#define ROLL_FMA(a, b, v, v1, w, w1)                                                               \
    "fmla v" #a ".4s, v" #v ".4s, v" #w ".4s\n\tfmla v" #b ".4s, v" #v1 ".4s, v" #w1 ".4s\n\t"
#define ROLL_PRELU(a, b) V_PRELU(a, b, 8, 9, 30, 28, 29)
#define ROLL_CLIP(a, b)  V_CLIP(a, b, 28, 29)
#define ROLL_NONE(a, b)

/* One column: its three rows to v6 v7, v8 v9, v6 v7; M takes them with the weights of a kernel row,
 * of which kx = 0, 1, 2 stand in p p1, q q1, r r1. */
#define ROLL_COLUMN(M)                                                                             \
    ROLL_LOAD(6, 7, x0, ", %[d0]")                                                                 \
    ROLL_LOAD(8, 9, x1, ", %[d1]")                                                                 \
    M(6, 7, 10, 11, 12, 13, 14, 15)                                                                \
    ROLL_LOAD(6, 7, x2, ", %[d2]")                                                                 \
    M(8, 9, 16, 17, 18, 19, 20, 21) M(6, 7, 22, 23, 24, 25, 26, 27)

/* What a column is to the outputs in 0 1, 2 3 and 4 5: B begins, M is the middle, E ends. */
#define ROLL_B01(v, v1, p, p1, q, q1, r, r1) ROLL_FMA(0, 1, v, v1, p, p1)
#define ROLL_M01(v, v1, p, p1, q, q1, r, r1) ROLL_FMA(0, 1, v, v1, q, q1)
#define ROLL_M23(v, v1, p, p1, q, q1, r, r1) ROLL_FMA(2, 3, v, v1, q, q1)
#define ROLL_M01B23(v, v1, p, p1, q, q1, r, r1)                                                    \
    ROLL_FMA(0, 1, v, v1, q, q1) ROLL_FMA(2, 3, v, v1, p, p1)
#define ROLL_E01B23(v, v1, p, p1, q, q1, r, r1)                                                    \
    ROLL_FMA(0, 1, v, v1, r, r1) ROLL_FMA(2, 3, v, v1, p, p1)
#define ROLL_E23B01(v, v1, p, p1, q, q1, r, r1)                                                    \
    ROLL_FMA(2, 3, v, v1, r, r1) ROLL_FMA(0, 1, v, v1, p, p1)
#define ROLL_E01M23B45(v, v1, p, p1, q, q1, r, r1)                                                 \
    ROLL_FMA(0, 1, v, v1, r, r1) ROLL_FMA(2, 3, v, v1, q, q1) ROLL_FMA(4, 5, v, v1, p, p1)
#define ROLL_E23M45B01(v, v1, p, p1, q, q1, r, r1)                                                 \
    ROLL_FMA(2, 3, v, v1, r, r1) ROLL_FMA(4, 5, v, v1, q, q1) ROLL_FMA(0, 1, v, v1, p, p1)
#define ROLL_E45M01B23(v, v1, p, p1, q, q1, r, r1)                                                 \
    ROLL_FMA(4, 5, v, v1, r, r1) ROLL_FMA(0, 1, v, v1, q, q1) ROLL_FMA(2, 3, v, v1, p, p1)

/* Stride 1: a column, and an output. */
#define ROLL_1A(END) ROLL_BIAS(4, 5) ROLL_COLUMN(ROLL_E01M23B45) END(0, 1) ROLL_STORE(0, 1)
#define ROLL_1B(END) ROLL_BIAS(0, 1) ROLL_COLUMN(ROLL_E23M45B01) END(2, 3) ROLL_STORE(2, 3)
#define ROLL_1C(END) ROLL_BIAS(2, 3) ROLL_COLUMN(ROLL_E45M01B23) END(4, 5) ROLL_STORE(4, 5)
/* Stride 2: two columns, and an output. */
#define ROLL_2A(END)                                                                               \
    ROLL_COLUMN(ROLL_M01)                                                                          \
    ROLL_BIAS(2, 3) ROLL_COLUMN(ROLL_E01B23) END(0, 1) ROLL_STORE(0, 1)
#define ROLL_2B(END)                                                                               \
    ROLL_COLUMN(ROLL_M23)                                                                          \
    ROLL_BIAS(0, 1) ROLL_COLUMN(ROLL_E23B01) END(2, 3) ROLL_STORE(2, 3)

#define ROLL_MOVE(a, b, c, d) "mov v" #a ".16b, v" #c ".16b\n\tmov v" #b ".16b, v" #d ".16b\n\t"
#define ROLL_WEIGHTS(a, b)    ROLL_LOAD(a, b, w, ", %[ldw]")
/* clang-format off */
#define ROLL_START                                                                                 \
    ROLL_WEIGHTS(10, 11) ROLL_WEIGHTS(12, 13) ROLL_WEIGHTS(14, 15)                                 \
    ROLL_WEIGHTS(16, 17) ROLL_WEIGHTS(18, 19) ROLL_WEIGHTS(20, 21)                                 \
    ROLL_WEIGHTS(22, 23) ROLL_WEIGHTS(24, 25) ROLL_WEIGHTS(26, 27)                                 \
    ROLL_LOAD(28, 29, act, "")                                                                     \
    "movi v30.4s, #0\n\t"                                                                          \
    ROLL_BIAS(0, 1)                                                                                \
    "cbnz %w[left], 1f\n\t"                                                                        \
    ROLL_COLUMN(ROLL_B01)                                                                          \
    "1:\n\t"

/* One more output, without the columns that lie outside. */
#define ROLL_OVER(MORE, END)                                                                       \
    "cbz %w[over], 5f\n\t"                                                                         \
    MORE END(0, 1) ROLL_STORE(0, 1)                                                                \
    "5:\n\t"

/* Three outputs a round; the rest, one or two, leave the next output in v0 v1, too. */
#define ROLL_ROW_1(END)                                                                            \
    ROLL_START                                                                                     \
    ROLL_BIAS(2, 3)                                                                                \
    ROLL_COLUMN(ROLL_M01B23)                                                                       \
    "subs %[n], %[n], #3\n\t"                                                                      \
    "b.lt 3f\n"                                                                                    \
    "2:\n\t"                                                                                       \
    ROLL_1A(END)                                                                                   \
    ROLL_1B(END)                                                                                   \
    ROLL_1C(END)                                                                                   \
    "subs %[n], %[n], #3\n\t"                                                                      \
    "b.ge 2b\n"                                                                                    \
    "3:\n\t"                                                                                       \
    "adds %[n], %[n], #2\n\t" /* -1, 0 or 1 */                                                     \
    "b.lt 4f\n\t"                                                                                  \
    ROLL_1A(END)                                                                                   \
    ROLL_MOVE(0, 1, 2, 3)                                                                          \
    "cbz %[n], 4f\n\t"                                                                             \
    ROLL_MOVE(2, 3, 4, 5)                                                                          \
    ROLL_1A(END)                                                                                   \
    ROLL_MOVE(0, 1, 2, 3)                                                                          \
    "4:\n\t"                                                                                       \
    ROLL_OVER("", END)
#define ROLL_ROW_2(END)                                                                            \
    ROLL_START                                                                                     \
    "subs %[n], %[n], #2\n\t"                                                                      \
    "b.lt 3f\n"                                                                                    \
    "2:\n\t"                                                                                       \
    ROLL_2A(END)                                                                                   \
    ROLL_2B(END)                                                                                   \
    "subs %[n], %[n], #2\n\t"                                                                      \
    "b.ge 2b\n"                                                                                    \
    "3:\n\t"                                                                                       \
    "tbz %[n], #0, 4f\n\t"                                                                         \
    ROLL_2A(END)                                                                                   \
    ROLL_MOVE(0, 1, 2, 3)                                                                          \
    "4:\n\t"                                                                                       \
    ROLL_OVER(ROLL_COLUMN(ROLL_M01), END)

#define ROLL_KERNEL(name, ROW)                                                                     \
    static void name(const tf_call *call, const roll_row *row)                                     \
    {                                                                                              \
        const tf_step *s = call->s;                                                                \
        const float lo = s->alpha, hi = s->hi;                                                     \
        const float limits[8] = {lo, lo, lo, lo, hi, hi, hi, hi};                                  \
        const int64_t ldw = s->c * (int64_t)sizeof(float);                                         \
        for (int64_t c = 0; c < s->c; c += ROLL_CHANNELS) {                                        \
            const float *w = call->w + c, *bias = call->bias + c;                                  \
            const float *act = s->act == TF_PRELU ? call->slope + c : limits;                      \
            const float *x0 = row->x[0] + c, *x1 = row->x[1] + c, *x2 = row->x[2] + c;             \
            float *y = row->y + c;                                                                 \
            int64_t n = row->n;                                                                    \
            __asm__ volatile(                                                                      \
                ROW                                                                                \
                : [w] "+r"(w), [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2), [y] "+r"(y),           \
                  [n] "+r"(n)                                                                      \
                : [bias] "r"(bias), [act] "r"(act), [ldw] "r"(ldw), [d0] "r"(row->step[0]),        \
                  [d1] "r"(row->step[1]), [d2] "r"(row->step[2]), [ldy] "r"(row->ldy),             \
                  [left] "r"(row->left), [over] "r"(row->over)                                     \
                : ALL_REGISTERS);                                                                  \
        }                                                                                          \
    }
/* clang-format on */
ROLL_KERNEL(roll_1_none, ROLL_ROW_1(ROLL_NONE))
ROLL_KERNEL(roll_1_clip, ROLL_ROW_1(ROLL_CLIP))
ROLL_KERNEL(roll_1_prelu, ROLL_ROW_1(ROLL_PRELU))
ROLL_KERNEL(roll_2_none, ROLL_ROW_2(ROLL_NONE))
ROLL_KERNEL(roll_2_clip, ROLL_ROW_2(ROLL_CLIP))
ROLL_KERNEL(roll_2_prelu, ROLL_ROW_2(ROLL_PRELU))

/* Columns that the last window reaches beyond the map. */
static int64_t roll_over(const tf_step *s)
{
    return (int64_t)(s->ow - 1) * s->sw - s->pl + 3 - s->wd;
}

/* May the step run so? Nothing here depends on rows: the parts of a chain decide alike. */
static int rolls(const tf_step *s)
{
    return s->kh == 3 && s->kw == 3 && s->dh == 1 && s->dw == 1 && s->sw <= 2 && s->pl <= 1 &&
           roll_over(s) <= 1 && s->act <= TF_PRELU && s->c % ROLL_CHANNELS == 0;
}

/* Outputs first .. end - 1 of one row. */
static roll_row roll_part(const tf_call *call, int64_t i, int64_t oy, int64_t first, int64_t end)
{
    const tf_step *s = call->s;
    const int64_t column = first * s->sw - s->pl;
    roll_row r = {.ldy = s->y.ld * (int64_t)sizeof(float), .left = column < 0};
    r.over = end == s->ow && roll_over(s) > 0;
    r.n = end - first - r.over;
    r.y = call->y + tf_at(&s->y, i, oy, first);
    for (int64_t k = 0; k < 3; k++) {
        const int64_t iy = oy * s->sh - s->pt + k;
        const int inside = iy >= 0 && iy < s->h;
        r.x[k] = inside ? call->x + tf_at(&s->x, i, iy, tf_max(column, 0)) : call->zero;
        r.step[k] = inside ? s->x.ld * (int64_t)sizeof(float) : 0;
    }
    return r;
}

/* Rows from .. to - 1 of the output, all images in one sequence. */
static void roll_run(const tf_call *call, int64_t from, int64_t to)
{
    typedef void rows_fn(const tf_call *, const roll_row *);
    static rows_fn *const rows[2][3] = {{roll_1_none, roll_1_clip, roll_1_prelu},
                                        {roll_2_none, roll_2_clip, roll_2_prelu}};
    const tf_step *s = call->s;
    const int64_t each = (int64_t)(3 * s->sw + 1) * s->c * (int64_t)sizeof(float);
    const int64_t parts = tf_ceil_div(s->ow * each, ROLL_BYTES);
    for (int64_t part = 0; part < parts; part++) {
        int64_t first, end;
        tf_share(s->ow, part, parts, &first, &end);
        if (first == end) continue;
        for (int64_t u = from; u < to; u++) {
            const roll_row r = roll_part(call, u / s->oh, u % s->oh, first, end);
            rows[s->sw - 1][s->act](call, &r);
        }
    }
}
