/* normal.h: softmax and L2 normalisation over the channels of each pixel. Tasks own rows. */

/* exp(x - max) / sum: shifted by the maximum, so that nothing overflows. Three passes over a row,
 * so that the exponentials of short softmaxes, too, fill whole vectors. */
static void softmax_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const float *x = call->x + tf_at(&s->x, i, oy, 0);
    float *y = call->y + tf_at(&s->y, i, oy, 0);
    for (int64_t k = 0; k < s->ow; k++) {
        const float *in = x + k * s->x.ld;
        float *out = y + k * s->y.ld, most = in[0];
        for (int64_t c = 1; c < s->c; c++) most = in[c] > most ? in[c] : most;
        for (int64_t c = 0; c < s->c; c++) out[c] = in[c] - most;
    }
    const int64_t spans = s->y.ld == s->c ? 1 : s->ow, length = s->ow / spans * (int64_t)s->c;
    for (int64_t k = 0; k < spans; k++)
        for (int64_t c = 0; c < length; c += VL) {
            float *out = y + k * s->y.ld + c;
            v_store_n(out, v_exp(v_load_n(out, length - c)), length - c);
        }
    for (int64_t k = 0; k < s->ow; k++) {
        float *out = y + k * s->y.ld, sum = 0.0f;
        for (int64_t c = 0; c < s->c; c++) sum += out[c];
        const float by = 1.0f / sum;
        for (int64_t c = 0; c < s->c; c++) out[c] *= by;
    }
}

/* x / max(|x|, alpha). The squares are summed in double: a vector of 2^24 values keeps its
 * last bits. */
static void l2norm_row(const tf_call *call, int64_t i, int64_t oy)
{
    const tf_step *s = call->s;
    const float *x = call->x + tf_at(&s->x, i, oy, 0);
    float *y = call->y + tf_at(&s->y, i, oy, 0);
    for (int64_t k = 0; k < s->ow; k++, x += s->x.ld, y += s->y.ld) {
        double sum = 0.0;
        for (int64_t c = 0; c < s->c; c++) sum += (double)x[c] * (double)x[c];
        const float norm = (float)sqrt(sum), least = s->alpha;
        const float by = 1.0f / (norm > least ? norm : least);
        for (int64_t c = 0; c < s->c; c++) y[c] = x[c] * by;
    }
}
