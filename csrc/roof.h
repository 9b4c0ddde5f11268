/* roof.h: what the machine can do at most, for the roofline. No operators: nothing useful is
 * computed. Task t owns image t of x and y, and does its work `first` times over.
 */

/* TF_PEAK: multiply-adds in registers, 12 sums of VL each as in gemm.h, from the first 12 VL floats
 * of x (12 sums that begin alike would be computed once). The sums run towards 1. */
static void peak_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    const tf_step *s = call->s;
    const float *x = call->x + task * s->x.img;
    const vf half = v_set1(0.5f);
    vf sum[12], all = v_set1(0.0f);
    UNROLL (i, 12) sum[i] = v_load(x + i * VL);
    for (int32_t r = 0; r < s->first; r++)
        UNROLL (i, 12) sum[i] = v_fma(sum[i], half, half);
    UNROLL (i, 12) all = v_add(all, sum[i]);
    v_store(call->y + task * s->y.img, all);
}

/* TF_STREAM: adds up all floats of the image, h rows of c, in 8 independent sums. */
static void stream_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    const tf_step *s = call->s;
    vf sum[8];
    UNROLL (i, 8) sum[i] = v_set1(0.0f);
    for (int32_t r = 0; r < s->first; r++)
        for (int64_t iy = 0; iy < s->h; iy++) {
            const float *x = call->x + tf_at(&s->x, task, iy, 0);
            for (const float *end = x + s->c; x < end; x += 8 * VL)
                UNROLL (i, 8) sum[i] = v_add(sum[i], v_load(x + i * VL));
        }
    UNROLL (i, 4) sum[i] = v_add(sum[2 * i], sum[2 * i + 1]);
    v_store(call->y + task * s->y.img, v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}
