/* normal.h: softmax and L2 normalisation over the channels of each pixel. Tasks own rows. */

/* exp(x - max) / sum: shifted by the maximum, so that nothing overflows. */
static void softmax_pixel(const tf_step *s, const float *x, float *y)
{
    float most = x[0], sum = 0.0f;
    for (int64_t c = 1; c < s->c; c++) most = x[c] > most ? x[c] : most;
    for (int64_t c = 0; c < s->c; c += VL) {
        const vf v = v_sub(v_load_n(x + c, s->c - c), v_set1(most));
        v_store_n(y + c, v_exp(v), s->c - c);
    }
    for (int64_t c = 0; c < s->c; c++) sum += y[c];
    for (int64_t c = 0; c < s->c; c++) y[c] /= sum;
}

/* x / max(|x|, alpha). The squares are summed in double: a vector of 2^24 values keeps its
 * last bits. */
static void l2norm_pixel(const tf_step *s, const float *x, float *y)
{
    double sum = 0.0;
    for (int64_t c = 0; c < s->c; c++) sum += (double)x[c] * (double)x[c];
    const float norm = (float)sqrt(sum), least = s->alpha;
    const float by = 1.0f / (norm > least ? norm : least);
    for (int64_t c = 0; c < s->c; c++) y[c] = x[c] * by;
}

#define NORMAL(name, pixel)                                                                        \
    static void name(const tf_call *call, int32_t task, void *scratch)                             \
    {                                                                                              \
        (void)scratch;                                                                             \
        const tf_step *s = call->s;                                                                \
        int64_t from, to;                                                                          \
        tf_share((int64_t)s->n * s->oh, task, s->tasks, &from, &to);                               \
        for (int64_t u = from; u < to; u++)                                                        \
            for (int64_t k = 0; k < s->ow; k++)                                                    \
                pixel(s, call->x + tf_at(&s->x, u / s->oh, u % s->oh, k),                          \
                      call->y + tf_at(&s->y, u / s->oh, u % s->oh, k));                            \
    }
NORMAL(softmax_run, softmax_pixel)
NORMAL(l2norm_run, l2norm_pixel)
