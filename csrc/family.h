/* family.h: all kernels of one instruction set. Included once per isa_*.c, after its simd_*.h;
 * ISA_NAME is the name in the table. Every function here is static, so that the same source
 * can be compiled once per instruction set into one library. */
#include <math.h>
#include "act.h"
#include "gemm.h"
#include "conv.h"
#ifdef PACK_ROWS
#include "packed.h"
#define CONV_RUN conv_any
#else
#define CONV_RUN  conv_run
#define PACK_ROWS 0
#endif
#include "winograd.h"
#include "gemv.h"
#include "depthwise.h"
#include "eltwise.h"
#include "window.h"
#include "move.h"
#include "normal.h"
#include "roof.h"

#define TF_CAT2(a, b) a##b
#define TF_CAT(a, b)  TF_CAT2(a, b)
#define TF_STR2(a)    #a
#define TF_STR(a)     TF_STR2(a)

const tf_kernels TF_CAT(tf_, ISA_NAME) = {
    .isa = {TF_STR(ISA_NAME), VL, ROWS_WIDE, ROWS_SLIM, PACK_ROWS},
    .run =
        {
            [TF_CONV] = CONV_RUN,
            [TF_WINOGRAD] = winograd_run,
            [TF_WINO_IN] = wino_input_run,
            [TF_GEMV] = gemv_run,
            [TF_DEPTHWISE] = depthwise_run,
            [TF_MAXPOOL] = maxpool_run,
            [TF_AVGPOOL] = avgpool_run,
            [TF_ADD] = add_run,
            [TF_MUL] = mul_run,
            [TF_MAXIMUM] = maximum_run,
            [TF_AFFINE] = affine_run,
            [TF_FROM_NCHW] = from_nchw_run,
            [TF_TO_NCHW] = to_nchw_run,
            [TF_SHUFFLE] = shuffle_run,
            [TF_NEAREST] = nearest_run,
            [TF_BILINEAR] = bilinear_run,
            [TF_SOFTMAX] = softmax_run,
            [TF_L2NORM] = l2norm_run,
            [TF_PEAK] = peak_run,
            [TF_STREAM] = stream_run,
        },
    .flat = depthwise_flat,
};
