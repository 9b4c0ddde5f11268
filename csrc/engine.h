/* engine.h: what the files of the engine share and the caller does not see. */
#ifndef TF_ENGINE_H
#define TF_ENGINE_H
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* clock_gettime, pthread_sigmask */
#endif
#include "tinyface.h"
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* What follows, to TARGET_END, may use these extensions of the instruction set. */
#define TF_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define TARGET(names)                                                                              \
    TF_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define TARGET_END _Pragma("clang attribute pop")
#else
#define TARGET(names) TF_PRAGMA(GCC target(names))
#define TARGET_END
#endif

/* A loop over registers: for i = 0 .. n - 1, n constant. It is unrolled before gcc decides where
 * arrays live, so that each element of an array of vectors becomes a register. */
#ifdef __clang__
#define UNROLL(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define UNROLL(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif

/* From here on this thread's results below the least normal float are 0, until tf_unflush of what
 * is returned. An x86 core takes a hundred cycles for each such number, and for each that it reads
 * again: a masked softmax, or SiLU of large negative numbers, is full of them. ARM's take none. */
static inline unsigned tf_flush(void)
{
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8000);
    return before;
#else
    return 0;
#endif
}

static inline void tf_unflush(unsigned before)
{
#if defined(__x86_64__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

/* clang compiles NEON for 32-bit ARM only where the whole program may use it. */
#if defined(__aarch64__) || (defined(__arm__) && !defined(__clang__))
#define TF_NEON
#endif

/* A function whose first arguments are constants at every call: it becomes code for these. */
#define INLINE static inline __attribute__((always_inline))

/* A step with its views resolved to pointers. */
typedef struct {
    const tf_step *s;
    const float *x, *z; /* z: NULL where the step has no second operand */
    float *y;
    const float *w, *bias, *slope, *zero; /* NULL where absent; w: fp16 with TF_HALF */
    /* Of a convolution in a chain: all panels write the same places of y, their second vectors
     * `apart` floats behind the first, and each is handed on before the next. NULL: none of this.
     */
    void (*ready)(void *reader, int64_t panel);
    void *reader;
    int64_t apart;
} tf_call;

/* Computes one task of a step: an independent part of its output. scratch belongs to the
 * thread; nothing in it survives from task to task. */
typedef void tf_kernel(const tf_call *call, int32_t task, void *scratch);

struct tf_kernels {
    tf_isa isa;
    tf_kernel *run[TF_OPS];
    tf_kernel *flat; /* depthwise 3x3 on the vectors of such a panel */
};

extern const tf_kernels tf_scalar;
#if defined(__x86_64__)
extern const tf_kernels tf_sse, tf_avx2, tf_avx512;
#elif defined(TF_NEON)
extern const tf_kernels tf_neon;
#endif

/* Bytes of scratch one thread needs for a step (check.c). */
int64_t tf_scratch_bytes(const tf_kernels *k, const tf_step *s);

/* Runs task 0..tasks-1 of a call on all threads of the pool, or here if it is NULL (pool.c). */
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

/* As many floats or more, an odd number of cache lines: rows that far apart do not meet in one
 * set of a cache. */
static inline int64_t tf_odd_lines(int64_t floats) { return (tf_ceil_div(floats, 16) | 1) * 16; }

static inline void tf_zero(float *p, int64_t n) { memset(p, 0, (size_t)n * sizeof *p); }

/* First float of pixel (image, row, column) of a view, relative to its pointer. */
static inline int64_t tf_at(const tf_view *v, int64_t i, int64_t y, int64_t x)
{
    return i * v->img + y * v->row + x * v->ld;
}

/* Tiles of a computed product that run in one call (matmul.h). */
enum { TF_MATMUL_TILES = 16 };

/* Convolution with packed inputs (packed.h), where an instruction set has it: rows of its tiles,
 * bytes of inputs packed at a time. */
enum { TF_PACK_ROWS = 12, TF_PACK_PANELS = 5, TF_PACK_BYTES = 192 << 10 };

/* Is it packed? Packing must be shared by some panels, `wide` outputs each, of the task. */
static inline int tf_packs(const tf_step *s, int64_t wide)
{
    return s->groups == 1 && tf_min(s->panels, tf_ceil_div(s->oc, wide)) >= TF_PACK_PANELS;
}

/* Products of one side of the map that are not with padding: outputs of n, window k. */
static inline int64_t tf_inside(int64_t in, int64_t out, int64_t k, int64_t stride, int64_t pad,
                                int64_t dilation)
{
    int64_t count = 0;
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < k; i++) {
            const int64_t at = o * stride - pad + i * dilation;
            count += at >= 0 && at < in;
        }
    return count;
}

/* Does a tap take only pixels whose input exists? On small maps with much padding. */
static inline int tf_pack_chooses(const tf_step *s)
{
    /* A chain's scratch is sized by whole steps, but its parts have other h, oh and pt: the answer,
     * which scratch depends on, must not change with these. */
    if (s->x.buf == TF_BAND || s->y.buf == TF_BAND) return 0;
    const int64_t map = (int64_t)s->oh * s->ow, taps = (int64_t)s->kh * s->kw;
    if (map * s->n > 64 || taps > 64 || taps == 1 || s->c < 32) return 0;
    return 8 * tf_inside(s->h, s->oh, s->kh, s->sh, s->pt, s->dh) *
               tf_inside(s->wd, s->ow, s->kw, s->sw, s->pl, s->dw) <
           7 * map * taps;
}

/* Pixels packed at a time, whole tiles. */
static inline int64_t tf_pack_chunk(const tf_step *s)
{
    const int64_t pixels = tf_min(s->block, (int64_t)s->n * s->oh * s->ow);
    const int64_t tile = TF_PACK_ROWS * (int64_t)s->kh * s->kw * s->c * (int64_t)sizeof(float);
    const int64_t fits =
        tf_pack_chooses(s) ? pixels : tf_max(1, TF_PACK_BYTES / tile) * TF_PACK_ROWS;
    return tf_ceil_div(tf_min(fits, pixels), TF_PACK_ROWS) * TF_PACK_ROWS;
}

#endif
