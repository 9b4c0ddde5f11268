/* engine.h: what the files of the engine share and the caller does not see. */
#ifndef TF_ENGINE_H
#define TF_ENGINE_H
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#endif
#include "tinyface.h"
#include <stddef.h>
#include <string.h>
#include <time.h>

/* A step with its views resolved to pointers. */
typedef struct {
    const tf_step *s;
    const float *x, *z; /* z: NULL where the step has no second operand */
    float *y;
    const float *w, *bias, *slope, *zero; /* NULL where absent; w: fp16 with TF_HALF */
} tf_call;

/* Computes one task of a step: an independent part of its output. scratch belongs to the
 * thread; nothing in it survives from task to task. */
typedef void tf_kernel(const tf_call *call, int32_t task, void *scratch);

struct tf_kernels {
    tf_isa isa;
    tf_kernel *run[TF_OPS];
};

extern const tf_kernels tf_scalar;
#if defined(__x86_64__)
extern const tf_kernels tf_sse, tf_avx2, tf_avx512;
#elif defined(__aarch64__) || defined(__arm__)
extern const tf_kernels tf_neon;
#endif

/* Bytes of scratch one thread needs for a step (check.c). */
int64_t tf_scratch_bytes(const tf_kernels *k, const tf_step *s);

/* Runs task 0..tasks-1 of a call on all threads of the pool (pool.c). */
void tf_pool_run(tf_pool *pool, tf_kernel *kernel, const tf_call *call, int32_t tasks,
                 char *scratch, int64_t stride);

int32_t tf_pool_threads(const tf_pool *pool);

/* A chain of call.s->chain steps as its threads see it (chain.c). */
typedef struct {
    tf_call call; /* only s is used */
    const tf_kernels *k;
    void *const *buffers;
    int32_t strips; /* of each image; set by tf_chain_run */
    int64_t *spent; /* ns per member in the first strip are added here; NULL: not wanted */
} tf_chain;

void tf_chain_run(tf_chain *chain, tf_pool *pool, void *scratch, int64_t stride);

/* Bytes of scratch one thread needs for a chain. */
int64_t tf_chain_bytes(const tf_kernels *k, const tf_step *s);

/* The step's operands as pointers; NULL for those that are absent or in a band. */
tf_call tf_resolve(const tf_step *s, void *const *buffers);

/* The part of 0..total that task t of n owns: [*from, *to). */
static inline void tf_share(int64_t total, int64_t t, int64_t n, int64_t *from, int64_t *to)
{
    *from = total * t / n;
    *to = total * (t + 1) / n;
}

/* Monotonic clock in ns. */
static inline int64_t tf_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int64_t tf_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t tf_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t tf_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* First float of pixel (image, row, column) of a view, relative to its pointer. */
static inline int64_t tf_at(const tf_view *v, int64_t i, int64_t y, int64_t x)
{
    return i * v->img + y * v->row + x * v->ld;
}

/* fp16 bits to fp32, all cases. */
static inline float tf_from_half(uint16_t h)
{
    uint32_t bits = (uint32_t)(h & 0x7fffu) << 13;
    float value;
    memcpy(&value, &bits, 4);
    value *= 0x1p112f; /* rebias the exponent; exact, subnormals included */
    memcpy(&bits, &value, 4);
    if (value >= 65536.0f) bits |= 0x7f800000u; /* infinities and NaN */
    bits |= (uint32_t)(h & 0x8000u) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

#endif
