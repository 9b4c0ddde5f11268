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
#define PEAK_START(i) vf a##i = v_load(x + (i)*VL);
#define PEAK_STEP(i)  a##i = v_fma(a##i, half, half);
#define PEAK_END(i)   sum = v_add(sum, a##i);
    EACH(PEAK_START)
    for (int32_t r = 0; r < s->first; r++) {
        EACH(PEAK_STEP)
    }
    vf sum = v_set1(0.0f);
    EACH(PEAK_END)
    v_store(call->y + task * s->y.img, sum);
}

/* TF_STREAM: adds up all floats of the image, h rows of c, in 8 independent sums. */
static void stream_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    const tf_step *s = call->s;
    vf a0 = v_set1(0.0f), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    for (int32_t r = 0; r < s->first; r++)
        for (int64_t iy = 0; iy < s->h; iy++) {
            const float *x = call->x + tf_at(&s->x, task, iy, 0);
            for (const float *end = x + s->c; x < end; x += 8 * VL) {
                a0 = v_add(a0, v_load(x));
                a1 = v_add(a1, v_load(x + VL));
                a2 = v_add(a2, v_load(x + 2 * VL));
                a3 = v_add(a3, v_load(x + 3 * VL));
                a4 = v_add(a4, v_load(x + 4 * VL));
                a5 = v_add(a5, v_load(x + 5 * VL));
                a6 = v_add(a6, v_load(x + 6 * VL));
                a7 = v_add(a7, v_load(x + 7 * VL));
            }
        }
    const vf low = v_add(v_add(a0, a1), v_add(a2, a3)), high = v_add(v_add(a4, a5), v_add(a6, a7));
    v_store(call->y + task * s->y.img, v_add(low, high));
}
