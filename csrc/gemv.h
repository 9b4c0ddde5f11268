/* gemv.h: y = act(W x + bias) for one x, the fully connected layer at batch 1.
 *
 * Weights are packed as for gemm.h: panels of 2 VL outputs, [k][2 VL]. They are used once, so
 * the kernel is as fast as memory. Four partial sums per output (k mod 4) hide the latency of
 * the additions; they are added in a fixed order. Tasks own panels.
 */
static inline __attribute__((always_inline)) void
gemv_panel(const int nv, const int half, const float *x, int64_t kc, const char *w, vf *sum)
{
    const int64_t step = (int64_t)nv * VL * (half ? 2 : 4);
    const vf zero = v_set1(0.0f);
    vf a0 = sum[0], a1 = zero, a2 = zero, a3 = zero;
    vf b0 = sum[1], b1 = zero, b2 = zero, b3 = zero;
    int64_t k = 0;
#define GEMV_STEP(i)                                                                               \
    a##i = v_fma_lane(a##i, WEIGHTS(w + (i)*step), four, i);                                       \
    if (nv > 1) b##i = v_fma_lane(b##i, WEIGHTS(w + (i)*step + step / 2), four, i);
    for (; k + 4 <= kc; k += 4, w += 4 * step) {
        const vrow four = row_load(x + k);
        GEMV_STEP(0) GEMV_STEP(1) GEMV_STEP(2) GEMV_STEP(3)
    }
    for (; k < kc; k++, w += step) {
        a0 = v_fma(v_set1(x[k]), WEIGHTS(w), a0);
        if (nv > 1) b0 = v_fma(v_set1(x[k]), WEIGHTS(w + step / 2), b0);
    }
    sum[0] = v_add(v_add(a0, a1), v_add(a2, a3));
    sum[1] = v_add(v_add(b0, b1), v_add(b2, b3));
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
        vf sum[2] = {v_load(call->bias + first), v_set1(0.0f)};
        if (n > VL) {
            sum[1] = v_load(call->bias + first + VL);
            if (half)
                gemv_panel(2, 1, call->x, s->c, w, sum);
            else
                gemv_panel(2, 0, call->x, s->c, w, sum);
        } else {
            if (half)
                gemv_panel(1, 1, call->x, s->c, w, sum);
            else
                gemv_panel(1, 0, call->x, s->c, w, sum);
        }
        for (int64_t j = 0; j * VL < n; j++) {
            const int64_t c = first + j * VL;
            vf v = sum[j];
            if (s->flags & TF_RESIDUAL) v = v_add(v, v_load_n(call->z + c, n - j * VL));
            v = s->act == TF_PRELU ? v_prelu(v, v_load(call->slope + c)) : v_act(v, s);
            if (s->flags & TF_RESIDUAL_END) v = v_add(v, v_load_n(call->z + c, n - j * VL));
            v_store_n(call->y + c, v, n - j * VL);
        }
    }
}
