/* run.c: one call per image. Resolves every step's views and hands its tasks to the threads.
 *
 * A caller that must answer in between, to Ctrl-C say, asks for a part: tf_run_for returns when its
 * time is over. A step, and a chain of steps, is never left half done. */
#include "engine.h"

static float *resolve(const tf_view *v, void *const *buffers)
{
    return v->buf < 0 ? NULL : (float *)buffers[v->buf] + v->off;
}

static const float *param(const tf_step *s, int64_t off, void *const *buffers)
{
    return off < 0 ? NULL : (const float *)buffers[s->wbuf] + off;
}

tf_call tf_resolve(const tf_step *s, void *const *buffers)
{
    return (tf_call){
        .s = s,
        .x = resolve(&s->x, buffers),
        .y = resolve(&s->y, buffers),
        .z = resolve(&s->z, buffers),
        .w = param(s, s->w, buffers),
        .bias = param(s, s->bias, buffers),
        .slope = param(s, s->slope, buffers),
        .zero = param(s, s->zero, buffers),
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

int32_t tf_run_for(const tf_kernels *k, const tf_step *steps, int32_t n, void *const *buffers,
                   void *scratch, int64_t stride, tf_pool *pool, int64_t *ticks, int64_t ns)
{
    const int64_t begin = tf_now();
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
    return i;
}

void tf_run(const tf_kernels *k, const tf_step *steps, int32_t n, void *const *buffers,
            void *scratch, int64_t stride, tf_pool *pool, int64_t *ticks)
{
    tf_run_for(k, steps, n, buffers, scratch, stride, pool, ticks, INT64_MAX);
}
