/* steps.h: a step at random, as test_kernels.c says, for each operator. */
#ifndef STEPS_H
#define STEPS_H
#include "draw.h"
#include <math.h>

/* The shapes that an operator may have, where they are not those of every operator. */
static void random_shape(tf_step *s)
{
    const int32_t op = s->op;
    if (op == TF_CONV || op == TF_DEPTHWISE || op == TF_MAXPOOL || op == TF_AVGPOOL)
        random_window(s);
    if (op == TF_AVGPOOL && draw(8) == 0) mean_of_axis(s);
    if (op == TF_DEPTHWISE && draw(2)) common_depthwise(s, 1 + draw(2));
    if (op == TF_GROUPED) few_a_group(s);
    if (op == TF_CONV) {
        s->groups = draw(2) ? 1 : 1 + (int32_t)draw(4);
        s->c = s->groups * (1 + (int32_t)draw(draw(4) ? 20 : 60));
        if (draw(6) == 0) picture(s);
        s->oc = s->groups * (draw(3) ? 1 + (int32_t)(32 * draw(2) + draw(40)) : odd());
    }
    if (op == TF_WINOGRAD) {
        s->kh = s->kw = 3, s->oc = odd() + (int32_t)draw(40);
        s->pt = (int32_t)draw(3), s->pl = (int32_t)draw(3);
        s->pb = (int32_t)draw(3), s->pr = (int32_t)draw(3);
        s->tile = 2 + 2 * (int32_t)draw(2), s->sh = s->sw = 1 + (int32_t)draw(2);
        while (s->h + s->pt + s->pb < 3) s->h++;
        while (s->wd + s->pl + s->pr < 3) s->wd++;
        s->oh = (s->h + s->pt + s->pb - 3) / s->sh + 1;
        s->ow = (s->wd + s->pl + s->pr - 3) / s->sh + 1;
    }
    if (op == TF_GEMV) s->n = s->h = s->wd = s->oh = s->ow = 1, s->oc = odd() + (int32_t)draw(90);
    if (op == TF_NEAREST || op == TF_BILINEAR) {
        s->oh = odd(), s->ow = odd(), s->flags = op == TF_NEAREST && draw(2) ? TF_MIRRORED : 0;
        s->alpha = (float)s->h / (float)(draw(8) ? s->oh : 1); /* or beyond the map */
        s->beta = (float)s->wd / (float)s->ow;
    }
    if (op == TF_SHUFFLE) {
        s->groups = 2 * (1 + (int32_t)draw(3));
        s->c = s->groups * odd();
        s->first = (int32_t)draw((uint32_t)s->c);
        s->oc = 1 + (int32_t)draw((uint32_t)(s->c - s->first));
    }
    if (op == TF_MATMUL) {
        s->oc = odd() + (int32_t)draw(40);
        s->flags = draw(2) ? TF_ACROSS : 0;
    }
    if ((op == TF_SOFTMAX || op == TF_L2NORM || op == TF_LAYERNORM) && draw(8) == 0) {
        s->c = s->oc = s->c + (int32_t)draw(1500); /* few pixels: the reference takes c squared */
        s->n = s->h = s->oh = 1, s->wd = s->ow = 1 + (int32_t)draw(3);
    }
}

/* Flags, activations, shortcuts, fp16. */
static void random_ending(tf_step *s)
{
    const int32_t op = s->op;
    if (op >= TF_ADD && op <= TF_MAXIMUM && draw(4) == 0) {
        s->flags |= TF_SPREAD;
        if (draw(2)) s->wd = s->ow = 1; /* a row is one span */
    }
    if (op == TF_AVGPOOL && draw(2)) s->flags |= TF_COUNT_PAD;
    const int product = op == TF_CONV || op == TF_GEMV || op == TF_WINOGRAD;
    if (product || (op >= TF_ADD && op <= TF_AFFINE) || op == TF_DEPTHWISE || op == TF_GROUPED)
        s->act = (int32_t)draw(TF_SQRT);
    if (op == TF_AFFINE && draw(8) == 0) s->act = TF_SQRT; /* of x as it is, NaN and all */
    if (op == TF_DIV && s->act == TF_EXP) s->act = TF_NONE;
    if ((op == TF_CONV || op == TF_DEPTHWISE) && draw(2)) s->act %= TF_PRELU + 1;
    if (product && draw(2)) s->flags |= TF_RESIDUAL;
    if ((op == TF_CONV || op == TF_GEMV) && draw(3) == 0) s->flags |= TF_HALF;
}

static tf_step random_step(int32_t op)
{
    tf_step s = {.size = sizeof s,
                 .op = op,
                 .n = 1 + (int32_t)draw(2),
                 .h = odd(),
                 .wd = odd(),
                 .kh = 1,
                 .kw = 1,
                 .sh = 1,
                 .sw = 1,
                 .dh = 1,
                 .dw = 1,
                 .groups = 1,
                 .wbuf = 3,
                 .w = -1,
                 .bias = -1,
                 .slope = -1,
                 .zero = -1,
                 .block = 1,
                 .panels = 1};
    s.c = odd() + (int32_t)(draw(3) == 0 ? draw(60) : 0);
    s.oh = s.h, s.ow = s.wd, s.oc = s.c;
    s.tasks = 1 + (int32_t)draw(5);
    s.z.buf = -1;
    s.hi = draw(2) ? 0.5f : INFINITY;
    s.alpha = 0.25f, s.beta = 0.5f;
    random_shape(&s);
    random_ending(&s);
    return s;
}

#endif
