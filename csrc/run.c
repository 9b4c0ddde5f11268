/* run.c: one call per image. Resolves every step's views and hands its tasks to the threads.
 *
 * A caller that must answer in between, to Ctrl-C say, asks for a part: tf_run returns when its
 * time is over. A step, and a chain of steps, is never left half done. */
#include "engine.h"

static float *place(int32_t buf, int64_t off, void *const *buffers)
{
    return buf < 0 || off < 0 ? NULL : (float *)buffers[buf] + off;
}

tf_call tf_resolve(const tf_step *s, void *const *buffers)
{
    return (tf_call){
        .s = s,
        .x = place(s->x.buf, s->x.off, buffers),
        .y = place(s->y.buf, s->y.off, buffers),
        .z = place(s->z.buf, s->z.off, buffers),
        .w = place(s->wbuf, s->w, buffers),
        .bias = place(s->wbuf, s->bias, buffers),
        .slope = place(s->wbuf, s->slope, buffers),
        .zero = place(s->wbuf, s->zero, buffers),
    };
}

/* ticks: of the chain's members; ticks[-1] is when it began. */
static void time_members(int64_t *ticks, int32_t members, int64_t end)
{
    const int64_t begin = ticks[-1];
    int64_t sum = 0, sofar = 0;
    for (int32_t j = 0; j < members; j++) sum += ticks[j];
    for (int32_t j = 0; j < members; j++) {
        sofar += ticks[j];
        ticks[j] =
            begin + (int64_t)((double)(end - begin) * (double)sofar / (double)tf_max(sum, 1));
    }
    ticks[members - 1] = end;
}

int32_t tf_run(const tf_kernels *k, const tf_step *steps, int32_t n, void *const *buffers,
               void *scratch, int64_t stride, tf_pool *pool, int64_t *ticks, int64_t ns)
{
    const int64_t begin = tf_now();
    const unsigned before = tf_flush();
    int32_t i = 0;
    if (ticks) ticks[0] = begin;
    for (int32_t members; i < n; i += members) {
        const tf_step *s = steps + i;
        if (i && tf_now() - begin >= ns) break;
        members = s->chain > 1 ? s->chain : 1;
        if (members > 1) {
            tf_chain chain = {.call = {.s = s}, .k = k, .buffers = buffers};
            if (ticks) chain.spent = memset(ticks + i + 1, 0, (size_t)members * sizeof *ticks);
            tf_chain_run(&chain, pool, scratch, stride);
            if (ticks) time_members(ticks + i + 1, members, tf_now());
        } else {
            const tf_call call = tf_resolve(s, buffers);
            tf_pool_run(pool, k->run[s->op], &call, s->tasks, scratch, stride);
            if (ticks) ticks[i + 1] = tf_now();
        }
    }
    tf_unflush(before);
    return i;
}
