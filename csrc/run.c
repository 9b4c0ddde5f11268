/* run.c: one call per image. Resolves every step's views and hands its tasks to the threads. */
#define _POSIX_C_SOURCE 199309L
#include "engine.h"
#include <time.h>

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static float *resolve(const tf_view *v, void *const *buffers)
{
    return v->buf < 0 ? NULL : (float *)buffers[v->buf] + v->off;
}

static const float *param(const tf_step *s, int64_t off, void *const *buffers)
{
    return off < 0 ? NULL : (const float *)buffers[s->wbuf] + off;
}

void tf_run(const tf_kernels *k, const tf_step *steps, int32_t n, void *const *buffers,
            void *scratch, int64_t stride, tf_pool *pool, int64_t *ticks)
{
    if (ticks) ticks[0] = now();
    for (int32_t i = 0; i < n; i++) {
        const tf_step *s = steps + i;
        const tf_call call = {
            .s = s,
            .x = resolve(&s->x, buffers),
            .y = resolve(&s->y, buffers),
            .z = resolve(&s->z, buffers),
            .w = param(s, s->w, buffers),
            .bias = param(s, s->bias, buffers),
            .slope = param(s, s->slope, buffers),
            .zero = param(s, s->zero, buffers),
        };
        tf_kernel *run = k->run[s->op];
        if (pool && s->tasks > 1)
            tf_pool_run(pool, run, &call, s->tasks, scratch, stride);
        else
            for (int32_t t = 0; t < s->tasks; t++) run(&call, t, scratch);
        if (ticks) ticks[i + 1] = now();
    }
}

void tf_to_half(const float *x, uint16_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
        uint32_t half;
        if (size >= 0x7f800000u) { /* infinity, NaN */
            half = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
        } else if (size >= 0x477ff000u) { /* rounds to 65536 or more */
            half = 0x7c00u;
        } else if (size >= 0x38800000u) { /* normal: drop 13 bits, to nearest even */
            half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
        } else { /* subnormal: a multiple of 2^-24; adding 0.5 lets the FPU round it */
            float v;
            memcpy(&v, &size, 4);
            v += 0.5f;
            memcpy(&half, &v, 4);
            half -= 0x3f000000u;
        }
        y[i] = (uint16_t)(sign | half);
    }
}
