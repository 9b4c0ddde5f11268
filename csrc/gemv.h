/* gemv.h: y = act(W x + bias) for one x, the fully connected layer at batch 1.
 *
 * Weights are packed as for gemm.h: panels of 2 VL outputs, [k][2 VL]. They are used once, so
 * the kernel is as fast as memory. Four partial sums per output (k mod 4) hide the latency of
 * the additions; they are added in a fixed order. Tasks own panels.
 * Measured on a Zen 3 core (AVX2): 17.4 GB/s in FDFaceNet, its L3 giving 18.
 */
INLINE void gemv_panel(const int nv, const int half, const float *x, int64_t kc, const char *w,
                       vf *sum)
{
    const int64_t vector = VL * (half ? 2 : 4), step = nv * vector;
    vf part[4][2];
    UNROLL (i, 4)
        UNROLL (j, nv) part[i][j] = i == 0 ? sum[j] : v_set1(0.0f);
    int64_t k = 0;
    for (; k + 4 <= kc; k += 4, w += 4 * step) {
        const vrow four = row_load(x + k);
        UNROLL (i, 4)
            UNROLL (j, nv)
                part[i][j] =
                    v_fma_lane(part[i][j], v_weights(half, w + i * step + j * vector), four, i);
    }
    for (; k < kc; k++, w += step)
        UNROLL (j, nv)
            part[0][j] = v_fma(v_set1(x[k]), v_weights(half, w + j * vector), part[0][j]);
    UNROLL (j, nv) sum[j] = v_add(v_add(part[0][j], part[1][j]), v_add(part[2][j], part[3][j]));
}

static void gemv_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    const tf_step *s = call->s;
    const int half = (s->flags & TF_HALF) != 0;
    const int64_t elem = half ? 2 : 4;
    int64_t from, to;
    tf_share(tf_ceil_div(s->oc, 2 * VL), task, s->tasks, &from, &to);
    for (int64_t p = from; p < to; p++) {
        const int64_t first = p * 2 * VL, n = tf_min(s->oc - first, 2 * VL);
        const char *w = (const char *)call->w + first * s->c * elem;
        vf sum[2] = {v_load(call->bias + first)};
        if (n > VL) sum[1] = v_load(call->bias + first + VL);
        if (n > VL && half)
            gemv_panel(2, 1, call->x, s->c, w, sum);
        else if (n > VL)
            gemv_panel(2, 0, call->x, s->c, w, sum);
        else if (half)
            gemv_panel(1, 1, call->x, s->c, w, sum);
        else
            gemv_panel(1, 0, call->x, s->c, w, sum);
        for (int64_t j = 0; j * VL < n; j++) {
            const int64_t c = first + j * VL, left = n - j * VL;
            const vf slope = call->slope ? v_load(call->slope + c) : sum[j];
            v_store_n(call->y + c, v_finish(sum[j], s, slope, call->z + c, left), left);
        }
    }
}
