/* problem.h: operands and parameters for a step, packed as the kernels read them. */
#ifndef PROBLEM_H
#define PROBLEM_H
#include "draw.h"
#include "pack.h"
#include "reference.h"
#include <math.h>
#include <string.h>

typedef struct {
    guarded x, y, z, params;
    float *w, *bias, *slope; /* unpacked */
} problem;

static float *fill(int64_t n)
{
    float *p = malloc((size_t)n * sizeof *p + 4);
    for (int64_t i = 0; i < n; i++) p[i] = real();
    return p;
}

static int64_t put(float *all, int64_t *size, const float *v, int64_t n)
{
    const int64_t offset = *size;
    if (v)
        memcpy(all + offset, v, (size_t)n * sizeof *v);
    else
        memset(all + offset, 0, (size_t)n * sizeof *all);
    *size += n;
    return offset;
}

/* Packs the parameters; they are made exactly as long as the kernel may read.
 */
static void make_params(tf_step *s, problem *p, const tf_isa *isa, int end)
{
    const int64_t taps = (int64_t)s->kh * s->kw, lanes = isa->lanes, g = s->groups;
    const int wino = s->op == TF_WINOGRAD, dw = s->op == TF_DEPTHWISE || s->op == TF_GROUPED;
    const int dense = s->op == TF_CONV || s->op == TF_GEMV || wino;
    const int64_t per = dense || s->op == TF_GROUPED ? s->c / g : 1, o = s->oc / g;
    const int64_t outs = dense ? (o + lanes - 1) / lanes * lanes * g : s->oc;
    float *all =
        calloc((size_t)(outs * (wino ? 36 : taps) * per + 2 * outs + 2 * s->c + 64), sizeof *all);
    int64_t size = 0;
    p->w = p->bias = p->slope = NULL;
    const int affine =
        ((s->op == TF_AFFINE && s->act != TF_SQRT) || s->op == TF_LAYERNORM) && draw(2);
    if (dense || dw || affine) {
        p->w = fill(s->oc * per * taps);
        p->bias = fill(s->oc);
        s->w = 0;
    }
    if (wino) {
        s->flags &= ~TF_HALF;
        size = pack_winograd(all, p->w, s, lanes);
    } else if (dense) {
        if (s->flags & TF_HALF) { /* weights that fp16 holds exactly */
            for (int64_t i = 0; i < s->oc * per * taps; i++)
                p->w[i] = (float)((int)draw(65) - 32) / 32;
        }
        for (int64_t i = 0; i < g; i++)
            size += pack_group(all + size, p->w + i * o * per * taps, taps, per, o, lanes);
        if (s->flags & TF_HALF) {
            uint16_t *half = malloc((size_t)size * 2 + 4);
            pack_half(all, half, size);
            memcpy(all, half, (size_t)size * 2);
            size = (size + 1) / 2;
            free(half);
        }
    } else if (dw) {
        for (int64_t k = 0; k < per * taps; k++)
            for (int64_t c = 0; c < s->c; c++) all[size++] = p->w[c * per * taps + k];
    } else if (affine) {
        put(all, &size, p->w, s->c);
    }
    if (s->act == TF_PRELU) p->slope = fill(s->oc);
    for (int k = 0; k < 2; k++) {
        const float *v = k ? p->slope : p->bias;
        if (!v) continue;
        const int64_t offset = put(all, &size, NULL, outs);
        for (int64_t i = 0; i < s->oc; i++) all[offset + i / o * (outs / g) + i % o] = v[i];
        *(k ? &s->slope : &s->bias) = offset;
    }
    if (dense || dw || s->op == TF_MATMUL)
        s->zero = put(all, &size, NULL, s->c > 2 * lanes ? s->c : 2 * lanes);
    p->params = guard_new(size, end);
    memcpy(p->params.data, all, (size_t)size * sizeof *all);
    free(all);
}

static problem make_problem(tf_step *s, const tf_isa *isa)
{
    problem p = {.z = {.map = NULL}};
    const int end = (int)draw(2);
    s->x = gappy(0, s->h, s->wd, s->c);
    if ((s->op == TF_CONV || s->op == TF_WINOGRAD) && draw(6) == 0) {
        s->flags = (s->flags & TF_HALF) | TF_RIVALS, s->act = TF_NONE, s->groups = 1;
        s->oc = 2 * isa->lanes * (1 + (int32_t)draw(isa->lanes < 8 ? 7 : 3)); /* five are packed */
    }
    s->y = gappy(1, s->oh, s->ow, channels(s));
    const int64_t xs = extent(&s->x, s->n, s->h, s->wd, s->c);
    p.x = guard_new(xs, end);
    for (int64_t i = 0; i < xs; i++) p.x.data[i] = real();
    p.y = guard_new(extent(&s->y, s->n, s->oh, s->ow, channels(s)), end);
    for (int64_t i = 0; i < p.y.count; i++) p.y.data[i] = NAN;
    const int binary = s->op >= TF_ADD && s->op <= TF_MAXIMUM, product = s->op == TF_MATMUL;
    if (product) {
        const int across = (s->flags & TF_ACROSS) != 0;
        const int32_t rows = across ? s->oc : s->c, side = across ? s->c : s->oc;
        s->z = gappy(2, s->oh, rows, side);
        if (draw(3) == 0) s->z.img = 0;
        p.z = guard_new(extent(&s->z, s->n, s->oh, rows, side), end);
        for (int64_t i = 0; i < p.z.count; i++) p.z.data[i] = real();
    } else if (binary || s->flags & TF_RESIDUAL) {
        const int64_t zc = s->flags & TF_SPREAD ? 1 : s->oc;
        s->z = gappy(2, s->oh, s->ow, zc);
        if (binary && draw(3) == 0) s->z.ld = 0, s->z.row = 0, s->z.img = zc;
        p.z = guard_new(extent(&s->z, s->n, s->oh, s->ow, zc), end);
        for (int64_t i = 0; i < p.z.count; i++) p.z.data[i] = real();
        for (int64_t i = 0; i < p.z.count && s->op == TF_DIV; i++)
            p.z.data[i] += p.z.data[i] < 0 ? -1.0f : 1.0f;
    }
    make_params(s, &p, isa, end);
    if (s->op == TF_CONV) {
        const int64_t panels =
            (s->oc / s->groups + 2 * isa->lanes - 1) / (2 * isa->lanes) * s->groups;
        const int64_t pixels = (int64_t)s->n * s->oh * s->ow;
        s->block = draw(2) ? 1 + (int32_t)draw((uint32_t)pixels)
                           : s->ow * (1 + (int32_t)draw((uint32_t)(s->n * s->oh))); /* whole rows */
        s->panels = draw(2) ? (int32_t)panels : 1 + (int32_t)draw((uint32_t)panels);
        s->tasks =
            (int32_t)((pixels + s->block - 1) / s->block * ((panels + s->panels - 1) / s->panels));
    }
    if (s->op == TF_WINOGRAD) {
        const int64_t tiles = wino_tiles(s),
                      panels = (s->oc + 2 * isa->lanes - 1) / (2 * isa->lanes);
        s->block = 1 + (int32_t)draw((uint32_t)tiles);
        s->panels = 1 + (int32_t)draw((uint32_t)panels);
        s->tasks =
            (int32_t)((tiles + s->block - 1) / s->block * ((panels + s->panels - 1) / s->panels));
    }
    return p;
}

#endif
