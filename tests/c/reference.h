/* reference.h: what each step means, one output at a time, in double, from the
 * definition. Weights come unpacked: conv (oc, c/groups, kh, kw), depthwise (c,
 * kh, kw), gemv (oc, c). *size receives the sum of the absolute values of what
 * was added, from which the error bound follows, and *terms their number. */
#ifndef REFERENCE_H
#define REFERENCE_H
#include "tinyface.h"
#include <float.h>
#include <math.h>

typedef struct {
    const float *x, *z, *w, *bias, *slope; /* the first float of each view; NULL if absent */
} operands;

static double activate(const tf_step *s, double v, double slope)
{
    switch (s->act) {
    case TF_CLIP: return fmin(fmax(v, (double)s->alpha), (double)s->hi);
    case TF_PRELU: return v < 0 ? v * slope : v;
    case TF_SIGMOID: return 1 / (1 + exp(-v));
    case TF_HSIGMOID: return fmin(fmax(v * (double)s->alpha + (double)s->beta, 0), 1);
    case TF_HSWISH: return v * fmin(fmax(v / 6 + 0.5, 0), 1);
    case TF_SILU: return v / (1 + exp(-v));
    case TF_TANH: return tanh(v);
    case TF_ERF: return erf(v);
    case TF_GELU: return v * erfc(-v * sqrt(0.5)) / 2;
    case TF_GELU_TANH: return v / (1 + exp(-v * sqrt(8 / acos(-1)) * (1 + 0.044715 * v * v)));
    case TF_EXP: return exp(v) > FLT_MAX ? (double)INFINITY : exp(v);
    case TF_SQRT: return sqrt(v);
    default: return v;
    }
}

static int64_t at(const tf_view *v, int64_t i, int64_t y, int64_t x, int64_t c)
{
    return i * v->img + y * v->row + x * v->ld + c;
}

/* Sum over the window of one filter; also maximum and count, for pooling. */
typedef struct {
    double sum, size, most;
    int64_t inside, counted;
} window;

static window slide(const tf_step *s, const operands *o, int64_t i, int64_t oc, int64_t oy,
                    int64_t ox)
{
    const int64_t dense = s->op == TF_CONV || s->op == TF_WINOGRAD || s->op == TF_GROUPED,
                  per = dense ? s->c / s->groups : 1;
    const int64_t first = dense ? oc / (s->oc / s->groups) * per : oc;
    window r = {.most = -INFINITY};
    for (int64_t k = 0; k < per; k++)
        for (int64_t ky = 0; ky < s->kh; ky++)
            for (int64_t kx = 0; kx < s->kw; kx++) {
                const int64_t iy = oy * s->sh - s->pt + ky * s->dh;
                const int64_t ix = ox * s->sw - s->pl + kx * s->dw;
                r.counted += iy < s->h + s->pb && ix < s->wd + s->pr;
                if (iy < 0 || iy >= s->h || ix < 0 || ix >= s->wd) continue;
                const double x = (double)o->x[at(&s->x, i, iy, ix, first + k)];
                const double w =
                    o->w ? (double)o->w[((oc * per + k) * s->kh + ky) * s->kw + kx] : 1;
                r.sum += x * w;
                r.size += fabs(x * w);
                r.most = fmax(r.most, x);
                r.inside++;
            }
    return r;
}

static double bilinear(const tf_step *s, const operands *o, int64_t i, int64_t oy, int64_t ox,
                       int64_t c)
{
    const double half = s->flags & TF_CORNERS ? 0 : 0.5;
    const double fy = fmin(fmax(((double)oy + half) * (double)s->alpha - half, 0), s->h - 1);
    const double fx = fmin(fmax(((double)ox + half) * (double)s->beta - half, 0), s->wd - 1);
    const int64_t y0 = (int64_t)fy, x0 = (int64_t)fx;
    const int64_t y1 = y0 + 1 < s->h ? y0 + 1 : y0, x1 = x0 + 1 < s->wd ? x0 + 1 : x0;
    const double ty = fy - (double)y0, tx = fx - (double)x0;
    const float *x = o->x;
    return (1 - ty) * ((1 - tx) * (double)x[at(&s->x, i, y0, x0, c)] +
                       tx * (double)x[at(&s->x, i, y0, x1, c)]) +
           ty * ((1 - tx) * (double)x[at(&s->x, i, y1, x0, c)] +
                 tx * (double)x[at(&s->x, i, y1, x1, c)]);
}

/* Channel c of a layer norm of the pixel x; *size: what its error is a multiple of. */
static double layer_norm(const tf_step *s, const operands *o, const float *x, int64_t c,
                         double *size)
{
    double mean = 0, var = 0, most = 0;
    for (int64_t k = 0; k < s->c; k++) mean += (double)x[k] / s->c;
    for (int64_t k = 0; k < s->c; k++) {
        var += ((double)x[k] - mean) * ((double)x[k] - mean) / s->c;
        most = fmax(most, fabs((double)x[k]));
    }
    const double by = 1 / sqrt(var + (double)s->alpha), w = o->w ? (double)o->w[c] : 1;
    const double bias = o->bias ? (double)o->bias[c] : 0;
    *size = most * by * (1 + most * by) * fabs(w) + fabs(bias);
    return ((double)x[c] - mean) * by * w + bias;
}

/* Column oc of the row at (i, oy, ox) of a product. */
static double product(const tf_step *s, const operands *o, int64_t i, int64_t oc, int64_t oy,
                      int64_t ox, double *size)
{
    double sum = 0;
    for (int64_t k = 0; k < s->c; k++) {
        const int across = (s->flags & TF_ACROSS) != 0;
        const double z = (double)o->z[at(&s->z, i, oy, across ? oc : k, across ? k : oc)];
        const double term = (double)o->x[at(&s->x, i, oy, ox, k)] * z * (double)s->alpha;
        sum += term, *size += fabs(term);
    }
    return sum;
}

static double reduce_channels(const tf_step *s, const float *x, int64_t c)
{
    double most = -INFINITY, sum = 0, squares = 0;
    for (int64_t k = 0; k < s->c; k++) most = fmax(most, (double)x[k]);
    for (int64_t k = 0; k < s->c; k++) {
        sum += exp((double)x[k] - most);
        squares += (double)x[k] * (double)x[k];
    }
    if (s->op == TF_SOFTMAX) return exp((double)x[c] - most) / sum;
    return (double)x[c] / fmax(sqrt(squares), (double)s->alpha);
}

/* Channel k of the shuffled x. */
static double shuffled(const tf_step *s, const operands *o, int64_t i, int64_t y, int64_t x,
                       int64_t k)
{
    const int64_t from =
        (s->first + k) % s->groups * (s->c / s->groups) + (s->first + k) / s->groups;
    return (double)o->x[at(&s->x, i, y, x, from)];
}

/* Row oc of the weights by the one pixel. */
static double row(const tf_step *s, const operands *o, int64_t oc, double *size)
{
    double sum = 0;
    for (int64_t k = 0; k < s->c; k++) {
        const double term = (double)o->x[k] * (double)o->w[oc * s->c + k];
        sum += term, *size += fabs(term);
    }
    return sum;
}

/* x and z of two maps, or x by the weight w. */
static double elementwise(const tf_step *s, double x, double z, double w, double bias)
{
    switch (s->op) {
    case TF_ADD: return x + z;
    case TF_SUB: return x - z;
    case TF_MUL: return x * z;
    case TF_DIV: return x / z;
    case TF_MAXIMUM: return fmax(x, z);
    default: return x * w + bias;
    }
}

/* What is done to the sum v: a shortcut and the activation. */
static double ending(const tf_step *s, double v, double z, double slope, double *size,
                     double *terms)
{
    if (s->flags & TF_RESIDUAL) v += z, *size += fabs(z), *terms += 1;
    v = activate(s, v, slope);
    if (s->act != TF_NONE) *size = *size * 2 + 2, *terms += 12;
    if (s->act == TF_EXP) *size = *size * fmin(v, FLT_MAX) + FLT_MIN; /* exp is its own slope */
    return v;
}

static double expected(const tf_step *s, const operands *o, int64_t i, int64_t oc, int64_t oy,
                       int64_t ox, double *size, double *terms)
{
    const double z = o->z && s->op != TF_MATMUL
                         ? (double)o->z[at(&s->z, i, oy, ox, s->flags & TF_SPREAD ? 0 : oc)]
                         : 0;
    const double bias = o->bias ? (double)o->bias[oc] : 0;
    double v = 0;
    window r;
    *terms = 1;
    *size = 0;
    switch (s->op) {
    case TF_CONV:
    case TF_WINOGRAD:
    case TF_DEPTHWISE:
    case TF_GROUPED:
        r = slide(s, o, i, oc, oy, ox);
        v = r.sum + bias;
        *size = r.size + fabs(bias);
        *terms = (double)r.inside + 1;
        /* F(4x4, 3x3): the transforms amplify by at most the product of their row
         * sums; seen is far less */
        if (s->op == TF_WINOGRAD) *terms *= 4, *size += 1;
        break;
    case TF_GEMV:
        v = row(s, o, oc, size) + bias;
        *size += fabs(bias);
        *terms = s->c + 1;
        break;
    case TF_MAXPOOL: return slide(s, o, i, oc, oy, ox).most;
    case TF_AVGPOOL:
        r = slide(s, o, i, oc, oy, ox);
        *size = r.size;
        *terms = (double)r.inside + 1;
        if (!r.inside) return 0;
        return r.sum / (double)(s->flags & TF_COUNT_PAD ? r.counted : r.inside);
    case TF_SHUFFLE: return shuffled(s, o, i, oy, ox, oc);
    case TF_NEAREST: {
        const int64_t iy = (int64_t)((float)oy * s->alpha), jx = (int64_t)((float)ox * s->beta);
        const int64_t ix = jx < s->wd ? jx : s->wd - 1;
        return (double)o->x[at(&s->x, i, iy < s->h ? iy : s->h - 1,
                               s->flags & TF_MIRRORED ? s->wd - 1 - ix : ix, oc)];
    }
    case TF_BILINEAR: *size = 4, *terms = 4; return bilinear(s, o, i, oy, ox, oc);
    case TF_SOFTMAX: *size = 2, *terms = s->c + 8; break;
    case TF_L2NORM: *size = 1, *terms = 68; break;
    case TF_LAYERNORM:
        *terms = fmin(s->c, 72) + 8;
        return layer_norm(s, o, o->x + at(&s->x, i, oy, ox, 0), oc, size);
    case TF_MATMUL: *terms = s->c; return product(s, o, i, oc, oy, ox, size);
    default: break;
    }
    if (s->op == TF_SOFTMAX || s->op == TF_L2NORM)
        return reduce_channels(s, o->x + at(&s->x, i, oy, ox, 0), oc);
    if (s->op >= TF_ADD) {
        const double x = (double)o->x[at(&s->x, i, oy, ox, oc)], w = o->w ? (double)o->w[oc] : 1;
        v = elementwise(s, x, z, w, bias);
        *size = fabs(x * w) + fabs(z) + fabs(bias);
    }
    return ending(s, v, z, o->slope ? (double)o->slope[oc] : 0, size, terms);
}

/* Channel c of the output, which may be the larger of two filters. */
static double wanted(const tf_step *s, const operands *o, int64_t lanes, int64_t i, int64_t c,
                     int64_t oy, int64_t ox, double *size, double *terms)
{
    if (!(s->flags & TF_RIVALS)) return expected(s, o, i, c, oy, ox, size, terms);
    const int64_t first = c / lanes * 2 * lanes + c % lanes;
    double other_size, other_terms;
    const double v = expected(s, o, i, first, oy, ox, size, terms);
    const double other = expected(s, o, i, first + lanes, oy, ox, &other_size, &other_terms);
    *size = fmax(*size, other_size), *terms = fmax(*terms, other_terms);
    return fmax(v, other);
}

#endif
