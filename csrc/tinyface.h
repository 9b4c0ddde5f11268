/* tinyface.h: the whole C API.
 *
 * A network is a flat array of tf_step. A step holds no pointer: every operand is a tf_view,
 * that is an index into the table of buffers handed to tf_run plus offsets and strides in floats.
 * The same steps can therefore run in several threads at once, each with its own arena.
 *
 * Activations are channels-last: the channels of one pixel are contiguous. A view gives the
 * distance from pixel to pixel (ld), row to row and image to image, so that concatenation,
 * splitting, slicing and padding are addressing and cost nothing.
 *
 * Where chain > 1, that many steps from there on are run together, `band` rows of the last one's
 * output at a time (chain.c). Each reads what the one before writes and nobody else does: these
 * views have buf TF_BAND and no place outside of scratch, where only the rows in use are kept. The
 * first input, the last output and second operands lie in buffers; no output may lie where an
 * input of the chain does.
 *
 * Contract: tf_check looks at every number and touches no buffer; tf_run computes, allocates
 * nothing and cannot fail once tf_check has returned TF_OK for the same steps and buffers.
 */
#ifndef TINYFACE_H
#define TINYFACE_H
#include <stdint.h>

/* Everything between the two markers is also read by cffi: declarations only. */
/* cffi-begin */
enum { TF_CHAIN_MAX = 8, TF_MAX_THREADS = 256 };

enum { TF_NOWHERE = -1, TF_BAND = -2 }; /* of tf_view.buf: no operand; rows within a chain */

enum tf_status { TF_OK, TF_BAD_SIZE, TF_BAD_OP, TF_BAD_SHAPE, TF_BAD_BUFFER, TF_BAD_BOUNDS };

enum tf_op {
    TF_CONV,      /* implicit GEMM: any kernel, stride, dilation, groups */
    TF_WINOGRAD,  /* 3x3, stride 1 or 2, through Winograd's minimal filtering */
    TF_GEMV,      /* one pixel: y = W x */
    TF_DEPTHWISE, /* one filter per channel */
    TF_GROUPED,   /* 3x3, stride 1 or 2: several groups to a vector, as many outputs as inputs */
    TF_MAXPOOL,
    TF_AVGPOOL,
    TF_ADD,
    TF_SUB, /* x - z */
    TF_MUL,
    TF_DIV, /* x / z */
    TF_MAXIMUM,
    TF_AFFINE,    /* y = x * w[c] + bias[c]; with neither: copy */
    TF_FROM_NCHW, /* x: planes, ld floats apart; what y has around the map becomes 0 */
    TF_TO_NCHW,   /* y: planes, ld floats apart */
    TF_SHUFFLE,   /* y[k] = x[i * c/groups + j] with first + k = j * groups + i */
    TF_NEAREST,
    TF_BILINEAR,
    TF_SOFTMAX,   /* over the channels of each pixel, as the two norms */
    TF_L2NORM,    /* x / max(|x|, alpha) */
    TF_LAYERNORM, /* (x - mean) / sqrt(var + alpha) w + bias */
    TF_MATMUL,    /* y = alpha x z, of rows of pixels: both are computed */
    TF_WINO_IN, /* the transformed input of TF_WINOGRAD: y has a row per matrix, a pixel per tile */
    TF_PEAK,    /* no operator: multiply-adds alone, to learn the machine's peak (roof.h) */
    TF_STREAM,  /* no operator: x read first times, to learn the bandwidth of a memory level */
    TF_OPS
};

enum tf_act {
    TF_NONE,
    TF_CLIP,  /* min(max(v, alpha), hi): ReLU and ReLU6 */
    TF_PRELU, /* v > 0 ? v : slope[c] * v: PReLU and leaky ReLU */
    TF_SIGMOID,
    TF_HSIGMOID, /* min(max(alpha v + beta, 0), 1) */
    TF_HSWISH,   /* v * min(max(v / 6 + 1/2, 0), 1) */
    TF_SILU,     /* v * sigmoid(v) */
    TF_TANH,
    TF_ERF,
    TF_GELU,      /* v (1 + erf(v / sqrt 2)) / 2 */
    TF_GELU_TANH, /* v sigmoid(2 sqrt(2 / pi) (v + 0.044715 v^3)) */
    TF_EXP,
    TF_SQRT, /* stays the last: the tests draw from those before it */
    TF_ACTS
};

enum tf_flag {
    TF_RESIDUAL = 1,     /* z is added before the activation */
    TF_RIVALS = 2,       /* TF_CONV, TF_WINOGRAD: of the 2 VL filters of each panel the first VL and
                            the others compete; y has the larger ones, oc / 2 channels */
    TF_HALF = 4,         /* the packed weights are stored as fp16 */
    TF_COUNT_PAD = 8,    /* average pooling counts the padding, too */
    TF_TRANSFORMED = 16, /* TF_WINOGRAD: x is what TF_WINO_IN made */
    TF_CORNERS = 32,     /* TF_BILINEAR: corners fall on corners */
    TF_ACROSS = 64,      /* TF_MATMUL: z's pixels are the columns, not the rows, of its matrix */
    TF_MIRRORED = 256,   /* TF_NEAREST: columns from the last to the first */
    TF_SPREAD = 128      /* TF_ADD … TF_MAXIMUM: z has one float a pixel, for all channels */
};

typedef struct {
    int32_t buf;      /* index into the table of buffers, TF_NOWHERE or TF_BAND */
    int32_t ld;       /* floats from one pixel to the next; 0 broadcasts one pixel */
    int64_t off;      /* index of the first float */
    int64_t row, img; /* floats from one map row, one image to the next */
} tf_view;

typedef struct {
    uint32_t size; /* sizeof(tf_step) as the caller knows it */
    int32_t op, act, flags;
    tf_view x, y, z;        /* input, output, second operand or residual */
    int32_t wbuf;           /* buffer of the parameters below */
    float hi, alpha, beta;  /* clip limit; coefficients of act or of the operator */
    int64_t w, bias, slope; /* offsets in floats into wbuf; -1: absent */
    int64_t zero;           /* offset of at least c zero floats: the padding */
    int32_t n, h, wd, c;    /* input: images, height, width, channels */
    int32_t oh, ow, oc;     /* output height, width, channels */
    int32_t kh, kw, sh, sw; /* window and stride */
    int32_t pt, pl, pb, pr; /* padding above, to the left, below, to the right */
    int32_t dh, dw;         /* dilation */
    int32_t groups, first;
    int32_t block, panels; /* pixels (TF_WINOGRAD: tiles) and weight panels per task */
    int32_t tile;          /* TF_WINOGRAD, TF_WINO_IN: outputs on a side of a tile, 2 or 4 */
    int32_t tasks;         /* units handed to the threads */
    int32_t chain, band;   /* steps from here on that run together, and how many rows at a time */
} tf_step;

typedef struct tf_kernels tf_kernels;
typedef struct tf_pool tf_pool;

/* The micro-kernel's shape decides how weights are packed (see docs of gemm.h). */
typedef struct {
    char name[16];
    int32_t lanes;     /* floats per vector */
    int32_t rows_wide; /* pixels per tile, panels two vectors wide */
    int32_t rows_slim; /* pixels per tile, panels one vector wide */
    int32_t rows_pack; /* pixels per tile of packed inputs; 0: none are packed */
} tf_isa;

/* The table for an instruction set by name, NULL if this CPU or build lacks it;
 * name NULL means the best one here. tf_isa_list writes up to cap, best last. */
const tf_kernels *tf_kernels_for(const char *name);
int32_t tf_isa_list(tf_isa *out, int32_t cap);
void tf_isa_of(const tf_kernels *k, tf_isa *out);

/* Validates n steps against the sizes of the buffers (in bytes). On success *scratch is the
 * number of bytes every thread needs beside the arena. On failure *bad is the step. */
int32_t tf_check(const tf_kernels *k, const tf_step *steps, int32_t n, const int64_t *bytes,
                 int32_t buffers, int64_t *scratch, int32_t *bad);
const char *tf_strerror(int32_t status);

/* Runs the steps for about ns nanoseconds: begins none later than that, except for the first one,
 * and returns how many it has run. The rest is another call, with what lies behind these steps and
 * ticks. scratch holds one region of stride bytes (a multiple of 64) per thread of the pool; pool
 * NULL means the calling thread alone. ticks, if not NULL, receives n + 1 clock readings in ns:
 * before the first step and after each. The members of a chain take turns, so there the chain's
 * time is divided as its first strip spent it. */
int32_t tf_run(const tf_kernels *k, const tf_step *steps, int32_t n, void *const *buffers,
               void *scratch, int64_t stride, tf_pool *pool, int64_t *ticks, int64_t ns);

/* A pool lives in memory of the caller, tf_pool_bytes() long and aligned to 64 bytes. start returns
 * how many threads (the caller included) there are: TF_MAX_THREADS at most, and fewer than asked
 * for where the system grants no more. They block all signals. A pool serves one tf_run at a time
 * and does not survive fork. stop of one that is all zeros, never started, does nothing. */
int64_t tf_pool_bytes(void);
int32_t tf_pool_start(tf_pool *pool, int32_t threads);
void tf_pool_stop(tf_pool *pool);
/* cffi-end */

#endif
