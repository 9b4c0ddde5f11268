/* family.h: all kernels of one instruction set. Included once per isa_*.c, after its simd_*.h;
 * ISA_NAME is the name in the table. Every function here is static, so that the same source
 * can be compiled once per instruction set into one library. */
#include "act.h"
#include "gemm.h"
#include "conv.h"
#ifdef PACK_ROWS
#include "packed.h"
#define CONV_RUN packed_run
#else
#define CONV_RUN  conv_run
#define PACK_ROWS 0
#endif
#include "winograd.h"
#include "gemv.h"
#include "matmul.h"
#include "depthwise.h"
#include "eltwise.h"
#include "normal.h"
#include "window.h"
#include "move.h"
#include "roof.h"

/* Operators whose tasks own rows: image i, row oy of the output. */
typedef void row_fn(const tf_call *call, int64_t i, int64_t oy);
/* clang-format off */
static row_fn *const row_fns[TF_OPS] = {
    [TF_ADD ... TF_AFFINE] = elt_row,
    [TF_FROM_NCHW] = from_nchw_row,
    [TF_TO_NCHW] = to_nchw_row,
    [TF_SHUFFLE] = shuffle_row,
    [TF_NEAREST] = nearest_row,
    [TF_BILINEAR] = bilinear_row,
    [TF_SOFTMAX] = softmax_row,
    [TF_L2NORM ... TF_LAYERNORM] = norm_row,
};
/* clang-format on */

static void rows_run(const tf_call *call, int32_t task, void *scratch)
{
    (void)scratch;
    const tf_step *s = call->s;
    int64_t from, to;
    tf_share((int64_t)s->n * s->oh, task, s->tasks, &from, &to);
    for (int64_t u = from; u < to; u++) row_fns[s->op](call, u / s->oh, u % s->oh);
}

#define TF_CAT2(a, b) a##b
#define TF_CAT(a, b)  TF_CAT2(a, b)
#define TF_STR2(a)    #a
#define TF_STR(a)     TF_STR2(a)

/* clang-format off */
const tf_kernels TF_CAT(tf_, ISA_NAME) = {
    .isa = {TF_STR(ISA_NAME), VL, ROWS_WIDE, ROWS_SLIM, PACK_ROWS},
    .run = {
        [TF_CONV] = CONV_RUN,
        [TF_WINOGRAD] = winograd_run,
        [TF_GEMV] = gemv_run,
        [TF_DEPTHWISE] = depthwise_run,
        [TF_GROUPED] = GROUPED_RUN,
        [TF_MAXPOOL ... TF_AVGPOOL] = window_run,
        [TF_ADD ... TF_LAYERNORM] = rows_run,
        [TF_MATMUL] = matmul_run,
        [TF_WINO_IN] = wino_input_run,
        [TF_PEAK] = peak_run,
        [TF_STREAM] = stream_run,
    },
    .flat = depthwise_flat,
};
