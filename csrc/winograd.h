/* winograd.h: 3x3 convolution of stride 1 through Winograd's F(4x4, 3x3).
 *
 * A tile of 4x4 outputs needs 6x6 inputs. With U = G w G^T (made when weights are packed) and
 * V = B^T x B, Y = A^T [sum over channels of U . V] A: 36 products per channel where the direct
 * way takes 144 (Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks).
 * The polynomials are evaluated at 0, +-a, +-b and infinity with a = 1/sqrt 2, b = sqrt 2, which
 * errs less than the usual 1 and 2.
 *
 * Blocking: a task is `block` tiles, so that V (36 x block x c floats) stays in L2. For each
 * panel of 2 VL outputs, 36 matrix products by the kernel of gemm.h, whose rows are the tiles,
 * fill M (36 x block x 2 VL), which is transformed and written while in L1.
 */
static const float WINO_A = 0.70710678118654752f, WINO_B = 1.41421356237309505f;

/* B^T on six vectors, stride apart. */
static inline __attribute__((always_inline)) void wino_in(const vf d0, const vf d1, const vf d2,
                                                          const vf d3, const vf d4, const vf d5,
                                                          float *out, int64_t stride)
{
    const vf two = v_set1(-2.0f), half = v_set1(-0.5f), k = v_set1(-2.5f);
    const vf ea = v_fma(two, d2, d4), oa = v_mul(v_set1(WINO_A), v_fma(two, d1, d3));
    const vf eb = v_fma(half, d2, d4), ob = v_mul(v_set1(WINO_B), v_fma(half, d1, d3));
    v_store(out, v_fma(k, d2, v_add(d0, d4)));
    v_store(out + stride, v_add(ea, oa));
    v_store(out + 2 * stride, v_sub(ea, oa));
    v_store(out + 3 * stride, v_add(eb, ob));
    v_store(out + 4 * stride, v_sub(eb, ob));
    v_store(out + 5 * stride, v_fma(k, d3, v_add(d1, d5)));
}

/* One tile, all channels: 36 pixel pointers -> v[36], stride floats apart. */
static void wino_input(const float *const *pixel, int64_t channels, float *v, int64_t stride)
{
    float mid[36 * VL];
    for (int64_t c = 0; c < channels; c += VL) {
        const int64_t n = channels - c;
        float out[6 * VL];
        for (int64_t j = 0; j < 6; j++) {
            const float *const *p = pixel + j;
#define WINO_LOAD(i) (n >= VL ? v_load(p[6 * (i)] + c) : v_load_n(p[6 * (i)] + c, n))
            wino_in(WINO_LOAD(0), WINO_LOAD(1), WINO_LOAD(2), WINO_LOAD(3), WINO_LOAD(4),
                    WINO_LOAD(5), mid + j * VL, 6 * VL);
        }
        for (int64_t i = 0; i < 6; i++) {
            const float *m = mid + i * 6 * VL;
            float *to = v + i * 6 * stride + c;
            if (n >= VL) {
                wino_in(v_load(m), v_load(m + VL), v_load(m + 2 * VL), v_load(m + 3 * VL),
                        v_load(m + 4 * VL), v_load(m + 5 * VL), to, stride);
                continue;
            }
            wino_in(v_load(m), v_load(m + VL), v_load(m + 2 * VL), v_load(m + 3 * VL),
                    v_load(m + 4 * VL), v_load(m + 5 * VL), out, VL);
            for (int64_t j = 0; j < 6; j++) v_store_n(to + j * stride, v_load(out + j * VL), n);
        }
    }
}

/* A^T on six vectors. */
static inline __attribute__((always_inline)) void wino_out(const float *m, int64_t stride, vf *y)
{
    const vf m1 = v_load(m + stride), m2 = v_load(m + 2 * stride);
    const vf m3 = v_load(m + 3 * stride), m4 = v_load(m + 4 * stride);
    const vf sa = v_add(m1, m2), da = v_sub(m1, m2), sb = v_add(m3, m4), db = v_sub(m3, m4);
    y[0] = v_add(v_load(m), v_add(sa, sb));
    y[1] = v_fma(v_set1(WINO_A), da, v_mul(v_set1(WINO_B), db));
    y[2] = v_fma(v_set1(0.5f), sa, v_add(sb, sb));
    y[3] = v_fma(v_set1(WINO_A / 2), da, v_fma(v_set1(2 * WINO_B), db, v_load(m + 5 * stride)));
}

/* The 4x4 outputs of one tile, one vector of channels, of which n exist. */
static void wino_output(const tf_call *call, const float *m, int64_t stride, int64_t i, int64_t oy,
                        int64_t ox, int64_t c, int64_t n)
{
    const tf_step *s = call->s;
    const int64_t rows = tf_min(4, s->oh - oy), cols = tf_min(4, s->ow - ox);
    float mid[24 * VL];
    vf y[4];
    for (int64_t j = 0; j < 6; j++) {
        wino_out(m + j * stride, 6 * stride, y);
        for (int64_t k = 0; k < 4; k++) v_store(mid + (k * 6 + j) * VL, y[k]);
    }
    const vf bias = v_load(call->bias + c);
    for (int64_t k = 0; k < rows; k++) {
        wino_out(mid + k * 6 * VL, VL, y);
        for (int64_t j = 0; j < cols; j++) {
            const float *z = call->z ? call->z + tf_at(&s->z, i, oy + k, ox + j) + c : NULL;
            vf v = v_add(y[j], bias);
            if (s->flags & TF_RESIDUAL) v = v_add(v, v_load_n(z, n));
            v = s->act == TF_PRELU ? v_prelu(v, v_load(call->slope + c)) : v_act(v, s);
            if (s->flags & TF_RESIDUAL_END) v = v_add(v, v_load_n(z, n));
            float *to = call->y + tf_at(&s->y, i, oy + k, ox + j) + c;
            if (n >= VL)
                v_store(to, v);
            else
                v_store_n(to, v, n);
        }
    }
}

/* Image, row and column of the first output of tile t. */
static void wino_place(const tf_step *s, int64_t t, int64_t *i, int64_t *oy, int64_t *ox)
{
    const int64_t across = tf_ceil_div(s->ow, 4), map = across * tf_ceil_div(s->oh, 4);
    *i = t / map;
    *oy = t % map / across * 4;
    *ox = t % map % across * 4;
}

static void wino_gather(const tf_call *call, int64_t t, float *v, int64_t stride)
{
    const tf_step *s = call->s;
    const float *pixel[36];
    int64_t i, oy, ox;
    wino_place(s, t, &i, &oy, &ox);
    for (int64_t k = 0; k < 36; k++) {
        const int64_t y = oy - s->pt + k / 6, x = ox - s->pl + k % 6;
        const int inside = y >= 0 && y < s->h && x >= 0 && x < s->wd;
        pixel[k] = inside ? call->x + tf_at(&s->x, i, y, x) : call->zero;
    }
    wino_input(pixel, s->c, v, stride);
}

static void winograd_run(const tf_call *call, int32_t task, void *scratch)
{
    const tf_step *s = call->s, plain = {.act = TF_NONE};
    const int64_t all = s->n * tf_ceil_div(s->oh, 4) * tf_ceil_div(s->ow, 4);
    const int64_t t0 = (int64_t)task * s->block, count = tf_min(s->block, all - t0);
    const int64_t most = s->oc > VL ? ROWS_WIDE : ROWS_SLIM, parts = tf_ceil_div(count, most);
    const int64_t rows = count / parts, more = count % parts;
    float *v = scratch, *m = v + 36 * count * s->c; /* [36][count][c], [36][count][2 VL] */
    const float **table = (const float **)(void *)(m + 36 * count * 2 * VL);
    for (int64_t t = 0; t < count; t++) wino_gather(call, t0 + t, v + t * s->c, count * s->c);
    for (int64_t i = 0, t = 0; i < parts; i++)
        for (int64_t r = 0; r < rows + (i < more); r++, t++) {
            table[2 * i * ROWS_MAX + r] = v + t * s->c;
            table[(2 * i + 1) * ROWS_MAX + r] = m + t * 2 * VL;
        }
    for (int64_t first = 0; first < s->oc; first += 2 * VL) {
        const int64_t n = tf_min(s->oc - first, 2 * VL), nv = n > VL ? 2 : 1;
        tf_tile t = {.kc = s->c, .taps = 1, .s = &plain, .n = nv * VL, .bias = call->zero};
        for (int64_t k = 0; k < 36; k++) {
            t.w = (const char *)(call->w + (36 * first + k * nv * VL) * s->c);
            t.xcol = k * count * s->c;
            t.ycol = k * count * 2 * VL;
            for (int64_t i = 0; i < parts; i++) {
                t.x = table + 2 * i * ROWS_MAX;
                t.y = (float *const *)(uintptr_t)(t.x + ROWS_MAX);
                tiles[nv - 1][0][rows - 1 + (i < more)](&t);
            }
        }
        for (int64_t k = 0; k < count; k++) {
            int64_t i, oy, ox;
            wino_place(s, t0 + k, &i, &oy, &ox);
            for (int64_t c = 0; c < n; c += VL)
                wino_output(call, m + k * 2 * VL + c, count * 2 * VL, i, oy, ox, first + c, n - c);
        }
    }
}
